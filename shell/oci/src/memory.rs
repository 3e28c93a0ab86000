//! Files that lie in memory alone and are mounted nowhere but in one container: secrets and configs. The engine makes the
//! file system, writes it and hands it to the shim as a descriptor; the shim mounts it in its own mount namespace, and the
//! container gets single files of it as read-only bind mounts. So there is never a path of the host that leads to it, and it
//! vanishes with the container, whoever is killed when.
//!
//! It is a tmpfs that is never swapped out (Linux 6.4), or else a ramfs, which never is either.

use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

/// Where the shim mounts it, in the bundle.
const MOUNT_POINT: &str = "memory";

/// One file of it.
#[derive(Clone, Copy)]
pub struct MemoryFile<'a> {
    /// Its content.
    pub data: &'a [u8],
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
}

impl std::fmt::Debug for MemoryFile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryFile({} bytes, {}:{}, {:o})", self.data.len(), self.uid, self.gid, self.mode)
    }
}

/// A file system in memory that is mounted nowhere yet. Dropped, it is gone with all its files.
#[derive(Debug)]
pub struct MemoryFiles(OwnedFd);

impl MemoryFiles {
    /// Makes it with these files, named by their numbers, and closes it for writing. Blocks.
    ///
    /// # Errors
    /// When the kernel refuses, or memory is short.
    pub fn create(files: &[MemoryFile<'_>]) -> io::Result<Self> {
        let (mount, is_tmpfs) = match make(c"tmpfs", true) {
            Ok(mount) => (mount, true),
            // Before Linux 6.4 there is no `noswap`.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (make(c"ramfs", false)?, false),
            Err(error) => return Err(error),
        };
        for (number, file) in files.iter().enumerate() {
            write(&mount, number, file)?;
        }
        close_for_writing(&mount, is_tmpfs)?;
        Ok(Self(mount))
    }

    /// Where the container's bind mounts find a file, once the shim of this bundle has mounted it.
    #[must_use]
    pub fn path(bundle: &Path, number: usize) -> PathBuf {
        bundle.join(MOUNT_POINT).join(number.to_string())
    }

    /// Whether the source of a bind mount is such a file, which is not there before the shim has mounted it.
    pub(crate) fn is_source(bundle: &Path, source: &Path) -> bool {
        source.parent() == Some(&bundle.join(MOUNT_POINT))
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) fn from_descriptor(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Mounts it in the bundle: for a process with a mount namespace of its own.
    pub(crate) fn mount(self, bundle: &Path) -> io::Result<Mounted> {
        let point = bundle.join(MOUNT_POINT);
        match std::fs::create_dir(&point) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let target = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(point.as_os_str()))?;
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
        // SAFETY: a valid mount descriptor, NUL-terminated paths, flags.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                flags,
            )
        };
        if moved == 0 { Ok(Mounted(point)) } else { Err(io::Error::last_os_error()) }
    }
}

/// Mounted in this process's mount namespace; taken away again when dropped. What was bound from it stays.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // It vanishes with the namespace at the latest.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

// From the kernel's `include/uapi/linux/mount.h`.
const FSOPEN_CLOEXEC: u32 = 1;
const FSPICK_CLOEXEC: u32 = 1;
const FSPICK_EMPTY_PATH: u32 = 8;
const FSMOUNT_CLOEXEC: u32 = 1;
const SET_FLAG: u32 = 0;
const SET_STRING: u32 = 1;
const CMD_CREATE: u32 = 6;
const CMD_RECONFIGURE: u32 = 7;

fn make(kind: &CStr, is_never_swapped: bool) -> io::Result<OwnedFd> {
    // SAFETY: a NUL-terminated name and flags.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    configure(&context, SET_STRING, Some((c"mode", Some(c"0700"))))?;
    if is_never_swapped {
        configure(&context, SET_FLAG, Some((c"noswap", None)))?;
    }
    configure(&context, CMD_CREATE, None)?;
    let attributes = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    // SAFETY: a valid configuration descriptor, flags, attributes.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
}

/// For the whole file system: no mount of it can be made writable again by whoever is in the container.
fn close_for_writing(mount: &OwnedFd, is_tmpfs: bool) -> io::Result<()> {
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: a valid mount descriptor, an empty NUL-terminated path, flags.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), flags) })?;
    if is_tmpfs {
        // Without it the kernel takes this for a wish to swap.
        configure(&context, SET_FLAG, Some((c"noswap", None)))?;
    }
    configure(&context, SET_FLAG, Some((c"ro", None)))?;
    configure(&context, CMD_RECONFIGURE, None)
}

fn configure(context: &OwnedFd, command: u32, option: Option<(&CStr, Option<&CStr>)>) -> io::Result<()> {
    let key = option.map_or(std::ptr::null(), |(key, _)| key.as_ptr());
    let value = option.and_then(|(_, value)| value).map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: a valid configuration descriptor; key and value are NUL-terminated or null, as the command wants them.
    let done = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn write(mount: &OwnedFd, number: usize, file: &MemoryFile<'_>) -> io::Result<()> {
    let name = std::ffi::CString::new(number.to_string())?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: a valid directory descriptor, a NUL-terminated name, flags and a mode.
    let fd = unsafe { libc::openat(mount.as_raw_fd(), name.as_ptr(), flags, 0o600) };
    let mut opened = File::from(descriptor(libc::c_long::from(fd))?);
    opened.write_all(file.data)?;
    std::os::unix::fs::fchown(&opened, Some(file.uid), Some(file.gid))?;
    opened.set_permissions(Permissions::from_mode(file.mode))
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_are_as_asked_for_and_cannot_be_written() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let files = [
            MemoryFile { data: b"one", uid: 5, gid: 6, mode: 0o440 },
            MemoryFile { data: b"", uid: 0, gid: 0, mode: 0o444 },
        ];
        let made = MemoryFiles::create(&files).expect("a file system in memory");
        let place = PathBuf::from(format!("/proc/self/fd/{}", made.descriptor()));
        assert_eq!(std::fs::read(place.join("0")).expect("read"), b"one");
        let about = std::fs::metadata(place.join("0")).expect("metadata");
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (5, 6, 0o440));
        let refused = File::options().write(true).open(place.join("1")).expect_err("read-only");
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(std::fs::write(place.join("2"), "").expect_err("full").kind(), io::ErrorKind::ReadOnlyFilesystem);
        // Nowhere but at the descriptor.
        let bundle = Path::new("/b");
        assert_eq!(MemoryFiles::path(bundle, 3), Path::new("/b/memory/3"));
        assert!(MemoryFiles::is_source(bundle, Path::new("/b/memory/3")));
        assert!(!MemoryFiles::is_source(bundle, Path::new("/b/memory/3/4")));
    }
}
