//! Puts proposals in one durable order, applies them to the cluster state and publishes what was committed.
//!
//! ```text
//!  propose ─▶ queue ─▶ one entry ─▶ sealed log ─▶ commit ─▶ apply ─▶ state for readers
//!  (bounded)          (group commit) (1 fdatasync)             │      events for subscribers
//!     ▲                                                        │
//!     └──────────────── outcome of each proposal ◀─────────────┘
//! ```
//!
//! Consensus itself is `openraft`'s; none of its types leave this crate. What the state *is* comes from outside as a
//! [`Machine`], so this crate knows nothing of services or tasks. Called by `skep-manager`, which alone knows beside it
//! who leads.

mod batch;
mod config;
mod disk;
mod error;
mod leadership;
mod log_store;
mod machine;
mod network;
mod publish;
mod raft;
mod state_machine;
mod time;
mod types;

pub use config::Config;
pub use disk::{Damage, DiskError};
pub use error::{OpenError, ProposeError};
pub use leadership::Leadership;
pub use machine::{Applied, Machine, MachineError};
pub use publish::{Commit, Committed, Next, Published, Subscription};
pub use raft::Raft;
pub use time::{Clock, SystemClock};
pub use types::Peer;
