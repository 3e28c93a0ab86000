//! Mounts of a container: bind and tmpfs. The texts are SwarmKit's and Docker's.

use std::path::{Component, Path, PathBuf};

use skep_model::{BindOptions, Mount, MountKind, TmpfsOptions};
use skep_oci::BindPropagation;

use crate::error::{EngineError, Result};
use crate::record::MountRecord;

/// What the shim mounts, and the same as `docker inspect` shows it.
pub(super) fn mounts(wanted: &[Mount]) -> Result<(Vec<skep_oci::Mount>, Vec<MountRecord>)> {
    let mut made = Vec::with_capacity(wanted.len());
    let mut shown: Vec<MountRecord> = Vec::with_capacity(wanted.len());
    for mount in wanted {
        let target = Path::new(&mount.target);
        if !target.is_absolute() {
            return invalid(format!("invalid mount target, must be an absolute path: {}", mount.target));
        }
        if target.components().any(|part| part == Component::ParentDir) || target == Path::new("/") {
            return invalid(format!("invalid specification: destination can't be '{}'", mount.target));
        }
        if shown.iter().any(|other| Path::new(&other.destination) == target) {
            return invalid(format!("Duplicate mount point: {}", mount.target));
        }
        let (mount, record) = match mount.kind {
            MountKind::Bind => bind(mount)?,
            MountKind::Tmpfs => tmpfs(mount)?,
            MountKind::Volume => return unsupported("volume", mount),
            MountKind::Cluster => return unsupported("cluster volume", mount),
            MountKind::NamedPipe => return unsupported("npipe", mount),
            MountKind::Image => return unsupported("image", mount),
        };
        made.push(mount);
        shown.push(record);
    }
    Ok((made, shown))
}

/// Sources of bind mounts must be there when the container starts.
pub(crate) fn check_sources(mounts: &[skep_oci::Mount]) -> Result<()> {
    for mount in mounts {
        if let skep_oci::Mount::Bind { source, .. } = mount
            && !source.exists()
        {
            return invalid(format!("invalid bind mount source, source path not found: {}", source.display()));
        }
    }
    Ok(())
}

fn bind(mount: &Mount) -> Result<(skep_oci::Mount, MountRecord)> {
    if !Path::new(&mount.source).is_absolute() {
        return invalid(format!("invalid bind mount source, must be an absolute path: {}", mount.source));
    }
    let default = BindOptions::default();
    let options = mount.bind.as_ref().unwrap_or(&default);
    let propagation = match options.propagation.as_str() {
        "" | "rprivate" => BindPropagation::Rprivate,
        "private" => BindPropagation::Private,
        "rslave" => BindPropagation::Rslave,
        "slave" => BindPropagation::Slave,
        other => {
            return invalid(format!("cannot mount {:?} with propagation {other:?}: not supported yet", mount.target));
        }
    };
    let made = skep_oci::Mount::Bind {
        source: PathBuf::from(&mount.source),
        target: PathBuf::from(&mount.target),
        read_only: mount.read_only,
        propagation,
        non_recursive: options.non_recursive,
        writable_below: options.read_only_non_recursive,
    };
    let shown = if options.propagation.is_empty() { "rprivate" } else { &options.propagation };
    Ok((made, record("bind", mount, shown)))
}

fn tmpfs(mount: &Mount) -> Result<(skep_oci::Mount, MountRecord)> {
    if !mount.source.is_empty() {
        return invalid("invalid tmpfs source, source must be empty".to_owned());
    }
    let default = TmpfsOptions::default();
    let options = mount.tmpfs.as_ref().unwrap_or(&default);
    let made = skep_oci::Mount::Tmpfs {
        target: PathBuf::from(&mount.target),
        size: u64::try_from(options.size.0).ok().filter(|size| *size > 0),
        mode: (options.mode != 0).then_some(options.mode),
        read_only: mount.read_only,
        options: options.options.iter().map(|words| words.join("=")).collect(),
    };
    Ok((made, record("tmpfs", mount, "")))
}

fn record(kind: &str, mount: &Mount, propagation: &str) -> MountRecord {
    MountRecord {
        kind: kind.to_owned(),
        source: mount.source.clone(),
        destination: mount.target.clone(),
        rw: !mount.read_only,
        propagation: propagation.to_owned(),
    }
}

fn unsupported<T>(kind: &str, mount: &Mount) -> Result<T> {
    invalid(format!("cannot mount {:?}: mounts of type {kind} are not supported yet, use bind or tmpfs", mount.target))
}

fn invalid<T>(text: String) -> Result<T> {
    Err(EngineError::Invalid(text))
}
