//! Runs the control loops on the leader and serves gRPC: dispatch and log streams.
//!
//! ```text
//!   http-api ──submit──▶ admission ──▶ ┐                     ┌──▶ control loops (driver) ──plans──▶ ┐
//!                                      ├──▶ Raft ──commits──▶┤                                      ├──▶ Raft
//!   nodes ──gRPC──▶ dispatcher ──────▶ ┘                     └──▶ dispatcher ──assignments──▶ nodes ┘
//! ```
//!
//! It decides nothing: it moves what the core decided through Raft and over the socket, and lets only a leader act. The
//! `node` crate starts and stops it.

mod dispatch;
mod driver;
mod leading;
mod logs;
mod machine;
mod manager;
mod sealing;
mod server;
mod submit;
mod values;

pub use logs::{LogError, LogLine, LogOptions, LogReader, LogSelector};
pub use machine::StoreMachine;
pub use manager::{Manager, ManagerConfig, StartError};
pub use submit::{Answer, ErrorClass, SubmitError};
pub use values::NewSecret;
