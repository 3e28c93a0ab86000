//! Makes the kernel match a node's network: links and addresses by netlink, pinned network namespaces, published ports
//! by nftables.
//!
//! [`Network`] owns its bridges in the network namespace of the thread that opened it, one pinned namespace per
//! container, and one nft table. What should be is a `skep_dataplane::NodeNetwork`; what is, is the kernel's; nothing
//! outside that namespace, the pin directory and the state directory is touched. It does not know tasks or services:
//! the engine asks for endpoints, whoever derives the ports publishes them.
//!
//! All calls block (a few milliseconds): call them from a thread that may block. A namespace is only ever changed on a
//! thread made for that, which ends afterwards.

mod conntrack;
mod endpoint;
mod error;
mod link;
mod namespace;
mod netlink;
mod network;
mod nft;
mod ports;
mod probe;
mod publish;
mod reconcile;
mod restart;
mod state;
mod wiring;

pub use error::NetworkError;
pub use network::{AdoptReport, Endpoint, EndpointLeg, Network, NetworkConfig, PublishReport, RefusedPort};
pub use nft::{NftBackend, NftBinary, NftError};
pub use probe::probe;
pub use skep_dataplane::{
    AddressError, Backend, Bridge, MAIN, PortKey, Protocol, PublishMode, PublishedPort, Reach, Subnet,
};
pub use wiring::{BridgePlan, Place};
