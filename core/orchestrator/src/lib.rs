//! Turns services into tasks: keeps as many wanted tasks as a service has replicas, or one on every node, replaces those that
//! end, lose their node or are outdated, and forgets those that are history.
//!
//! ```text
//!   events -> index of slots (service, slot) -> tasks
//!   service with an update:  update supervisor: so many slots at a time, pause or roll back when too many fail
//!   dirty slot:              restart supervisor, promotion of a held replacement, reaper; a global service's slot is its node
//!   dirty service:           scale up into the lowest free slots, scale down the most crowded nodes
//! ```
//!
//! It writes the intent of tasks, creates and deletes them, writes the update status of services, rolls back, and nothing
//! else. Behaviour is that of SwarmKit's `manager/orchestrator/{replicated,global,update,restart,taskreaper}`, with one
//! difference in kind: what SwarmKit keeps in memory (delays, restart history, an update's failures) follows from what is
//! stored, so a new leader goes on where the old one was. Jobs are left alone so far.

mod global;
mod occupants;
mod orchestrator;
mod reaper;
mod replicated;
mod restart;
mod scale;
mod slots;
mod update;

#[cfg(test)]
mod tests;

pub use orchestrator::Orchestrator;
