//! Protobuf messages for gRPC and for log entries, and the conversions to and from the model.
//!
//! Two packages: [`swarmkit`] is what nodes and managers of Docker's Swarm say to each other, name for name and number for
//! number; [`stored`] is what skep keeps in its Raft log and snapshots, with SwarmKit's specs inside where they fit. Only
//! this crate knows either format, so changing a struct of the model never silently changes bytes. It decides nothing:
//! the `raft`, `manager` and `node` crates call it where bytes come in or go out.

mod cluster;
mod common;
mod container;
mod entry;
mod error;
mod network;
mod node;
mod objects;
mod proto;
mod secret;
mod service;
mod snapshot;
mod task;
mod worker;

pub use common::{duration, timestamp, wall_time};
pub use entry::{FORMAT, decode_entry, encode_entry, proposal_size};
pub use error::DecodeError;
pub use network::{AssignedNetwork, network_attachment};
pub use node::node;
pub use proto::docker::swarmkit::v1 as swarmkit;
pub use proto::skep::store::v1 as stored;
pub use secret::{AssignedValue, config, config_value, secret, secret_value};
pub use service::service_spec;
pub use snapshot::{decode_snapshot, encode_snapshot};
pub use task::{AssignedTask, Sending, task};
pub use worker::{WorkerTask, decode_worker_task, encode_worker_task};
