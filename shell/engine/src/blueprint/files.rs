//! Where a container finds its secrets and configs: the places, without a byte of their content.

use std::path::{Component, Path, PathBuf};

use skep_model::{ContainerSpec, FileTarget, ObjectId};

use crate::error::{EngineError, Result};
use crate::record::FileRecord;

/// Where secrets lie whose target is only a name.
const SECRETS: &str = "/run/secrets";
/// The same for configs.
const CONFIGS: &str = "/";
const SECRET: &str = "secret";
const CONFIG: &str = "config";

/// The files that a spec asks for, in its order, secrets first.
pub(crate) fn files(spec: &ContainerSpec) -> Result<Vec<FileRecord>> {
    let secrets = spec.secrets.iter().map(|reference| {
        file(SECRET, reference.secret_id.as_str(), &reference.secret_name, reference.file.as_ref(), SECRETS)
    });
    let configs = spec.configs.iter().map(|reference| {
        file(CONFIG, reference.config_id.as_str(), &reference.config_name, reference.file.as_ref(), CONFIGS)
    });
    secrets.chain(configs).collect()
}

fn file(kind: &str, id: &str, name: &str, target: Option<&FileTarget>, base: &str) -> Result<FileRecord> {
    let invalid = |text: String| EngineError::Invalid(format!("{kind} {name:?}: {text}"));
    let Some(target) = target else { return Err(invalid("no target file is given".to_owned())) };
    let path = place(base, &target.name);
    if path == Path::new("/") {
        return Err(invalid(format!("invalid target file {:?}", target.name)));
    }
    let number = |what: &str, text: &str| match text {
        "" => Ok(0),
        text => text.parse::<u32>().map_err(|_| invalid(format!("{what} {text:?} is not a number"))),
    };
    Ok(FileRecord {
        kind: kind.to_owned(),
        id: id.to_owned(),
        name: name.to_owned(),
        target: path,
        uid: number("UID", &target.uid)?,
        gid: number("GID", &target.gid)?,
        mode: target.mode & 0o777,
    })
}

/// An absolute target as it is, another one below `base`; `..` leads at most to `/`, as in Docker.
fn place(base: &str, target: &str) -> PathBuf {
    let mut path = PathBuf::from("/");
    for part in Path::new(base).join(target).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            _ => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_as_docker_finds_them() {
        for (base, target, expected) in [
            (SECRETS, "tls", "/run/secrets/tls"),
            (SECRETS, "a/b", "/run/secrets/a/b"),
            (SECRETS, "/etc/key", "/etc/key"),
            (SECRETS, "../../../../x", "/x"),
            (CONFIGS, "page", "/page"),
            (CONFIGS, "/www/./index.html", "/www/index.html"),
        ] {
            assert_eq!(place(base, target), Path::new(expected), "{target}");
        }
    }

    #[test]
    fn owners_are_numbers() {
        let file_of = |name: &str, uid: &str| {
            let target =
                FileTarget { name: name.to_owned(), uid: uid.to_owned(), gid: "7".to_owned(), mode: 0o107_440 };
            file(SECRET, "id", "tls", Some(&target), SECRETS)
        };
        let made = file_of("tls", "").unwrap();
        assert_eq!((made.uid, made.gid, made.mode), (0, 7, 0o440));
        assert!(file_of("tls", "root").unwrap_err().to_string().contains("UID \"root\" is not a number"));
        assert!(file_of("..", "0").is_ok() && file_of("/", "0").is_err());
        assert!(file(SECRET, "id", "tls", None, SECRETS).is_err());
    }
}
