//! The swarm's networks as the HTTP API sees them.

use std::time::Duration;

use async_trait::async_trait;
use skep_http_api::{ClusterError, ClusterNetworks};
use skep_model::{NetworkId, NetworkSpec};
use skep_node::{Next, Request};

use super::cluster::{NodeCluster, error};

/// Time for the allocator to give a network its subnet before the user is answered without.
const ALLOCATION_WAIT: Duration = Duration::from_secs(5);

#[async_trait]
impl ClusterNetworks for NodeCluster {
    async fn create_network(&self, spec: NetworkSpec) -> Result<NetworkId, ClusterError> {
        let answer = self.node.submit(Request::CreateNetwork(Box::new(spec))).await.map_err(error)?;
        let id = answer.network.ok_or_else(|| ClusterError::Internal("a created network has no id".to_owned()))?;
        let Ok(reason) = tokio::time::timeout(ALLOCATION_WAIT, self.allocated(id)).await else { return Ok(id) };
        match reason? {
            None => Ok(id),
            Some(reason) => {
                // Nobody can use it: better none than one without addresses.
                self.remove_network(id).await?;
                Err(ClusterError::rpc(skep_http_api::Code::FailedPrecondition, reason))
            }
        }
    }

    async fn remove_network(&self, network: NetworkId) -> Result<(), ClusterError> {
        self.node.submit(Request::RemoveNetwork(network)).await.map_err(error).map(drop)
    }
}

impl NodeCluster {
    /// Waits until the network has what it needs (`None`), or it is known why it gets none.
    async fn allocated(&self, id: NetworkId) -> Result<Option<String>, ClusterError> {
        let (mut state, mut commits) = self.node.subscribe().map_err(error)?;
        loop {
            match state.network(id) {
                None => return Ok(None),
                Some(network) if network.is_allocated() => return Ok(None),
                Some(network) if network.allocation.reason.is_some() => return Ok(network.allocation.reason.clone()),
                Some(_) => {}
            }
            state = match commits.next().await {
                Next::Commit(commit) => commit.state.clone(),
                Next::Reset(published) => published.state.clone(),
            };
        }
    }
}
