//! Mounts of a container made by hand: `--mount`, `-v` (`Binds`, `Volumes`) and `--tmpfs`.

use std::collections::BTreeMap;

use skep_api_types::{ContainerConfig, HostConfig};
use skep_model::{BindOptions, ByteSize, Driver, Mount, MountKind, TmpfsOptions, VolumeOptions};

use super::wanted::invalid;
use crate::engine::{EngineError, ErrorKind};

const PROPAGATIONS: [&str; 6] = ["rprivate", "private", "rshared", "shared", "rslave", "slave"];

/// All mounts. One of `-v` hides one of the image's or of `Volumes` at the same place, as in Docker.
pub(super) fn mounts(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<Mount>, EngineError> {
    let mut all = Vec::new();
    for text in host.binds.iter().flatten() {
        all.push(bind(text, &host.volume_driver)?);
    }
    for mount in host.mounts.iter().cloned() {
        let mount = mount.into_model().map_err(|refusal| EngineError::new(ErrorKind::Invalid, refusal.to_string()))?;
        if all.iter().any(|other: &Mount| other.target == mount.target) {
            return invalid(format!("Duplicate mount point: {}", mount.target));
        }
        all.push(mount);
    }
    for (target, options) in &host.tmpfs {
        if all.iter().any(|other: &Mount| other.target == *target) {
            return invalid(format!("Duplicate mount point: {target}"));
        }
        all.push(tmpfs(target, options)?);
    }
    let taken: Vec<String> = all.iter().map(|mount| mount.target.clone()).collect();
    for target in config.volumes.iter().flatten().map(|(target, _)| target) {
        if !target.starts_with('/') || target == "/" {
            return invalid(format!(
                "invalid volume specification: '{target}': mount path must be absolute and not '/'"
            ));
        }
        if !taken.contains(target) {
            let volume = volume_options(&host.volume_driver, false);
            all.push(Mount { kind: MountKind::Volume, target: target.clone(), volume, ..Mount::default() });
        }
    }
    Ok(all)
}

fn volume_options(driver: &str, no_copy: bool) -> Option<VolumeOptions> {
    let driver = (!driver.is_empty()).then(|| Driver { name: driver.to_owned(), options: BTreeMap::new() });
    (driver.is_some() || no_copy).then(|| VolumeOptions { driver, no_copy, ..VolumeOptions::default() })
}

/// `source:target[:options]`, or a target alone.
fn bind(text: &str, driver: &str) -> Result<Mount, EngineError> {
    let bad = |why: &str| invalid(format!("invalid volume specification: '{text}': {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return bad("too many colons"),
    };
    if source.is_empty() && parts.len() > 1 {
        return bad("empty section between colons");
    }
    if !target.starts_with('/') {
        return bad(&format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    if target.trim_end_matches('/').is_empty() {
        return bad("destination can't be '/'");
    }
    let (mut read_only, mut no_copy, mut propagation) = (false, false, String::new());
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => read_only = true,
            // Labels are for SELinux, consistency for other systems.
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" | "default" => {}
            "nocopy" => no_copy = true,
            word if PROPAGATIONS.contains(&word) => word.clone_into(&mut propagation),
            _ => return invalid(format!("invalid mode: {options}")),
        }
    }
    let target = target.to_owned();
    if source.starts_with('/') {
        if no_copy {
            return bad("nocopy is for volumes only");
        }
        // Docker makes what is missing.
        let bind = BindOptions { propagation, create_mountpoint: true, ..BindOptions::default() };
        let source = source.to_owned();
        return Ok(Mount { kind: MountKind::Bind, source, target, read_only, bind: Some(bind), ..Mount::default() });
    }
    if !propagation.is_empty() {
        return bad("propagation is for bind mounts only");
    }
    check_volume_name(source)?;
    let volume = volume_options(driver, no_copy);
    Ok(Mount { kind: MountKind::Volume, source: source.to_owned(), target, read_only, volume, ..Mount::default() })
}

fn check_volume_name(name: &str) -> Result<(), EngineError> {
    let mut letters = name.bytes();
    let first = letters.next().is_none_or(|letter| letter.is_ascii_alphanumeric());
    if first && name.len() != 1 && letters.all(|letter| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter)) {
        return Ok(());
    }
    invalid(format!(
        "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" \
         are allowed. If you intended to pass a host directory, use absolute path"
    ))
}

/// `--tmpfs target[:options]`, the options being those of mount(8).
fn tmpfs(target: &str, options: &str) -> Result<Mount, EngineError> {
    if !target.starts_with('/') || target.trim_end_matches('/').is_empty() {
        return invalid(format!("invalid mount path: '{target}' mount path must be absolute and not '/'"));
    }
    let mut made = TmpfsOptions::default();
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let words: Vec<String> = option.splitn(2, '=').map(str::to_owned).collect();
        match (words[0].as_str(), words.get(1).map(String::as_str)) {
            ("ro", None) => read_only = true,
            ("rw", None) => read_only = false,
            ("mode", Some(mode)) => match u32::from_str_radix(mode, 8) {
                Ok(mode) => made.mode = mode,
                Err(_) => return invalid(format!("invalid tmpfs option {option:?}")),
            },
            ("size", Some(text)) => match size(text) {
                Some(bytes) => made.size = ByteSize(bytes),
                None => return invalid(format!("invalid tmpfs option {option:?}")),
            },
            ("nr_blocks" | "nr_inodes" | "uid" | "gid" | "mpol" | "huge", Some(_))
            | (
                "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" | "sync" | "async" | "atime" | "noatime"
                | "diratime" | "nodiratime" | "relatime" | "norelatime" | "strictatime" | "nostrictatime" | "mand"
                | "nomand" | "dirsync",
                None,
            ) => made.options.push(words),
            _ => return invalid(format!("invalid tmpfs option {option:?}")),
        }
    }
    Ok(Mount { kind: MountKind::Tmpfs, target: target.to_owned(), read_only, tmpfs: Some(made), ..Mount::default() })
}

/// Bytes of a size of mount(8): `100`, `64k`, `1m`, `1g`.
fn size(text: &str) -> Option<i64> {
    let (digits, factor) = match text.chars().last()?.to_ascii_lowercase() {
        'k' => (&text[..text.len() - 1], 1 << 10),
        'm' => (&text[..text.len() - 1], 1 << 20),
        'g' => (&text[..text.len() - 1], 1 << 30),
        't' => (&text[..text.len() - 1], 1 << 40),
        _ => (text, 1),
    };
    digits.parse::<i64>().ok().filter(|size| *size > 0)?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Mount, String> {
        bind(text, "").map_err(|error| error.text)
    }

    #[test]
    fn binds_and_volumes() {
        let mount = one("/a:/b:ro,rslave,z").unwrap();
        assert_eq!((mount.kind, mount.source.as_str(), mount.target.as_str()), (MountKind::Bind, "/a", "/b"));
        assert!(mount.read_only && mount.bind.unwrap().propagation == "rslave");
        let mount = one("data:/b:nocopy").unwrap();
        assert!(mount.kind == MountKind::Volume && mount.source == "data" && mount.volume.unwrap().no_copy);
        assert!(one("/b").unwrap().source.is_empty());
        for (text, error) in [
            ("bad/rel:/x", "includes invalid characters for a local volume name"),
            ("/a:b", "mount path must be absolute"),
            ("/a:/", "destination can't be '/'"),
            ("/a:/b:bogus", "invalid mode: bogus"),
            (":/b", "empty section"),
            ("a:b:c:d", "too many colons"),
        ] {
            let refusal = one(text).unwrap_err();
            assert!(refusal.contains(error), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_tmpfs_has_the_options_of_mount() {
        let mount = tmpfs("/run", "rw,size=1m,mode=755,exec").unwrap();
        let options = mount.tmpfs.unwrap();
        assert_eq!((options.mode, options.options.len(), options.size), (0o755, 1, ByteSize(1 << 20)));
        assert!(!mount.read_only && size("50%").is_none() && size("").is_none());
        assert!(tmpfs("/run", "bogus").is_err() && tmpfs("run", "").is_err());
    }
}
