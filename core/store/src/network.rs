//! Networks in the state: how they are read, and the changes about them.

use std::sync::Arc;

use skep_model::{GroupVersion, Network, NetworkAllocation, NetworkId, ObjectId as _, PublishMode, Service};

use crate::apply::{expect_group, new_meta, not_found};
use crate::state::NAMESPACE;
use crate::{Event, NewNetwork, Rejection, State};

impl State {
    /// All networks by id, those that stand for the nodes' own included.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    /// One network.
    #[must_use]
    pub fn network(&self, id: NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(&id)
    }

    /// The network of this name; case does not matter.
    #[must_use]
    pub fn network_by_name(&self, name: &str) -> Option<&Arc<Network>> {
        self.network(*self.network_names.get(&(NAMESPACE, name.to_lowercase()))?)
    }

    /// The network of the routing mesh.
    #[must_use]
    pub fn ingress(&self) -> Option<&Arc<Network>> {
        self.networks().find(|network| network.spec.ingress)
    }

    /// A service that names the network, or publishes ports through it.
    #[must_use]
    pub fn user_of_network(&self, network: &Network) -> Option<&Arc<Service>> {
        self.services().find(|service| names(service, network.id) || (network.spec.ingress && publishes(service)))
    }

    /// Adds a network that is known to be sound; false when its id or name is there already.
    pub(crate) fn add_network(&mut self, network: Network) -> bool {
        let id = network.id;
        let name = (NAMESPACE, network.spec.name.to_lowercase());
        if self.network_names.insert(name, id).is_some() {
            return false;
        }
        self.networks.insert(id, Arc::new(network)).is_none()
    }
}

fn names(service: &Service, network: NetworkId) -> bool {
    service.spec.networks().iter().any(|attachment| attachment.target == network.as_str())
}

fn publishes(service: &Service) -> bool {
    service.spec.ports().iter().any(|port| port.mode == PublishMode::Ingress)
}

pub(crate) fn find(state: &State, id: NetworkId) -> Result<&Arc<Network>, Rejection> {
    state.network(id).ok_or_else(|| not_found("network", &id))
}

pub(crate) fn check_unused(state: &State, id: NetworkId) -> Result<(), Rejection> {
    let network = find(state, id)?;
    match state.user_of_network(network) {
        Some(service) => Err(Rejection::Unmet(format!("network {id} is in use by service {}", service.id))),
        None => Ok(()),
    }
}

pub(crate) fn create(state: &mut State, new: &NewNetwork, events: &mut Vec<Event>) -> Result<(), Rejection> {
    if state.networks.contains_key(&new.id) {
        return Err(Rejection::Exists { kind: "network", id: new.id.to_string() });
    }
    if state.network_by_name(&new.spec.name).is_some() {
        return Err(Rejection::NameConflict { kind: "network", name: new.spec.name.clone() });
    }
    if new.spec.ingress
        && let Some(other) = state.ingress()
    {
        return Err(Rejection::Invalid(format!("ingress network ({}) is already present", other.id)));
    }
    let network =
        Network { id: new.id, meta: new_meta(state), spec: new.spec.clone(), allocation: NetworkAllocation::default() };
    state.add_network(network);
    events.push(Event::Network(None, state.network(new.id).cloned()));
    Ok(())
}

pub(crate) fn allocate(
    state: &mut State,
    id: NetworkId,
    expect: GroupVersion,
    allocation: &NetworkAllocation,
    events: &mut Vec<Event>,
) -> Result<(), Rejection> {
    let before = find(state, id)?.clone();
    expect_group(before.allocation.version, expect, "network", &id, "allocation")?;
    let mut network = (*before).clone();
    network.allocation = NetworkAllocation { version: GroupVersion(state.index), ..allocation.clone() };
    network.meta.updated_at = state.wall;
    let after = Arc::new(network);
    state.networks.insert(id, after.clone());
    events.push(Event::Network(Some(before), Some(after)));
    Ok(())
}

pub(crate) fn remove(state: &mut State, id: NetworkId, events: &mut Vec<Event>) -> Result<(), Rejection> {
    let before = state.networks.remove(&id).ok_or_else(|| not_found("network", &id))?;
    state.network_names.remove(&(NAMESPACE, before.spec.name.to_lowercase()));
    events.push(Event::Network(Some(before), None));
    Ok(())
}
