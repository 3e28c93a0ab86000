//! One machine's membership: identity; drives the agent and, when asked, a manager.
//!
//! ```text
//!   http-api ──requests──▶ Node ──▶ Manager ◀──gRPC over a unix socket──▶ sessions ──▶ Worker (agent) ──▶ Executor
//! ```
//!
//! [`Node`] is what the daemon starts and the API asks. It founds and leaves swarms so that a crash at any moment is either
//! taken back or finished by the next start. Containers are never touched by its coming and going: only an assignment
//! that is gone, or leaving the swarm, removes one.

mod address;
mod error;
mod found;
mod log_source;
mod member;
mod membership;
mod node;
mod options;
mod requests;
mod session;
mod worker;

pub use error::NodeError;
pub use log_source::{DescriptionSource, LogSource, TaskLogLine, TaskLogLines, TaskLogOptions};
pub use node::{LocalState, Node, NodeConfig, SwarmStatus};
pub use options::InitOptions;
pub use requests::RotateTokens;
pub use skep_admission::Request;
pub use skep_manager::{Answer, ErrorClass, LogError, LogLine, LogOptions, LogReader, LogSelector, NewSecret};
pub use skep_raft::Next;
