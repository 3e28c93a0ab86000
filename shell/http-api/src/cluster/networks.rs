//! What the API needs of the cluster's networks.

use async_trait::async_trait;
use skep_model::{NetworkId, NetworkSpec};

use super::ClusterError;

/// The networks of the swarm; they are read from the snapshot.
#[async_trait]
pub trait ClusterNetworks {
    /// Creates a network; it has its subnet, or is known to get none, when this answers.
    async fn create_network(&self, spec: NetworkSpec) -> Result<NetworkId, ClusterError>;
    /// Removes a network.
    async fn remove_network(&self, network: NetworkId) -> Result<(), ClusterError>;
}
