//! The files of one manager's Raft: identity, vote, log segments, snapshot. All carry (cluster id, epoch), a version and
//! checksums; content is sealed. Nothing here knows `openraft` or what the content means.
//!
//! ```text
//! <data-root>/swarm/raft/lock                         held while a daemon has the log open
//!                        identity                     this manager's random Raft id
//!                        vote                         term, candidate voted for
//!                        log-<first index>.seg        records, appended only
//!                        snapshot-<last index>.snap   the state up to there
//!                        reserve                      nothing: room for a vote on a full disk
//! ```

pub(crate) mod codec;
mod header;
mod identity;
mod log_files;
mod reserve;
mod segment;
mod snapshot_file;
#[cfg(test)]
mod tests;
mod vote_file;

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use skep_trust::{SealError, SealKey};

pub(crate) use identity::{Identity, Lock};
pub(crate) use log_files::{LogFiles, LogRef, OpenedLog, Position};
pub(crate) use reserve::{keep_reserve, release_reserve};
pub(crate) use segment::{Record, RecordHeader};
pub(crate) use snapshot_file::{SnapshotFile, newest_snapshot, write_snapshot};
pub(crate) use vote_file::{StoredVote, read_vote, write_vote};

/// What is wrong with a file's content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file ends too early.
    #[error("it ends too early")]
    TooShort,
    /// It does not begin as such a file does.
    #[error("it is not a file of this kind")]
    Kind,
    /// A checksum does not fit.
    #[error("a checksum does not match")]
    Checksum,
    /// A record is bad although later ones are good.
    #[error("a record is damaged, and later records follow it")]
    Middle,
    /// Records or files are missing.
    #[error("log entries are missing: expected index {expected}, found {found}")]
    Gap {
        /// The index that should be there.
        expected: u64,
        /// The index found.
        found: u64,
    },
    /// The sealed content does not open.
    #[error("{0}")]
    Seal(SealError),
    /// The content makes no sense.
    #[error("its content makes no sense")]
    Content,
}

/// Why a file could not be used. Data is never dropped silently: except for a last record that was never acknowledged,
/// anything wrong is one of these.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system refused something.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The content is not what was written.
    #[error(
        "raft file {path:?} is damaged at byte {offset}: {damage}; restore this manager from a backup or join it anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// A newer skep wrote it.
    #[error(
        "raft file {path:?} has version {found}, this skep reads up to {supported}: run the newer skep that wrote it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// It belongs to another cluster or to another epoch of it.
    #[error(
        "raft file {path:?} belongs to cluster {found:?} epoch {found_epoch}, not to {wanted:?} epoch {wanted_epoch}"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The cluster id in it.
        found: String,
        /// The epoch in it.
        found_epoch: u64,
        /// The cluster id expected.
        wanted: String,
        /// The epoch expected.
        wanted_epoch: u64,
    },
    /// The key does not open it.
    #[error("raft file {path:?} is sealed with another key: restore the key file that belongs to it")]
    WrongKey {
        /// The file.
        path: PathBuf,
    },
    /// Another process has the log open.
    #[error("raft directory {path:?} is in use by another skep daemon")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// There is a log already where a new one should be made.
    #[error("raft directory {path:?} already holds a cluster's log")]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// There is no log.
    #[error("raft directory {path:?} holds no log")]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// An earlier write failed, so nothing more is written.
    #[error("the raft log stopped after a failed write")]
    Poisoned,
}

impl DiskError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
        move |source| DiskError::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, damage: Damage) -> DiskError {
        DiskError::Damaged { path: path.to_owned(), offset, damage }
    }

    /// There is no room for what was to be written: the same write may succeed later.
    pub(crate) fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, DiskError::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    pub(crate) fn seal(path: &Path, offset: u64, error: SealError) -> DiskError {
        match error {
            SealError::WrongKey => DiskError::WrongKey { path: path.to_owned() },
            error => DiskError::damaged(path, offset, Damage::Seal(error)),
        }
    }
}

/// Where the files are and whose they are.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) cluster_id: String,
    pub(crate) epoch: u64,
    pub(crate) key: SealKey,
}

impl Place {
    /// What a sealed value in a file of this kind is bound to.
    pub(crate) fn context(&self, kind: &str, rest: &[u8]) -> Vec<u8> {
        let mut context = format!("{kind}/{}/{}/", self.cluster_id, self.epoch).into_bytes();
        context.extend_from_slice(rest);
        context
    }

    /// The files named `<prefix><20 digits><suffix>`, by number.
    pub(crate) fn numbered(&self, prefix: &str, suffix: &str) -> Result<Vec<(u64, PathBuf)>, DiskError> {
        let read = |source| DiskError::Io { action: "list", path: self.directory.clone(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix));
            if let Some(number) = number.filter(|number| number.len() == 20).and_then(|number| number.parse().ok()) {
                found.push((number, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Makes the directory, for this user alone, and its name durable.
    pub(crate) fn create_directory(&self) -> Result<(), DiskError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(DiskError::io("create", &self.directory))?;
        self.directory.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync)
    }

    /// Makes created, renamed and removed names durable.
    pub(crate) fn sync_directory(&self) -> Result<(), DiskError> {
        sync(&self.directory)
    }
}

fn sync(directory: &Path) -> Result<(), DiskError> {
    std::fs::File::open(directory).and_then(|file| file.sync_all()).map_err(DiskError::io("sync", directory))
}
