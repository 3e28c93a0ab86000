//! What this machine remembers of its membership: one small file, replaced whole, and the folder around it.
//!
//! ```text
//! <data-root>/swarm/
//!   membership.json      written first when a swarm is founded, removed last when it is left
//!   certificates/        root, own certificate and key
//!   manager.key  cluster.key
//!   raft/                log and snapshots
//!   worker/tasks.db
//! ```

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skep_model::{ClusterId, NodeId, ObjectId};
use skep_trust::{CertificatePaths, read_if_present, write_atomic};

const VERSION: u64 = 1;

/// The places of a membership's files.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn of(data_root: &Path) -> Self {
        Self(data_root.join("swarm"))
    }

    fn membership(&self) -> PathBuf {
        self.0.join("membership.json")
    }

    pub(crate) fn certificates(&self) -> CertificatePaths {
        CertificatePaths::new(&self.0.join("certificates"))
    }

    pub(crate) fn manager_key(&self) -> PathBuf {
        self.0.join("manager.key")
    }

    pub(crate) fn cluster_key(&self) -> PathBuf {
        self.0.join("cluster.key")
    }

    pub(crate) fn raft(&self) -> PathBuf {
        self.0.join("raft")
    }

    pub(crate) fn tasks(&self) -> PathBuf {
        self.0.join("worker/tasks.db")
    }

    /// Makes the folder; an error when something of unknown origin lies in it.
    pub(crate) fn create(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        if std::fs::read_dir(&self.0)?.next().is_some() {
            let text = format!("{:?} is not empty and has no membership.json: move its content away", self.0);
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Ok(())
    }

    /// Deletes everything, the membership last: whatever a crash leaves is deleted by the next try.
    pub(crate) fn wipe(&self) -> io::Result<()> {
        let membership = self.membership();
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path == membership {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(&path)?;
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        match std::fs::remove_file(&membership) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// How far founding or leaving is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Not yet answered to the user: taken back at the next start.
    Founding,
    /// A member.
    Active,
    /// On the way out: finished at the next start.
    Leaving,
}

/// What this machine remembers of its membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) phase: Phase,
    pub(crate) cluster_id: ClusterId,
    pub(crate) node_id: NodeId,
    pub(crate) epoch: u64,
    /// `host:port` told to others.
    pub(crate) address: String,
    /// `host:port` to listen on.
    pub(crate) listen: String,
    /// The cluster's settings when it was founded.
    pub(crate) snapshot_interval: u64,
    pub(crate) log_entries_for_slow_followers: u64,
}

/// The file, as text.
#[derive(Serialize, Deserialize)]
struct File {
    version: u64,
    phase: Phase,
    cluster_id: String,
    node_id: String,
    epoch: u64,
    address: String,
    listen: String,
    snapshot_interval: u64,
    log_entries_for_slow_followers: u64,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    /// It cannot be read or written.
    #[error("cannot use the swarm's state in {path:?}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The content is not what skep wrote.
    #[error("the swarm's state in {path:?} is damaged: {detail}; restore it, or leave the swarm with --force")]
    Damaged { path: PathBuf, detail: String },
    /// A newer skep wrote it.
    #[error(
        "the swarm's state in {path:?} has version {found}, this skep reads up to {VERSION}: run the newer skep that wrote it"
    )]
    Newer { path: PathBuf, found: u64 },
}

impl Membership {
    /// Reads the file; `None` when there is no membership.
    pub(crate) fn load(folder: &Folder) -> Result<Option<Self>, MembershipError> {
        let path = folder.membership();
        let io = |source| MembershipError::Io { path: path.clone(), source };
        let damaged = |detail: &dyn std::fmt::Display| MembershipError::Damaged {
            path: path.clone(),
            detail: detail.to_string(),
        };
        let Some(text) = read_if_present(&path).map_err(io)? else { return Ok(None) };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| damaged(&error))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(found) if found > VERSION => return Err(MembershipError::Newer { path, found }),
            Some(VERSION) => {}
            _ => return Err(damaged(&"it has no version")),
        }
        let file: File = serde_json::from_value(value).map_err(|error| damaged(&error))?;
        Ok(Some(Self {
            phase: file.phase,
            cluster_id: ClusterId::parse(&file.cluster_id).map_err(|error| damaged(&error))?,
            node_id: NodeId::parse(&file.node_id).map_err(|error| damaged(&error))?,
            epoch: file.epoch,
            address: file.address,
            listen: file.listen,
            snapshot_interval: file.snapshot_interval,
            log_entries_for_slow_followers: file.log_entries_for_slow_followers,
        }))
    }

    /// Replaces the file; on disk when this returns.
    pub(crate) fn save(&self, folder: &Folder) -> Result<(), MembershipError> {
        let path = folder.membership();
        let file = File {
            version: VERSION,
            phase: self.phase,
            cluster_id: self.cluster_id.to_string(),
            node_id: self.node_id.to_string(),
            epoch: self.epoch,
            address: self.address.clone(),
            listen: self.listen.clone(),
            snapshot_interval: self.snapshot_interval,
            log_entries_for_slow_followers: self.log_entries_for_slow_followers,
        };
        let mut text = serde_json::to_string_pretty(&file).expect("texts and numbers are always JSON");
        text.push('\n');
        write_atomic(&path, text.as_bytes(), 0o600).map_err(|source| MembershipError::Io { path, source })
    }

    /// The same in another phase.
    pub(crate) fn in_phase(&self, phase: Phase) -> Self {
        Self { phase, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        Membership {
            phase: Phase::Active,
            cluster_id: ClusterId::from_random([1; 17]),
            node_id: NodeId::from_random([2; 17]),
            epoch: 1,
            address: "10.0.0.1:2377".to_owned(),
            listen: "0.0.0.0:2377".to_owned(),
            snapshot_interval: 10_000,
            log_entries_for_slow_followers: 500,
        }
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::of(directory.path());
        folder.create().unwrap();
        (directory, folder)
    }

    #[test]
    fn it_is_there_again_until_it_is_wiped() {
        let (_directory, folder) = folder();
        assert!(Membership::load(&folder).unwrap().is_none());
        membership().save(&folder).unwrap();
        std::fs::create_dir_all(folder.raft()).unwrap();
        assert_eq!(Membership::load(&folder).unwrap(), Some(membership()));
        assert!(folder.create().is_err());
        folder.wipe().unwrap();
        assert!(Membership::load(&folder).unwrap().is_none());
        folder.create().unwrap();
    }

    #[test]
    fn bad_files_are_named() {
        let (_directory, folder) = folder();
        for (text, part) in [
            ("", "is damaged"),
            ("{\"version\":1}", "is damaged"),
            ("{\"phase\":\"active\"}", "it has no version"),
            ("{\"version\":2,\"anything\":true}", "run the newer skep"),
        ] {
            std::fs::write(folder.membership(), text).unwrap();
            let error = Membership::load(&folder).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        membership().save(&folder).unwrap();
        let text = std::fs::read_to_string(folder.membership()).unwrap();
        std::fs::write(folder.membership(), text.replace(&membership().node_id.to_string(), "x")).unwrap();
        assert!(Membership::load(&folder).unwrap_err().to_string().contains("invalid node id"));
    }
}
