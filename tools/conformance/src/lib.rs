//! Drives a running daemon as its users do: a harness that starts `skep daemon` in a network of its own and leaves nothing
//! behind, the stock docker client and raw HTTP against it, a checker for leaks, and recordings of a real engine with a
//! comparer for shapes. The cases themselves are in `skep/tests`. Nothing but tests uses this crate.
//!
//! Each case can be pointed at a real engine, to prove the case itself: `SKEP_TEST_HOST=unix:///path/docker.sock`, and
//! `SKEP_TEST_NETNS=/run/netns/NAME` for the network namespace it is in. That engine leaves its swarm and loses its services.
//!
//! ```text
//!  skep/tests/*.rs ─▶ Engine ─┬─▶ Daemon: namespace ─ skep daemon ─ shims ─ containers      cleaned up by Drop
//!                             └─▶ Client: docker, HTTP ─▶ socket
//!  leftovers(daemon)   shape::compare(recording, answer)
//! ```

mod archive;
mod cgroup;
mod client;
mod command;
mod daemon;
mod engine;
mod http;
mod leak;
mod need;
pub mod recording;
pub mod replay;
pub mod shape;
mod wait;

pub use archive::{ArchiveKind, busybox_archive};
pub use cgroup::{cgroup_dirs, processes_below};
pub use client::Client;
pub use command::{Output, run};
pub use daemon::{Daemon, Setup, shims_of};
pub use engine::Engine;
pub use http::Answer;
pub use leak::leftovers;
pub use need::missing;
pub use wait::{wait_for, wait_until};
