//! Turns services into tasks: keeps as many wanted tasks as a service has replicas, replaces those that end or lose their
//! node, and forgets those that are history.
//!
//! ```text
//!   events -> index of slots (service, slot) -> tasks
//!   dirty slot:    restart supervisor, promotion of a held replacement, reaper
//!   dirty service: scale up into the lowest free slots, scale down the most crowded nodes
//! ```
//!
//! So far replicated services only; others are left alone. It writes the intent of tasks, creates and deletes them, and
//! nothing else. Behaviour is that of SwarmKit's `manager/orchestrator/{replicated,restart,taskreaper}`, with one difference in
//! kind: what SwarmKit keeps in memory (delays, restart history) lies in the tasks, so a new leader goes on where the old one
//! was.

mod reaper;
mod replicated;
mod restart;
mod scale;
mod slots;

#[cfg(test)]
mod tests;

pub use replicated::Replicated;
