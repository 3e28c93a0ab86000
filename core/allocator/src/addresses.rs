//! Who holds which address, subnet and VXLAN id of the swarm's networks, and which is free. It is told what is in use; it
//! does not look.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use skep_model::{Cidr, IpamConfig, IpamOptions, Network, NetworkId, TaskNetwork, VXLAN_ID_LIST, VirtualIp};

/// Pool of subnets of a cluster that names none (Docker's default).
const POOL_DEFAULT: &str = "10.0.0.0/8";
/// Prefix length of subnets of a cluster that names none (Docker's default).
const SUBNET_SIZE_DEFAULT: u8 = 24;
/// First VXLAN id that is given; the network of the routing mesh has it as a rule.
pub const VNI_FIRST: u32 = 4096;
/// Last VXLAN id there is.
const VNI_LAST: u32 = (1 << 24) - 1;

/// All that networks, services and tasks hold.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    pools: BTreeMap<NetworkId, Pool>,
    /// First address of each held subnet, with its last and its network. They do not overlap.
    subnets: BTreeMap<u32, (u32, NetworkId)>,
    vnis: BTreeMap<u32, NetworkId>,
}

/// The addresses of one network.
#[derive(Debug)]
struct Pool {
    subnet: Cidr,
    /// Where tasks and services get theirs from.
    range: Cidr,
    gateway: u32,
    reserved: BTreeSet<u32>,
    /// How many hold an address: for a moment it is both the plan and what became of it.
    held: BTreeMap<u32, u32>,
    /// Where to look next, so that a freed address comes back last.
    next: u32,
    /// The network is removed; its subnet is free when nobody holds an address any more.
    is_gone: bool,
}

/// Why there is no subnet or no VXLAN id for a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSubnet {
    /// Docker's text.
    #[error(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
    )]
    Exhausted,
    /// Docker's text.
    #[error("Pool overlaps with other one on this address space")]
    Overlap,
    /// A text that is none.
    #[error("invalid subnet or gateway: {0}")]
    Invalid(String),
    /// Every id, or the one asked for, is given.
    #[error("no VXLAN id is left for the network")]
    Vni,
}

impl AddressBook {
    /// Takes in a network that has its subnet. Idempotent.
    pub(crate) fn open(&mut self, network: &Network) {
        let Some(driver) = &network.allocation.driver else { return };
        if let Some(vni) = driver.options.get(VXLAN_ID_LIST).and_then(|list| list.parse().ok()) {
            self.vnis.insert(vni, network.id);
        }
        if let Some(config) = network.allocation.ipam.configs.first() {
            self.open_pool(network.id, config);
        }
    }

    fn open_pool(&mut self, network: NetworkId, config: &IpamConfig) {
        let Ok(subnet) = config.subnet.parse::<Cidr>() else { return };
        let range = config.range.parse::<Cidr>().ok().unwrap_or(subnet);
        let address = |text: &String| text.parse::<Ipv4Addr>().ok().map(u32::from);
        let gateway = address(&config.gateway).unwrap_or_default();
        let reserved = config.reserved.values().filter_map(address).collect();
        let (first, last) = subnet.subnet().bounds();
        self.subnets.insert(first, (last, network));
        let before = self.pools.remove(&network);
        let held = before.map(|pool| pool.held).unwrap_or_default();
        // A book without memory goes on behind the highest.
        let next = held.last_key_value().map_or(range.bounds().0, |(highest, _)| highest.saturating_add(1));
        self.pools.insert(network, Pool { subnet, range, gateway, reserved, held, next, is_gone: false });
    }

    /// The network is removed, or its allocation did not come about.
    pub(crate) fn close(&mut self, network: NetworkId) {
        self.vnis.retain(|_, holder| *holder != network);
        if let Some(pool) = self.pools.get_mut(&network) {
            pool.is_gone = true;
        }
        self.forget_gone(network);
    }

    fn forget_gone(&mut self, network: NetworkId) {
        if self.pools.get(&network).is_some_and(|pool| pool.is_gone && pool.held.is_empty()) {
            self.pools.remove(&network);
            self.subnets.retain(|_, (_, holder)| *holder != network);
        }
    }

    /// Somebody has the address.
    pub(crate) fn hold(&mut self, network: NetworkId, address: Cidr) {
        let subnets = &mut self.subnets;
        let pool = self.pools.entry(network).or_insert_with(|| {
            // Its network is removed, and the address outlives it.
            let subnet = address.subnet();
            let (first, last) = subnet.bounds();
            subnets.insert(first, (last, network));
            let (reserved, held) = (BTreeSet::new(), BTreeMap::new());
            Pool { subnet, range: subnet, gateway: first, reserved, held, next: first, is_gone: true }
        });
        *pool.held.entry(address.address.into()).or_default() += 1;
    }

    /// One holder less; true when the address, or a whole subnet, is free now.
    pub(crate) fn release(&mut self, network: NetworkId, address: Cidr) -> bool {
        let Some(pool) = self.pools.get_mut(&network) else { return false };
        let key = u32::from(address.address);
        let Some(count) = pool.held.get_mut(&key) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        pool.held.remove(&key);
        self.forget_gone(network);
        true
    }

    /// The next free address of a network; it has to be [held](Self::hold) before the next is chosen. `None` when there is
    /// none.
    pub(crate) fn choose(&mut self, network: NetworkId) -> Option<Cidr> {
        self.pools.get_mut(&network)?.choose()
    }

    /// How many addresses of a network are held, with its subnet.
    pub(crate) fn usage(&self, network: NetworkId) -> Option<(Cidr, usize)> {
        self.pools.get(&network).map(|pool| (pool.subnet.subnet(), pool.held.len()))
    }

    /// Chooses the subnet of a network, and takes it.
    pub(crate) fn choose_subnet(
        &mut self,
        network: &Network,
        pools: &[String],
        subnet_size: u32,
    ) -> Result<IpamOptions, NoSubnet> {
        let asked = network.spec.ipam.as_ref().and_then(|ipam| ipam.configs.first()).cloned().unwrap_or_default();
        let subnet = if asked.subnet.is_empty() {
            self.free_subnet(pools, subnet_size).ok_or(NoSubnet::Exhausted)?
        } else {
            let subnet: Cidr = asked.subnet.parse().map_err(|_| NoSubnet::Invalid(asked.subnet.clone()))?;
            if self.taken(subnet).is_some() {
                return Err(NoSubnet::Overlap);
            }
            subnet.subnet()
        };
        let gateway = if asked.gateway.is_empty() {
            Ipv4Addr::from(subnet.bounds().0 + 1)
        } else {
            asked.gateway.parse().map_err(|_| NoSubnet::Invalid(asked.gateway.clone()))?
        };
        let config = IpamConfig { subnet: subnet.to_string(), gateway: gateway.to_string(), ..asked };
        self.open_pool(network.id, &config);
        let mut driver = network.spec.ipam.as_ref().map(|ipam| ipam.driver.clone()).unwrap_or_default();
        if driver.name.is_empty() {
            "default".clone_into(&mut driver.name);
        }
        Ok(IpamOptions { driver, configs: vec![config] })
    }

    /// The held subnet that overlaps this one.
    fn taken(&self, subnet: Cidr) -> Option<u32> {
        let (first, last) = subnet.bounds();
        self.subnets.range(..=last).next_back().filter(|(_, (end, _))| *end >= first).map(|(_, (end, _))| *end)
    }

    fn free_subnet(&self, pools: &[String], size: u32) -> Option<Cidr> {
        let default = [POOL_DEFAULT.to_owned()];
        let pools = if pools.is_empty() { &default } else { pools };
        let size = u8::try_from(size).ok().filter(|size| *size > 0).unwrap_or(SUBNET_SIZE_DEFAULT);
        pools.iter().filter_map(|pool| pool.parse::<Cidr>().ok()).find_map(|pool| self.free_within(pool, size))
    }

    fn free_within(&self, pool: Cidr, prefix: u8) -> Option<Cidr> {
        let (mut first, last) = pool.bounds();
        loop {
            let candidate = Cidr { address: Ipv4Addr::from(first), prefix };
            let end = candidate.bounds().1;
            if end > last || prefix < pool.prefix {
                return None;
            }
            let Some(taken) = self.taken(candidate) else { return Some(candidate) };
            // Behind whatever is in the way, at the next place where a subnet of this size begins.
            let behind = Cidr { address: Ipv4Addr::from(taken.max(end)), prefix }.bounds().1;
            first = behind.checked_add(1)?;
        }
    }

    /// Chooses the VXLAN id of a network, and takes it.
    pub(crate) fn choose_vni(&mut self, network: &Network) -> Result<u32, NoSubnet> {
        let vni = match network.spec.driver.options.get(VXLAN_ID_LIST) {
            Some(asked) => {
                let asked = asked.parse().map_err(|_| NoSubnet::Vni)?;
                if self.vnis.contains_key(&asked) { None } else { Some(asked) }
            }
            None => {
                let start = self.vnis.last_key_value().map_or(VNI_FIRST, |(highest, _)| highest.saturating_add(1));
                (start.max(VNI_FIRST)..=VNI_LAST)
                    .chain(VNI_FIRST..start.min(VNI_LAST))
                    .find(|vni| !self.vnis.contains_key(vni))
            }
        };
        let vni = vni.ok_or(NoSubnet::Vni)?;
        self.vnis.insert(vni, network.id);
        Ok(vni)
    }
}

impl Pool {
    fn choose(&mut self) -> Option<Cidr> {
        let ((first, last), (lowest, highest)) = (self.range.bounds(), self.subnet.bounds());
        let size = u64::from(last - first) + 1;
        // Network and broadcast address and gateway are nobody's. When all are held, that is known without looking.
        let never = [lowest, highest, self.gateway];
        let lost = never.iter().chain(&self.reserved).filter(|address| (first..=last).contains(*address)).count();
        let is_full = |held: usize| u64::try_from(held + lost).unwrap_or(u64::MAX) >= size;
        if is_full(self.held.len()) && is_full(self.held.range(first..=last).count()) {
            return None;
        }
        let is_free = |address: &u32| {
            !never.contains(address) && !self.reserved.contains(address) && !self.held.contains_key(address)
        };
        let start = if (first..=last).contains(&self.next) { self.next } else { first };
        let found = (start..=last).chain(first..start).find(is_free)?;
        self.next = found.saturating_add(1);
        Some(Cidr { address: Ipv4Addr::from(found), prefix: self.subnet.prefix })
    }
}

/// The addresses of a task.
pub(crate) fn addresses(networks: &[TaskNetwork]) -> impl Iterator<Item = (NetworkId, Cidr)> {
    networks.iter().flat_map(|place| place.addresses.iter().map(|address| (place.network, *address)))
}

/// The addresses of a service.
pub(crate) fn virtual_addresses(ips: &[VirtualIp]) -> impl Iterator<Item = (NetworkId, Cidr)> {
    ips.iter().map(|ip| (ip.network, ip.address))
}
