//! The node's network as its callers see it: open it, give and take endpoints, publish ports. Holds the picture of
//! what should be; the locks below are always taken in this order: `ports`, `applied`, `verified`, `picture`, sockets.

use crate::conntrack::{Conntrack, Flow};
use crate::error::{NetworkError, Result, Tried};
use crate::link::{Links, Target};
use crate::nft::{NamespacedNft, NftBackend, NftBinary};
use crate::ports::ReservedPorts;
use crate::probe::{open_failed, probe};
use crate::state::State;
use crate::wiring::{self, Place};
use crate::{endpoint, namespace, reconcile, restart};
use skep_dataplane::network::check_container_id;
use skep_dataplane::{AddressPool, Bridge, MAIN, MacAddress, NodeNetwork, PortKey, Subnet, ruleset};
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
    /// The containers on it do not reach each other, except by published ports.
    pub isolated: bool,
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
            isolated: true,
        }
    }
}

/// What a container needs to know of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Path of the pinned network namespace, for the container's specification.
    pub netns_path: PathBuf,
    /// The container's address on the bridge by which it reaches the world, else on its first; 0.0.0.0 without any.
    pub address: Ipv4Addr,
    /// Prefix length of that subnet.
    pub prefix: u8,
    /// The gateway there.
    pub gateway: Ipv4Addr,
    /// Hardware address there.
    pub mac: MacAddress,
    /// All places, in the order of the links inside.
    pub legs: Vec<EndpointLeg>,
}

/// A container's place on one bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointLeg {
    /// Key of the bridge.
    pub bridge: String,
    /// Address there.
    pub address: Ipv4Addr,
    /// Prefix length of the subnet.
    pub prefix: u8,
    /// The gateway; `None` when the bridge leads nowhere.
    pub gateway: Option<Ipv4Addr>,
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
    pub(crate) state: State,
    /// Held while bridges come and go.
    pub(crate) wiring: Mutex<()>,
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
    /// Addresses of each bridge.
    pub(crate) pools: BTreeMap<String, AddressPool>,
    /// Bridges that go with the last container on them.
    pub(crate) transient: BTreeSet<String>,
    /// Containers that a call works on right now, with the node's ends of the links that it makes.
    pub(crate) busy: BTreeMap<String, BTreeSet<String>>,
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
        let bridge = restart::choose_bridge(&config, &state, &mut links)?;
        namespace::prepare_pins(&config.pins_dir)?;
        let network = Self {
            pins_dir: config.pins_dir.canonicalize().tried(|| format!("resolve {:?}", config.pins_dir))?,
            nft,
            links: Mutex::new(links),
            grave: Mutex::new(Links::open().map_err(open_failed)?),
            conntrack: Mutex::new(Conntrack::open().map_err(open_failed)?),
            doomed: Mutex::default(),
            state,
            wiring: Mutex::default(),
            ports: Mutex::default(),
            picture: Mutex::new(Picture {
                pools: [(MAIN.to_owned(), AddressPool::new(bridge.subnet, bridge.gateway))].into(),
                network: NodeNetwork::new(bridge),
                transient: BTreeSet::new(),
                busy: BTreeMap::new(),
            }),
            applied: Mutex::new(None),
            verified: Mutex::new(None),
            home,
        };
        network.restore_bridges()?;
        reconcile::ensure_bridges(&network)?;
        reconcile::warn_of_bridged_calls(&network)?;
        network.restore()?;
        network.remove_leaks()?;
        Ok(network)
    }

    /// The main bridge.
    #[must_use]
    pub fn bridge(&self) -> Bridge {
        self.picture().network.bridge.clone()
    }

    /// The container's endpoint, if it has one.
    #[must_use]
    pub fn endpoint(&self, container: &str) -> Option<Endpoint> {
        let picture = self.picture();
        Some(describe(picture.network.endpoints.get(container)?, &picture.network))
    }

    /// Gives the container a namespace on the main bridge, with an address, a default route and a loopback. The container
    /// that has one already keeps it. After an error nothing is left.
    pub fn create_endpoint(&self, container: &str) -> Result<Endpoint> {
        self.create_endpoint_at(container, &[Place::main()])
    }

    /// [`Self::create_endpoint`] on these bridges, in this order; bridges that are not there yet are made. Without any there
    /// is only a loopback.
    pub fn create_endpoint_at(&self, container: &str, places: &[Place]) -> Result<Endpoint> {
        check_container_id(container)?;
        if let Some(existing) = self.endpoint(container) {
            return Ok(existing);
        }
        self.picture().begin(container)?;
        let planned = match self.plan(container, places) {
            Ok(planned) => planned,
            Err(error) => {
                self.picture().busy.remove(container);
                return Err(error);
            }
        };
        let made = self.make(&planned);
        let undone = made.is_err().then(|| self.unmake(&planned));
        let mut picture = self.picture();
        picture.busy.remove(container);
        match (made, undone) {
            (Ok(()), _) => {
                let described = describe(&planned, &picture.network);
                picture.network.endpoints.insert(container.to_owned(), planned);
                Ok(described)
            }
            (Err(error), Some(Ok(()))) => {
                picture.release(&planned);
                drop(picture);
                self.drop_unused_bridges();
                Err(error)
            }
            (Err(error), undone) => {
                // Something of it may still use the addresses.
                tracing::warn!(container.id = container, ?undone, "cannot clean up after a failed endpoint");
                picture.quarantine(&planned);
                Err(error)
            }
        }
    }

    /// Takes the container out of every published port, then takes its links, namespace and addresses away, and forgets
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
        if let Some(known) = known {
            self.forget_legs(container, &known.legs);
            self.picture().release(&known);
            self.drop_unused_bridges();
        }
        self.picture().busy.remove(container);
        Ok(())
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
        let bridges: Vec<(String, String)> = {
            let picture = self.picture();
            picture.network.all_bridges().map(|(key, bridge)| (key.to_owned(), bridge.name.clone())).collect()
        };
        for (key, link) in bridges {
            self.links().remove(Target::Name(&link))?;
            if key != MAIN {
                self.state.remove_bridge(&key)?;
            }
        }
        namespace::drop_pins(&self.pins_dir)?;
        self.state.wipe()
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

    pub(crate) fn forget(&self, doomed: impl Fn(&Flow) -> bool) -> Result<usize> {
        self.conntrack.lock().unwrap_or_else(PoisonError::into_inner).forget(doomed)
    }

    /// Forgets the flows of a container that leaves these places.
    pub(crate) fn forget_legs(&self, container: &str, legs: &[skep_dataplane::Leg]) {
        for leg in legs {
            let has_flows = self.picture().network.find_bridge(&leg.bridge).is_some_and(Bridge::has_address);
            if has_flows && let Err(error) = self.forget_address(leg.address) {
                // They end by themselves, later.
                tracing::warn!(container.id = container, %error, "cannot forget the flows of a removed container");
            }
        }
    }

    fn make(&self, planned: &skep_dataplane::Endpoint) -> Result<()> {
        // A run that died half-way may have left a pin or a link of that name.
        self.dismantle(&planned.legs, Some(Path::new(&planned.netns)))?;
        let wires = wiring::wires(&self.picture().network, planned);
        endpoint::create(&planned.netns, &wires, &self.home)?;
        for wire in &wires {
            endpoint::attach(&planned.container, wire, &mut self.links())?;
        }
        // Written last: a record says that the endpoint is whole.
        self.state.set_endpoint(planned)
    }

    fn unmake(&self, target: &skep_dataplane::Endpoint) -> Result<()> {
        self.dismantle(&target.legs, Some(Path::new(&target.netns)))?;
        self.state.remove_endpoint(&target.container)
    }

    /// Removes links and pin; what is missing is fine. The kernel's slow part is shared by all who wait for it.
    pub(crate) fn dismantle(&self, legs: &[skep_dataplane::Leg], pin: Option<&Path>) -> Result<()> {
        let mut retired = None;
        for leg in legs {
            if endpoint::retire(&leg.host_link, &mut self.links())? {
                retired = Some(&leg.host_link);
            }
        }
        if let Some(pin) = pin {
            namespace::unpin(pin)?;
        }
        if let Some(host_link) = retired {
            let mut links = self.grave.lock().unwrap_or_else(PoisonError::into_inner);
            if links.find(host_link)?.is_some() {
                links.delete_retired()?;
            }
        }
        Ok(())
    }

    pub(crate) fn derive(&self, container: &str, address: Ipv4Addr) -> skep_dataplane::Endpoint {
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

    pub(crate) fn ports(&self) -> MutexGuard<'_, ReservedPorts> {
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
    pub(crate) fn begin(&mut self, container: &str) -> Result<()> {
        if self.is_busy(container) {
            return Err(NetworkError::Busy(container.to_owned()));
        }
        self.busy.insert(container.to_owned(), BTreeSet::new());
        Ok(())
    }

    pub(crate) fn is_busy(&self, container: &str) -> bool {
        self.busy.contains_key(container)
    }
}

pub(crate) fn describe(endpoint: &skep_dataplane::Endpoint, network: &NodeNetwork) -> Endpoint {
    let legs: Vec<EndpointLeg> = endpoint
        .legs
        .iter()
        .filter_map(|leg| {
            let bridge = network.find_bridge(&leg.bridge)?;
            Some(EndpointLeg {
                bridge: leg.bridge.clone(),
                address: leg.address,
                prefix: bridge.subnet.prefix(),
                gateway: (bridge.reach == skep_dataplane::Reach::Outward).then_some(bridge.gateway),
                mac: leg.mac,
            })
        })
        .collect();
    let way_out = network.way_out(endpoint).map(|leg| leg.bridge.as_str());
    let main = legs.iter().find(|leg| Some(leg.bridge.as_str()) == way_out).or_else(|| legs.first());
    let unspecified = Ipv4Addr::UNSPECIFIED;
    Endpoint {
        netns_path: PathBuf::from(&endpoint.netns),
        address: main.map_or(unspecified, |leg| leg.address),
        prefix: main.map_or(0, |leg| leg.prefix),
        gateway: main.and_then(|leg| leg.gateway).unwrap_or(unspecified),
        mac: main.map_or(MacAddress::of(unspecified), |leg| leg.mac),
        legs,
    }
}
