//! Gives services and tasks what must be unique in the cluster: so far published ports. A new task is pending, and may be
//! placed, once its service's ports are given.
//!
//! ```text
//!   service of a new revision -> ports chosen or checked -> endpoint group
//!   new task -> copy of those ports -> attachment group, done
//! ```
//!
//! A port belongs to a service as long as the service has it, *or a task that has not ended still holds it*: a removed
//! service's port is not given away while its tasks may still answer on it (SwarmKit frees it at once). It writes the endpoint
//! group of services and the attachment group of tasks, and nothing else.

mod allocator;
mod ports;

#[cfg(test)]
mod tests;

pub use allocator::Allocator;
pub use ports::{DYNAMIC_FIRST, DYNAMIC_LAST};
