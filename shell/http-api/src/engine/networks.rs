//! What the API needs of this machine's networks, and the real engine behind it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use async_trait::async_trait;
use skep_api_types::{EndpointResource, Ipam, IpamConfig, NetworkResource};

use super::{EngineError, ErrorKind, inspect};

/// Networks of this machine. Networks are named by their ids.
#[async_trait]
pub trait Networks {
    /// All networks that this machine has, those of the swarm that it uses included, with the containers on them.
    fn networks(&self) -> Vec<NetworkResource>;
    /// Creates a bridge network; gives its id.
    async fn create_network(&self, wish: NetworkWish) -> Result<String, EngineError>;
    /// Removes a network of this machine.
    async fn remove_network(&self, network: &str) -> Result<(), EngineError>;
    /// Connects a container with a network.
    async fn connect(&self, network: &str, container: &str, wish: EndpointWish) -> Result<(), EngineError>;
    /// Takes a container off a network.
    async fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<(), EngineError>;
}

/// A bridge network that is asked for. What is not given is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are those of the API")]
pub struct NetworkWish {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    pub internal: bool,
    pub attachable: bool,
    pub ipam: IpamConfig,
}

/// A container's place on a network that is asked for. What is not given is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are those of the API")]
pub struct EndpointWish {
    pub address: Option<Ipv4Addr>,
    pub aliases: Vec<String>,
}

fn unsupported(what: &str) -> EngineError {
    EngineError::new(ErrorKind::Unsupported, format!("{what} is not supported by this version of skep"))
}

#[async_trait]
impl Networks for skep_engine::Engine {
    fn networks(&self) -> Vec<NetworkResource> {
        let bridge = self.network().bridge();
        let endpoints = self.list().into_iter().filter_map(|view| {
            let endpoint = view.endpoint.as_ref()?;
            let id = view.record.id.clone();
            Some((
                id.clone(),
                EndpointResource {
                    name: view.record.name.clone(),
                    endpoint_id: id,
                    mac_address: endpoint.mac.to_string(),
                    ipv4_address: format!("{}/{}", endpoint.address, endpoint.prefix),
                    ipv6_address: String::new(),
                },
            ))
        });
        let subnet = IpamConfig {
            subnet: bridge.subnet.to_string(),
            gateway: bridge.gateway.to_string(),
            ..IpamConfig::default()
        };
        vec![NetworkResource {
            id: inspect::network_id(&bridge.name),
            scope: "local".to_owned(),
            driver: "bridge".to_owned(),
            enable_ipv4: Some(true),
            ipam: Ipam { driver: "default".to_owned(), options: None, config: Some(vec![subnet]) },
            containers: Some(endpoints.collect()),
            options: Some([("com.docker.network.driver.mtu".to_owned(), bridge.mtu.to_string())].into()),
            labels: Some([].into()),
            name: bridge.name,
            ..NetworkResource::default()
        }]
    }

    async fn create_network(&self, _wish: NetworkWish) -> Result<String, EngineError> {
        Err(unsupported("creating a network of this machine"))
    }

    async fn remove_network(&self, _network: &str) -> Result<(), EngineError> {
        Err(unsupported("removing a network of this machine"))
    }

    async fn connect(&self, _network: &str, _container: &str, _wish: EndpointWish) -> Result<(), EngineError> {
        Err(unsupported("connecting a container to a network by hand"))
    }

    async fn disconnect(&self, _network: &str, _container: &str, _force: bool) -> Result<(), EngineError> {
        Err(unsupported("disconnecting a container from a network by hand"))
    }
}
