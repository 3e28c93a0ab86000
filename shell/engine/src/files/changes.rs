//! What a container has changed of its image: the upper directory of its overlay compared with the lower ones (kernel
//! documentation, "overlayfs", "whiteouts and opaque directories"). Nothing is mounted for it. What skep itself puts into every
//! container (mount points, files in `/etc`) is not shown, as Docker hides it in a layer of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

const OPAQUE: &str = "trusted.overlay.opaque";
/// Made by skep or its runtime in every container.
const OWN: [&str; 13] = [
    "/.dockerenv",
    "/dev",
    "/dev/console",
    "/dev/mqueue",
    "/dev/pts",
    "/dev/shm",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mtab",
    "/etc/resolv.conf",
    "/proc",
    "/run/secrets",
    "/sys",
];

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is another than in the image, or something in it is.
    Modified,
    /// It is not in the image.
    Added,
    /// It is no more.
    Deleted,
}

/// A changed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// From the root.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// All changes, by path.
pub(super) fn changes(upper: &Path, lower: &[PathBuf]) -> io::Result<Vec<FileChange>> {
    let upper = Layer::open(upper)?;
    let lower = Lower(lower.iter().map(|path| Layer::open(path)).collect::<io::Result<_>>()?);
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(directory) = todo.pop() {
        for name in upper.names(&directory)? {
            let path = directory.join(&name);
            let Some(stat) = upper.stat(&path)? else { continue };
            let before = lower.find(&path)?;
            if is_whiteout(&stat) {
                if before.is_some() {
                    note(&mut found, &path, ChangeKind::Deleted);
                }
                continue;
            }
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::Directory {
                note(&mut found, &path, if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added });
                continue;
            }
            todo.push(path.clone());
            match before {
                None => note(&mut found, &path, ChangeKind::Added),
                Some(before) if FileType::from_raw_mode(before.st_mode) != FileType::Directory => {
                    note(&mut found, &path, ChangeKind::Modified);
                }
                Some(before) => {
                    if upper.is_opaque(&path) {
                        let there = upper.names(&path)?;
                        for gone in lower.names(&path)?.difference(&there) {
                            note(&mut found, &path.join(gone), ChangeKind::Deleted);
                        }
                    }
                    let shape =
                        |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec);
                    if shape(&before) != shape(&stat) {
                        found.entry(path).or_insert(ChangeKind::Modified);
                    }
                }
            }
        }
    }
    hide_own(&mut found, &upper)?;
    let absolute = |path: PathBuf| Path::new("/").join(path);
    Ok(found.into_iter().map(|(path, kind)| FileChange { path: absolute(path), kind }).collect())
}

/// A change, and the directory that it changes.
fn note(found: &mut BTreeMap<PathBuf, ChangeKind>, path: &Path, kind: ChangeKind) {
    found.insert(path.to_owned(), kind);
    if let Some(parent) = path.parent().filter(|parent| kind != ChangeKind::Modified && !parent.as_os_str().is_empty())
    {
        found.entry(parent.to_owned()).or_insert(ChangeKind::Modified);
    }
}

/// Takes out what skep made: empty files and directories at known places, and directories in which nothing else has changed.
fn hide_own(found: &mut BTreeMap<PathBuf, ChangeKind>, upper: &Layer) -> io::Result<()> {
    let mut touched = BTreeSet::new();
    for own in OWN.iter().rev() {
        let path = Path::new(own.trim_start_matches('/'));
        if found.get(path) != Some(&ChangeKind::Added) {
            continue;
        }
        let is_empty = match upper.stat(path)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                !found.keys().any(|other| other != path && other.starts_with(path))
            }
            Some(stat) => stat.st_size == 0,
            None => false,
        };
        if is_empty {
            found.remove(path);
            touched.extend(path.parent().map(Path::to_owned));
        }
    }
    for directory in touched.into_iter().filter(|directory| !directory.as_os_str().is_empty()) {
        if !found.keys().any(|other| *other != directory && other.starts_with(&directory)) {
            found.remove(&directory);
        }
    }
    Ok(())
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// One directory of an overlay.
struct Layer(OwnedFd);

impl Layer {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    fn at(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.0, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// What is there; nothing also when a link or a file is on the way.
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let parent = match self.at(path.parent().unwrap_or(Path::new("")), OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            parent => parent?,
        };
        let stat = match path.file_name() {
            Some(name) => rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW),
            None => rustix::fs::fstat(&parent),
        };
        match stat {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            stat => Ok(Some(stat?)),
        }
    }

    fn names(&self, path: &Path) -> io::Result<BTreeSet<OsString>> {
        let directory = match self.at(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(BTreeSet::new()),
            directory => directory?,
        };
        let mut names = BTreeSet::new();
        for entry in Dir::read_from(&directory)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.insert(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    fn is_opaque(&self, path: &Path) -> bool {
        let mut value = [0_u8; 4];
        let Ok(directory) = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY) else { return false };
        matches!(rustix::fs::fgetxattr(&directory, OPAQUE, &mut value[..]), Ok(1) if value[0] == b'y')
    }
}

/// The lower directories, topmost first, as one.
struct Lower(Vec<Layer>);

impl Lower {
    fn find(&self, path: &Path) -> io::Result<Option<Stat>> {
        for layer in &self.0 {
            if let Some(stat) = layer.stat(path)? {
                return Ok((!is_whiteout(&stat)).then_some(stat));
            }
            if hides(layer, path)? {
                break;
            }
        }
        Ok(None)
    }

    fn names(&self, path: &Path) -> io::Result<BTreeSet<OsString>> {
        let mut all = BTreeSet::new();
        for layer in &self.0 {
            all.extend(layer.names(path)?);
        }
        let mut there = BTreeSet::new();
        for name in all {
            if self.find(&path.join(&name))?.is_some() {
                there.insert(name);
            }
        }
        Ok(there)
    }
}

/// Whether a layer hides what is at this path in those below it, without having anything there itself.
fn hides(layer: &Layer, path: &Path) -> io::Result<bool> {
    for above in path.ancestors().skip(1).filter(|above| *above != Path::new("")) {
        match layer.stat(above)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => return Ok(true),
            Some(_) if layer.is_opaque(above) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn whiteout(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    #[test]
    fn whiteouts_and_opaque_directories_are_understood() {
        let all = tempfile::tempdir().unwrap();
        let [upper, top, bottom] = ["upper", "top", "bottom"].map(|name| all.path().join(name));
        for (layer, directories) in
            [(&upper, &["new", "etc", "op", "proc"][..]), (&top, &["etc", "op"]), (&bottom, &["etc", "op", "bin"])]
        {
            directories.iter().for_each(|name| fs::create_dir_all(layer.join(name)).unwrap());
        }
        for path in ["bottom/etc/passwd", "bottom/etc/gone", "bottom/op/a", "bottom/op/b", "bottom/bin/x", "top/op/c"] {
            fs::write(all.path().join(path), "1").unwrap();
        }
        // In the image already: not a change of the container's.
        whiteout(&top.join("etc/gone"));
        for path in ["upper/etc/passwd", "upper/new/file", "upper/op/a"] {
            fs::write(all.path().join(path), "2").unwrap();
        }
        fs::write(upper.join("etc/hosts"), "").unwrap();
        whiteout(&upper.join("bin"));
        whiteout(&upper.join("etc/gone"));
        let opaque = rustix::fs::setxattr(upper.join("op"), OPAQUE, b"y", rustix::fs::XattrFlags::empty());
        if opaque.is_err() {
            eprintln!("skipped: needs root");
            return;
        }
        let found = changes(&upper, &[top, bottom]).unwrap();
        let found: Vec<(String, ChangeKind)> =
            found.into_iter().map(|change| (change.path.display().to_string(), change.kind)).collect();
        let has = |path: &str, kind| found.contains(&(path.to_owned(), kind));
        assert!(has("/bin", ChangeKind::Deleted) && has("/etc/passwd", ChangeKind::Modified), "{found:?}");
        assert!(has("/new", ChangeKind::Added) && has("/new/file", ChangeKind::Added), "{found:?}");
        assert!(has("/op/b", ChangeKind::Deleted) && has("/op/c", ChangeKind::Deleted), "{found:?}");
        assert!(has("/op/a", ChangeKind::Modified) && has("/op", ChangeKind::Modified), "{found:?}");
        assert!(!found.iter().any(|(path, _)| path == "/etc/hosts" || path == "/proc" || path == "/etc/gone"));
        assert!(!has("/bin/x", ChangeKind::Deleted));
    }
}
