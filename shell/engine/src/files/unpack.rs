//! Unpacks an archive that nobody vouches for into a container, which may change its files meanwhile. Names are resolved with the
//! container's root as the root, the last component is never followed, and a name that leads above the directory is refused.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, makedev};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use super::Extraction;
use super::root::Root;
use crate::error::{EngineError, Result};

/// Directories whose times are set at the end; further ones keep the time of unpacking.
const DIRECTORIES_MAX: usize = 1 << 20;

struct Unpacker<'a> {
    root: &'a Root,
    /// Where to, from the root.
    directory: &'a Path,
    how: Extraction,
    owner: Option<(u32, u32)>,
    directories: Vec<(PathBuf, i64)>,
}

pub(super) fn unpack(
    root: &Root,
    directory: &Path,
    archive: impl Read,
    how: Extraction,
    user: Option<&str>,
) -> Result<()> {
    let owner = user.map(|user| owner(root, user)).transpose()?;
    let mut unpacker = Unpacker { root, directory, how, owner, directories: Vec::new() };
    let plain = skep_image::decompressed(archive)?;
    let mut tar = tar::Archive::new(plain);
    for entry in tar.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        unpacker.entry(&mut entry)?;
    }
    // What follows the end of an archive is read, so that the client sees its upload through.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(unreadable)?;
    unpacker.finish()
}

fn unreadable(error: io::Error) -> EngineError {
    EngineError::Invalid(format!("cannot read the archive: {error}"))
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader | EntryType::GNULongName) {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let failed = |error: Errno| failure(&shown, error);
        let inside = self.inside(&entry.path_bytes())?;
        let path = self.directory.join(&inside);
        let Some(name) = inside.file_name() else {
            // The directory itself: as in Docker it stays as it is.
            return if kind.is_dir() { Ok(()) } else { Err(failed(Errno::ISDIR)) };
        };
        let parent = self.root.make_directories(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        self.make_room(&parent, name, kind, &shown)?;
        match kind {
            EntryType::Directory => match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                return self.file(&parent, name, entry, &shown);
            }
            EntryType::Link => {
                let target = self.inside(&entry.link_name_bytes().unwrap_or_default())?;
                let (from, target) = self.root.parent_of(&self.directory.join(target)).map_err(failed)?;
                rustix::fs::linkat(&from, &target, &parent, name, AtFlags::empty()).map_err(failed)?;
                return Ok(());
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                rustix::fs::symlinkat(OsStr::from_bytes(&target), &parent, name).map_err(failed)?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let number = |part: io::Result<Option<u32>>| part.ok().flatten().unwrap_or(0);
                let header = entry.header();
                let device = makedev(number(header.device_major()), number(header.device_minor()));
                let node = match kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                rustix::fs::mknodat(&parent, name, node, Mode::RUSR | Mode::WUSR, device).map_err(failed)?;
            }
            other => {
                return Err(EngineError::Invalid(format!("unhandled tar header type {:?} of {shown:?}", other)));
            }
        }
        let modified = self.attributes_at(&parent, name, entry, kind, &shown)?;
        if kind.is_dir() && self.directories.len() < DIRECTORIES_MAX {
            self.directories.push((path, modified));
        }
        Ok(())
    }

    /// A name within the directory, without `.` and `..`.
    fn inside(&self, name: &[u8]) -> Result<PathBuf> {
        let name = Path::new(OsStr::from_bytes(name));
        let mut inside = PathBuf::new();
        for component in name.components() {
            match component {
                Component::Normal(part) => inside.push(part),
                Component::ParentDir if !inside.pop() => {
                    let text = format!("{:?} is outside of {:?}", name.display(), self.directory.display());
                    return Err(EngineError::Invalid(text));
                }
                _ => {}
            }
        }
        Ok(inside)
    }

    /// Takes away what is in the way; directories are merged.
    fn make_room(&self, parent: &OwnedFd, name: &OsStr, kind: EntryType, shown: &str) -> Result<()> {
        let there: Stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.map_err(|error| failure(shown, error))?,
        };
        let was_directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
        if was_directory && kind.is_dir() {
            return Ok(());
        }
        if self.how.keep_kinds && was_directory != kind.is_dir() {
            let (old, new) =
                if was_directory { ("directory", "non-directory") } else { ("non-directory", "directory") };
            let at = self.directory.join(shown);
            return Err(EngineError::Invalid(format!(
                "cannot overwrite {old} {:?} with {new} {:?}",
                at.display(),
                self.directory.display()
            )));
        }
        skep_image::remove_tree_at(parent, name).map_err(|source| EngineError::Io {
            what: "replace",
            path: shown.into(),
            source,
        })
    }

    fn file<R: Read>(&self, parent: &OwnedFd, name: &OsStr, entry: &mut Entry<'_, R>, shown: &str) -> Result<()> {
        let failed = |error: Errno| failure(shown, error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let mut file = File::from(file);
        io::copy(entry, &mut file).map_err(|source| EngineError::Io { what: "write", path: shown.into(), source })?;
        let file = OwnedFd::from(file);
        let (uid, gid, mode, modified) = self.attributes(entry)?;
        rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(failed)?;
        rustix::fs::fchmod(&file, mode).map_err(failed)?;
        for (key, value) in xattrs(entry)? {
            set_xattr(rustix::fs::fsetxattr(&file, &key, &value, XattrFlags::empty()), shown)?;
        }
        rustix::fs::futimens(&file, &times(modified)).map_err(failed)
    }

    fn attributes_at<R: Read>(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        shown: &str,
    ) -> Result<i64> {
        let failed = |error: Errno| failure(shown, error);
        let (uid, gid, mode, modified) = self.attributes(entry)?;
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if kind != EntryType::Symlink {
            // Not by name: a link may have taken its place. What is opened for its path alone has a name of its own.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(failed)?;
            let stat = rustix::fs::fstat(&node).map_err(failed)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                return Err(failed(Errno::LOOP));
            }
            let own = format!("/proc/self/fd/{}", node.as_raw_fd());
            rustix::fs::chmod(own.as_str(), mode).map_err(failed)?;
            for (key, value) in xattrs(entry)? {
                set_xattr(rustix::fs::setxattr(own.as_str(), &key, &value, XattrFlags::empty()), shown)?;
            }
        }
        rustix::fs::utimensat(parent, name, &times(modified), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        Ok(modified)
    }

    fn attributes<R: Read>(&self, entry: &Entry<'_, R>) -> Result<(Uid, Gid, Mode, i64)> {
        let header = entry.header();
        let id =
            |id: io::Result<u64>| id.and_then(|id| u32::try_from(id).map_err(io::Error::other)).map_err(unreadable);
        let (uid, gid) = match self.owner {
            Some(owner) => owner,
            None => (id(header.uid())?, id(header.gid())?),
        };
        let modified = i64::try_from(header.mtime().map_err(unreadable)?).unwrap_or(0);
        let mode = Mode::from_raw_mode(header.mode().map_err(unreadable)? & 0o7777);
        Ok((Uid::from_raw(uid), Gid::from_raw(gid), mode, modified))
    }

    /// Times of directories come last, because filling a directory changes its time.
    fn finish(self) -> Result<()> {
        for (path, modified) in self.directories.iter().rev() {
            let Ok((parent, name)) = self.root.parent_of(path) else { continue };
            let set = rustix::fs::utimensat(&parent, &name, &times(*modified), AtFlags::SYMLINK_NOFOLLOW);
            match set {
                // Replaced by a later entry, or by the container.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failure(&path.to_string_lossy(), error)),
            }
        }
        Ok(())
    }
}

fn times(seconds: i64) -> Timestamps {
    let at = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: at, last_modification: at }
}

/// Extended attributes, but for those of overlayfs, with which an archive could reach other directories.
fn xattrs<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut found = Vec::new();
    for record in entry.pax_extensions().map_err(unreadable)?.into_iter().flatten() {
        let record = record.map_err(unreadable)?;
        let Some(key) = record.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
        if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
            let text = format!("the attribute {} is overlayfs's own", String::from_utf8_lossy(key));
            return Err(EngineError::Invalid(text));
        }
        found.push((OsStr::from_bytes(key).to_owned(), record.value_bytes().to_vec()));
    }
    Ok(found)
}

/// What the file system does not know is left out, as in Docker.
fn set_xattr(result: rustix::io::Result<()>, shown: &str) -> Result<()> {
    match result {
        Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
        Err(error) => Err(failure(shown, error)),
    }
}

fn failure(shown: &str, error: Errno) -> EngineError {
    match error {
        Errno::ROFS => EngineError::Forbidden("container rootfs is marked read-only".to_owned()),
        Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NAMETOOLONG | Errno::NOENT | Errno::EXIST => {
            EngineError::Invalid(format!("cannot unpack {shown:?}: {error}"))
        }
        error => EngineError::Io { what: "unpack", path: shown.into(), source: error.into() },
    }
}

/// The ids of a container's user, by its own `/etc/passwd` and `/etc/group`.
fn owner(root: &Root, user: &str) -> Result<(u32, u32)> {
    let (user, group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    if user.is_empty() {
        return Ok((0, 0));
    }
    let read = |path: &str| -> String {
        let file = root.resolve(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK);
        let mut text = Vec::new();
        let _ = file.map(|file| File::from(file).take(4 << 20).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    };
    let find = |text: &str, name: &str, column: usize| -> Option<u32> {
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split(':').nth(column)?.parse().ok()
    };
    let passwd = read("/etc/passwd");
    let unknown = |name: &str| EngineError::Invalid(format!("unable to find user {name}: no matching entries"));
    let uid = user.parse().ok().or_else(|| find(&passwd, user, 2)).ok_or_else(|| unknown(user))?;
    let gid = match group {
        Some(group) => group.parse().ok().or_else(|| find(&read("/etc/group"), group, 2)).ok_or_else(|| unknown(group)),
        None => Ok(find(&passwd, user, 3).unwrap_or(0)),
    };
    Ok((uid, gid?))
}
