//! Builders, a small driver and the state checker, shared by the tests of all crates.
//!
//! ```text
//!   let mut world = a_state().with(a_node("one")).with(a_service("web").replicas(3));
//!   let plan = world.step(&mut seat(Scheduler::default()));
//!   assert_eq!(check_state(&world.state), []);
//! ```
//!
//! Everything is built by committed changes, as in life: no test makes a state that could not come about. Nothing but tests
//! and the simulator uses this crate.

mod builders;
pub mod check;
mod check_networks;
mod values;
mod world;

pub use builders::{ANode, AService, ATask, a_node, a_service, a_task, node_id, service_id, task_id};
pub use check::{Violation, check_state};
pub use values::{AConfig, ASecret, a_config, a_secret, config_id, secret_id};
pub use world::{Seat, World, a_state, seat};
