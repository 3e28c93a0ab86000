//! Mounts of a container: bind, volume and tmpfs. The texts are SwarmKit's and Docker's.

use std::path::{Component, Path, PathBuf};

use skep_model::{BindOptions, Mount, MountKind, TmpfsOptions, VolumeOptions};
use skep_oci::BindPropagation;

use super::Site;
use crate::error::{EngineError, Result};
use crate::lifecycle::new_id;
use crate::record::{MountRecord, VolumeMount};
use crate::volumes::{self, ANONYMOUS_LABEL, LOCAL};

/// Docker's mode of volumes that were asked for by a mount.
const SHARED_LABEL: &str = "z";

/// What the shim mounts, and the same as `docker inspect` shows it.
pub(super) type Mounts = (Vec<skep_oci::Mount>, Vec<MountRecord>);

/// Mounts that were asked for, then volumes the image declares where nothing else is mounted.
pub(super) fn mounts<'a>(
    wanted: &[Mount],
    declared: impl Iterator<Item = &'a String>,
    by_task: bool,
    site: &Site<'_>,
) -> Result<Mounts> {
    let mut made = Vec::with_capacity(wanted.len());
    let mut shown: Vec<MountRecord> = Vec::with_capacity(wanted.len());
    for mount in wanted {
        if by_task {
            check_as_swarm(mount)?;
        }
        check(mount, by_task)?;
        let target = clean(&mount.target);
        if shown.iter().any(|other| other.destination == target) {
            return invalid(format!("Duplicate mount point: {target}"));
        }
        let (mount, record) = match mount.kind {
            MountKind::Bind => bind(mount, target)?,
            MountKind::Tmpfs => tmpfs(mount, target)?,
            MountKind::Volume => volume(mount, target, site)?,
            MountKind::Cluster => return unsupported("cluster", mount),
            MountKind::NamedPipe => return unsupported("npipe", mount),
            MountKind::Image => return unsupported("image", mount),
        };
        made.push(mount);
        shown.push(record);
    }
    for path in declared {
        let target = clean(path);
        if !target.starts_with('/') || target == "/" {
            return invalid(format!("the image declares a volume at {path:?}: must be an absolute path below /"));
        }
        if shown.iter().any(|other| other.destination == target) {
            continue;
        }
        let volume = VolumeMount { name: new_id()?, driver: LOCAL.to_owned(), ..VolumeMount::default() };
        let (mount, record) = of_volume(anonymous(volume), target, true, "", site);
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

/// What SwarmKit's executor checks before it asks the engine.
fn check_as_swarm(mount: &Mount) -> Result<()> {
    let (source, target) = (&mount.source, &mount.target);
    if mount.kind != MountKind::NamedPipe && !target.starts_with('/') {
        return invalid(format!("invalid mount target, must be an absolute path: {target}"));
    }
    match mount.kind {
        MountKind::Bind if !source.starts_with('/') => {
            invalid(format!("invalid bind mount source, must be an absolute path: {source}"))
        }
        MountKind::Volume if source.starts_with('/') => {
            invalid(format!("invalid volume mount source, must not be an absolute path: {source}"))
        }
        MountKind::Tmpfs if !source.is_empty() => invalid("invalid tmpfs source, source must be empty".to_owned()),
        _ => Ok(()),
    }
}

/// Options of a tmpfs: those of mount(8) that `--tmpfs` takes.
const TMPFS_WORDS: [&str; 26] = [
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "mand",
    "nomand",
    "dirsync",
    "nr_blocks",
    "nr_inodes",
    "uid",
    "gid",
    "mpol",
    "huge",
    "mode",
];

/// What the engine checks of every mount, in Docker's order.
fn check(mount: &Mount, by_task: bool) -> Result<()> {
    let kind = match mount.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::NamedPipe | MountKind::Cluster | MountKind::Image => return Ok(()),
    };
    let wrong = |what: String| invalid(format!("invalid mount config for type \"{kind}\": {what}"));
    let absolute = |path: &str| {
        let text = format!("invalid mount path: '{path}' mount path must be absolute");
        if path.starts_with('/') { Ok(()) } else { wrong(text) }
    };
    let extra = |given: bool, field: &str| match given {
        true => wrong(format!("field {field} must not be specified")),
        false => Ok(()),
    };
    if mount.target.is_empty() {
        return wrong("field Target must not be empty".to_owned());
    }
    if clean(&mount.target) == "/" {
        return wrong("invalid specification: destination can't be '/'".to_owned());
    }
    absolute(&mount.target)?;
    if mount.source.contains('\0') || mount.target.contains('\0') {
        return wrong("a path must not contain a NUL byte".to_owned());
    }
    match mount.kind {
        MountKind::Bind => {
            if mount.source.is_empty() {
                return wrong("field Source must not be empty".to_owned());
            }
            extra(mount.volume.is_some(), "VolumeOptions")?;
            absolute(&mount.source)
        }
        MountKind::Volume => {
            extra(mount.bind.is_some(), "BindOptions")?;
            let subpath = mount.volume.as_ref().map_or("", |volume| volume.subpath.as_str());
            if !subpath.is_empty() && mount.source.is_empty() {
                return wrong("must not set Subpath when using anonymous volumes".to_owned());
            }
            if !volumes::is_inside(subpath) {
                return wrong("subpath must be a relative path within the volume".to_owned());
            }
            if mount.read_only && mount.source.is_empty() {
                return wrong("must not set ReadOnly mode when using anonymous volumes".to_owned());
            }
            Ok(())
        }
        _ => {
            extra(mount.bind.is_some(), "BindOptions")?;
            extra(!mount.source.is_empty(), "Source")?;
            // By hand, mount(8)'s options can be given as well.
            for words in mount.tmpfs.iter().filter(|_| by_task).flat_map(|tmpfs| &tmpfs.options) {
                match words.as_slice() {
                    [word] | [word, _] if !TMPFS_WORDS.contains(&word.as_str()) => {
                        return wrong(format!("invalid option: {word}"));
                    }
                    [_] | [_, _] => {}
                    _ => return wrong("invalid option array length".to_owned()),
                }
            }
            Ok(())
        }
    }
}

fn bind(mount: &Mount, target: String) -> Result<(skep_oci::Mount, MountRecord)> {
    let default = BindOptions::default();
    let options = mount.bind.as_ref().unwrap_or(&default);
    let propagation = match options.propagation.as_str() {
        "" | "rprivate" => BindPropagation::Rprivate,
        "private" => BindPropagation::Private,
        "rslave" => BindPropagation::Rslave,
        "slave" => BindPropagation::Slave,
        "rshared" => BindPropagation::Rshared,
        "shared" => BindPropagation::Shared,
        other => {
            return invalid(format!("invalid mount config for type \"bind\": invalid propagation mode: {other}"));
        }
    };
    let source = clean(&mount.source);
    let made = skep_oci::Mount::Bind {
        source: PathBuf::from(&source),
        target: PathBuf::from(&target),
        read_only: mount.read_only,
        propagation,
        non_recursive: options.non_recursive,
        writable_below: options.read_only_non_recursive,
    };
    let shown = if options.propagation.is_empty() { "rprivate" } else { &options.propagation };
    let record = MountRecord {
        kind: "bind".to_owned(),
        source,
        destination: target,
        rw: !mount.read_only,
        propagation: shown.to_owned(),
        create_source: options.create_mountpoint,
        ..MountRecord::default()
    };
    Ok((made, record))
}

fn tmpfs(mount: &Mount, target: String) -> Result<(skep_oci::Mount, MountRecord)> {
    let default = TmpfsOptions::default();
    let options = mount.tmpfs.as_ref().unwrap_or(&default);
    let made = skep_oci::Mount::Tmpfs {
        target: PathBuf::from(&target),
        size: u64::try_from(options.size.0).ok().filter(|size| *size > 0),
        mode: (options.mode != 0).then_some(options.mode),
        read_only: mount.read_only,
        options: options.options.iter().map(|words| words.join("=")).collect(),
    };
    let record =
        MountRecord { kind: "tmpfs".to_owned(), destination: target, rw: !mount.read_only, ..MountRecord::default() };
    Ok((made, record))
}

fn volume(mount: &Mount, target: String, site: &Site<'_>) -> Result<(skep_oci::Mount, MountRecord)> {
    let default = VolumeOptions::default();
    let options = mount.volume.as_ref().unwrap_or(&default);
    let driver = options.driver.clone().unwrap_or_default();
    volumes::check_driver(&driver.name)?;
    let mut volume = VolumeMount {
        name: mount.source.clone(),
        driver: LOCAL.to_owned(),
        options: driver.options,
        labels: options.labels.clone(),
        anonymous: false,
        no_copy: options.no_copy,
        subpath: options.subpath.clone(),
    };
    if volume.name.is_empty() {
        volume.name = new_id()?;
        volume = anonymous(volume);
    }
    volumes::check_name(&volume.name)?;
    Ok(of_volume(volume, target, !mount.read_only, SHARED_LABEL, site))
}

fn anonymous(mut volume: VolumeMount) -> VolumeMount {
    volume.anonymous = true;
    volume.labels.entry(ANONYMOUS_LABEL.to_owned()).or_default();
    volume
}

fn of_volume(
    volume: VolumeMount,
    target: String,
    rw: bool,
    mode: &str,
    site: &Site<'_>,
) -> (skep_oci::Mount, MountRecord) {
    let source = site.volumes.join(&volume.name).join(volumes::DATA);
    let made = skep_oci::Mount::Bind {
        source: source.clone(),
        target: PathBuf::from(&target),
        read_only: !rw,
        propagation: BindPropagation::Rprivate,
        non_recursive: false,
        writable_below: false,
    };
    let record = MountRecord {
        kind: "volume".to_owned(),
        source: source.display().to_string(),
        destination: target,
        rw,
        mode: mode.to_owned(),
        volume: Some(volume),
        ..MountRecord::default()
    };
    (made, record)
}

/// The shortest path that means the same, by its words alone (Go's `path.Clean`).
fn clean(path: &str) -> String {
    let mut cleaned = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir if cleaned.as_os_str() == "/" => {}
            Component::ParentDir => drop(cleaned.pop()),
            Component::CurDir => {}
            part => cleaned.push(part),
        }
    }
    cleaned.display().to_string()
}

fn unsupported<T>(kind: &str, mount: &Mount) -> Result<T> {
    invalid(format!(
        "cannot mount {:?}: mounts of type {kind} are not supported by this version of skep: use bind, volume or tmpfs",
        mount.target
    ))
}

fn invalid<T>(text: String) -> Result<T> {
    Err(EngineError::Invalid(text))
}
