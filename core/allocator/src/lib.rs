//! Gives networks, services and tasks what must be unique in the cluster: subnets, VXLAN ids, addresses, published ports. A
//! new task is pending, and may be placed, once its service's ports and addresses and its own are given.
//!
//! ```text
//!   network -> subnet, VXLAN id -> allocation group
//!   service of a new revision -> ports and an address on each network, chosen or checked -> endpoint group
//!   new task -> copy of those, and addresses of its own -> attachment group, done
//! ```
//!
//! A port belongs to a service as long as the service has it, *or a task that has not ended still holds it*: a removed
//! service's port is not given away while its tasks may still answer on it (SwarmKit frees it at once). The same holds for
//! addresses, and for the subnet of a removed network. It writes the allocation group of networks, the endpoint group of
//! services and the attachment group of tasks, and nothing else.

mod addresses;
mod allocator;
mod networks;
mod ports;

#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod tests;

pub use addresses::VNI_FIRST;
pub use allocator::Allocator;
pub use ports::{DYNAMIC_FIRST, DYNAMIC_LAST};
