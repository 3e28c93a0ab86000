//! After a restart: the bridge, the endpoints and the ports of an earlier run are found again, and what belongs to
//! nobody is removed.

use crate::error::{NetworkError, Result, Tried};
use crate::link::{self, Links, Target};
use crate::network::{AdoptReport, Network, NetworkConfig, PublishReport, RefusedPort};
use crate::publish::accept;
use crate::state::State;
use crate::{endpoint, namespace, reconcile};
use skep_dataplane::network::host_link_name;
use skep_dataplane::{Bridge, Leg, Reach, Subnet, first_free_subnet};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

impl Network {
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

    /// Finds what an earlier run left: endpoints whose namespace lives, and the ports that led to them.
    pub(crate) fn restore(&self) -> Result<()> {
        {
            let mut ports = self.ports();
            let mut picture = self.picture();
            for (container, legs) in self.state.endpoints()? {
                let Some(legs) = legs else { continue };
                let mut found = self.derive(&container, Ipv4Addr::UNSPECIFIED);
                found.legs.clear();
                if !namespace::is_pin(Path::new(&found.netns)) {
                    continue;
                }
                for (bridge, address, link) in legs {
                    if picture.pools.get_mut(&bridge).is_some_and(|pool| pool.claim(address).is_ok()) {
                        found.legs.push(Leg::derived(&container, &bridge, address, link));
                    }
                }
                picture.network.endpoints.insert(container, found);
            }
            let endpoints = &picture.network.endpoints;
            let mut published = self.state.published();
            for port in &mut published {
                port.backends.retain(|b| {
                    endpoints
                        .get(&b.container)
                        .is_some_and(|found| found.legs.iter().any(|leg| leg.address == b.address))
                });
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
    pub(crate) fn remove_leaks(&self) -> Result<Vec<String>> {
        let picture = self.picture();
        let wanted = |container: &str| picture.network.endpoints.contains_key(container) || picture.is_busy(container);
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
            .flat_map(|endpoint| endpoint.legs.iter().map(|leg| leg.host_link.clone()))
            .chain(picture.busy.values().flatten().cloned())
            .chain(picture.busy.keys().map(|container| host_link_name(container)))
            .collect();
        let bridges: BTreeSet<String> = picture.network.all_bridges().map(|(_, bridge)| bridge.name.clone()).collect();
        let mut links = self.links();
        let is_leak = |found: &link::Link| {
            (endpoint::is_ours(found) && !live.contains(&found.name))
                || (reconcile::is_our_bridge(found) && !bridges.contains(&found.name))
        };
        for found in links.all()?.into_iter().filter(is_leak) {
            if links.remove(Target::Index(found.index))? {
                removed.push(found.name);
            }
        }
        drop((links, picture));
        self.drop_unused_bridges();
        Ok(removed)
    }
}

/// The bridge of an earlier run, or a new one with a subnet that nothing here uses, written down before it is made.
pub(crate) fn choose_bridge(config: &NetworkConfig, state: &State, links: &mut Links) -> Result<Bridge> {
    let chosen = state.bridge()?.map(|bridge| Bridge { isolated: config.isolated, ..bridge });
    let name = chosen.as_ref().map_or(&config.bridge_name, |bridge| &bridge.name).clone();
    let existing = links.find(&name)?;
    if existing.as_ref().is_some_and(|link| link.kind.as_deref() != Some("bridge") || link.group != link::OUR_GROUP) {
        return Err(NetworkError::ForeignLink(name));
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
    let (gateway, mtu, isolated) = (subnet.gateway(), config.mtu, config.isolated);
    let bridge = Bridge { name, subnet, gateway, mtu, reach: Reach::Outward, isolated };
    bridge.validate()?;
    state.set_bridge(&bridge)?;
    Ok(bridge)
}
