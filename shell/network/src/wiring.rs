//! Bridges beside the main one, and containers' places on them.

use crate::endpoint::{self, Wire};
use crate::error::{NetworkError, Result};
use crate::link::Target;
use crate::network::{Endpoint, Network, Picture, describe};
use crate::reconcile;
use skep_dataplane::network::check_container_id;
use skep_dataplane::{AddressPool, Bridge, Leg, MAIN, NodeNetwork, Subnet, first_free_subnet};
use std::net::Ipv4Addr;
use std::sync::PoisonError;

/// A bridge beside the main one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgePlan {
    /// What it is known by: at most 128 letters and digits, `_`, `.` or `-`.
    pub key: String,
    /// What it is.
    pub bridge: Bridge,
    /// Part of the subnet whose addresses are given unasked.
    pub range: Option<Subnet>,
    /// Addresses that are not given.
    pub reserved: Vec<Ipv4Addr>,
    /// It goes with the last container on it.
    pub transient: bool,
}

/// A container's place that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The bridge; `None` is the main one.
    pub bridge: Option<BridgePlan>,
    /// The address; any when `None`.
    pub address: Option<Ipv4Addr>,
}

impl Place {
    /// Any address on the main bridge.
    #[must_use]
    pub fn main() -> Self {
        Self { bridge: None, address: None }
    }

    fn key(&self) -> &str {
        self.bridge.as_ref().map_or(MAIN, |plan| plan.key.as_str())
    }
}

/// The places of an endpoint with their bridges.
pub(crate) fn wires(network: &NodeNetwork, endpoint: &skep_dataplane::Endpoint) -> Vec<Wire> {
    let way_out = network.way_out(endpoint).map(|leg| leg.bridge.clone());
    let wire = |leg: &Leg| {
        let bridge = network.find_bridge(&leg.bridge)?.clone();
        Some(Wire { leg: leg.clone(), bridge, is_way_out: Some(&leg.bridge) == way_out.as_ref() })
    };
    endpoint.legs.iter().filter_map(wire).collect()
}

impl Network {
    /// Makes a bridge that stays, also without a container on it. One of this key that is there is left as it is.
    pub fn add_bridge(&self, plan: &BridgePlan) -> Result<()> {
        let _wiring = self.wiring.lock().unwrap_or_else(PoisonError::into_inner);
        self.ensure_plan(plan)?;
        self.flush()
    }

    /// Removes a bridge; none of this key is fine.
    pub fn remove_bridge(&self, key: &str) -> Result<()> {
        let _wiring = self.wiring.lock().unwrap_or_else(PoisonError::into_inner);
        if self.picture().pools.get(key).is_some_and(|pool| !pool.is_unused()) {
            return Err(NetworkError::BridgeInUse(key.to_owned()));
        }
        self.delete_bridge(key)
    }

    /// All bridges with their keys, the main one first.
    #[must_use]
    pub fn bridges(&self) -> Vec<(String, Bridge)> {
        let picture = self.picture();
        picture.network.all_bridges().map(|(key, bridge)| (key.to_owned(), bridge.clone())).collect()
    }

    /// Keys of the bridges that stay when nobody is on them, without the main one.
    #[must_use]
    pub fn lasting_bridges(&self) -> Vec<String> {
        let picture = self.picture();
        let lasting = picture.network.bridges.keys().filter(|key| !picture.transient.contains(*key));
        lasting.cloned().collect()
    }

    /// The first default subnet that neither this machine nor one of `others` uses.
    pub fn free_subnet(&self, others: &[Subnet]) -> Result<Subnet> {
        let mut used = self.used_subnets()?;
        used.extend(others.iter().map(|subnet| (subnet.network(), subnet.prefix())));
        first_free_subnet(&used).ok_or(NetworkError::NoFreeSubnet)
    }

    /// Networks that this machine has addresses in or routes to.
    pub fn used_subnets(&self) -> Result<Vec<(Ipv4Addr, u8)>> {
        let mut links = self.links();
        let addresses = links.addresses()?.into_iter().map(|found| (found.address, found.prefix));
        let addresses: Vec<_> = addresses.collect();
        let routes = links.routes()?.into_iter().filter(|(_, prefix, _)| *prefix > 0);
        Ok(routes.map(|(network, prefix, _)| (network, prefix)).chain(addresses).collect())
    }

    /// Gives a container that has an endpoint one more place.
    pub fn add_leg(&self, container: &str, place: &Place) -> Result<Endpoint> {
        check_container_id(container)?;
        let before = {
            let mut picture = self.picture();
            let known = picture.network.endpoints.get(container).cloned();
            let known = known.ok_or_else(|| NetworkError::NoEndpoint(container.to_owned()))?;
            picture.begin(container)?;
            known
        };
        let added = self.try_add_leg(&before, place);
        self.picture().busy.remove(container);
        self.drop_unused_bridges();
        added
    }

    fn try_add_leg(&self, before: &skep_dataplane::Endpoint, place: &Place) -> Result<Endpoint> {
        if before.leg(place.key()).is_some() {
            return Ok(describe(before, &self.picture().network));
        }
        let mut after = before.clone();
        {
            let _wiring = self.wiring.lock().unwrap_or_else(PoisonError::into_inner);
            let leg = self.plan_leg(&after, place)?;
            after.legs.push(leg);
        }
        let result = self.flush().and_then(|()| {
            let wires = wires(&self.picture().network, &after);
            let Some(wire) = wires.last() else { return Ok(()) };
            endpoint::connect(&after, wire, &self.home, &mut self.links())?;
            self.state.set_endpoint(&after)
        });
        let added = &after.legs[before.legs.len()..];
        let mut picture = self.picture();
        match result {
            Ok(()) => {
                picture.network.endpoints.insert(after.container.clone(), after.clone());
                Ok(describe(&after, &picture.network))
            }
            Err(error) => {
                drop(picture);
                let undone = self.dismantle(added, None);
                let mut picture = self.picture();
                let gone = skep_dataplane::Endpoint { legs: added.to_vec(), ..before.clone() };
                if undone.is_ok() {
                    picture.release(&gone)
                } else {
                    picture.quarantine(&gone)
                }
                Err(error)
            }
        }
    }

    /// Takes a container's place on a bridge away; none is fine. Whoever published ports by it has to publish them anew.
    pub fn remove_leg(&self, container: &str, bridge: &str) -> Result<()> {
        check_container_id(container)?;
        let before = {
            let mut picture = self.picture();
            let Some(known) = picture.network.endpoints.get(container).cloned() else { return Ok(()) };
            picture.begin(container)?;
            known
        };
        let removed = self.try_remove_leg(&before, bridge);
        self.picture().busy.remove(container);
        self.drop_unused_bridges();
        removed
    }

    fn try_remove_leg(&self, before: &skep_dataplane::Endpoint, bridge: &str) -> Result<()> {
        let Some(leg) = before.leg(bridge).cloned() else { return Ok(()) };
        let mut after = before.clone();
        after.legs.retain(|leg| leg.bridge != bridge);
        {
            let mut picture = self.picture();
            for port in picture.network.published.values_mut() {
                port.backends.retain(|backend| backend.container != before.container || backend.address != leg.address);
            }
            picture.network.endpoints.insert(after.container.clone(), after.clone());
        }
        self.flush()?;
        self.state.set_endpoint(&after)?;
        self.dismantle(std::slice::from_ref(&leg), None)?;
        self.forget_legs(&after.container, std::slice::from_ref(&leg));
        let gone = skep_dataplane::Endpoint { legs: vec![leg], ..after.clone() };
        self.picture().release(&gone);
        let wires = wires(&self.picture().network, &after);
        match wires.iter().find(|wire| wire.is_way_out) {
            Some(wire) => endpoint::set_way_out(&after, wire),
            None => Ok(()),
        }
    }

    /// Makes the bridges that the places need, and takes an address on each.
    pub(crate) fn plan(&self, container: &str, places: &[Place]) -> Result<skep_dataplane::Endpoint> {
        let netns = self.pins_dir.join(container).to_string_lossy().into_owned();
        let mut planned = skep_dataplane::Endpoint { container: container.to_owned(), netns, legs: Vec::new() };
        let wiring = self.wiring.lock().unwrap_or_else(PoisonError::into_inner);
        for place in places {
            match self.plan_leg(&planned, place) {
                Ok(leg) => planned.legs.push(leg),
                Err(error) => {
                    self.picture().release(&planned);
                    drop(wiring);
                    self.drop_unused_bridges();
                    return Err(error);
                }
            }
        }
        drop(wiring);
        if places.iter().any(|place| place.bridge.is_some())
            && let Err(error) = self.flush()
        {
            self.picture().release(&planned);
            return Err(error);
        }
        Ok(planned)
    }

    fn plan_leg(&self, endpoint: &skep_dataplane::Endpoint, place: &Place) -> Result<Leg> {
        if let Some(plan) = &place.bridge {
            self.ensure_plan(plan)?;
        }
        let key = place.key();
        let mut picture = self.picture();
        let pool = picture.pools.get_mut(key).ok_or_else(|| NetworkError::NoBridge(key.to_owned()))?;
        let address = match place.address {
            Some(address) => pool.claim(address).map(|()| address)?,
            None => pool.allocate()?,
        };
        let leg = Leg::derived(&endpoint.container, key, address, endpoint.free_link_name());
        if let Some(links) = picture.busy.get_mut(&endpoint.container) {
            links.insert(leg.host_link.clone());
        }
        Ok(leg)
    }

    /// Has the bridge in the picture, on disk and in the kernel; the caller holds `wiring`, and flushes.
    fn ensure_plan(&self, plan: &BridgePlan) -> Result<()> {
        check_container_id(&plan.key)?;
        plan.bridge.validate()?;
        {
            let picture = self.picture();
            if picture.network.find_bridge(&plan.key).is_some() {
                return Ok(());
            }
            let taken = picture.network.all_bridges().any(|(_, bridge)| bridge.name == plan.bridge.name);
            if taken || self.links().find(&plan.bridge.name)?.is_some_and(|link| !reconcile::is_our_bridge(&link)) {
                return Err(NetworkError::ForeignLink(plan.bridge.name.clone()));
            }
        }
        self.state.set_extra_bridge(plan)?;
        self.picture().add_bridge(plan);
        if let Err(error) = reconcile::ensure_bridge(self, &plan.bridge) {
            self.delete_bridge(&plan.key)?;
            return Err(error);
        }
        Ok(())
    }

    /// The bridges of an earlier run.
    pub(crate) fn restore_bridges(&self) -> Result<()> {
        for plan in self.state.extra_bridges()? {
            self.picture().add_bridge(&plan);
        }
        Ok(())
    }

    /// Removes the bridges that go with their last container. A failure is for the next to mend.
    pub(crate) fn drop_unused_bridges(&self) {
        let unused = |picture: &Picture| -> Vec<String> {
            let is_unused = |key: &&String| picture.pools.get(*key).is_none_or(AddressPool::is_unused);
            picture.transient.iter().filter(is_unused).cloned().collect()
        };
        if unused(&self.picture()).is_empty() {
            return;
        }
        let _wiring = self.wiring.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = unused(&self.picture());
        for key in unused {
            if let Err(error) = self.delete_bridge(&key) {
                tracing::warn!(bridge = key, %error, "cannot remove a bridge that nobody uses");
            }
        }
    }

    fn delete_bridge(&self, key: &str) -> Result<()> {
        let link = {
            let mut picture = self.picture();
            picture.pools.remove(key);
            picture.transient.remove(key);
            picture.network.bridges.remove(key).map(|bridge| bridge.name)
        };
        let flushed = self.flush();
        if let Some(link) = link {
            self.links().remove(Target::Name(&link))?;
        }
        self.state.remove_bridge(key)?;
        flushed
    }
}

impl Picture {
    pub(crate) fn add_bridge(&mut self, plan: &BridgePlan) {
        let mut pool = AddressPool::new(plan.bridge.subnet, plan.bridge.gateway);
        if let Some(range) = plan.range {
            pool = pool.within(range);
        }
        plan.reserved.iter().for_each(|address| pool.quarantine(*address));
        self.pools.insert(plan.key.clone(), pool);
        if plan.transient {
            self.transient.insert(plan.key.clone());
        }
        self.network.bridges.insert(plan.key.clone(), plan.bridge.clone());
    }

    /// Gives the addresses back.
    pub(crate) fn release(&mut self, endpoint: &skep_dataplane::Endpoint) {
        for leg in &endpoint.legs {
            if let Some(pool) = self.pools.get_mut(&leg.bridge) {
                pool.release(leg.address);
            }
        }
    }

    /// Holds the addresses back: something may still use them.
    pub(crate) fn quarantine(&mut self, endpoint: &skep_dataplane::Endpoint) {
        for leg in &endpoint.legs {
            if let Some(pool) = self.pools.get_mut(&leg.bridge) {
                pool.release(leg.address);
                pool.quarantine(leg.address);
            }
        }
    }
}
