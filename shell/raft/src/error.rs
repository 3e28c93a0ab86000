//! What can go wrong, for callers.

use crate::disk::DiskError;
use crate::machine::MachineError;

/// Why a log could not be created or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting makes no sense.
    #[error("cannot open the raft log: {detail}")]
    Config {
        /// Which, and why.
        detail: String,
    },
    /// The files are not usable.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The snapshot's content is not usable.
    #[error("cannot read the cluster state from the snapshot")]
    Machine(#[from] MachineError),
    /// The consensus engine did not start.
    #[error("cannot start raft: {detail}")]
    Start {
        /// What it said.
        detail: String,
    },
}

/// Why a proposal has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too many proposals wait already; nothing was done, try again later (HTTP 503).
    #[error("the manager is busy: too many changes are waiting to be committed, try again")]
    Busy,
    /// The proposal is larger than an entry may be; nothing was done. Docker's text.
    #[error("raft: raft message is too large and can't be sent")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The most it may have.
        limit: usize,
    },
    /// Another manager leads, or none; nothing was done.
    #[error("this node is not the leader")]
    NotLeader,
    /// Leadership or storage was lost meanwhile: the change may be committed or not.
    #[error("raft: failed to process the request: node lost leader status")]
    OutcomeUnknown,
    /// This manager's raft has stopped; nothing was done.
    #[error("raft has stopped on this manager")]
    Stopped,
}
