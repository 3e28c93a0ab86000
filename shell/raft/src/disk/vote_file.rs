//! The vote: in which term this manager voted for whom. Durable before it is told to anybody.

use std::path::PathBuf;

use skep_trust::write_atomic;

use super::header::{FileKind, decode, encode};
use super::{Damage, DiskError, Place};

const KIND: FileKind = FileKind { magic: b"skep-vot", version: 1 };

/// The vote as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredVote {
    pub(crate) term: u64,
    pub(crate) candidate: u64,
    /// Whether a quorum granted it: the candidate leads the term.
    pub(crate) committed: bool,
}

fn path(place: &Place) -> PathBuf {
    place.directory.join("vote")
}

/// Stores the vote durably.
pub(crate) fn write_vote(place: &Place, vote: StoredVote) -> Result<(), DiskError> {
    let path = path(place);
    let bytes = encode(&KIND, place, |fields| {
        fields.u64(vote.term);
        fields.u64(vote.candidate);
        fields.u8(u8::from(vote.committed));
    });
    write_atomic(&path, &bytes, 0o600).map_err(DiskError::io("write", &path))
}

/// The stored vote, if there is one.
pub(crate) fn read_vote(place: &Place) -> Result<Option<StoredVote>, DiskError> {
    let path = path(place);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(DiskError::io("read", &path))?,
    };
    let (mut fields, _) = decode(&KIND, place, &path, &bytes)?;
    let content = |_| DiskError::damaged(&path, 0, Damage::Content);
    Ok(Some(StoredVote {
        term: fields.u64().map_err(content)?,
        candidate: fields.u64().map_err(content)?,
        committed: fields.u8().map_err(content)? != 0,
    }))
}
