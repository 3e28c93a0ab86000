//! The invariants of networks: nobody shares what must be unique.

use std::collections::BTreeMap;

use skep_model::{Cidr, NetworkId, VXLAN_ID_LIST};
use skep_store::State;

/// Source: `core/allocator`: an address belongs to one service or one task that has not ended.
pub(crate) fn addresses_are_unique(state: &State, found: &mut Vec<String>) {
    let mut held: BTreeMap<(NetworkId, Cidr), String> = BTreeMap::new();
    let mut hold = |network, address, who: String| {
        if let Some(other) = held.insert((network, address), who.clone())
            && other != who
        {
            found.push(format!("{who} and {other} have address {address} of network {network}"));
        }
    };
    for service in state.services() {
        for ip in &service.endpoint.virtual_ips {
            hold(ip.network, ip.address, format!("service {}", service.id));
        }
    }
    for task in state.tasks().filter(|task| !task.state().is_terminal()) {
        for place in &task.attachment.networks {
            for address in &place.addresses {
                hold(place.network, *address, format!("task {}", task.id));
            }
        }
        for ip in &task.attachment.virtual_ips {
            hold(ip.network, ip.address, format!("service {}", task.service_id));
        }
    }
}

/// Source: `core/allocator`: subnets do not overlap and no VXLAN id is given twice.
pub(crate) fn subnets_are_apart(state: &State, found: &mut Vec<String>) {
    let mut subnets: Vec<(Cidr, NetworkId)> = Vec::new();
    let mut vnis: BTreeMap<String, NetworkId> = BTreeMap::new();
    for network in state.networks() {
        for config in &network.allocation.ipam.configs {
            let Ok(subnet) = config.subnet.parse::<Cidr>() else {
                found.push(format!("network {} has subnet {:?}", network.id, config.subnet));
                continue;
            };
            if let Some((other, by)) = subnets.iter().find(|(other, _)| other.overlaps(subnet)) {
                found.push(format!("subnet {subnet} of network {} overlaps {other} of {by}", network.id));
            }
            subnets.push((subnet, network.id));
        }
        let vni = network.allocation.driver.as_ref().and_then(|driver| driver.options.get(VXLAN_ID_LIST));
        if let Some(other) = vni.and_then(|vni| vnis.insert(vni.clone(), network.id)) {
            found.push(format!("networks {} and {other} have one VXLAN id", network.id));
        }
    }
}
