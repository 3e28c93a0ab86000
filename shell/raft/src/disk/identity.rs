//! Who this manager is in its Raft group, and the lock that keeps a second daemon out.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;

use skep_trust::{random_bytes, write_atomic};

use super::header::{FileKind, decode, encode};
use super::{Damage, DiskError, Place};

const KIND: FileKind = FileKind { magic: b"skep-idn", version: 1 };

/// Held while a process has the log open; the kernel gives it up when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "holding the open file is holding the lock")] File);

impl Lock {
    pub(crate) fn take(place: &Place) -> Result<Lock, DiskError> {
        let path = place.directory.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(DiskError::io("open lock file", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(DiskError::InUse { path: place.directory.clone() }),
            Err(std::fs::TryLockError::Error(source)) => Err(DiskError::Io { action: "lock", path, source }),
        }
    }
}

/// This manager's place in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Random, never reused, never zero.
    pub(crate) raft_id: u64,
}

impl Identity {
    fn path(place: &Place) -> PathBuf {
        place.directory.join("identity")
    }

    /// A new random identity, on disk.
    pub(crate) fn create(place: &Place) -> Result<Identity, DiskError> {
        let path = Identity::path(place);
        if path.exists() {
            return Err(DiskError::Exists { path: place.directory.clone() });
        }
        let raft_id = u64::from_le_bytes(random_bytes()).max(1);
        let bytes = encode(&KIND, place, |fields| fields.u64(raft_id));
        write_atomic(&path, &bytes, 0o600).map_err(DiskError::io("write", &path))?;
        Ok(Identity { raft_id })
    }

    /// The identity on disk.
    pub(crate) fn read(place: &Place) -> Result<Identity, DiskError> {
        let path = Identity::path(place);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DiskError::Missing { path: place.directory.clone() });
            }
            read => read.map_err(DiskError::io("read", &path))?,
        };
        let (mut fields, _) = decode(&KIND, place, &path, &bytes)?;
        let raft_id = fields.u64().map_err(|_| DiskError::damaged(&path, 0, Damage::Content))?;
        Ok(Identity { raft_id })
    }
}
