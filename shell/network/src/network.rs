//! The node's network as its callers see it: open it, give and take endpoints, publish ports. Holds the picture of
//! what should be; the locks below are always taken in this order: `ports`, `applied`, `verified`, `picture`, sockets.

use crate::conntrack::{Conntrack, Flow};
use crate::error::{NetworkError, Result, Tried};
use crate::link::{Links, Target};
use crate::nft::{NamespacedNft, NftBackend, NftBinary};
use crate::ports::ReservedPorts;
use crate::probe::{open_failed, probe};
use crate::state::State;
use crate::{endpoint, namespace, reconcile, restart};
use skep_dataplane::network::check_container_id;
use skep_dataplane::{AddressPool, GatewayBridge, MacAddress, NodeNetwork, PortKey, Subnet, ruleset};
use std::collections::BTreeSet;
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
    pub(crate) state: State,
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
    pub(crate) pool: AddressPool,
    /// Containers that a call works on right now.
    pub(crate) busy: BTreeSet<String>,
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
        reconcile::warn_of_bridged_calls(&network)?;
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
