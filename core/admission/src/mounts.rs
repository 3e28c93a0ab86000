//! What the mounts of a service must be like wherever its tasks run. The texts are SwarmKit's and Docker's. What is a template
//! is known on the node only, and checked there.

use std::path::{Component, Path};

use skep_model::{Mount, MountKind};

use crate::Refusal;

/// Refuses what no node could mount.
pub(crate) fn check(mounts: &[Mount]) -> Result<(), Refusal> {
    let mut targets: Vec<_> = mounts.iter().map(|mount| &mount.target).collect();
    targets.sort();
    if let Some(pair) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
        return refuse(format!("duplicate mount point: {}", pair[0]));
    }
    mounts.iter().try_for_each(one)
}

fn one(mount: &Mount) -> Result<(), Refusal> {
    let (source, target) = (mount.source.as_str(), mount.target.as_str());
    if mount.kind != MountKind::NamedPipe && !is_template(target) {
        if !target.starts_with('/') {
            return refuse(format!("invalid mount target, must be an absolute path: {target}"));
        }
        if is_root(target) {
            return refuse("invalid specification: destination can't be '/'".to_owned());
        }
    }
    if is_template(source) {
        return Ok(());
    }
    match mount.kind {
        MountKind::Bind if !source.starts_with('/') => {
            refuse(format!("invalid bind mount source, must be an absolute path: {source}"))
        }
        MountKind::Volume if source.starts_with('/') => {
            refuse(format!("invalid volume mount source, must not be an absolute path: {source}"))
        }
        MountKind::Tmpfs if !source.is_empty() => refuse("invalid tmpfs source, source must be empty".to_owned()),
        MountKind::Volume if source.is_empty() && mount.read_only => {
            refuse("must not set ReadOnly mode when using anonymous volumes".to_owned())
        }
        _ => extra_options(mount),
    }
}

fn extra_options(mount: &Mount) -> Result<(), Refusal> {
    let given = match mount.kind {
        MountKind::Volume | MountKind::Tmpfs if mount.bind.is_some() => "BindOptions",
        MountKind::Bind if mount.volume.is_some() => "VolumeOptions",
        _ => return Ok(()),
    };
    let kind = match mount.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        _ => "tmpfs",
    };
    refuse(format!("invalid mount config for type \"{kind}\": field {given} must not be specified"))
}

fn is_template(text: &str) -> bool {
    text.contains("{{")
}

fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for part in Path::new(path).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    depth == 0
}

fn refuse(text: String) -> Result<(), Refusal> {
    Err(Refusal::invalid(format!("ContainerSpec: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::BindOptions;

    fn mount(kind: MountKind, source: &str, target: &str) -> Mount {
        Mount { kind, source: source.to_owned(), target: target.to_owned(), ..Mount::default() }
    }

    #[test]
    fn what_no_node_can_mount_is_refused() {
        use MountKind as K;
        let text = |mount: Mount| check(&[mount]).err().map(|refusal| refusal.to_string()).unwrap_or_default();
        for (kind, source, target, expected) in [
            (K::Bind, "/a", "b", "invalid mount target, must be an absolute path: b"),
            (K::Bind, "a", "/b", "invalid bind mount source, must be an absolute path: a"),
            (K::Volume, "/a", "/b", "invalid volume mount source, must not be an absolute path: /a"),
            (K::Tmpfs, "a", "/b", "invalid tmpfs source, source must be empty"),
            (K::Volume, "a", "/b/..", "destination can't be '/'"),
        ] {
            let text = text(mount(kind, source, target));
            assert!(text.contains(expected), "{text}");
        }
        let both = Mount { bind: Some(BindOptions::default()), ..mount(K::Volume, "a", "/b") };
        assert!(text(both).contains("field BindOptions must not be specified"));
        for (kind, source, target) in [
            (K::Bind, "/a", "/b"),
            (K::Volume, "", "/b"),
            (K::Volume, "{{.Node.ID}}", "{{.Service.Name}}"),
            (K::Tmpfs, "", "/t"),
        ] {
            assert_eq!(text(mount(kind, source, target)), "", "{kind:?}");
        }
        let twice = [mount(K::Volume, "a", "/b"), mount(K::Tmpfs, "", "/b")];
        assert!(check(&twice).unwrap_err().to_string().contains("duplicate mount point: /b"));
    }
}
