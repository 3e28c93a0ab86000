//! The networks of the fakes.

use async_trait::async_trait;
use skep_api_types::NetworkResource;
use skep_http_api::{ClusterError, ClusterNetworks, EndpointWish, EngineError, ErrorKind, NetworkWish, Networks};
use skep_model::{NetworkId, NetworkSpec, ObjectId as _};

use super::{Call, FakeCluster, FakeEngine};

#[async_trait]
impl ClusterNetworks for FakeCluster {
    async fn create_network(&self, spec: NetworkSpec) -> Result<NetworkId, ClusterError> {
        self.did(Call::CreateNetwork(Box::new(spec)))?;
        Ok(NetworkId::from_random([9; 17]))
    }
    async fn remove_network(&self, network: NetworkId) -> Result<(), ClusterError> {
        self.did(Call::RemoveNetwork(network))
    }
}

#[async_trait]
impl Networks for FakeEngine {
    fn networks(&self) -> Vec<NetworkResource> {
        let local = |name: &str, digit: &str| NetworkResource {
            name: name.to_owned(),
            id: digit.repeat(64),
            scope: "local".to_owned(),
            driver: "bridge".to_owned(),
            ..NetworkResource::default()
        };
        vec![local("bridge", "5"), local("back", "6")]
    }
    async fn create_network(&self, wish: NetworkWish) -> Result<String, EngineError> {
        Ok(format!("id-of-{}", wish.name))
    }
    async fn remove_network(&self, _network: &str) -> Result<(), EngineError> {
        Err(EngineError::new(ErrorKind::Forbidden, "has active endpoints"))
    }
    async fn connect(&self, _network: &str, _container: &str, _wish: EndpointWish) -> Result<(), EngineError> {
        Ok(())
    }
    async fn disconnect(&self, _network: &str, _container: &str, _force: bool) -> Result<(), EngineError> {
        Ok(())
    }
}
