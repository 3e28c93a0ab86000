//! From the networks of a container to its places on bridges.

use std::path::PathBuf;
use std::sync::Arc;

use skep_network::{Bridge, BridgePlan, Endpoint, MAIN, Place, Reach, Subnet};
use skep_oci::NetworkNamespace;

use super::{MTU, Places, address_of};
use crate::container::Container;
use crate::engine::Inner;
use crate::error::{EngineError, Result};
use crate::record::{NetworkRecord, Record};

/// The network that connects a node's tasks on overlays with the world, by Docker's name.
pub const GATEWAY_NETWORK: &str = "docker_gwbridge";
/// Bytes that a tunnel takes of each packet.
const TUNNEL: u32 = 50;

/// 64 hexadecimal digits that stand for a network that every machine has: its name, in digits, repeated.
#[must_use]
pub fn predefined_id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    digits.chars().cycle().take(64).collect()
}

/// The network namespace that a container starts in.
pub(crate) struct Joined {
    pub(crate) namespace: NetworkNamespace,
    /// Its own places, if it has a namespace of its own.
    pub(crate) endpoint: Option<Endpoint>,
    /// The container whose network it shares.
    pub(crate) with: Option<Arc<Container>>,
}

impl NetworkRecord {
    /// A network that every machine has: `bridge`, `host` or `none`.
    #[must_use]
    pub fn of_the_machine(name: &str) -> Self {
        let driver = if name == "none" { "null" } else { name };
        Self { id: predefined_id(name), name: name.to_owned(), driver: driver.to_owned(), ..Self::default() }
    }
}

impl Record {
    /// Has the container a network namespace of its own?
    pub(crate) fn has_own_network(&self, networks: &[NetworkRecord]) -> bool {
        !self.is_on_host(networks) && !self.network_mode.starts_with("container:")
    }

    pub(crate) fn is_on_host(&self, networks: &[NetworkRecord]) -> bool {
        self.network_mode == "host" || networks.iter().any(|network| network.driver == "host")
    }
}

impl Inner {
    /// Gives a container its network, or finds it. Blocks.
    pub(crate) fn join(&self, record: &Record, networks: &[NetworkRecord]) -> Result<Joined> {
        if let Some(other) = record.network_mode.strip_prefix("container:") {
            return self.join_other(other);
        }
        if record.is_on_host(networks) {
            return Ok(Joined { namespace: NetworkNamespace::Host, endpoint: None, with: None });
        }
        let places = self.places(record, networks)?;
        let endpoint = self.network.create_endpoint_at(&record.id, &places)?;
        let namespace = NetworkNamespace::Path(endpoint.netns_path.clone());
        Ok(Joined { namespace, endpoint: Some(endpoint), with: None })
    }

    fn join_other(&self, name: &str) -> Result<Joined> {
        let other = self.table.find(name)?;
        if !other.state().is_running() {
            let text = format!("cannot join network of a non running container: {}", other.id());
            return Err(EngineError::Conflict(text));
        }
        let namespace = match self.network.endpoint(other.id()) {
            Some(endpoint) => NetworkNamespace::Path(endpoint.netns_path),
            None if other.record.is_on_host(&other.networks()) => NetworkNamespace::Host,
            None => NetworkNamespace::Path(PathBuf::from(format!("/proc/{}/ns/net", other.state().pid()))),
        };
        Ok(Joined { namespace, endpoint: None, with: Some(other) })
    }

    /// Its places in the order of its links: its networks, then, for one on overlays that lead out, the gateway bridge.
    fn places(&self, record: &Record, networks: &[NetworkRecord]) -> Result<Places> {
        if networks.is_empty() && record.network_mode != "none" {
            return Ok(vec![Place::main()]);
        }
        let mut places = Vec::new();
        for network in networks.iter().filter(|network| network.driver != "null") {
            places.push(self.place(network)?);
        }
        let leads_out = |network: &NetworkRecord| network.driver == "overlay" && !network.internal;
        if networks.iter().any(leads_out) {
            places.push(Place { bridge: Some(self.gateway_plan()?), address: None });
        }
        Ok(places)
    }

    /// The place on one network.
    pub(crate) fn place(&self, network: &NetworkRecord) -> Result<Place> {
        let address = address_of(network)?;
        if network.driver == "overlay" {
            return Ok(Place { bridge: Some(overlay_plan(network)?), address });
        }
        if network.id == predefined_id("bridge") {
            return Ok(Place { bridge: None, address });
        }
        let found = self.networks.find(&network.id).or_else(|| self.networks.find(&network.name));
        let missing = || EngineError::NotFound(format!("network {} not found", network.name));
        Ok(Place { bridge: Some(found.ok_or_else(missing)?.plan()?), address })
    }

    /// Puts ids where the user wrote names. A network that is not there is missed when the container starts.
    pub(crate) fn resolve_networks(&self, record: &mut Record) -> Result<()> {
        if let Some(other) = record.network_mode.strip_prefix("container:") {
            let other = self.table.find(other)?.id().to_owned();
            record.network_mode = format!("container:{other}");
        }
        for network in record.networks.iter_mut().filter(|network| network.driver.is_empty()) {
            if let Some(found) = self.networks.find(&network.id) {
                network.id.clone_from(&found.id);
                network.name.clone_from(&found.name);
                "bridge".clone_into(&mut network.driver);
            }
        }
        Ok(())
    }

    /// The key of the bridge of a network.
    pub(crate) fn key_of(&self, network: &NetworkRecord) -> String {
        if network.id == predefined_id("bridge") {
            return MAIN.to_owned();
        }
        self.networks.find(&network.id).map_or_else(|| network.id.clone(), |network| network.id.clone())
    }

    /// The bridge by which tasks on overlays reach the world; its subnet is chosen when it is first needed.
    fn gateway_plan(&self) -> Result<BridgePlan> {
        let known = self.network.bridges().into_iter().find(|(key, _)| key == GATEWAY_NETWORK);
        let bridge = match known {
            Some((_, bridge)) => bridge,
            None => {
                let locals = self.networks.map();
                let others: Vec<Subnet> = locals.values().filter_map(|network| network.subnet.parse().ok()).collect();
                let subnet = self.network.free_subnet(&others)?;
                let main = self.network.bridge();
                let mut name = main.name.clone();
                name.truncate(13);
                name.push_str("gw");
                let (gateway, reach) = (subnet.gateway(), Reach::Outward);
                Bridge { name, subnet, gateway, mtu: main.mtu, reach, isolated: true }
            }
        };
        Ok(BridgePlan { key: GATEWAY_NETWORK.to_owned(), bridge, range: None, reserved: Vec::new(), transient: true })
    }
}

/// An overlay on this node: a bridge that the node itself is not on.
fn overlay_plan(network: &NetworkRecord) -> Result<BridgePlan> {
    let bad = |what: &str, text: &str| {
        EngineError::Invalid(format!("network {} has {what} {text:?}, which cannot be used", network.name))
    };
    let subnet: Subnet = network.subnet.parse().map_err(|_| bad("subnet", &network.subnet))?;
    let gateway = match network.gateway.parse() {
        Ok(gateway) if subnet.is_host(gateway) => gateway,
        _ => subnet.gateway(),
    };
    let mtu = match network.options.get(MTU) {
        Some(text) => text.parse::<u32>().map_err(|_| bad("MTU", text))?.saturating_sub(TUNNEL),
        None => 1500 - TUNNEL,
    };
    let start: String = network.id.chars().take(12).collect();
    let (name, reach) = (format!("ov-{start}"), Reach::Members);
    Ok(BridgePlan {
        key: network.id.clone(),
        bridge: Bridge { name, subnet, gateway, mtu, reach, isolated: false },
        range: None,
        reserved: Vec::new(),
        transient: true,
    })
}
