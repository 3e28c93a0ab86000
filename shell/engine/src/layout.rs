//! Where the engine's files are.
//!
//! ```text
//! <data-root>/engine.lock                    held while an engine is open
//! <data-root>/image/                         the image store
//! <data-root>/network/                       what the network must remember
//! <data-root>/networks/<id>.json             a bridge network that a user made
//! <data-root>/volumes/                       the volumes
//! <data-root>/containers/<id>/container.json the record: there is a container exactly while this file is there
//!                            /facts.json      what changed since: a new name, limits, what its restart policy must know
//!                            /bundle/        shim.json, pid.json, exit.json, shim.sock
//!                            /hosts, hostname, resolv.conf
//!                            /ports.json     host-mode ports that were chosen here
//!                            /health.json    the last word on the health of one run
//!                            /<id>-json.log
//! <exec-root>/netns/                         pins of network namespaces
//! <exec-root>/volumes/                       pins of paths inside volumes
//! <exec-root>/filters/                       system call filters, compiled
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{At, Result};

/// The name of a container's record in its directory.
pub(crate) const RECORD_FILE: &str = "container.json";

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    data_root: PathBuf,
    exec_root: PathBuf,
}

impl Layout {
    pub(crate) fn create(data_root: &Path, exec_root: &Path) -> Result<Self> {
        for root in [data_root, exec_root] {
            DirBuilder::new().recursive(true).mode(0o711).create(root).at("create", root)?;
        }
        let layout = Self {
            data_root: data_root.canonicalize().at("resolve", data_root)?,
            exec_root: exec_root.canonicalize().at("resolve", exec_root)?,
        };
        let networks = layout.data_root.join("networks");
        DirBuilder::new().recursive(true).mode(0o700).create(&networks).at("create", networks)?;
        let containers = layout.containers();
        DirBuilder::new().recursive(true).mode(0o710).create(&containers).at("create", containers)?;
        Ok(layout)
    }

    pub(crate) fn data_root(&self) -> &Path {
        &self.data_root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.data_root.join("engine.lock")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.data_root.join("image")
    }

    pub(crate) fn network(&self) -> PathBuf {
        self.data_root.join("network")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.data_root.join("volumes")
    }

    /// Where paths inside volumes are pinned.
    pub(crate) fn volume_pins(&self) -> PathBuf {
        self.exec_root.join("volumes")
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.exec_root.join("netns")
    }

    pub(crate) fn filters(&self) -> PathBuf {
        self.exec_root.join("filters")
    }

    pub(crate) fn network_record(&self, id: &str) -> PathBuf {
        self.data_root.join("networks").join(format!("{id}.json"))
    }

    /// The records of networks; what was being written when an engine was killed is removed.
    pub(crate) fn network_records(&self) -> Result<Vec<PathBuf>> {
        let folder = self.data_root.join("networks");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).at("read", &folder)? {
            let path = entry.at("read", &folder)?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => found.push(path),
                Some("tmp") => fs::remove_file(&path).at("remove", &path)?,
                _ => {}
            }
        }
        Ok(found)
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.data_root.join("containers")
    }

    pub(crate) fn container(&self, id: &str) -> Directory {
        Directory { path: self.containers().join(id), id: id.to_owned() }
    }

    /// The names below `containers/`, whatever they are.
    pub(crate) fn container_names(&self) -> Result<Vec<String>> {
        let path = self.containers();
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).at("read", &path)? {
            let entry = entry.at("read", &path)?;
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }
}

/// The files of one container.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    path: PathBuf,
    id: String,
}

impl Directory {
    pub(crate) fn record(&self) -> PathBuf {
        self.path.join(RECORD_FILE)
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.path.join("bundle")
    }

    pub(crate) fn facts(&self) -> PathBuf {
        self.path.join("facts.json")
    }

    pub(crate) fn ports(&self) -> PathBuf {
        self.path.join("ports.json")
    }

    pub(crate) fn health(&self) -> PathBuf {
        self.path.join("health.json")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join(format!("{}-json.log", self.id))
    }

    pub(crate) fn etc(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn create(&self) -> Result<()> {
        DirBuilder::new().mode(0o710).create(&self.path).at("create", &self.path)
    }

    /// Removes the record, so that the container is no more, whatever happens then.
    pub(crate) fn uncommit(&self) -> Result<()> {
        remove_file(&self.record())
    }

    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).at("remove", &self.path),
            _ => Ok(()),
        }
    }
}

pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}

/// How sure a write must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The content reached the disk before the name shows it: after a power failure it is whole or not there. Whether it
    /// is there does not matter, for nothing of a container survives a power failure but its record.
    Whole,
    /// For what a reboot makes worthless.
    Process,
    /// On the disk, with its name and that of its folder, when the call returns.
    Acknowledged,
}

/// Replaces a file so that readers see the old or the new content.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T, durability: Durability) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(std::io::Error::from).at("encode", path)?;
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary).at("create", &temporary)?;
    file.write_all(&bytes).at("write", &temporary)?;
    if durability != Durability::Process {
        file.sync_data().at("write", &temporary)?;
    }
    fs::rename(&temporary, path).at("write", path)?;
    if durability == Durability::Acknowledged {
        for folder in path.ancestors().skip(1).take(2) {
            File::open(folder).and_then(|folder| folder.sync_all()).at("write", folder)?;
        }
    }
    Ok(())
}
