//! The root of a container's files, on a thread with a mount namespace of its own: nothing of it appears on the machine, and all
//! of it vanishes with the thread, however that ends.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use skep_oci::{Mount, RootFs, Status};

use super::PathStat;
use super::inside::InsidePath;
use crate::container::Container;
use crate::engine::Inner;
use crate::error::{At, EngineError, Result};
use crate::etc_files;

/// The kernel answers EAGAIN when a rename elsewhere makes `..` ambiguous for a moment.
const OPEN_ATTEMPTS_MAX: usize = 1_000;
/// Links on one way, as in the kernel.
const LINKS_MAX: usize = 40;

/// How much of the files is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The root file system alone.
    Root,
    /// Also what of the machine is mounted in it.
    Mounts,
}

/// The root directory of a container.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Inner {
    /// Opens the files of a container. Changes the mount namespace of the calling thread for good: it must be one that ends.
    pub(super) fn open_files(&self, container: &Container, scope: Scope) -> Result<Root> {
        let at = |error: nix::Error| io::Error::from(error);
        let directory = container.directory.bundle();
        unshare(CloneFlags::CLONE_FS).map_err(at).at("look into", &directory)?;
        let running = match container.bundle().status()? {
            Status::Alive(pids) | Status::Starting(pids) => Some(pids.shim),
            Status::Exited(_) | Status::Gone(_) => None,
        };
        if let Some(shim) = running {
            // The shim has the root file system, without what the container's processes have mounted in it.
            let path = PathBuf::from(format!("/proc/{}/ns/mnt", shim.pid));
            let namespace = std::fs::File::open(&path).at("open", &path)?;
            if !shim.is_alive() {
                return Err(EngineError::NotRunning(container.id().to_owned()));
            }
            setns(namespace, CloneFlags::CLONE_NEWNS).map_err(at).at("enter", &path)?;
        }
        unshare(CloneFlags::CLONE_NEWNS).map_err(at).at("look into", &directory)?;
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(at).at("look into", &directory)?;
        let merged = match &container.record.config.rootfs {
            RootFs::Dir(path) => path.clone(),
            RootFs::Overlay { merged, .. } => {
                if running.is_none() {
                    self.mount_snapshot(container.id())?;
                }
                merged.clone()
            }
        };
        let root = Root::open(&merged).at("open", &merged)?;
        if scope == Scope::Mounts {
            root.mount_binds(container)?;
        }
        Ok(root)
    }

    fn mount_snapshot(&self, id: &str) -> Result<()> {
        let snapshot = self.images.snapshot(id)?;
        // The working directory is this thread's alone.
        std::env::set_current_dir(&snapshot.store_root).at("enter", &snapshot.store_root)?;
        let options = snapshot.mount_options();
        let mounted =
            mount(Some("overlay"), &snapshot.merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
        mounted.map_err(io::Error::from).at("mount", &snapshot.merged)?;
        std::env::set_current_dir("/").at("enter", "/")
    }
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// What of the machine the container sees: its binds and volumes, and its own files in `/etc`.
    fn mount_binds(&self, container: &Container) -> Result<()> {
        let config = &container.record.config;
        let etc = etc_files::NAMES.map(|name| (container.directory.etc(name), Path::new("/etc").join(name), true));
        let binds = config.mounts.iter().filter_map(|mount| match mount {
            Mount::Bind { source, target, non_recursive, .. } => Some((source.clone(), target.clone(), *non_recursive)),
            Mount::Tmpfs { .. } => None,
        });
        let mut binds: Vec<_> = etc.into_iter().chain(binds).collect();
        binds.sort_by_key(|(_, target, _)| target.components().count());
        for (source, target, alone) in binds {
            // What is not there any more cannot be looked at; its start will say so.
            let Ok(metadata) = std::fs::metadata(&source) else { continue };
            let place = self.mount_point(&target, metadata.is_dir()).map_err(io::Error::from).at("open", &target)?;
            let flags = if alone { MsFlags::MS_BIND } else { MsFlags::MS_BIND | MsFlags::MS_REC };
            let place = format!("/proc/self/fd/{}", place.as_raw_fd());
            let mounted = mount(Some(&source), place.as_str(), None::<&str>, flags, None::<&str>);
            mounted.map_err(io::Error::from).at("mount", &target)?;
        }
        Ok(())
    }

    fn mount_point(&self, target: &Path, is_directory: bool) -> rustix::io::Result<OwnedFd> {
        match self.resolve(target, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        if is_directory {
            return self.make_directories(target);
        }
        let parent = self.make_directories(target.parent().unwrap_or(Path::new("/")))?;
        let name = target.file_name().ok_or(Errno::ISDIR)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
        self.resolve(target, OFlags::PATH)
    }

    /// Opens a path with this root as the root; links are followed, but never out of it.
    pub(super) fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..OPEN_ATTEMPTS_MAX {
            result = rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        result
    }

    /// Opens a directory, making what is missing of it.
    pub(super) fn make_directories(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.resolve(path, flags) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let mut done = PathBuf::from("/");
        let mut current = self.resolve(&done, flags)?;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            done.push(name);
            current = match self.resolve(&done, flags) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&current, name, Mode::from_raw_mode(0o755))?;
                    self.resolve(&done, flags)?
                }
                found => found?,
            };
        }
        Ok(current)
    }

    /// The directory that something lies in, and its name there; nothing is said about the thing itself.
    pub(super) fn parent_of(&self, path: &Path) -> rustix::io::Result<(OwnedFd, OsString)> {
        let name = path.file_name().ok_or(Errno::ISDIR)?;
        let parent = self.resolve(path.parent().unwrap_or(Path::new("/")), OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok((parent, name.to_owned()))
    }

    fn metadata(&self, path: &InsidePath) -> rustix::io::Result<Stat> {
        if path.follows() {
            return rustix::fs::fstat(self.resolve(path.absolute(), OFlags::PATH | OFlags::DIRECTORY)?);
        }
        let (parent, name) = self.parent_of(path.absolute())?;
        rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)
    }

    pub(super) fn stat(&self, path: &InsidePath) -> io::Result<PathStat> {
        let stat = self.metadata(path)?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let target = if is_link { self.evaluate(path.absolute()) } else { PathBuf::new() };
        Ok(PathStat {
            name: path.base(),
            size: stat.st_size,
            mode: stat.st_mode,
            modified_at: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64),
            link_target: target.to_string_lossy().into_owned(),
        })
    }

    /// Where a directory to unpack into really is.
    pub(super) fn directory(&self, path: &InsidePath) -> io::Result<PathBuf> {
        let directory = self.evaluate(path.absolute());
        let found = rustix::fs::fstat(self.resolve(&directory, OFlags::PATH)?)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            Ok(directory)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "extraction point is not a directory"))
        }
    }

    /// The same place without links on the way, as far as it is there. Only for people and for paths that are resolved again:
    /// the container may change it at any moment.
    fn evaluate(&self, path: &Path) -> PathBuf {
        let parts = |path: &Path| path.components().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>();
        let mut todo: VecDeque<OsString> = parts(path).into();
        let (mut done, mut links) = (PathBuf::from("/"), 0);
        while let Some(part) = todo.pop_front() {
            if part == OsStr::new("..") {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            let link = self.resolve(&next, OFlags::PATH | OFlags::NOFOLLOW);
            match link.and_then(|link| rustix::fs::readlinkat(&link, "", Vec::new())) {
                Ok(target) if links < LINKS_MAX => {
                    links += 1;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    for part in parts(&target).into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                _ => done = next,
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let inside = tempfile::tempdir().unwrap();
        symlink(outside.path(), inside.path().join("out")).unwrap();
        symlink("../../../../..", inside.path().join("up")).unwrap();
        symlink("loop", inside.path().join("loop")).unwrap();
        std::fs::create_dir(inside.path().join("d")).unwrap();
        symlink("/d", inside.path().join("d/self")).unwrap();
        let root = Root::open(inside.path()).unwrap();
        let stat = |path: &str| root.stat(&InsidePath::parse(path));
        assert!(stat("/out/secret").is_err() && stat("/out/").is_err() && stat("/loop/").is_err());
        // A link itself is seen, with where it would lead inside.
        assert_eq!(stat("/out").unwrap().link_target, outside.path().to_string_lossy());
        assert_eq!(stat("/up").unwrap().link_target, "/");
        assert_eq!(stat("/d/self/self/self").unwrap().link_target, "/d");
        assert_eq!(stat("/up/d").unwrap().name, "d");
        assert!(root.make_directories(Path::new("/up/new/dir")).is_ok());
        assert!(inside.path().join("new/dir").is_dir());
        assert_eq!(root.directory(&InsidePath::parse("/d/self")).unwrap(), Path::new("/d"));
    }
}
