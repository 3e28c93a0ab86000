//! The writable file system of a container: a directory of its own on top of the layers of its image. The store prepares the
//! directories and says how to mount them; the container's shim mounts, in its own mount namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use crate::digest::{Digest, ImageId};
use crate::error::{Error, IoContext, Result};
use crate::layout::{Layout, sync_directory};
use crate::store::{ImageStore, list_names};
use crate::tree::{self, Usage};

const CONTAINER_ID_LENGTH_MAX: usize = 128;

/// Where a container's file system lies and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The container it is for.
    pub container_id: String,
    /// The image it was made from (which may have been removed by force since).
    pub image_id: ImageId,
    /// Unpacked layers, topmost first; never empty.
    pub lower: Vec<PathBuf>,
    /// What the container writes.
    pub upper: PathBuf,
    /// For overlayfs itself.
    pub work: PathBuf,
    /// An empty directory to mount at.
    pub merged: PathBuf,
    /// The store's root: see [`Snapshot::mount_options`].
    pub store_root: PathBuf,
    lower_short: Vec<String>,
}

impl Snapshot {
    /// Options for `mount -t overlay`, to be used with [`Snapshot::store_root`] as the current directory: paths are relative and
    /// short, so that the most layers an image may have fit into the page that the kernel reads.
    pub fn mount_options(&self) -> String {
        let id = &self.container_id;
        let lower = self.lower_short.join(":");
        format!("lowerdir={lower},upperdir=snapshots/{id}/upper,workdir=snapshots/{id}/work")
    }
}

/// What the store remembers of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotRow {
    pub(crate) image: ImageId,
    /// Topmost layer; none for an image without layers.
    pub(crate) chain: Option<Digest>,
}

impl SnapshotRow {
    /// The record is two symbolic links: they appear with their directory at once and need no flush of their own.
    fn read(directory: &Path) -> Option<SnapshotRow> {
        let link = |name: &str| fs::read_link(directory.join(name)).ok()?.to_str().map(str::to_owned);
        let image = link("image")?.parse().ok()?;
        let chain = match link("chain") {
            None => None,
            Some(text) => Some(text.parse().ok()?),
        };
        Some(SnapshotRow { image, chain })
    }

    pub(crate) fn read_all(layout: &Layout) -> Result<BTreeMap<String, SnapshotRow>> {
        let mut rows = BTreeMap::new();
        for name in list_names(&layout.snapshots())? {
            match SnapshotRow::read(&layout.snapshot(&name)) {
                Some(row) => {
                    rows.insert(name, row);
                }
                // Never deleted on a guess: it holds what a container wrote.
                None => tracing::warn!(container.id = %name, "snapshot is damaged and ignored"),
            }
        }
        Ok(rows)
    }
}

impl ImageStore {
    /// Prepares the file system of a container from an image.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::SnapshotExists`], [`Error::InvalidContainerId`].
    pub fn create_snapshot(&self, container_id: &str, image_id: ImageId) -> Result<Snapshot> {
        check_container_id(container_id)?;
        let layout = self.layout();
        let mut state = self.state();
        let config = state.configs.get(&image_id).ok_or_else(|| Error::NoSuchImage(image_id.to_string()))?;
        let row = SnapshotRow { image: image_id, chain: config.chain.last().copied() };
        let target = layout.snapshot(container_id);
        // The directory may be a damaged one that is not in the list.
        if state.snapshots.contains_key(container_id) || target.exists() {
            return Err(Error::SnapshotExists(container_id.to_owned()));
        }
        let staging = layout.staging()?;
        let prepared = staging.path().join("snapshot");
        prepare(layout, &prepared, &row)?;
        fs::rename(&prepared, &target).at("create", &target)?;
        let snapshot = self.describe(&state, container_id, &row);
        state.snapshots.insert(container_id.to_owned(), row);
        Ok(snapshot)
    }

    /// Deletes the file system of a container with all that it wrote. Nothing may be mounted on it any more.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`].
    pub fn remove_snapshot(&self, container_id: &str) -> Result<()> {
        check_container_id(container_id)?;
        let layout = self.layout();
        let temporary = layout.temporary();
        let path = layout.snapshot(container_id);
        {
            let mut state = self.state();
            match fs::rename(&path, &temporary) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    state.snapshots.remove(container_id);
                    return Err(Error::NoSuchSnapshot(container_id.to_owned()));
                }
                Err(error) => return Err(error).at("remove", path),
            }
            let row = state.snapshots.remove(container_id);
            // Only a forcibly removed image leaves layers that this snapshot alone has kept.
            if row.is_some_and(|row| !state.table.images.contains_key(&row.image)) {
                sync_directory(&layout.snapshots())?;
                self.collect(&mut state)?;
            }
        }
        // Outside the lock: a container may have written a lot.
        tree::remove(&temporary).at("remove", temporary)
    }

    /// The file system of a container.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`].
    pub fn snapshot(&self, container_id: &str) -> Result<Snapshot> {
        let state = self.state();
        let row = state.snapshots.get(container_id).ok_or_else(|| Error::NoSuchSnapshot(container_id.to_owned()))?;
        Ok(self.describe(&state, container_id, row))
    }

    /// All snapshots, by container id.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let state = self.state();
        state.snapshots.iter().map(|(id, row)| self.describe(&state, id, row)).collect()
    }

    /// What a container has written.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`], or its directory cannot be read.
    pub fn usage(&self, container_id: &str) -> Result<Usage> {
        let upper = self.snapshot(container_id)?.upper;
        tree::usage(&upper).at("measure", upper)
    }

    fn describe(&self, state: &crate::store::State, container_id: &str, row: &SnapshotRow) -> Snapshot {
        let layout = self.layout();
        let directory = layout.snapshot(container_id);
        let chain = row.chain.map(|top| state.chain_below(top)).unwrap_or_default();
        let mut lower: Vec<PathBuf> = chain.iter().map(|layer| layout.layer_diff(*layer)).collect();
        let mut lower_short: Vec<String> =
            chain.iter().map(|layer| format!("l/{}", Layout::link_name(*layer))).collect();
        if lower.is_empty() {
            // Overlayfs wants a lower layer; an image without any gets an empty one.
            lower.push(directory.join("empty"));
            lower_short.push(format!("snapshots/{container_id}/empty"));
        }
        Snapshot {
            container_id: container_id.to_owned(),
            image_id: row.image,
            lower,
            upper: directory.join("upper"),
            work: directory.join("work"),
            merged: directory.join("merged"),
            store_root: layout.root().to_owned(),
            lower_short,
        }
    }
}

fn prepare(layout: &Layout, directory: &Path, row: &SnapshotRow) -> Result<()> {
    let make = |path: &Path, mode: u32| -> Result<()> {
        fs::create_dir(path).at("create", path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("change the mode of", path)
    };
    make(directory, 0o710)?;
    let upper = directory.join("upper");
    for name in ["upper", "work", "merged"] {
        make(&directory.join(name), 0o755)?;
    }
    symlink(row.image.to_string(), directory.join("image")).at("create", directory)?;
    match row.chain {
        None => make(&directory.join("empty"), 0o755),
        Some(chain) => {
            symlink(chain.to_string(), directory.join("chain")).at("create", directory)?;
            // The root directory that the container sees is the upper one, so it looks like the image's.
            let diff = layout.layer_diff(chain);
            let root = fs::symlink_metadata(&diff).at("read", diff)?;
            chown(&upper, Some(root.uid()), Some(root.gid())).at("change the owner of", &upper)?;
            fs::set_permissions(&upper, fs::Permissions::from_mode(root.mode() & 0o7777))
                .at("change the mode of", &upper)
        }
    }
}

fn check_container_id(id: &str) -> Result<()> {
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if plain && id.len() <= CONTAINER_ID_LENGTH_MAX && id.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err(Error::InvalidContainerId(crate::digest::shorten(id)))
    }
}
