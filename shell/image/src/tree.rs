//! Walking and removing directory trees that strangers have shaped. Depth is unbounded in both: nothing here recurses or holds one
//! open file per level.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

/// What a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of regular files, hard links counted once (what Docker calls the size of a container or image).
    pub bytes: u64,
    /// Files, directories and other nodes, hard links counted once.
    pub inodes: u64,
}

/// Adds up a tree. What disappears meanwhile is not counted.
///
/// # Errors
/// When a directory cannot be read.
pub fn usage(root: &Path) -> io::Result<Usage> {
    let mut total = Usage::default();
    let mut seen = BTreeSet::new();
    let mut todo: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Gone meanwhile, or deeper than a path can say.
            Err(error) if directory != root && is_passing(&error) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            };
            if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            total.inodes += 1;
            if metadata.is_dir() {
                todo.push(entry.path());
            } else if metadata.is_file() {
                total.bytes += metadata.len();
            }
        }
    }
    Ok(total)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::STALE))
}

/// Removes the entry `name` of the directory `parent`, whatever it is; it is fine if there is none. `parent` must not be writable
/// by others at the same time. Subdirectories are moved up to where the tree was before they are emptied, so depth costs nothing.
///
/// # Errors
/// The file system does not do it.
pub fn remove_at(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let parent = parent.as_fd();
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let mut todo = vec![name.to_owned()];
    let mut moved = 0_u64;
    while let Some(current) = todo.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, &current, flags, Mode::empty())?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let child = entry.file_name();
            if matches!(child.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::unlinkat(&directory, child, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
            if rustix::fs::unlinkat(&directory, child, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            let target = loop {
                moved += 1;
                let target = OsString::from(format!(".skep-removed-{moved}"));
                match rustix::fs::renameat_with(&directory, child, parent, &target, rustix::fs::RenameFlags::NOREPLACE)
                {
                    Ok(()) => break target,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            };
            todo.push(target);
        }
        // Whatever was moved out lies beside it now, so this one is empty.
        match rustix::fs::unlinkat(parent, &current, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            // Reading a directory while it shrinks may miss an entry.
            Err(Errno::NOTEMPTY) => todo.push(current),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Removes a file or directory, whatever is in it; it is fine if there is none. Symbolic links are not followed. What is mounted
/// in it is emptied, too: unmount it first.
///
/// # Errors
/// When something cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Ok(parent) => remove_at(parent, name),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_any_depth_are_removed_and_symlinks_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "keep").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        let mut at = rustix::fs::open(&tree, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "directory", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "directory", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        assert!(usage(&tree).unwrap().inodes > 100);
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(outside).unwrap(), "keep");
        remove(&tree).unwrap();
    }

    #[test]
    fn usage_counts_hard_links_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), [0; 10]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        assert_eq!(usage(dir.path()).unwrap(), Usage { bytes: 10, inodes: 2 });
    }
}
