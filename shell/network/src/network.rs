//! The node's network as its callers see it: open it, give and take endpoints, publish ports. Holds the picture of
//! what should be; the locks below are always taken in this order: `ports`, `applied`, `verified`, `picture`, sockets.

use crate::conntrack::{Conntrack, Flow};
use crate::error::{NetworkError, Result, Tried};
use crate::link::{self, Links, Target};
use crate::nft::{NamespacedNft, NftBackend, NftBinary};
use crate::ports::ReservedPorts;
use crate::probe::{open_failed, probe};
use crate::state::State;
use crate::{endpoint, namespace, reconcile};
use skep_dataplane::network::check_container_id;
use skep_dataplane::{
    AddressPool, GatewayBridge, MacAddress, NetworkDiff, NodeNetwork, PortChange, PortKey, Protocol, PublishMode,
    PublishedPort, Subnet, first_free_subnet, ruleset,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How to open a node's network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Directory of the namespace pins; must lie under the daemon's exec root and hold nothing else. Becomes a private
    /// mount.
    pub pins_dir: PathBuf,
    /// Directory of what has to survive a restart; must hold nothing else.
    pub state_dir: PathBuf,
    /// Name of the gateway bridge. An earlier run's choice wins.
    pub bridge_name: String,
    /// Containers' addresses; the first free default when `None`. An earlier run's choice wins.
    pub subnet: Option<Subnet>,
    /// MTU of bridge and containers, bytes.
    pub mtu: u32,
}

impl NetworkConfig {
    /// The defaults: bridge `skep0`, a free subnet, MTU 1500.
    #[must_use]
    pub fn new(pins_dir: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            pins_dir: pins_dir.into(),
            state_dir: state_dir.into(),
            bridge_name: "skep0".to_owned(),
            subnet: None,
            mtu: 1500,
        }
    }
}

/// What a container needs to know of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Path of the pinned network namespace, for the container's specification.
    pub netns_path: PathBuf,
    /// The container's address on the gateway bridge.
    pub address: Ipv4Addr,
    /// Prefix length of the subnet.
    pub prefix: u8,
    /// Default route.
    pub gateway: Ipv4Addr,
    /// Hardware address.
    pub mac: MacAddress,
}

/// What became of the containers at a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdoptReport {
    /// Wanted and still attached.
    pub adopted: Vec<String>,
    /// Wanted, but their namespace is gone (a reboot, or somebody's hand): they have no network.
    pub lost: Vec<String>,
    /// Not wanted and removed: containers, or names of leaked links and pins.
    pub removed: Vec<String>,
}

/// A port that could not be published; the others were.
#[derive(Debug)]
pub struct RefusedPort {
    /// Which.
    pub port: PortKey,
    /// Why: taken by another program, or contradictory.
    pub error: NetworkError,
}

/// What became of a list of ports.
#[derive(Debug, Default)]
pub struct PublishReport {
    /// Ports that are not published.
    pub refused: Vec<RefusedPort>,
}

/// The network of one node. Calls block for milliseconds and may come from several threads. Dropping it changes nothing
/// in the kernel but frees the reserved ports: containers keep their networks while no daemon runs.
pub struct Network {
    pub(crate) pins_dir: PathBuf,
    pub(crate) home: OwnedFd,
    pub(crate) nft: NamespacedNft,
    pub(crate) links: Mutex<Links>,
    /// Deletes links, which takes long: a socket of its own.
    grave: Mutex<Links>,
    conntrack: Mutex<Conntrack>,
    /// Addresses whose flows are to be forgotten with the next look.
    doomed: Mutex<BTreeSet<Ipv4Addr>>,
    state: State,
    ports: Mutex<ReservedPorts>,
    picture: Mutex<Picture>,
    /// The picture that the kernel's rules show; `None` when they have to be written afresh.
    pub(crate) applied: Mutex<Option<NodeNetwork>>,
    /// Generation of the namespace's rulesets at which ours was last found to be right.
    pub(crate) verified: Mutex<Option<u32>>,
}

/// What should be.
pub(crate) struct Picture {
    pub(crate) network: NodeNetwork,
    pool: AddressPool,
    /// Containers that a call works on right now.
    busy: BTreeSet<String>,
}

impl Network {
    /// Opens the network of the namespace in which this thread is: tries out what the kernel can do, makes or repairs
    /// the bridge, finds the containers of an earlier run and serves the ports that they had.
    pub fn open(config: NetworkConfig) -> Result<Self> {
        Self::open_with(config, Box::new(NftBinary::default()))
    }

    /// [`Self::open`] with another way to speak nft.
    pub fn open_with(config: NetworkConfig, backend: Box<dyn NftBackend>) -> Result<Self> {
        let nft = NamespacedNft::new(backend);
        probe(nft.backend())?;
        let home = namespace::current()?;
        let mut links = Links::open().map_err(open_failed)?;
        let state = State::open(&config.state_dir)?;
        let bridge = choose_bridge(&config, &state, &mut links)?;
        namespace::prepare_pins(&config.pins_dir)?;
        let network = Self {
            pins_dir: config.pins_dir.canonicalize().tried(|| format!("resolve {:?}", config.pins_dir))?,
            nft,
            links: Mutex::new(links),
            grave: Mutex::new(Links::open().map_err(open_failed)?),
            conntrack: Mutex::new(Conntrack::open().map_err(open_failed)?),
            doomed: Mutex::default(),
            state,
            ports: Mutex::default(),
            picture: Mutex::new(Picture {
                pool: AddressPool::new(bridge.subnet, bridge.gateway),
                network: NodeNetwork::new(bridge),
                busy: BTreeSet::new(),
            }),
            applied: Mutex::new(None),
            verified: Mutex::new(None),
            home,
        };
        reconcile::ensure_bridge(&network)?;
        network.restore()?;
        network.remove_leaks()?;
        Ok(network)
    }

    /// The gateway bridge.
    #[must_use]
    pub fn bridge(&self) -> GatewayBridge {
        self.picture().network.bridge.clone()
    }

    /// The container's endpoint, if it has one.
    #[must_use]
    pub fn endpoint(&self, container: &str) -> Option<Endpoint> {
        let picture = self.picture();
        Some(describe(picture.network.endpoints.get(container)?, &picture.network.bridge))
    }

    /// Gives the container a namespace with an address, a default route and a loopback. The container that has one
    /// already keeps it. After an error nothing is left.
    pub fn create_endpoint(&self, container: &str) -> Result<Endpoint> {
        check_container_id(container)?;
        let (planned, bridge) = {
            let mut picture = self.picture();
            if let Some(existing) = picture.network.endpoints.get(container) {
                return Ok(describe(existing, &picture.network.bridge));
            }
            picture.begin(container)?;
            let address = match picture.pool.allocate() {
                Ok(address) => address,
                Err(error) => {
                    picture.busy.remove(container);
                    return Err(error.into());
                }
            };
            (self.derive(container, address), picture.network.bridge.clone())
        };
        let made = self.make(&planned, &bridge);
        let undone = made.is_err().then(|| self.unmake(&planned));
        let mut picture = self.picture();
        picture.busy.remove(container);
        match (made, undone) {
            (Ok(()), _) => {
                let described = describe(&planned, &bridge);
                picture.network.endpoints.insert(container.to_owned(), planned);
                Ok(described)
            }
            (Err(error), Some(Ok(()))) => {
                picture.pool.release(planned.address);
                Err(error)
            }
            (Err(error), undone) => {
                // Something of it may still use the address.
                tracing::warn!(container.id = container, ?undone, "cannot clean up after a failed endpoint");
                picture.pool.release(planned.address);
                picture.pool.quarantine(planned.address);
                Err(error)
            }
        }
    }

    /// Takes the container out of every published port, then takes its links, namespace and address away, and forgets
    /// its flows and reserved ports. Nothing to do is fine.
    pub fn remove_endpoint(&self, container: &str) -> Result<()> {
        check_container_id(container)?;
        let known = {
            let mut picture = self.picture();
            picture.begin(container)?;
            picture.network.withdraw(container);
            picture.network.endpoints.remove(container)
        };
        let target = known.clone().unwrap_or_else(|| self.derive(container, Ipv4Addr::UNSPECIFIED));
        let removed = self.flush().and_then(|()| self.unmake(&target));
        let mut picture = self.picture();
        if let Err(error) = removed {
            picture.busy.remove(container);
            // Still ours to remove: the next attempt has to find it.
            picture.network.endpoints.extend(known.clone().map(|endpoint| (container.to_owned(), endpoint)));
            return Err(error);
        }
        drop(picture);
        self.ports().release_owner(container);
        if known.is_some() {
            if let Err(error) = self.forget_address(target.address) {
                // They end by themselves, later.
                tracing::warn!(container.id = container, %error, "cannot forget the flows of a removed container");
            }
            self.picture().pool.release(target.address);
        }
        self.picture().busy.remove(container);
        Ok(())
    }

    /// After a restart: keeps the endpoints of these containers and removes everything else of ours.
    pub fn adopt(&self, keep: &[String]) -> Result<AdoptReport> {
        let keep: BTreeSet<&str> = keep.iter().map(String::as_str).collect();
        let known: BTreeSet<String> = self.picture().network.endpoints.keys().cloned().collect();
        let lost = keep.iter().filter(|id| !known.contains(**id)).map(|id| (*id).to_owned()).collect();
        let mut report = AdoptReport { lost, ..AdoptReport::default() };
        for container in known {
            if keep.contains(container.as_str()) {
                report.adopted.push(container);
            } else {
                self.remove_endpoint(&container)?;
                report.removed.push(container);
            }
        }
        report.removed.extend(self.remove_leaks()?);
        Ok(report)
    }

    /// Replaces the published ports; returns when the kernel has them. Ports that cannot be published are named in
    /// the report, the others are published all the same. Concurrent calls share transactions; the last one wins.
    pub fn set_published(&self, wanted: Vec<PublishedPort>) -> Result<PublishReport> {
        let mut report = PublishReport::default();
        let mut guard = self.ports();
        let ports = &mut *guard;
        let endpoints = self.picture().network.endpoints.clone();
        let accepted = namespace::within(&self.home, || Ok(accept(wanted, &endpoints, ports, &mut report)))?;
        {
            let mut picture = self.picture();
            picture.network.published = accepted;
            // A container may have gone between the check and now.
            let gone: Vec<_> =
                endpoints.keys().filter(|id| !picture.network.endpoints.contains_key(*id)).cloned().collect();
            gone.iter().for_each(|container| picture.network.withdraw(container));
            self.state.set_published(picture.network.published.values())?;
        }
        drop(guard);
        self.flush()?;
        let mut ports = self.ports();
        let picture = self.picture();
        let unused: Vec<_> = ports.unowned().filter(|key| !picture.network.published.contains_key(key)).collect();
        unused.into_iter().for_each(|key| ports.release(key));
        Ok(report)
    }

    /// Reserves a host-mode port for the container before it starts, until its endpoint is removed: `port`, or with 0
    /// a free one between 32768 and 60999. Says which.
    pub fn reserve_host_port(&self, container: &str, protocol: Protocol, port: u16) -> Result<u16> {
        check_container_id(container)?;
        let mut guard = self.ports();
        let ports = &mut *guard;
        namespace::within(&self.home, || match port {
            0 => ports.reserve_any(protocol, container),
            port => ports.reserve(PortKey { protocol, port }, Some(container)).map(|()| port),
        })
    }

    /// Makes the kernel be as it should be, whatever happened to it, and says what had to be repaired.
    pub fn reconcile(&self) -> Result<Vec<String>> {
        reconcile::reconcile(self)
    }

    /// Removes every trace: endpoints, ports, table, bridge, pins and state. The object is of no use afterwards.
    pub fn remove_all(&self) -> Result<()> {
        let containers: Vec<String> = self.picture().network.endpoints.keys().cloned().collect();
        self.set_published(Vec::new())?;
        containers.iter().try_for_each(|container| self.remove_endpoint(container))?;
        self.remove_leaks()?;
        self.ports().clear();
        let mut applied = self.applied();
        self.nft.apply(&self.home, &ruleset::remove())?;
        *applied = None;
        let bridge = self.bridge().name;
        self.links().remove(Target::Name(&bridge))?;
        namespace::drop_pins(&self.pins_dir)?;
        self.state.wipe()
    }

    /// Makes the kernel's rules show the picture. Whoever waits here while another call works finds its own change
    /// done when it gets its turn.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut applied = self.applied();
        let wanted = self.picture().network.clone();
        let (transaction, diff) = match &*applied {
            None => {
                (Some(ruleset::full(&wanted)), NetworkDiff::between(&NodeNetwork::new(wanted.bridge.clone()), &wanted))
            }
            Some(old) => {
                let diff = NetworkDiff::between(old, &wanted);
                (ruleset::update(&diff), diff)
            }
        };
        if let Some(transaction) = transaction {
            *applied = None;
            self.nft.apply(&self.home, &transaction)?;
        }
        *applied = Some(wanted.clone());
        drop(applied);
        self.forget_redirected(&diff, &wanted)
    }

    /// UDP has no end of a connection: a client that goes on sending would be led for ever where its first datagram
    /// was led, to a backend that is gone, or to nobody.
    fn forget_redirected(&self, diff: &NetworkDiff, network: &NodeNetwork) -> Result<()> {
        let changed: BTreeSet<u16> = diff
            .ports
            .iter()
            .map(PortChange::key)
            .filter(|key| key.protocol == Protocol::Udp)
            .map(|key| key.port)
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let subnet = network.bridge.subnet;
        self.forget(|flow| {
            let port = flow.original.destination_port;
            let key = PortKey { protocol: Protocol::Udp, port };
            // A container's own traffic to the same port of some server elsewhere is none of ours.
            let passing = subnet.contains(flow.original.source) && !subnet.contains(flow.reply.source);
            let backends = network.published.get(&key).map_or(&[][..], |published| &published.backends);
            let current = backends
                .iter()
                .any(|backend| (backend.address, backend.target_port) == (flow.reply.source, flow.reply.source_port));
            flow.original.protocol == Protocol::Udp.number() && changed.contains(&port) && !passing && !current
        })
        .map(drop)
    }

    /// See [`Conntrack::rule_generation`].
    pub(crate) fn rule_generation(&self) -> Option<u32> {
        self.conntrack.lock().unwrap_or_else(PoisonError::into_inner).rule_generation()
    }

    /// Deletes the flows from and to the address. Looking at all flows takes the kernel some 12 ms: one look serves all
    /// who wait for it.
    fn forget_address(&self, address: Ipv4Addr) -> Result<()> {
        let waiting = || self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        waiting().insert(address);
        let mut conntrack = self.conntrack.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::mem::take(&mut *waiting());
        if all.is_empty() {
            return Ok(());
        }
        conntrack.forget(|flow| all.contains(&flow.original.source) || all.contains(&flow.reply.source)).map(drop)
    }

    fn forget(&self, doomed: impl Fn(&Flow) -> bool) -> Result<usize> {
        self.conntrack.lock().unwrap_or_else(PoisonError::into_inner).forget(doomed)
    }

    /// Finds what an earlier run left: endpoints whose namespace lives, and the ports that led to them.
    fn restore(&self) -> Result<()> {
        {
            let mut ports = self.ports();
            let mut picture = self.picture();
            for (container, address) in self.state.endpoints()? {
                let Some(address) = address else { continue };
                let found = self.derive(&container, address);
                if namespace::is_pin(Path::new(&found.netns)) && picture.pool.claim(address).is_ok() {
                    picture.network.endpoints.insert(container, found);
                }
            }
            let endpoints = &picture.network.endpoints;
            let mut published = self.state.published();
            for port in &mut published {
                port.backends.retain(|b| endpoints.get(&b.container).is_some_and(|found| found.address == b.address));
            }
            let mut report = PublishReport::default();
            let accepted = accept(published, endpoints, &mut ports, &mut report);
            for RefusedPort { port, error } in report.refused {
                tracing::warn!(%port, %error, "cannot publish a port again");
            }
            picture.network.published = accepted;
        }
        self.flush()
    }

    /// Removes pins and links of ours that belong to no endpoint, and records of endpoints that are none.
    fn remove_leaks(&self) -> Result<Vec<String>> {
        let picture = self.picture();
        let wanted =
            |container: &str| picture.network.endpoints.contains_key(container) || picture.busy.contains(container);
        let mut removed = Vec::new();
        for (container, _) in self.state.endpoints()? {
            if !wanted(&container) {
                self.state.remove_endpoint(&container)?;
            }
        }
        let entries = std::fs::read_dir(&self.pins_dir).tried(|| format!("read {:?}", self.pins_dir))?;
        for entry in entries {
            let path = entry.tried(|| format!("read {:?}", self.pins_dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !wanted(name) {
                namespace::unpin(&path)?;
                removed.push(name.to_owned());
            }
        }
        let live: BTreeSet<String> = picture
            .network
            .endpoints
            .values()
            .map(|endpoint| endpoint.host_link.clone())
            .chain(picture.busy.iter().map(|container| skep_dataplane::network::host_link_name(container)))
            .collect();
        let mut links = self.links();
        for found in links.all()?.into_iter().filter(|found| endpoint::is_ours(found) && !live.contains(&found.name)) {
            if links.remove(Target::Index(found.index))? {
                removed.push(found.name);
            }
        }
        Ok(removed)
    }

    fn make(&self, planned: &skep_dataplane::Endpoint, bridge: &GatewayBridge) -> Result<()> {
        // A run that died half-way may have left a pin or a link of that name.
        self.dismantle(&planned.host_link, Path::new(&planned.netns))?;
        endpoint::create(planned, bridge, &self.home)?;
        endpoint::attach(planned, bridge, &mut self.links())?;
        // Written last: a record says that the endpoint is whole.
        self.state.set_endpoint(&planned.container, planned.address)
    }

    fn unmake(&self, target: &skep_dataplane::Endpoint) -> Result<()> {
        self.dismantle(&target.host_link, Path::new(&target.netns))?;
        self.state.remove_endpoint(&target.container)
    }

    /// Removes links and pin; what is missing is fine. The kernel's slow part is shared by all who wait for it.
    fn dismantle(&self, host_link: &str, pin: &Path) -> Result<()> {
        let retired = endpoint::retire(host_link, &mut self.links())?;
        namespace::unpin(pin)?;
        if retired {
            let mut links = self.grave.lock().unwrap_or_else(PoisonError::into_inner);
            if links.find(host_link)?.is_some() {
                links.delete_retired()?;
            }
        }
        Ok(())
    }

    fn derive(&self, container: &str, address: Ipv4Addr) -> skep_dataplane::Endpoint {
        let pin = self.pins_dir.join(container).to_string_lossy().into_owned();
        skep_dataplane::Endpoint::derived(container, pin, address)
    }

    pub(crate) fn picture(&self) -> MutexGuard<'_, Picture> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn applied(&self) -> MutexGuard<'_, Option<NodeNetwork>> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, ReservedPorts> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("pins_dir", &self.pins_dir).finish_non_exhaustive()
    }
}

impl Picture {
    /// Marks the container as worked on.
    fn begin(&mut self, container: &str) -> Result<()> {
        if self.busy.insert(container.to_owned()) { Ok(()) } else { Err(NetworkError::Busy(container.to_owned())) }
    }

    pub(crate) fn is_busy(&self, container: &str) -> bool {
        self.busy.contains(container)
    }
}

fn describe(endpoint: &skep_dataplane::Endpoint, bridge: &GatewayBridge) -> Endpoint {
    Endpoint {
        netns_path: PathBuf::from(&endpoint.netns),
        address: endpoint.address,
        prefix: bridge.subnet.prefix(),
        gateway: bridge.gateway,
        mac: endpoint.mac,
    }
}

/// Which of the wanted ports can be published: each is checked and held; the first of two for one port wins.
fn accept(
    wanted: Vec<PublishedPort>,
    endpoints: &BTreeMap<String, skep_dataplane::Endpoint>,
    held: &mut ReservedPorts,
    report: &mut PublishReport,
) -> BTreeMap<PortKey, PublishedPort> {
    let mut accepted = BTreeMap::new();
    for port in wanted.into_iter().map(PublishedPort::normalized) {
        let key = port.key();
        let owner = match (port.mode, port.backends.first()) {
            (PublishMode::Host, Some(backend)) => Some(backend.container.as_str()),
            _ => None,
        };
        let checked = if accepted.contains_key(&key) {
            Err(skep_dataplane::NetworkError::PortTwice(key).into())
        } else {
            port.validate(endpoints).map_err(NetworkError::from).and_then(|()| held.reserve(key, owner))
        };
        match checked {
            Ok(()) => drop(accepted.insert(key, port)),
            Err(error) => report.refused.push(RefusedPort { port: key, error }),
        }
    }
    accepted
}

/// The bridge of an earlier run, or a new one with a subnet that nothing here uses, written down before it is made.
fn choose_bridge(config: &NetworkConfig, state: &State, links: &mut Links) -> Result<GatewayBridge> {
    let chosen = state.bridge()?;
    let name = chosen.as_ref().map_or(&config.bridge_name, |bridge| &bridge.name).clone();
    let existing = links.find(&name)?;
    if existing.as_ref().is_some_and(|link| link.kind.as_deref() != Some("bridge") || link.group != link::OUR_GROUP) {
        return Err(NetworkError::NotABridge(name));
    }
    let own = existing.map(|link| link.index);
    let used: Vec<(Ipv4Addr, u8)> = {
        let addresses = links.addresses()?.into_iter().filter(|found| Some(found.index) != own);
        let addresses: Vec<_> = addresses.map(|found| (found.address, found.prefix)).collect();
        let routes =
            links.routes()?.into_iter().filter(|(_, prefix, link)| *prefix > 0 && (link.is_none() || *link != own));
        routes.map(|(network, prefix, _)| (network, prefix)).chain(addresses).collect()
    };
    let overlapping = |subnet: Subnet| used.iter().find(|other| subnet.overlaps(**other));
    if let Some(bridge) = chosen {
        match overlapping(bridge.subnet) {
            // Containers live in it: keep it. After a reboot nothing does, and another one can be chosen.
            None => return Ok(bridge),
            Some(_) if own.is_some() => return Ok(bridge),
            Some((other, prefix)) => {
                tracing::warn!(subnet = %bridge.subnet, "subnet of the gateway bridge is now used by {other}/{prefix}: choosing another");
            }
        }
    }
    let subnet = match config.subnet {
        None => first_free_subnet(&used).ok_or(NetworkError::NoFreeSubnet)?,
        Some(subnet) => match overlapping(subnet) {
            None => subnet,
            Some((other, prefix)) => {
                return Err(NetworkError::SubnetInUse {
                    subnet: subnet.to_string(),
                    other: format!("{other}/{prefix}"),
                });
            }
        },
    };
    let bridge = GatewayBridge { name, subnet, gateway: subnet.gateway(), mtu: config.mtu };
    bridge.validate()?;
    state.set_bridge(&bridge)?;
    Ok(bridge)
}
