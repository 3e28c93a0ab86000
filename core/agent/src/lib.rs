//! A node's half of the bargain: assigned tasks in, next operation and status reports out.
//!
//! ```text
//!  dispatcher ──assignments──▶ ┌───────┐ ──begin, cancel──▶ Executor (engine, or a fake)
//!                              │ Agent │ ◀─── finished ────
//!  dispatcher ◀───reports───── └───────┘ ──store, forget──▶ the node's database
//! ```
//!
//! [`Agent`] is a state machine without clock, threads or I/O: each [`Input`] gives the [`Actions`] that the caller must
//! take. What touches containers is behind the [`Executor`] trait. The `node` crate drives it; the simulator does, too.

mod agent;
mod assignment;
#[cfg(any(test, feature = "conformity"))]
pub mod conformity;
mod executor;
#[cfg(any(test, feature = "conformity"))]
pub mod fake;
mod naming;
mod template;
mod transition;

pub use agent::{Actions, Agent, AgentConfig, Input, Moment, StoredTask, TaskReport};
pub use assignment::{Assignment, AttachedNetwork, Change, Credential, Payload};
pub use executor::{Done, Executor, Failure, Finished, Operation, Work};
pub use naming::{container_labels, container_name};
pub use template::{TemplateContext, TemplateError, expand_container};
