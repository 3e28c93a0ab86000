//! The whole cluster state as one immutable value.
//!
//! [`State`] is a set of persistent maps: a snapshot is a clone and costs O(1), a reader never waits for a writer. It changes
//! in one way only: [`apply`] takes a committed [`Entry`] and yields one [`Outcome`] for each proposal in it, and the
//! [`Event`]s for the control loops. `apply` is total and deterministic: ids, times and choices travel inside the entry;
//! it only checks versions and writes.
//!
//! ```text
//!   Proposal { groups: [ AtomicGroup { preconditions, changes } .. ] }      a stale group is dropped alone
//!        └──── many in one Entry { time, wall, proposals } ──apply──▶ State' + Outcome per proposal + Events
//! ```
//!
//! Everybody who decides reads a `State`; only the `raft` crate's state machine calls `apply`.

mod apply;
mod change;
mod event;
mod network;
mod restore;
mod revision;
mod state;

pub use apply::{Applied, Outcome, Rejection, apply};
pub use change::{
    AtomicGroup, Change, ChangeSet, Entry, NewCluster, NewNetwork, NewNode, NewTask, Precondition, Proposal,
};
pub use event::Event;
pub use restore::{Parts, RestoreError};
pub use revision::fulfils;
pub use state::State;
