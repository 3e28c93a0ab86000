//! The container's root file system, mounted in a mount namespace of the shim's own: nothing of it appears on the
//! host, and all of it vanishes with the last process inside. Also opens files below a rootfs without following
//! symbolic links out of it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::config::{ContainerConfig, RootFs};
use crate::record::LAYERS_DIR;
use crate::stage;

/// Longest file read from a rootfs (`/etc/passwd`, `/etc/group`), in bytes.
const FILE_MAX: u64 = 4 << 20;

/// Gives this process a mount namespace of its own. What the host mounts and unmounts later still arrives, so that a
/// container does not keep a host's mount busy; nothing goes the other way, but from the mounts that `config` has otherwise.
pub(crate) fn own_mount_namespace(config: &ContainerConfig) -> io::Result<Vec<stage::Clone>> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let clones = stage::clone(config)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    Ok(clones)
}

/// Mounts the rootfs and answers where it is. `bundle` must be the current directory: overlayfs takes at most a page
/// of options, so its layers are given by short symbolic links below it.
pub(crate) fn mount_rootfs(bundle: &Path, rootfs: &RootFs) -> io::Result<PathBuf> {
    let (lower, upper, work, merged) = match rootfs {
        RootFs::Dir(path) => {
            if !path.is_dir() {
                return Err(missing(path));
            }
            return Ok(path.clone());
        }
        RootFs::Overlay { lower, upper, work, merged } => (lower, upper, work, merged),
    };
    if lower.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an overlay needs at least one layer"));
    }
    let links = bundle.join(LAYERS_DIR);
    match std::fs::remove_dir_all(&links) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => std::fs::create_dir_all(&links)?,
    }
    for dir in lower.iter().chain([upper, work, merged]) {
        if !dir.is_dir() {
            return Err(missing(dir));
        }
    }
    for (index, layer) in lower.iter().enumerate() {
        symlink(layer, links.join(index.to_string()))?;
    }
    symlink(upper, links.join("u"))?;
    symlink(work, links.join("w"))?;
    let before = std::env::current_dir()?;
    std::env::set_current_dir(&links)?;
    let layers: Vec<_> = (0..lower.len()).map(|index| index.to_string()).collect();
    let options = format!("lowerdir={},upperdir=u,workdir=w", layers.join(":"));
    let mounted = mount(Some("overlay"), merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    std::env::set_current_dir(before)?;
    mounted?;
    Ok(merged.clone())
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such directory: {}", path.display()))
}

/// Reads a file below `root` as a process inside would see it; empty when there is none.
pub(crate) fn read_inside(root: &Path, path: &str) -> io::Result<String> {
    let dir = File::open(root)?;
    let fd = match open_inside(&dir, path, libc::O_RDONLY | libc::O_NONBLOCK) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(String::new()),
        other => other?,
    };
    let file = File::from(fd);
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes a directory below `root`, and what is missing above it.
pub(crate) fn mkdir_inside(root: &Path, path: &Path) -> io::Result<()> {
    let root = File::open(root)?;
    let mut done = PathBuf::from("/");
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        let parent = open_inside(&root, &done.to_string_lossy(), libc::O_PATH | libc::O_DIRECTORY)?;
        done.push(name);
        let name = CString::new(name.as_bytes())?;
        // SAFETY: a valid directory descriptor and a NUL-terminated single path component; mkdirat does not follow
        // a symbolic link in the last component.
        if unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
        }
    }
    open_inside(&root, &done.to_string_lossy(), libc::O_PATH | libc::O_DIRECTORY).map(drop)
}

/// Opens `path` with `root` as the root directory (openat2, `RESOLVE_IN_ROOT`, Linux 5.6).
fn open_inside(root: &File, path: &str, flags: i32) -> io::Result<OwnedFd> {
    let path = CString::new(path)?;
    // SAFETY: open_how is plain data, all zeroes is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: a valid descriptor, a NUL-terminated path and an open_how with its right size.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &raw const how, size_of::<libc::open_how>())
    };
    match i32::try_from(fd) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let outside = tempfile::tempdir().expect("temp dir");
        let root = tempfile::tempdir().expect("temp dir");
        std::fs::write(outside.path().join("passwd"), "secret").expect("write");
        symlink(outside.path(), root.path().join("etc")).expect("link");
        assert_eq!(read_inside(root.path(), "/etc/passwd").expect("read"), "");
        // The link's target exists inside now.
        mkdir_inside(root.path(), outside.path()).expect("mkdir");
        std::fs::write(root.path().join(outside.path().strip_prefix("/").expect("absolute")).join("passwd"), "inside")
            .expect("write");
        assert_eq!(read_inside(root.path(), "/etc/passwd").expect("read"), "inside");
        mkdir_inside(root.path(), Path::new("/etc/a/b")).expect("mkdir");
        assert!(!outside.path().join("a").exists());
    }
}
