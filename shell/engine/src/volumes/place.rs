//! What is mounted where on the host: on volumes, and on the pins of paths inside volumes. A pin is a bind mount of a path that
//! was looked up without leaving the volume: containers that share it cannot lead it elsewhere afterwards.

use std::fs::{self, DirBuilder};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{At, EngineError, Result};

const MOUNTS: &str = "/proc/thread-self/mountinfo";

/// Mount points at or below a path, those made last first.
pub(super) fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read(MOUNTS).at("read", MOUNTS)?;
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let mut found: Vec<PathBuf> = points.map(unescape).filter(|point| point.starts_with(path)).collect();
    found.reverse();
    Ok(found)
}

/// The kernel writes spaces and the like as three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digits = text.get(at + 1..at + 4).filter(|_| text[at] == b'\\');
        let octal = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(text[at]));
        at += if octal.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

pub(super) fn is_mounted(path: &Path) -> Result<bool> {
    Ok(mounts_below(path)?.iter().any(|point| point == path))
}

/// Unmounts what is mounted on a path, if anything is.
pub(super) fn unmount(path: &Path) -> Result<()> {
    loop {
        match nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // More than one may lie on top of each other.
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(std::io::Error::from(error)).at("unmount", path),
        }
    }
}

/// True for a path that stays inside: relative, without `..`.
pub(crate) fn is_inside(path: &str) -> bool {
    let path = Path::new(path);
    let mut depth = 0_usize;
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

/// Mounts a path inside of a volume on a pin of the container; gives the pin.
pub(super) fn pin(data: &Path, subpath: &str, directory: &Path, number: usize) -> Result<PathBuf> {
    let open = |flags: OFlags| {
        let root = rustix::fs::open(data, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&root, subpath, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    };
    let found = open(OFlags::PATH).map_err(|error| {
        let why = std::io::Error::from(error);
        EngineError::Invalid(format!("cannot access path {}: {why}", data.join(subpath).display()))
    })?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory).at("create", directory)?;
    let target = directory.join(number.to_string());
    let is_directory = open(OFlags::PATH | OFlags::DIRECTORY).is_ok();
    unmount(&target)?;
    let made = if is_directory { fs::create_dir(&target) } else { fs::File::create(&target).map(drop) };
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error).at("create", target),
        _ => {}
    }
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    nix::mount::mount(Some(source.as_str()), &target, None::<&str>, flags, None::<&str>)
        .map_err(std::io::Error::from)
        .at("mount", &target)?;
    Ok(target)
}

/// Takes the pins of a container away.
pub(super) fn unpin(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        // Removes only what is empty: should something stay mounted, its files stay.
        let done = unmount(&path).and_then(|()| {
            let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            removed.at("remove", &path)
        });
        if let Err(error) = done {
            tracing::warn!(error = error.full_text(), "cannot take away a pin of a volume");
        }
    }
    let _ = fs::remove_dir(directory);
}

/// Takes the pins of containers away that do not run.
pub(super) fn unpin_all_but(pins: &Path, runs: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(pins) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(&runs) {
            unpin(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for inside in ["a", "a/b", "./a", "a/../b", "a/.."] {
            assert!(is_inside(inside), "{inside}");
        }
        for outside in ["..", "a/../..", "/a", "../a"] {
            assert!(!is_inside(outside), "{outside}");
        }
        assert_eq!(unescape(br"/a\040b\134c\x"), Path::new(r"/a b\c\x"));
    }
}
