//! Puts pending tasks on nodes: filter, rank, spread, and a sentence for people when nothing fits.
//!
//! ```text
//!   events -> NodeTable   what each node has, runs and failed at        (cost follows the events)
//!          -> groups      pending tasks by (service, revision)
//!   per group: filter nodes once -> tree of heaps by preference -> take the best node, task by task
//! ```
//!
//! Tasks of one revision are equal, so one pass of the filters serves a whole group, and a node goes back to its heap with a
//! new rank after each task it takes. It writes the placement group of tasks and nothing else. Behaviour is that of SwarmKit's
//! `manager/scheduler`, with ties broken by node id and explanations that count every node.

mod filter;
mod needs;
mod nodes;
mod rank;
mod scheduler;

#[cfg(test)]
mod tests;

pub use scheduler::Scheduler;
