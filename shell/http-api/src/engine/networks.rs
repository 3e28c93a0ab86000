//! What the API needs of this machine's networks, and the real engine behind it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use async_trait::async_trait;
use skep_api_types::{EndpointResource, Ipam, IpamConfig, NetworkResource, Timestamp};
use skep_engine::{Bridge, GATEWAY_NETWORK, LocalNetwork, MAIN, NetworkRecord, NewNetwork, predefined_id};

use super::{EngineError, inspect};

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

/// A network as it is shown; who is on it is added.
fn resource(name: &str, id: String, driver: &str, subnet: Option<IpamConfig>) -> NetworkResource {
    NetworkResource {
        name: name.to_owned(),
        id,
        scope: "local".to_owned(),
        driver: driver.to_owned(),
        enable_ipv4: Some(true),
        ipam: Ipam { driver: "default".to_owned(), options: None, config: Some(subnet.into_iter().collect()) },
        containers: Some(BTreeMap::new()),
        options: Some(BTreeMap::new()),
        labels: Some(BTreeMap::new()),
        ..NetworkResource::default()
    }
}

fn bridge_subnet(bridge: &Bridge) -> Option<IpamConfig> {
    let (subnet, gateway) = (bridge.subnet.to_string(), bridge.gateway.to_string());
    Some(IpamConfig { subnet, gateway, ..IpamConfig::default() })
}

fn options(given: &[(&str, String)]) -> Option<BTreeMap<String, String>> {
    Some(given.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn local(network: &LocalNetwork) -> NetworkResource {
    let subnet = IpamConfig {
        subnet: network.subnet.clone(),
        ip_range: network.range.clone(),
        gateway: network.gateway.to_string(),
        auxiliary_addresses: network.reserved.iter().map(|(name, at)| (name.clone(), at.to_string())).collect(),
    };
    let mut shown = resource(&network.name, network.id.clone(), "bridge", Some(subnet));
    shown.created = Timestamp::parse(&network.created_at).unwrap_or_default();
    shown.ipam.options = Some(BTreeMap::new());
    shown.internal = network.internal;
    shown.attachable = network.attachable;
    shown.options = Some(network.options.clone());
    shown.labels = Some(network.labels.clone());
    shown
}

/// What every machine has, with the gateway bridge of a node of a swarm: it gets its subnet when a container needs it.
fn of_the_machine(bridges: &[(String, Bridge)]) -> Vec<NetworkResource> {
    let mut all = Vec::new();
    let main = bridges.iter().find(|(key, _)| key == MAIN).map(|(_, bridge)| bridge);
    let mut bridge = resource("bridge", predefined_id("bridge"), "bridge", main.and_then(bridge_subnet));
    if let Some(main) = main {
        bridge.options = options(&[
            ("com.docker.network.bridge.default_bridge", "true".to_owned()),
            ("com.docker.network.bridge.enable_icc", "true".to_owned()),
            ("com.docker.network.bridge.enable_ip_masquerade", "true".to_owned()),
            ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0".to_owned()),
            ("com.docker.network.bridge.name", main.name.clone()),
            ("com.docker.network.driver.mtu", main.mtu.to_string()),
        ]);
    }
    all.push(bridge);
    all.push(resource("host", predefined_id("host"), "host", None));
    all.push(resource("none", predefined_id("none"), "null", None));
    let gateway = bridges.iter().find(|(key, _)| key == GATEWAY_NETWORK).map(|(_, bridge)| bridge);
    let id = predefined_id(GATEWAY_NETWORK);
    let mut shown = resource(GATEWAY_NETWORK, id, "bridge", gateway.and_then(bridge_subnet));
    shown.options = options(&[
        ("com.docker.network.bridge.enable_icc", "false".to_owned()),
        ("com.docker.network.bridge.enable_ip_masquerade", "true".to_owned()),
        ("com.docker.network.bridge.name", gateway.map_or(GATEWAY_NETWORK, |bridge| &bridge.name).to_owned()),
    ]);
    all.push(shown);
    all
}

/// The network whose bridge this is.
fn network_of(key: &str) -> String {
    match key {
        MAIN => predefined_id("bridge"),
        GATEWAY_NETWORK => predefined_id(GATEWAY_NETWORK),
        id => id.to_owned(),
    }
}

#[async_trait]
impl Networks for skep_engine::Engine {
    fn networks(&self) -> Vec<NetworkResource> {
        let bridges = self.network().bridges();
        let mut all = of_the_machine(&bridges);
        all.extend(self.local_networks().iter().map(|network| local(network)));
        // Overlays of the swarm, as far as they are here; the rest is known to the cluster.
        let known: Vec<String> = all.iter().map(|network| network.id.clone()).collect();
        let overlays = bridges.iter().filter(|(key, _)| !known.contains(&network_of(key)));
        all.extend(overlays.map(|(key, bridge)| {
            let mut shown = resource(key, key.clone(), "overlay", bridge_subnet(bridge));
            "swarm".clone_into(&mut shown.scope);
            shown
        }));
        for view in self.list() {
            let id = &view.record.id;
            let mut put = |network: &str, address: String, mac: String| {
                let Some(shown) = all.iter_mut().find(|shown| shown.id == network) else { return };
                let on = EndpointResource {
                    name: view.record.name.clone(),
                    endpoint_id: id.clone(),
                    mac_address: mac,
                    ipv4_address: address,
                    ipv6_address: String::new(),
                };
                shown.containers.get_or_insert_default().insert(id.clone(), on);
            };
            for leg in view.endpoint.iter().flat_map(|endpoint| &endpoint.legs) {
                put(&network_of(&leg.bridge), format!("{}/{}", leg.address, leg.prefix), leg.mac.to_string());
            }
            if view.state.is_running() {
                for network in inspect::networks(&view.record) {
                    if matches!(network.driver.as_str(), "host" | "null") {
                        put(&network.id, String::new(), String::new());
                    }
                }
            }
        }
        all
    }

    async fn create_network(&self, wish: NetworkWish) -> Result<String, EngineError> {
        let new = NewNetwork {
            name: wish.name,
            labels: wish.labels,
            options: wish.options,
            subnet: wish.ipam.subnet,
            range: wish.ipam.ip_range,
            gateway: wish.ipam.gateway,
            reserved: wish.ipam.auxiliary_addresses,
            internal: wish.internal,
            attachable: wish.attachable,
        };
        Ok(skep_engine::Engine::create_network(self, new).await?)
    }

    async fn remove_network(&self, network: &str) -> Result<(), EngineError> {
        Ok(skep_engine::Engine::remove_network(self, network).await?)
    }

    async fn connect(&self, network: &str, container: &str, wish: EndpointWish) -> Result<(), EngineError> {
        let record = NetworkRecord {
            address: wish.address.map(|address| address.to_string()).unwrap_or_default(),
            aliases: wish.aliases,
            ..NetworkRecord::default()
        };
        Ok(skep_engine::Engine::connect(self, network, container, record).await?)
    }

    async fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<(), EngineError> {
        Ok(skep_engine::Engine::disconnect(self, network, container, force).await?)
    }
}
