//! The networks of this machine: bridges that users make, and what every machine has. Networks of the swarm are here only as
//! far as containers of this machine are on them.
//!
//! `networks/<id>.json` is written before a bridge is made and removed after it is gone; the next engine makes what is
//! missing and removes what belongs to nobody.

mod place;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use skep_network::{Bridge, BridgePlan, NetworkError, Place, Reach, Subnet};

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{EngineError, Result};
use crate::events::EventKind;
use crate::layout::{Durability, write_json};
use crate::lifecycle::new_id;
use crate::record::{NetworkRecord, now};

pub use place::{GATEWAY_NETWORK, predefined_id};

const VERSION: u32 = 1;
const MTU: &str = "com.docker.network.driver.mtu";
const LINK_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";

/// A bridge network that a user made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNetwork {
    version: u32,
    /// 64 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// RFC 3339 with nanoseconds, UTC.
    pub created_at: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver as they were given.
    pub options: BTreeMap<String, String>,
    /// CIDR.
    pub subnet: String,
    /// Part of the subnet for containers, CIDR; empty is all of it.
    pub range: String,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// Addresses of others, by name.
    pub reserved: BTreeMap<String, Ipv4Addr>,
    /// The subnet was asked for.
    pub is_subnet_given: bool,
    /// No way out.
    pub internal: bool,
    /// As it was asked for; means nothing here.
    pub attachable: bool,
    link: String,
    mtu: u32,
    isolated: bool,
}

/// A network that is asked for. What is empty is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are those of the network")]
pub struct NewNetwork {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    pub subnet: String,
    pub range: String,
    pub gateway: String,
    pub reserved: BTreeMap<String, String>,
    pub internal: bool,
    pub attachable: bool,
}

/// The networks that users made, by id.
#[derive(Debug, Default)]
pub(crate) struct LocalNetworks(Mutex<BTreeMap<String, Arc<LocalNetwork>>>);

impl LocalNetworks {
    pub(crate) fn map(&self) -> MutexGuard<'_, BTreeMap<String, Arc<LocalNetwork>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By id or name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<LocalNetwork>> {
        let networks = self.map();
        networks.get(name).or_else(|| networks.values().find(|network| network.name == name)).cloned()
    }
}

impl LocalNetwork {
    pub(crate) fn plan(&self) -> Result<BridgePlan> {
        let bad = |error: skep_network::AddressError| EngineError::Invalid(error.to_string());
        let subnet: Subnet = self.subnet.parse().map_err(bad)?;
        let range = (!self.range.is_empty()).then(|| self.range.parse().map_err(bad)).transpose()?;
        let reach = if self.internal { Reach::Node } else { Reach::Outward };
        let (name, gateway, mtu, isolated) = (self.link.clone(), self.gateway, self.mtu, self.isolated);
        Ok(BridgePlan {
            key: self.id.clone(),
            bridge: Bridge { name, subnet, gateway, mtu, reach, isolated },
            range,
            reserved: self.reserved.values().copied().collect(),
            transient: false,
        })
    }
}

impl Engine {
    /// The networks that users made, by id.
    #[must_use]
    pub fn local_networks(&self) -> Vec<Arc<LocalNetwork>> {
        self.inner.networks.map().values().cloned().collect()
    }

    /// Creates a bridge network; gives its id.
    ///
    /// # Errors
    /// With Docker's texts, when the name or the subnet is taken, or something cannot be had.
    pub async fn create_network(&self, new: NewNetwork) -> Result<String> {
        self.inner.blocking(move |inner| inner.create_network(new)).await
    }

    /// Removes a network that a user made.
    ///
    /// # Errors
    /// With Docker's texts, when it is not there or containers are on it.
    pub async fn remove_network(&self, network: &str) -> Result<()> {
        let network = network.to_owned();
        self.inner.blocking(move |inner| inner.remove_network(&network)).await
    }

    /// Connects a container with a network; one that runs gets a link at once.
    ///
    /// # Errors
    /// With Docker's texts.
    pub async fn connect(&self, network: &str, container: &str, record: NetworkRecord) -> Result<()> {
        let (inner, container) = (self.inner.clone(), self.inner.table.find(container)?);
        let network = network.to_owned();
        self.inner.to_its_end(async move { inner.connect(&network, &container, record).await }).await
    }

    /// Takes a container off a network.
    ///
    /// # Errors
    /// With Docker's texts.
    pub async fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        let found = self.inner.table.find(container);
        let container = found.map_err(|error| match error {
            EngineError::NoSuchContainer(name) if force => EngineError::NotFound(format!("endpoint {name} not found")),
            error => error,
        })?;
        let (inner, network) = (self.inner.clone(), network.to_owned());
        self.inner.to_its_end(async move { inner.disconnect(&network, &container).await }).await
    }
}

fn overlap() -> EngineError {
    EngineError::Forbidden("invalid pool request: Pool overlaps with other one on this address space".to_owned())
}

impl Inner {
    fn create_network(&self, new: NewNetwork) -> Result<String> {
        let options = Options::parse(&new.options)?;
        let mut networks = self.networks.map();
        if networks.values().any(|network| network.name == new.name) {
            return Err(EngineError::Conflict(format!("network with name {} already exists", new.name)));
        }
        let others: Vec<Subnet> = networks.values().filter_map(|network| network.subnet.parse().ok()).collect();
        let invalid = |error: skep_network::AddressError| EngineError::Invalid(error.to_string());
        let subnet: Subnet = if new.subnet.is_empty() {
            self.network.free_subnet(&others)?
        } else {
            let subnet: Subnet = new.subnet.parse().map_err(invalid)?;
            let own = self.network.bridges().into_iter().map(|(_, bridge)| bridge);
            let own = own.filter(|bridge| bridge.reach != Reach::Members).map(|bridge| bridge.subnet);
            let mut used = others.iter().copied().chain(own).map(|other| (other.network(), other.prefix()));
            if used.any(|other| subnet.overlaps(other)) {
                return Err(overlap());
            }
            subnet
        };
        let address = |text: &String| {
            text.parse::<Ipv4Addr>().map_err(|_| EngineError::Invalid(format!("invalid IPv4 address: {text}")))
        };
        let gateway = if new.gateway.is_empty() { subnet.gateway() } else { address(&new.gateway)? };
        let reserved = new.reserved.iter().map(|(name, text)| Ok((name.clone(), address(text)?)));
        let id = new_id()?;
        let network = LocalNetwork {
            version: VERSION,
            name: new.name,
            created_at: now(),
            labels: new.labels,
            options: new.options,
            subnet: subnet.to_string(),
            range: new.range,
            gateway,
            reserved: reserved.collect::<Result<_>>()?,
            is_subnet_given: !new.subnet.is_empty(),
            internal: new.internal,
            attachable: new.attachable,
            link: options.link.unwrap_or_else(|| format!("br-{}", &id[..12])),
            mtu: options.mtu,
            isolated: !options.icc,
            id: id.clone(),
        };
        let plan = network.plan()?;
        plan.bridge.validate().map_err(|error| EngineError::Invalid(error.to_string()))?;
        let path = self.layout.network_record(&id);
        write_json(&path, &network, Durability::Acknowledged)?;
        if let Err(error) = self.network.add_bridge(&plan) {
            std::fs::remove_file(&path).map_err(|source| EngineError::Io { what: "remove", path, source })?;
            return Err(error.into());
        }
        self.tell_network("create", &network.id, &network.name, "bridge", None);
        networks.insert(id.clone(), Arc::new(network));
        Ok(id)
    }

    fn remove_network(&self, name: &str) -> Result<()> {
        let mut networks = self.networks.map();
        let found = networks.get(name).cloned();
        let network = found.ok_or_else(|| EngineError::NotFound(format!("network {name} not found")))?;
        match self.network.remove_bridge(&network.id) {
            Err(NetworkError::BridgeInUse(_)) => {
                return Err(EngineError::Forbidden(format!(
                    "error while removing network: network {} id {} has active endpoints",
                    network.name, network.id
                )));
            }
            other => other?,
        }
        let path = self.layout.network_record(&network.id);
        std::fs::remove_file(&path).map_err(|source| EngineError::Io { what: "remove", path, source })?;
        networks.remove(&network.id);
        self.tell_network("destroy", &network.id, &network.name, "bridge", None);
        Ok(())
    }

    /// The networks of earlier engines: their bridges are made where they are missing, and those of none are removed.
    pub(crate) fn restore_networks(&self) -> Result<()> {
        let mut found = BTreeMap::new();
        for path in self.layout.network_records()? {
            match read(&path) {
                Ok(network) => drop(found.insert(network.id.clone(), Arc::new(network))),
                Err(error @ EngineError::Newer { .. }) => return Err(error),
                // Never deleted on a guess; its bridge is left alone, too.
                Err(error) => {
                    tracing::error!(?path, error = error.full_text(), "a network cannot be read and is ignored");
                }
            }
        }
        for network in found.values() {
            if let Err(error) = network.plan().and_then(|plan| Ok(self.network.add_bridge(&plan)?)) {
                tracing::error!(network = network.name, error = error.full_text(), "a network has no bridge");
            }
        }
        for key in self.network.lasting_bridges() {
            if !found.contains_key(&key) && !self.layout.network_record(&key).exists() {
                match self.network.remove_bridge(&key) {
                    Ok(()) => tracing::info!(bridge = key, "removed a bridge that belongs to no network"),
                    Err(error) => tracing::warn!(%error, "cannot remove a bridge that belongs to no network"),
                }
            }
        }
        *self.networks.map() = found;
        Ok(())
    }

    async fn connect(
        self: &Arc<Self>,
        name: &str,
        container: &Arc<Container>,
        mut record: NetworkRecord,
    ) -> Result<()> {
        let network = self.connectable(name, container)?;
        let _operation = container.operation.lock().await;
        let mut networks = container.networks();
        if networks.iter().any(|known| known.id == network.id || known.id == network.name) {
            return Err(EngineError::Forbidden(format!(
                "endpoint with name {} already exists in network {}",
                container.name(),
                network.name
            )));
        }
        record.id.clone_from(&network.id);
        record.name.clone_from(&network.name);
        "bridge".clone_into(&mut record.driver);
        if networks.is_empty() {
            networks.push(NetworkRecord::of_the_machine("bridge"));
        }
        if container.state().is_running() {
            let (id, place) = (container.id().to_owned(), self.place(&record)?);
            self.blocking(move |inner| Ok(inner.network.add_leg(&id, &place)?)).await?;
        }
        networks.push(record);
        if let Err(error) = self.change_facts(container, |facts| facts.networks = Some(networks)).await {
            let (id, key) = (container.id().to_owned(), network.id.clone());
            self.blocking(move |inner| Ok(inner.network.remove_leg(&id, &key)?)).await?;
            return Err(error);
        }
        self.tell_network("connect", &network.id, &network.name, "bridge", Some(container.id()));
        Ok(())
    }

    async fn disconnect(self: &Arc<Self>, name: &str, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        let mut networks = container.networks();
        if networks.is_empty() {
            networks.push(NetworkRecord::of_the_machine("bridge"));
        }
        let is_bridge = name == "bridge" || name == predefined_id("bridge");
        let network = self.networks.find(name);
        let shown = network.as_ref().map_or("bridge", |network| network.name.as_str()).to_owned();
        let is_it = |known: &NetworkRecord| match &network {
            Some(network) => known.id == network.id || known.id == network.name,
            None => is_bridge && known.driver == "bridge" && known.id == predefined_id("bridge"),
        };
        let Some(at) = networks.iter().position(is_it) else {
            let id = container.id();
            return Err(EngineError::Failed(format!("container {id} is not connected to network {shown}")));
        };
        if container.record.task.is_some() {
            return Err(EngineError::Forbidden("a task's networks are those of its service".to_owned()));
        }
        let gone = networks.remove(at);
        if networks.is_empty() {
            networks.push(NetworkRecord::of_the_machine("none"));
        }
        self.change_facts(container, |facts| facts.networks = Some(networks)).await?;
        if container.state().is_running() {
            let (id, key) = (container.id().to_owned(), self.key_of(&gone));
            self.blocking(move |inner| Ok(inner.network.remove_leg(&id, &key)?)).await?;
        }
        let id = network.as_ref().map_or_else(|| predefined_id("bridge"), |network| network.id.clone());
        self.tell_network("disconnect", &id, &shown, "bridge", Some(container.id()));
        Ok(())
    }

    /// The network that a container may be connected with by hand.
    fn connectable(&self, name: &str, container: &Container) -> Result<Arc<LocalNetwork>> {
        if container.record.task.is_some() {
            return Err(EngineError::Forbidden("a task's networks are those of its service".to_owned()));
        }
        match container.record.network_mode.as_str() {
            "host" => {
                let text = "container sharing network namespace with another container or host cannot be connected to any other network";
                return Err(EngineError::Forbidden(text.to_owned()));
            }
            "none" => {
                let text = "container cannot be connected to multiple networks with one of the networks in private (none) mode";
                return Err(EngineError::Forbidden(text.to_owned()));
            }
            mode if mode.starts_with("container:") => {
                let text = "container sharing network namespace with another container or host cannot be connected to any other network";
                return Err(EngineError::Forbidden(text.to_owned()));
            }
            _ => {}
        }
        self.networks.find(name).ok_or_else(|| {
            EngineError::Forbidden(format!("containers cannot be connected with network {name} by hand"))
        })
    }

    /// Tells of all networks of a container.
    pub(crate) fn tell_networks(&self, action: &str, container: &Container) {
        let mut networks = container.networks();
        if networks.is_empty() && container.record.network_mode.is_empty() {
            networks.push(NetworkRecord::of_the_machine("bridge"));
        }
        for network in networks {
            self.tell_network(action, &network.id, &network.name, &network.driver, Some(container.id()));
        }
    }

    /// Tells that something happened to a network.
    pub(crate) fn tell_network(&self, action: &str, id: &str, name: &str, driver: &str, container: Option<&str>) {
        let about = [("name", name), ("type", driver)].into_iter();
        let container = container.map(|container| ("container", container));
        self.events.publish(EventKind::Network, action, id, about.chain(container));
    }
}

fn read(path: &std::path::Path) -> Result<LocalNetwork> {
    use crate::error::At as _;
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let bytes = std::fs::read(path).at("read", path)?;
    let found: Versioned = serde_json::from_slice(&bytes).map_err(std::io::Error::from).at("understand", path)?;
    if found.version > VERSION {
        return Err(EngineError::Newer { path: path.to_owned(), found: found.version, supported: VERSION });
    }
    serde_json::from_slice(&bytes).map_err(std::io::Error::from).at("understand", path)
}

/// What the options of the bridge driver ask for.
struct Options {
    link: Option<String>,
    mtu: u32,
    icc: bool,
}

impl Options {
    fn parse(given: &BTreeMap<String, String>) -> Result<Self> {
        let mut options = Self { link: None, mtu: 1500, icc: true };
        for (name, value) in given {
            let bad = || EngineError::Invalid(format!("invalid value {value:?} of network option {name}"));
            match name.as_str() {
                LINK_NAME => options.link = Some(value.clone()),
                MTU => options.mtu = value.parse().map_err(|_| bad())?,
                ICC => options.icc = value.parse().map_err(|_| bad())?,
                "com.docker.network.bridge.enable_ip_masquerade" if value == "true" => {}
                "com.docker.network.bridge.host_binding_ipv4" if value == "0.0.0.0" => {}
                "com.docker.network.enable_ipv6" if value == "false" => {}
                _ => {
                    return Err(EngineError::Invalid(format!(
                        "network option {name}={value} is not supported by this version of skep"
                    )));
                }
            }
        }
        Ok(options)
    }
}

/// Whether a place can be had with what the record says.
pub(crate) fn address_of(record: &NetworkRecord) -> Result<Option<Ipv4Addr>> {
    let text = record.address.split('/').next().unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| EngineError::Invalid(format!("invalid IPv4 address: {text}")))
}

/// Places in order, for the network layer.
pub(crate) type Places = Vec<Place>;
