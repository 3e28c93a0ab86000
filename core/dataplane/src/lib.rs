//! The network a node should have, as data: the bridges, the endpoint of each container, the published ports.
//!
//! From that picture follow the nft ruleset ([`ruleset`]), the difference between two pictures ([`diff`]) and the next
//! free address ([`AddressPool`]). Nothing here touches a kernel: `skep-network` reads this crate's answers and makes
//! the kernel match. Nothing here knows services or tasks either; whoever derives a [`NodeNetwork`] from them does.

pub mod address;
pub mod diff;
pub mod network;
pub mod ruleset;

pub use address::{AddressError, AddressPool, MacAddress, Subnet, first_free_subnet};
pub use diff::{NetworkDiff, PortChange};
pub use network::{
    Backend, Bridge, Endpoint, Leg, MAIN, NetworkError, NodeNetwork, PortKey, Protocol, PublishMode, PublishedPort,
    Reach,
};
