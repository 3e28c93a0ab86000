//! Unpacking one layer into a directory that serves as a lower layer of overlayfs. The archive is not trusted: parents are opened
//! with `openat2(RESOLVE_IN_ROOT)`, so that symbolic links planted by earlier entries stay inside, and the last component is never
//! followed. Whiteouts become overlayfs's own (kernel documentation, "overlayfs", "whiteouts and opaque directories").
//!
//! A leading slash is the root of the layer, as Docker and the builder `ko` have it; `..` is refused.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::compression::stream_error;
use crate::error::{Error, IoContext, Result};
use crate::tar_reader::{Entry, Kind, TarReader};
use crate::tree;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// Deeper names serve nobody; the kernel's own bound on a path is 4,096 bytes.
const DEPTH_MAX: usize = 512;
const NAME_BYTES_MAX: usize = 4095;
/// Names of directories kept until the end of a layer, in bytes: far above any real image, far below what memory bears.
const DIRECTORY_NAMES_BYTES_MAX: usize = 64 << 20;
/// The kernel answers EAGAIN when a rename elsewhere makes `..` ambiguous for a moment.
const OPEN_ATTEMPTS_MAX: usize = 1_000;

/// Splits a name into its components. `.` and empty components vanish.
///
/// # Errors
/// A `..` component, or a name that is longer or deeper than the bounds.
pub(crate) fn components(name: &[u8]) -> Result<Vec<&OsStr>> {
    let shown = || crate::digest::shorten(&String::from_utf8_lossy(name));
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::archive(format!("name too long: \"{}\"", shown())));
    }
    let parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err(Error::archive(format!("\"{}\" leads outside: \"..\" is not allowed in names", shown())));
    }
    if parts.len() > DEPTH_MAX {
        return Err(Error::archive(format!("name too deep: \"{}\"", shown())));
    }
    Ok(parts.into_iter().map(OsStr::from_bytes).collect())
}

/// Unpacks into one root directory.
pub(crate) struct Unpacker {
    root: OwnedFd,
    root_path: PathBuf,
    /// Unpacked trees of the layers below, top first: where directories that the archive does not name get their owner and mode.
    below: Vec<OwnedFd>,
    directories: Vec<(PathBuf, (i64, u32))>,
    directory_names_bytes: usize,
}

impl Unpacker {
    /// `root` must exist and be empty.
    pub(crate) fn new(root: &Path, below: &[PathBuf]) -> Result<Unpacker> {
        let open = |path: &Path| {
            rustix::fs::openat(
                CWD,
                path,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .at("open layer directory", path)
        };
        let unpacker = Unpacker {
            root: open(root)?,
            root_path: root.to_owned(),
            below: below.iter().map(|path| open(path)).collect::<Result<_>>()?,
            directories: Vec::new(),
            directory_names_bytes: 0,
        };
        unpacker.inherit(&unpacker.root, Path::new(""))?;
        Ok(unpacker)
    }

    /// Goes through the whole archive.
    pub(crate) fn unpack<R: Read>(mut self, reader: &mut TarReader<R>) -> Result<()> {
        while let Some(entry) = reader.next_entry()? {
            self.entry(&entry, reader)?;
        }
        self.finish_directories()
    }

    fn entry<R: Read>(&mut self, entry: &Entry, content: &mut R) -> Result<()> {
        let parts = components(&entry.name)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.root_entry(entry);
        };
        let path: PathBuf = parts.iter().collect();
        let parent = self.open_parent(parents, &path)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX) {
            return self.whiteout(&parent, name.as_bytes(), OsStr::from_bytes(hidden), &path);
        }
        let hides_below = self.make_room(&parent, name, entry, &path)?;
        match entry.kind {
            Kind::File => self.file(&parent, name, entry, content, &path)?,
            Kind::Directory => self.directory(&parent, name, entry, hides_below, &path)?,
            Kind::HardLink => self.hard_link(&parent, name, entry, &path)?,
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.node(&parent, name, entry, &path)?
            }
        }
        Ok(())
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Error::archive(format!("\"{}\" would replace the root directory", entry.shown())));
        }
        self.attributes(&self.root, entry, Path::new(""))?;
        self.remember(Path::new(""), entry)
    }

    /// Opens the directory an entry goes into, making what is missing on the way.
    fn open_parent(&self, parents: &[&OsStr], path: &Path) -> Result<OwnedFd> {
        let directory: PathBuf = parents.iter().collect();
        match self.open_directory(&directory) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(self.refused(error, path)),
        }
        let mut below = PathBuf::new();
        let mut current = self.open_directory(Path::new("")).map_err(|error| self.refused(error, path))?;
        for part in parents {
            let next = below.join(part);
            current = match self.open_directory(&next) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&current, *part, Mode::from_raw_mode(0o755)).map_err(|error| match error {
                        Errno::EXIST => dangling(path),
                        error => self.refused(error, path),
                    })?;
                    let made = self.open_directory(&next).map_err(|error| self.refused(error, path))?;
                    self.inherit(&made, &next)?;
                    made
                }
                Err(error) => return Err(self.refused(error, path)),
            };
            below = next;
        }
        Ok(current)
    }

    /// Opens a directory by its path in the layer; links are followed, but never out of it.
    fn open_directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..OPEN_ATTEMPTS_MAX {
            result = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve);
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        result
    }

    /// A directory that was not in the archive looks like the one below it, or belongs to root.
    fn inherit(&self, made: &OwnedFd, path: &Path) -> Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let (mut mode, mut uid, mut gid) = (0o755, 0, 0);
        for layer in &self.below {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(found) = rustix::fs::openat2(layer, path, flags, Mode::empty(), resolve) {
                let stat = rustix::fs::fstat(&found).at("read", &self.root_path)?;
                (mode, uid, gid) = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
                break;
            }
        }
        let shown = self.root_path.join(path);
        rustix::fs::fchown(made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .at("change the owner of", &shown)?;
        rustix::fs::fchmod(made, Mode::from_raw_mode(mode)).at("change the mode of", &shown)
    }

    fn whiteout(&self, parent: &OwnedFd, name: &[u8], hidden: &OsStr, path: &Path) -> Result<()> {
        if name == WHITEOUT_OPAQUE {
            return self.set_opaque(parent, path);
        }
        if name.starts_with(WHITEOUT_META_PREFIX) {
            // Bookkeeping of aufs, meaningless to everyone else.
            return Ok(());
        }
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(Error::archive(format!("\"{}\" is not a whiteout", path.display())));
        }
        match self.stat(parent, hidden, path)? {
            // A whiteout hides what is below; what this layer itself has stays.
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(parent, hidden, flags, Mode::empty())
                    .map_err(|error| self.refused(error, path))?;
                self.set_opaque(&directory, path)
            }
            Some(_) => Ok(()),
            None => rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(|error| self.refused(error, path)),
        }
    }

    fn set_opaque(&self, directory: &OwnedFd, path: &Path) -> Result<()> {
        rustix::fs::fsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty())
            .at("mark as opaque", self.root_path.join(path))
    }

    /// Removes what is in the way; directories are merged. Says whether there was a whiteout.
    fn make_room(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry, path: &Path) -> Result<bool> {
        let Some(stat) = self.stat(parent, name, path)? else { return Ok(false) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory && entry.kind == Kind::Directory {
            return Ok(false);
        }
        if entry.kind == Kind::HardLink && self.links_to_itself(parent, name, entry)? {
            return Ok(false);
        }
        tree::remove_at(parent, name).at("replace", self.root_path.join(path))?;
        Ok(kind == FileType::CharacterDevice && stat.st_rdev == 0)
    }

    fn links_to_itself(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<bool> {
        let (target_parent, target) = self.link_target(entry)?;
        let same = |a: Stat, b: Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        let path = Path::new(name);
        Ok(match (self.stat(parent, name, path)?, self.stat(&target_parent, &target, path)?) {
            (Some(a), Some(b)) => same(a, b),
            _ => false,
        })
    }

    fn stat(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<Stat>> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.refused(error, path)),
        }
    }

    fn file<R: Read>(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry, content: &mut R, path: &Path) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| self.refused(error, path))?;
        let mut file = std::fs::File::from(file);
        let mut buffer = vec![0; usize::try_from(entry.size.clamp(1, 128 << 10)).unwrap_or(1)];
        loop {
            let read = content.read(&mut buffer).map_err(stream_error)?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).at("write", self.root_path.join(path))?;
        }
        let file = OwnedFd::from(file);
        self.attributes(&file, entry, path)?;
        rustix::fs::futimens(&file, &times(entry.mtime)).at("set the time of", self.root_path.join(path))
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        hides_below: bool,
        path: &Path,
    ) -> Result<()> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.refused(error, path)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory =
            rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|error| self.refused(error, path))?;
        self.attributes(&directory, entry, path)?;
        if hides_below {
            self.set_opaque(&directory, path)?;
        }
        self.remember(path, entry)
    }

    /// Notes a directory whose time is to be set at the end.
    fn remember(&mut self, path: &Path, entry: &Entry) -> Result<()> {
        self.directory_names_bytes += path.as_os_str().len() + size_of::<(PathBuf, (i64, u32))>();
        if self.directory_names_bytes > DIRECTORY_NAMES_BYTES_MAX {
            let limit = DIRECTORY_NAMES_BYTES_MAX as u64;
            return Err(Error::LimitExceeded { what: "size of a layer's directory names in bytes", limit });
        }
        self.directories.push((path.to_owned(), entry.mtime));
        Ok(())
    }

    fn link_target(&self, entry: &Entry) -> Result<(OwnedFd, OsString)> {
        let parts = components(&entry.link_name)?;
        let missing = || Error::archive(format!("hard link \"{}\" points to nothing in its layer", entry.shown()));
        let (name, parents) = parts.split_last().ok_or_else(missing)?;
        let directory: PathBuf = parents.iter().collect();
        Ok((self.open_directory(&directory).map_err(|_| missing())?, OsString::from_vec(name.as_bytes().to_vec())))
    }

    fn hard_link(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry, path: &Path) -> Result<()> {
        if self.stat(parent, name, path)?.is_some() {
            // Only left in place by `make_room` when it is a link to itself.
            return Ok(());
        }
        let (target_parent, target) = self.link_target(entry)?;
        match rustix::fs::linkat(&target_parent, &target, parent, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => {
                Err(Error::archive(format!("hard link \"{}\" points to nothing in its layer", entry.shown())))
            }
            Err(Errno::PERM) => Err(Error::archive(format!("hard link \"{}\" points to a directory", entry.shown()))),
            Err(error) => Err(self.refused(error, path)),
        }
    }

    fn node(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry, path: &Path) -> Result<()> {
        let refused = |error| self.refused(error, path);
        let device = || {
            let (major, minor) = entry.device;
            rustix::fs::makedev(major, minor)
        };
        match entry.kind {
            Kind::Symlink if entry.link_name.is_empty() => {
                return Err(Error::archive(format!("symbolic link \"{}\" has no target", entry.shown())));
            }
            Kind::Symlink => rustix::fs::symlinkat(entry.link_name.as_slice(), parent, name).map_err(refused)?,
            Kind::CharDevice if entry.device == (0, 0) => {
                return Err(Error::archive(format!(
                    "\"{}\" is a device 0:0, which overlayfs keeps for itself",
                    entry.shown()
                )));
            }
            Kind::CharDevice => {
                rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::RUSR, device()).map_err(refused)?;
            }
            Kind::BlockDevice => {
                rustix::fs::mknodat(parent, name, FileType::BlockDevice, Mode::RUSR, device()).map_err(refused)?
            }
            _ => rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR, 0).map_err(refused)?,
        }
        // Devices and links must not be opened, so the path goes through our own descriptor of the parent.
        let shown = self.root_path.join(path);
        let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).at("change the owner of", &shown)?;
        let own = PathBuf::from(format!("/proc/self/fd/{}", parent.as_fd().as_raw_fd())).join(name);
        if entry.kind != Kind::Symlink {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .at("change the mode of", &shown)?;
        }
        for (key, value) in checked_xattrs(entry)? {
            allow_unsupported(rustix::fs::lsetxattr(&own, key, value, XattrFlags::empty()), key, &shown)?;
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .at("set the time of", &shown)
    }

    /// Owner first: changing it clears setuid bits and file capabilities.
    fn attributes(&self, file: &OwnedFd, entry: &Entry, path: &Path) -> Result<()> {
        let shown = self.root_path.join(path);
        let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        rustix::fs::fchown(file, uid, gid).at("change the owner of", &shown)?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).at("change the mode of", &shown)?;
        for (key, value) in checked_xattrs(entry)? {
            allow_unsupported(rustix::fs::fsetxattr(file, key, value, XattrFlags::empty()), key, &shown)?;
        }
        Ok(())
    }

    /// Times of directories come last, because filling a directory changes its time.
    fn finish_directories(&self) -> Result<()> {
        for (path, mtime) in self.directories.iter().rev() {
            match self.open_directory(path) {
                Ok(directory) => {
                    rustix::fs::futimens(&directory, &times(*mtime)).at("set the time of", self.root_path.join(path))?
                }
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(self.refused(error, path)),
            }
        }
        Ok(())
    }

    /// An error that the archive's own shape can cause is the archive's fault, the others are the machine's.
    fn refused(&self, error: Errno, path: &Path) -> Error {
        let shown = crate::digest::shorten(&path.to_string_lossy());
        match error {
            Errno::NOTDIR => Error::archive(format!("\"{shown}\" lies below something that is not a directory")),
            Errno::LOOP => Error::archive(format!("\"{shown}\" lies below a loop of symbolic links")),
            Errno::XDEV | Errno::NOENT => Error::archive(format!("\"{shown}\" leads outside of its layer")),
            Errno::NAMETOOLONG => Error::archive(format!("name too long: \"{shown}\"")),
            Errno::ISDIR | Errno::EXIST | Errno::INVAL | Errno::MLINK => {
                Error::archive(format!("cannot unpack \"{shown}\": {error}"))
            }
            error => Error::Io { action: "unpack", path: self.root_path.join(path), source: error.into() },
        }
    }
}

/// A link on the way to an entry leads to a place that the layer does not have.
fn dangling(path: &Path) -> Error {
    let shown = crate::digest::shorten(&path.to_string_lossy());
    Error::archive(format!("\"{shown}\" lies below a symbolic link that leads to nothing in its layer"))
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) },
    }
}

/// The attributes to set. Those of overlayfs itself would let one layer redirect into another directory, so they are refused.
fn checked_xattrs(entry: &Entry) -> Result<Vec<(&OsStr, &[u8])>> {
    let mut checked = Vec::with_capacity(entry.xattrs.len());
    for (key, value) in &entry.xattrs {
        if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
            let key = String::from_utf8_lossy(key);
            return Err(Error::archive(format!(
                "\"{}\" has the attribute {key}, which overlayfs keeps for itself",
                entry.shown()
            )));
        }
        checked.push((OsStr::from_bytes(key), value.as_slice()));
    }
    Ok(checked)
}

/// Attributes that the file system does not know are left out, as Docker does; losing a capability or a label is worth a line.
fn allow_unsupported(result: rustix::io::Result<()>, key: &OsStr, path: &Path) -> Result<()> {
    match result {
        Err(error @ (Errno::NOTSUP | Errno::PERM)) => {
            tracing::warn!(path = %path.display(), attribute = %key.to_string_lossy(), %error, "extended attribute left out");
            Ok(())
        }
        other => other.at("set an extended attribute of", path),
    }
}
