//! Where things lie below the store's root, and how files get there so that a crash at any instant leaves either the old or the
//! new: everything is made in `tmp/` and renamed into place.
//!
//! ```text
//! version                       format version of all below
//! lock                          held by the one process that uses the store
//! images.json                   images and their names (table.rs)
//! blobs/sha256/<hex>            configurations, manifests and layer archives as they came
//! layers/<chain id>/diff        unpacked layer, layers/<chain id>/layer.json beside it
//! l/<short>                     link to ../layers/<chain id>/diff, to keep mount options short
//! snapshots/<container id>/     upper, work, merged; links `image` and `chain` name what is below
//! tmp/                          half-made things, swept when the store is opened
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;

use crate::digest::Digest;
use crate::error::{Error, IoContext, Result};
use crate::tree;

const VERSION: u64 = 1;

/// The paths of one store.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    next_staging: AtomicU64,
    _lock: File,
}

impl Layout {
    /// Makes or opens the directories, takes the lock, checks the version and sweeps `tmp/`.
    pub(crate) fn open(root: &Path) -> Result<Layout> {
        fs::create_dir_all(root).at("create", root)?;
        let root = fs::canonicalize(root).at("resolve", root)?;
        let lock_path = root.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path).at("open", &lock_path)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::StoreInUse(root)),
            Err(error) => return Err(error).at("lock", lock_path),
        }
        let layout = Layout { root, next_staging: AtomicU64::new(0), _lock: lock };
        layout.check_version()?;
        for directory in ["blobs/sha256", "layers", "l", "snapshots", "tmp"] {
            let path = layout.root.join(directory);
            fs::create_dir_all(&path).at("create", path)?;
        }
        layout.sweep()?;
        layout.write_version()?;
        Ok(layout)
    }

    fn check_version(&self) -> Result<()> {
        let path = self.root.join("version");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).at("read", path),
        };
        let damaged = || Error::DamagedStore {
            path: path.clone(),
            reason: format!("\"{}\" is not a version number", text.trim()),
        };
        let found: u64 = text.trim().parse().map_err(|_| damaged())?;
        if found == 0 {
            return Err(damaged());
        }
        if found > VERSION {
            return Err(Error::NewerStore { path: self.root.clone(), found, supported: VERSION });
        }
        Ok(())
    }

    fn write_version(&self) -> Result<()> {
        let path = self.root.join("version");
        if path.exists() { Ok(()) } else { self.write_file(&path, format!("{VERSION}\n").as_bytes()) }
    }

    fn sweep(&self) -> Result<()> {
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp).at("list", &tmp)? {
            let path = entry.at("list", &tmp)?.path();
            tree::remove(&path).at("remove", path)?;
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn images_file(&self) -> PathBuf {
        self.root.join("images.json")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer(&self, chain: Digest) -> PathBuf {
        self.layers().join(chain.hex())
    }

    pub(crate) fn layer_diff(&self, chain: Digest) -> PathBuf {
        self.layer(chain).join("diff")
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.root.join("l")
    }

    /// The name of a layer's short link: 80 bits of its chain id.
    pub(crate) fn link_name(chain: Digest) -> String {
        chain.hex()[..20].to_owned()
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn snapshot(&self, container: &str) -> PathBuf {
        self.snapshots().join(container)
    }

    /// A fresh path in `tmp/`; nothing is made there.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp").join(self.next_staging.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A fresh directory in `tmp/` that goes when the value does.
    pub(crate) fn staging(&self) -> Result<Staging> {
        let path = self.temporary();
        fs::create_dir(&path).at("create", &path)?;
        Ok(Staging { path })
    }

    /// Replaces a file at once and durably.
    pub(crate) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = self.temporary();
        let write = || -> std::io::Result<()> {
            let mut file = File::create_new(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        if let Err(error) = write() {
            let _ = fs::remove_file(&temporary);
            return Err(error).at("write", path);
        }
        sync_directory(path.parent().unwrap_or(&self.root))
    }

    /// Takes something out of the store at once, then deletes it. Missing is fine.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let temporary = self.temporary();
        match fs::rename(path, &temporary) {
            Ok(()) => tree::remove(&temporary).at("remove", temporary),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).at("remove", path),
        }
    }
}

/// Makes renames and removals in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).at("sync", path)
}

/// A directory in `tmp/`, removed on drop with all that is still in it.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
}

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = tree::remove(&self.path) {
            // The next open sweeps it.
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_or_damaged_version_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("version"), "2\n").unwrap();
        assert!(matches!(Layout::open(dir.path()), Err(Error::NewerStore { found: 2, supported: 1, .. })));
        assert!(!dir.path().join("blobs").exists());
        fs::write(dir.path().join("version"), "x").unwrap();
        assert!(matches!(Layout::open(dir.path()), Err(Error::DamagedStore { .. })));
    }

    #[test]
    fn opening_sweeps_what_a_crash_left_and_locks() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tmp/3/diff/x")).unwrap();
        fs::write(dir.path().join("tmp/4"), "half").unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        assert!(matches!(Layout::open(dir.path()), Err(Error::StoreInUse(_))));
        drop(layout);
        Layout::open(dir.path()).unwrap();
    }
}
