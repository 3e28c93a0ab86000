//! Bind mounts that let mounts travel between host and container, and `/dev/shm` of another container, are laid out before the
//! container is made: libcontainer only knows how mounts travel in the container as a whole. Each is cloned while the shim's
//! mounts are still those of the host, given its own propagation, and put on a place in the bundle that libcontainer is told
//! as its source. The shim takes them away again when the container is made; whatever happens, they vanish with it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};

use crate::config::{BindPropagation, ContainerConfig, Mount, Namespace};
use crate::memory::MemoryFiles;

/// Where they are put, in the bundle. It is never removed with what is in it: that may be the host's.
const STAGE_DIR: &str = "m";

/// A mount that is nowhere yet.
pub(crate) struct Clone {
    tree: OwnedFd,
    is_directory: bool,
    propagation: BindPropagation,
    target: PathBuf,
}

/// Clones what `config` wants laid out, in a mount namespace that still shares the host's mounts. Nothing for most containers.
pub(crate) fn clone(config: &ContainerConfig) -> io::Result<Vec<Clone>> {
    let mut all = Vec::new();
    let special =
        |mount: &Mount| matches!(mount, Mount::Bind { propagation, .. } if *propagation != BindPropagation::Rprivate);
    if config.mounts.iter().any(special) {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
        let bundle = std::env::current_dir()?;
        for mount in &config.mounts {
            let Mount::Bind { source, target, propagation, non_recursive, .. } = mount else { continue };
            if MemoryFiles::is_source(&bundle, source) {
                continue;
            }
            let source = source.canonicalize()?;
            check(&source, *propagation, &mountinfo)?;
            let (propagation, target) = (*propagation, target.clone());
            let tree = open_tree(&source, !*non_recursive)?;
            all.push(Clone { tree, is_directory: source.is_dir(), propagation, target });
        }
    }
    if let Namespace::Of(process) = config.ipc {
        let (own, other) =
            (std::fs::File::open("/proc/self/ns/mnt")?, std::fs::File::open(format!("/proc/{}/ns/mnt", process.pid))?);
        let here = std::env::current_dir()?;
        setns(&other, CloneFlags::CLONE_NEWNS)?;
        let tree = open_tree(Path::new("/dev/shm"), false);
        setns(&own, CloneFlags::CLONE_NEWNS)?;
        std::env::set_current_dir(here)?;
        let (propagation, target) = (BindPropagation::Rprivate, PathBuf::from("/dev/shm"));
        all.push(Clone { tree: tree?, is_directory: true, propagation, target });
    }
    Ok(all)
}

/// Puts them into the bundle, whose mount namespace is the shim's own now, and tells `config` where they are.
pub(crate) fn lay_out(bundle: &Path, clones: Vec<Clone>, config: &mut ContainerConfig) -> io::Result<()> {
    if clones.is_empty() {
        return Ok(());
    }
    take_away(bundle);
    let directory = bundle.join(STAGE_DIR);
    std::fs::create_dir_all(&directory)?;
    for (index, clone) in clones.iter().enumerate() {
        let place = directory.join(index.to_string());
        if clone.is_directory {
            std::fs::create_dir(&place)?;
        } else {
            std::fs::write(&place, "")?;
        }
        move_mount(&clone.tree, &place)?;
        let (kind, all) = match clone.propagation {
            BindPropagation::Rprivate => (MsFlags::MS_PRIVATE, true),
            BindPropagation::Private => (MsFlags::MS_PRIVATE, false),
            BindPropagation::Rslave => (MsFlags::MS_SLAVE, true),
            BindPropagation::Slave => (MsFlags::MS_SLAVE, false),
            BindPropagation::Rshared => (MsFlags::MS_SHARED, true),
            BindPropagation::Shared => (MsFlags::MS_SHARED, false),
        };
        let flags = if all { kind | MsFlags::MS_REC } else { kind };
        mount(None::<&str>, &place, None::<&str>, flags, None::<&str>)?;
        let known = config.mounts.iter_mut().find_map(|mount| match mount {
            Mount::Bind { source, target, .. } if *target == clone.target => Some(source),
            _ => None,
        });
        match known {
            Some(source) => *source = place,
            None => config.mounts.push(Mount::Bind {
                source: place,
                target: clone.target.clone(),
                read_only: false,
                propagation: BindPropagation::Rprivate,
                non_recursive: false,
                writable_below: false,
            }),
        }
    }
    Ok(())
}

/// Takes away what is laid out, or was left by a shim that died. Never descends into it.
pub(crate) fn take_away(bundle: &Path) {
    let directory = bundle.join(STAGE_DIR);
    let Ok(entries) = std::fs::read_dir(&directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        while umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
        // Refused while anything is mounted there.
        if std::fs::remove_dir(&path).is_err() {
            let _ = std::fs::remove_file(&path);
        }
    }
    let _ = std::fs::remove_dir(directory);
}

/// Docker's conditions and texts.
fn check(source: &Path, propagation: BindPropagation, mountinfo: &str) -> io::Result<()> {
    let (shared, wanted) = match propagation {
        BindPropagation::Private | BindPropagation::Rprivate => return Ok(()),
        BindPropagation::Shared | BindPropagation::Rshared => (true, "shared"),
        BindPropagation::Slave | BindPropagation::Rslave => (false, "shared or slave"),
    };
    // The last of those that cover it hides the others.
    let mut found: Option<(PathBuf, bool)> = None;
    for line in mountinfo.lines() {
        let Some((left, _)) = line.split_once(" - ") else { continue };
        let words: Vec<_> = left.split(' ').collect();
        let Some((point, options)) = words.get(4).zip(words.get(6..)) else { continue };
        let point = PathBuf::from(unescape(point));
        if !source.starts_with(&point)
            || found.as_ref().is_some_and(|(other, _)| other.components().count() > point.components().count())
        {
            continue;
        }
        let fits = options.iter().any(|it| it.starts_with("shared:") || (!shared && it.starts_with("master:")));
        found = Some((point, fits));
    }
    match found {
        Some((point, false)) => Err(io::Error::other(format!(
            "path {} is mounted on {} but it is not a {wanted} mount",
            source.display(),
            point.display()
        ))),
        _ => Ok(()),
    }
}

/// mountinfo writes blanks and the like as `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                whole.push(char::from(byte));
                whole.push_str(&part[3..]);
            }
            None => whole.push_str(part),
        }
    }
    whole
}

fn open_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    // SAFETY: a NUL-terminated path and flags.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    match i32::try_from(fd) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn move_mount(tree: &OwnedFd, place: &Path) -> io::Result<()> {
    /// `MOVE_MOUNT_F_EMPTY_PATH`
    const FROM_DESCRIPTOR: libc::c_uint = 4;
    let place = CString::new(place.as_os_str().as_bytes())?;
    // SAFETY: a valid descriptor with an empty path, and a NUL-terminated path.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            place.as_ptr(),
            FROM_DESCRIPTOR,
        )
    };
    if moved == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_the_source_must_fit() {
        let info = "1 0 8:1 / / rw shared:1 - ext4 /dev/x rw\n2 1 0:5 / /a\\040b rw master:1 - tmpfs x rw\n\
                    3 1 0:6 / /c rw - tmpfs x rw\n";
        let text =
            |path: &str, propagation| check(Path::new(path), propagation, info).map_err(|error| error.to_string());
        assert_eq!(text("/x", BindPropagation::Rshared), Ok(()));
        assert_eq!(text("/a b/x", BindPropagation::Rslave), Ok(()));
        assert_eq!(
            text("/a b/x", BindPropagation::Shared),
            Err("path /a b/x is mounted on /a b but it is not a shared mount".to_owned())
        );
        assert_eq!(
            text("/c", BindPropagation::Slave),
            Err("path /c is mounted on /c but it is not a shared or slave mount".to_owned())
        );
        assert_eq!(text("/c", BindPropagation::Private), Ok(()));
    }
}
