//! Writes files of a container as a tar archive (POSIX, as Go writes it). The container may change them meanwhile: what vanishes
//! is left out, what shrinks is filled with zeros, what grows is cut.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::inside::InsidePath;
use super::root::Root;

/// Largest number in an octal field of seven digits.
const OCTAL_MAX: u32 = 0o7_777_777;
/// Largest size in an octal field of eleven digits.
const SIZE_MAX: u64 = 0o77_777_777_777;
/// The one attribute that Docker keeps.
const CAPABILITY: &str = "security.capability";

pub(super) struct Packer<W: Write> {
    tar: tar::Builder<W>,
    /// Files with several names: the first one's.
    links: BTreeMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Packer<W> {
    pub(super) fn new(out: W) -> Self {
        Self { tar: tar::Builder::new(out), links: BTreeMap::new() }
    }

    /// A path: its last component is the name of the first entry.
    pub(super) fn path(mut self, root: &Root, path: &InsidePath) -> io::Result<()> {
        let base = path.base().into_bytes();
        if path.follows() {
            let top = root.resolve(path.absolute(), OFlags::RDONLY | OFlags::DIRECTORY)?;
            self.tree(&top, &base, true)?;
        } else {
            let (parent, name) = root.parent_of(path.absolute())?;
            let stat = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let top = open_directory(&parent, Path::new(&name))?;
                self.tree(&top, &base, true)?;
            } else {
                self.node(&parent, &name, &base)?;
            }
        }
        self.tar.finish()
    }

    /// Everything, with names from the root.
    pub(super) fn all(mut self, root: &Root) -> io::Result<()> {
        let top = root.resolve(Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.tree(&top, b"", false)?;
        self.tar.finish()
    }

    /// A directory and everything below it, each before what it holds, in the order of the names.
    fn tree(&mut self, top: &OwnedFd, base: &[u8], with_top: bool) -> io::Result<()> {
        let base = if base == b"/" { b"" } else { base };
        if with_top {
            let stat = rustix::fs::fstat(top)?;
            self.entry(&stat, EntryType::Directory, &[base, b"/"].concat(), &[], None)?;
        }
        let mut todo = Vec::new();
        push_children(top, Path::new(""), &mut todo)?;
        while let Some(path) = todo.pop() {
            let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { continue };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let parent = match open_directory(top, parent) {
                Ok(parent) => parent,
                Err(error) if is_passing(error) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut shown = base.to_vec();
            if with_top {
                shown.push(b'/');
            }
            shown.extend_from_slice(path.as_os_str().as_bytes());
            if self.node(&parent, name, &shown)? {
                match open_directory(&parent, Path::new(name)) {
                    Ok(directory) => push_children(&directory, &path, &mut todo)?,
                    Err(error) if is_passing(error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// One entry; true when it is a directory. Sockets are left out.
    fn node(&mut self, parent: &OwnedFd, name: &OsStr, shown: &[u8]) -> io::Result<bool> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(error) if is_passing(error) => return Ok(false),
            stat => stat?,
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.entry(&stat, EntryType::Directory, &[shown, b"/"].concat(), &[], None)?;
                return Ok(true);
            }
            FileType::RegularFile => {
                if stat.st_nlink > 1 {
                    if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)).cloned() {
                        self.entry(&stat, EntryType::Link, shown, &first, None)?;
                        return Ok(false);
                    }
                    self.links.insert((stat.st_dev, stat.st_ino), shown.to_vec());
                }
                return self.file(parent, name, shown).map(|()| false);
            }
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(parent, name, Vec::new()) {
                    Err(error) if is_passing(error) => return Ok(false),
                    target => target?.into_bytes(),
                };
                self.entry(&stat, EntryType::Symlink, shown, &target, None)?;
                return Ok(false);
            }
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Fifo => EntryType::Fifo,
            _ => return Ok(false),
        };
        self.entry(&stat, kind, shown, &[], None).map(|()| false)
    }

    fn file(&mut self, parent: &OwnedFd, name: &OsStr, shown: &[u8]) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Err(error) if is_passing(error) => return Ok(()),
            file => file?,
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        self.entry(&stat, EntryType::Regular, shown, &[], Some(file))
    }

    fn entry(
        &mut self,
        stat: &Stat,
        kind: EntryType,
        name: &[u8],
        link: &[u8],
        content: Option<OwnedFd>,
    ) -> io::Result<()> {
        let size = if content.is_some() { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        let mut header = Header::new_ustar();
        let mut more = Records::default();
        {
            let old = header.as_old_mut();
            more.text("path", name, &mut old.name);
            more.text("linkpath", link, &mut old.linkname);
        }
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(more.number("uid", stat.st_uid.into(), OCTAL_MAX.into()));
        header.set_gid(more.number("gid", stat.st_gid.into(), OCTAL_MAX.into()));
        header.set_size(more.number("size", size, SIZE_MAX));
        match u64::try_from(stat.st_mtime) {
            Ok(seconds) => header.set_mtime(more.number("mtime", seconds, SIZE_MAX)),
            Err(_) => more.add("mtime", stat.st_mtime.to_string().as_bytes()),
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(rustix::fs::major(stat.st_rdev))?;
            header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        }
        if let Some(file) = &content {
            let mut value = [0_u8; 64];
            if let Ok(length) = rustix::fs::fgetxattr(file, CAPABILITY, &mut value[..]) {
                more.add(&format!("SCHILY.xattr.{CAPABILITY}"), &value[..length]);
            }
        }
        header.set_cksum();
        if !more.0.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            let own = b"PaxHeaders.0/entry";
            extended.as_old_mut().name[..own.len()].copy_from_slice(own);
            extended.set_mode(0o644);
            extended.set_size(more.0.len() as u64);
            extended.set_cksum();
            self.tar.append(&extended, more.0.as_slice())?;
        }
        match content {
            // A size beyond the header's field: the builder copies what it is given.
            Some(file) => self.tar.append(&header, File::from(file).chain(io::repeat(0)).take(size)),
            None => self.tar.append(&header, io::empty()),
        }
    }
}

/// Extended records of an entry (POSIX.1-2001, "pax Interchange Format").
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &str, value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let digits = |number: usize| number.to_string().len();
        // The length counts its own digits.
        let mut length = rest + digits(rest);
        length = rest + digits(length);
        self.0.extend_from_slice(format!("{length} {key}=").as_bytes());
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    fn text(&mut self, key: &str, value: &[u8], field: &mut [u8]) {
        let length = value.len().min(field.len());
        field[..length].copy_from_slice(&value[..length]);
        if value.len() > field.len() || !value.is_ascii() {
            self.add(key, value);
        }
    }

    fn number(&mut self, key: &str, value: u64, max: u64) -> u64 {
        if value <= max {
            return value;
        }
        self.add(key, value.to_string().as_bytes());
        0
    }
}

/// Opens a directory below another without following links.
fn open_directory(top: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(top, path, flags, Mode::empty(), resolve)
}

fn push_children(directory: &OwnedFd, path: &Path, todo: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    todo.extend(names.into_iter().map(|name| path.join(OsString::from_vec(name))));
    Ok(())
}

/// Gone or replaced meanwhile.
fn is_passing(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE)
}
