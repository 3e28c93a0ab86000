//! Copies a directory tree with owners, modes, times, extended attributes and hard links. Others may write to the target at the
//! same time: nothing outside of it is ever touched, for every directory is looked up without following symbolic links, and
//! what is there already is left as it is. Does not recurse, so that depth costs no stack.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Most bytes of the names, or of one value, of a file's extended attributes (the kernel's limit).
const XATTR_MAX: usize = 64 << 10;

/// Copies what is in one directory to another, and its own owner, mode and so on.
pub(super) fn copy_tree(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let mut links: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut directories: Vec<PathBuf> = Vec::new();
    let mut todo = vec![PathBuf::from(".")];
    while let Some(path) = todo.pop() {
        let (from, to) = (directory(source, &path)?, directory(target, &path)?);
        for entry in Dir::read_from(&from)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let inside = path.join(OsStr::from_bytes(name.to_bytes()));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                ignore_existing(rustix::fs::mkdirat(&to, name, Mode::RWXU))?;
                todo.push(inside);
                continue;
            }
            if stat.st_nlink > 1 {
                match links.get(&(stat.st_dev, stat.st_ino)) {
                    Some(first) => {
                        link(target, first, to.as_fd(), name)?;
                        continue;
                    }
                    None => drop(links.insert((stat.st_dev, stat.st_ino), inside)),
                }
            }
            ignore_existing(copy_node(from.as_fd(), to.as_fd(), name, &stat))?;
        }
        directories.push(path);
    }
    // Last, for what is put into a directory changes its times; deepest first, for its mode may shut us out.
    for path in directories.iter().rev() {
        let (from, to) = (directory(source, path)?, directory(target, path)?);
        describe(from.as_fd(), to.as_fd(), &rustix::fs::fstat(&from)?)?;
    }
    Ok(())
}

fn directory(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn ignore_existing(done: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match done {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn link(root: BorrowedFd<'_>, first: &Path, to: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let found = match rustix::fs::openat2(root, first, flags, Mode::empty(), resolve) {
        Ok(found) => found,
        // A socket, which is not copied, or somebody took it away.
        Err(Errno::NOENT | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(error),
    };
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    ignore_existing(rustix::fs::linkat(rustix::fs::CWD, path, to, name, AtFlags::SYMLINK_FOLLOW))
}

fn copy_node(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut target = File::from(rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
            io::copy(&mut source, &mut target).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            describe(source.as_fd(), target.as_fd(), stat)
        }
        FileType::Symlink => {
            let text = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(text, to, name)?;
            own_at(to, name, stat)
        }
        // What listens on a socket is not copied.
        FileType::Socket | FileType::Directory | FileType::Unknown => Ok(()),
        kind @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
            rustix::fs::mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
            own_at(to, name, stat)?;
            rustix::fs::chmodat(to, name, mode(stat), AtFlags::empty())
        }
    }
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode)
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    let time =
        |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or_default() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn own_at(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
    let (user, group) = owner(stat);
    rustix::fs::chownat(to, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner first: changing it takes set-id bits and capabilities away.
fn describe(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> rustix::io::Result<()> {
    let (user, group) = owner(stat);
    rustix::fs::fchown(to, user, group)?;
    rustix::fs::fchmod(to, mode(stat))?;
    attributes(from, to)?;
    rustix::fs::futimens(to, &times(stat))
}

fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut names = vec![0; XATTR_MAX];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
        other => other?,
    };
    let mut value = vec![0; XATTR_MAX];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if name.to_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        let size = match rustix::fs::fgetxattr(from, name, &mut value[..]) {
            Ok(size) => size,
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(error) => return Err(error),
        };
        match rustix::fs::fsetxattr(to, name, &value[..size], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
