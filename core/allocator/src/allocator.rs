//! The loop: follows who holds which port, gives services their ports and lets new tasks pass.

use std::collections::{BTreeMap, BTreeSet};

use skep_control::{ControlLoop, Env, InFlight, Plan};
use skep_model::{
    Cidr, Endpoint, Network, NetworkId, PortConfig, Service, ServiceId, Task, TaskId, TaskNetwork, TaskState, VirtualIp,
};
use skep_store::{AtomicGroup, Change, Event, Precondition, State};

use crate::addresses::{AddressBook, addresses, virtual_addresses};
use crate::networks::{self, Lack};
use crate::ports::{PortConflict, PortTable, ingress_keys};

/// Most groups of changes in one plan; the rest follows in the next step, which is asked for at once.
pub(crate) const PLAN_MAX: usize = 4096;

/// The allocator.
#[derive(Debug, Default)]
pub struct Allocator {
    ports: PortTable,
    book: AddressBook,
    /// Networks to be looked at in this step.
    dirty_networks: BTreeSet<NetworkId>,
    /// Networks without a subnet; tried again when one becomes free.
    poor_networks: BTreeSet<NetworkId>,
    /// New tasks by service: they wait for what is unique.
    waiting: BTreeMap<ServiceId, BTreeSet<TaskId>>,
    /// Services to be looked at in this step.
    dirty: BTreeSet<ServiceId>,
    /// Services that could not get their ports or addresses; tried again when one becomes free.
    conflicted: BTreeSet<ServiceId>,
    networks_in_flight: InFlight<NetworkId>,
    endpoints_in_flight: InFlight<ServiceId, PlannedEndpoint>,
    /// Tasks that are let pass, with what is held for them meanwhile.
    tasks_in_flight: InFlight<TaskId, PlannedTask>,
}

/// What an endpoint on its way holds.
#[derive(Debug, Default)]
struct PlannedEndpoint {
    /// Both the old and the new ports.
    ports: Vec<PortConfig>,
    /// The new addresses; the old ones are held by the service.
    virtual_ips: Vec<VirtualIp>,
}

/// What an attachment on its way holds.
#[derive(Debug, Default)]
struct PlannedTask {
    ports: Vec<PortConfig>,
    networks: Vec<TaskNetwork>,
}

impl ControlLoop for Allocator {
    fn name(&self) -> &'static str {
        "allocator"
    }

    fn step(&mut self, view: &State, events: &[Event], env: &mut Env) -> Plan {
        if events.iter().any(|event| matches!(event, Event::Reset)) {
            self.reset(view);
        } else {
            events.iter().for_each(|event| self.observe(event));
        }
        let mut plan = Plan::default();
        let mut networks: Vec<_> =
            std::mem::take(&mut self.dirty_networks).into_iter().filter_map(|id| view.network(id)).collect();
        // The routing mesh gets the first subnet; then who came first.
        networks.sort_by_key(|network| (!network.spec.ingress, network.meta.version, network.id));
        for network in networks {
            self.give_subnet(view, network, &mut plan);
        }
        while let Some(id) = self.dirty.pop_first() {
            if plan.changes.len() >= PLAN_MAX {
                self.dirty.insert(id);
                plan.wake(env.now);
                break;
            }
            let Some(service) = view.service(id) else { continue };
            self.give_endpoint(view, service, &mut plan);
            self.let_tasks_pass(view, service, env, &mut plan);
        }
        plan
    }
}

// Following what happens.
impl Allocator {
    fn reset(&mut self, view: &State) {
        *self = Self::default();
        for network in view.networks() {
            self.observe_network(network.id, Some(network));
        }
        for service in view.services() {
            self.observe_service(service.id, None, Some(service));
        }
        for task in view.tasks() {
            self.observe_task(None, Some(task));
        }
        // Who waited for a free port is not known any more.
        self.dirty.extend(view.services().map(|service| service.id));
    }

    fn observe(&mut self, event: &Event) {
        match event {
            Event::Service(before, after) => {
                if let Some(service) = after.as_ref().or(before.as_ref()) {
                    self.observe_service(service.id, before.as_deref(), after.as_deref());
                }
            }
            Event::Task(before, after) => self.observe_task(before.as_deref(), after.as_deref()),
            Event::Network(before, after) => {
                if let Some(network) = after.as_ref().or(before.as_ref()) {
                    self.observe_network(network.id, after.as_deref());
                }
            }
            Event::Reset | Event::Cluster(..) | Event::Node(..) | Event::Secret(..) | Event::Config(..) => {}
        }
    }

    fn observe_network(&mut self, id: NetworkId, after: Option<&Network>) {
        self.networks_in_flight.settle(&id, after.map(|network| network.allocation.version));
        match after {
            Some(network) if network.is_allocated() => {
                self.book.open(network);
                self.dirty.append(&mut self.conflicted);
            }
            Some(network) if network.allocation.reason.is_some() => {
                self.poor_networks.insert(id);
                self.dirty.append(&mut self.conflicted);
            }
            Some(_) => drop(self.dirty_networks.insert(id)),
            None => {
                self.poor_networks.remove(&id);
                self.book.close(id);
                self.something_is_free();
            }
        }
    }

    /// Somebody may wait for what was just let go.
    fn something_is_free(&mut self) {
        self.dirty.append(&mut self.conflicted);
        self.dirty_networks.append(&mut self.poor_networks);
    }

    fn hold_all(&mut self, held: impl IntoIterator<Item = (NetworkId, Cidr)>) {
        held.into_iter().for_each(|(network, address)| self.book.hold(network, address));
    }

    fn release_all(&mut self, held: impl IntoIterator<Item = (NetworkId, Cidr)>) {
        let mut is_free = false;
        for (network, address) in held {
            is_free |= self.book.release(network, address);
        }
        if is_free {
            self.something_is_free();
        }
    }

    fn observe_service(&mut self, id: ServiceId, before: Option<&Service>, after: Option<&Service>) {
        let ips =
            |service: Option<&Service>| service.map(|service| service.endpoint.virtual_ips.clone()).unwrap_or_default();
        if before.map(|service| &service.endpoint.virtual_ips) != after.map(|service| &service.endpoint.virtual_ips) {
            self.hold_all(virtual_addresses(&ips(after)));
            self.release_all(virtual_addresses(&ips(before)));
        }
        let planned = self.endpoints_in_flight.settle(&id, after.map(|service| service.endpoint.version));
        if self.endpoints_in_flight.contains(&id) {
            return; // the ports on their way stay held
        }
        if let Some(planned) = &planned {
            self.release_all(virtual_addresses(&planned.virtual_ips));
        }
        let old = planned.as_ref().map(|planned| planned.ports.as_slice());
        let old = old.or(before.map(|service| service.endpoint.ports.as_slice())).unwrap_or_default();
        let new = after.map_or(&[][..], |service| &service.endpoint.ports);
        for key in ingress_keys(new) {
            self.ports.change(key, id, |hold| hold.by_service = true);
        }
        let kept: BTreeSet<_> = ingress_keys(new).collect();
        for key in ingress_keys(old).filter(|key| !kept.contains(key)) {
            self.release(key, id, |hold| hold.by_service = false);
            // Also when tasks still hold it: it is they who are waited for now.
            self.dirty.append(&mut self.conflicted);
        }
        if after.is_some() {
            self.dirty.insert(id);
        } else {
            self.waiting.remove(&id);
            self.conflicted.remove(&id);
        }
    }

    fn observe_task(&mut self, before: Option<&Task>, after: Option<&Task>) {
        let Some(task) = after.or(before) else { return };
        let service = task.service_id;
        let held = |task: Option<&Task>| -> Vec<_> {
            task.filter(|task| holds_ports(task))
                .map_or_else(Vec::new, |task| ingress_keys(&task.attachment.ports).collect())
        };
        let (old, new) = (held(before), held(after));
        if old != new {
            for key in new {
                self.ports.change(key, service, |hold| hold.tasks += 1);
            }
            for key in old {
                self.release(key, service, |hold| hold.tasks = hold.tasks.saturating_sub(1));
            }
        }
        let places = |task: Option<&Task>| -> Vec<(NetworkId, Cidr)> {
            task.filter(|task| !task.state().is_terminal()).map_or_else(Vec::new, |task| {
                let attachment = &task.attachment;
                addresses(&attachment.networks).chain(virtual_addresses(&attachment.virtual_ips)).collect()
            })
        };
        let (old, new) = (places(before), places(after));
        if old != new {
            self.hold_all(new);
            self.release_all(old);
        }
        if let Some(planned) = self.tasks_in_flight.settle(&task.id, after.map(|task| task.attachment.version)) {
            for key in ingress_keys(&planned.ports) {
                self.release(key, service, |hold| hold.tasks = hold.tasks.saturating_sub(1));
            }
            self.release_all(addresses(&planned.networks));
        }
        if after.is_some_and(|task| task.state() == TaskState::New) {
            self.waiting.entry(service).or_default().insert(task.id);
            self.dirty.insert(service);
        } else if let Some(waiting) = self.waiting.get_mut(&service) {
            waiting.remove(&task.id);
            if waiting.is_empty() {
                self.waiting.remove(&service);
            }
        }
    }

    fn release(
        &mut self,
        key: (skep_model::Protocol, u16),
        service: ServiceId,
        edit: impl FnOnce(&mut crate::ports::Hold),
    ) {
        if self.ports.change(key, service, edit) {
            self.dirty.append(&mut self.conflicted);
        }
    }
}

/// True while a task keeps its ports from others: from the moment it was given them until it has ended. (A task that was
/// never placed and is not wanted any more has ended.)
fn holds_ports(task: &Task) -> bool {
    task.attachment.done.is_some() && !task.state().is_terminal()
}

// Giving.
impl Allocator {
    /// Gives a network its subnet, unless it has one or it is on its way.
    fn give_subnet(&mut self, view: &State, network: &Network, plan: &mut Plan) {
        if network.is_allocated() || self.networks_in_flight.contains(&network.id) {
            return;
        }
        let allocation = networks::allocate(view, &mut self.book, network);
        if allocation.reason.is_some() {
            self.poor_networks.insert(network.id);
            if allocation.reason == network.allocation.reason {
                return;
            }
        }
        plan.notes.extend(allocation.reason.as_ref().map(|reason| format!("network {}: {reason}", network.spec.name)));
        self.networks_in_flight.propose(network.id, Some(network.allocation.version), ());
        plan.propose(AtomicGroup::of(networks::change(network, allocation)));
    }

    /// Gives a service its ports and addresses, unless it has them or they are on their way.
    fn give_endpoint(&mut self, view: &State, service: &Service, plan: &mut Plan) {
        if self.endpoints_in_flight.contains(&service.id) || has_endpoint(view, service) {
            self.conflicted.remove(&service.id);
            return;
        }
        let old = &service.endpoint;
        let endpoint = match self.choose_endpoint(view, service) {
            Ok(endpoint) => {
                self.conflicted.remove(&service.id);
                endpoint
            }
            Err(lack) => {
                self.conflicted.insert(service.id);
                let Lack::Reason(reason) = lack else { return };
                // Tasks of the revision before keep what they have.
                let kept = Endpoint { reason: Some(reason), ..old.clone() };
                if kept.reason == old.reason {
                    return;
                }
                self.hold_all(virtual_addresses(&kept.virtual_ips));
                kept
            }
        };
        plan.notes.extend(endpoint.reason.clone());
        for key in ingress_keys(&endpoint.ports) {
            self.ports.change(key, service.id, |hold| hold.by_service = true);
        }
        // Until it is seen both the old and the new ports are held.
        let ports = [old.ports.as_slice(), &endpoint.ports].concat();
        let planned = PlannedEndpoint { ports, virtual_ips: endpoint.virtual_ips.clone() };
        self.endpoints_in_flight.propose(service.id, Some(old.version), planned);
        plan.propose(
            AtomicGroup::of(Change::SetEndpoint { service: service.id, expect: old.version, endpoint })
                .when(Precondition::ServiceRevision { service: service.id, spec_version: service.spec_version }),
        );
    }

    /// Ports and addresses for the current revision. The addresses are held once more.
    fn choose_endpoint(&mut self, view: &State, service: &Service) -> Result<Endpoint, Lack> {
        let old = &service.endpoint;
        let ports = self
            .ports
            .choose(service.id, service.spec.ports(), &old.ports)
            .map_err(|conflict| Lack::Reason(explain(view, service, &conflict)))?;
        let virtual_ips = networks::virtual_ips(view, &mut self.book, service, &old.virtual_ips)?;
        let allocated_for = Some(service.spec_version);
        Ok(Endpoint { allocated_for, ports, virtual_ips, reason: None, ..Endpoint::default() })
    }

    /// Lets the new tasks of a service pass, or tells them what they wait for.
    fn let_tasks_pass(&mut self, view: &State, service: &Service, env: &Env, plan: &mut Plan) {
        if self.endpoints_in_flight.contains(&service.id) {
            return; // looked at again when it is seen
        }
        let Some(waiting) = self.waiting.get(&service.id) else { return };
        let waiting: Vec<TaskId> =
            waiting.iter().filter(|task| !self.tasks_in_flight.contains(task)).copied().collect();
        for id in waiting {
            if plan.changes.len() >= PLAN_MAX {
                self.dirty.insert(service.id);
                plan.wake(env.now);
                return;
            }
            let Some(task) = view.task(id).filter(|task| task.state() == TaskState::New) else { continue };
            let given = match self.choose_attachment(view, service, task) {
                Ok(given) => given,
                Err(lack) => {
                    self.conflicted.insert(service.id);
                    match lack {
                        Lack::Reason(reason) if Some(&reason) != task.attachment.reason.as_ref() => {
                            Given { reason: Some(reason), ..Given::default() }
                        }
                        // What it waits for is on its way, or was said.
                        _ => continue,
                    }
                }
            };
            for key in ingress_keys(&given.ports) {
                self.ports.change(key, service.id, |hold| hold.tasks += 1);
            }
            let planned = PlannedTask { ports: given.ports.clone(), networks: given.networks.clone() };
            self.tasks_in_flight.propose(id, Some(task.attachment.version), planned);
            plan.propose(
                AtomicGroup::of(Change::Attach {
                    task: id,
                    expect: task.attachment.version,
                    done: given.reason.is_none(),
                    ports: given.ports,
                    networks: given.networks,
                    virtual_ips: given.virtual_ips,
                    reason: given.reason,
                })
                .when(Precondition::EndpointIs(service.id, service.endpoint.version)),
            );
        }
    }

    /// What a new task is given. Its addresses are held once.
    fn choose_attachment(&mut self, view: &State, service: &Service, task: &Task) -> Result<Given, Lack> {
        let (spec, endpoint) = (view.spec_of(task), &service.endpoint);
        let is_current = task.spec_version == service.spec_version;
        let mut given = Given { ports: self.ports_for(view, service, task)?, ..Given::default() };
        if !networks::has_networks(view, spec) {
            return Ok(given);
        }
        if networks::has_virtual_ips(view, spec) {
            let is_given = endpoint.allocated_for == Some(task.spec_version) && endpoint.reason.is_none();
            if is_current && !is_given {
                return Err(endpoint.reason.clone().map_or(Lack::Wait, Lack::Reason));
            }
            given.virtual_ips.clone_from(&endpoint.virtual_ips);
        }
        given.networks = networks::places(view, &mut self.book, spec)?;
        Ok(given)
    }

    /// The ports of a task.
    fn ports_for(&mut self, view: &State, service: &Service, task: &Task) -> Result<Vec<PortConfig>, Lack> {
        let (wanted, endpoint) = (view.spec_of(task).ports(), &service.endpoint);
        let is_current = task.spec_version == service.spec_version;
        if wanted.is_empty() {
            Ok(Vec::new())
        } else if endpoint.allocated_for == Some(task.spec_version) && (endpoint.reason.is_none() || !is_current) {
            Ok(endpoint.ports.clone())
        } else if is_current {
            Err(endpoint.reason.clone().map_or(Lack::Wait, Lack::Reason))
        } else {
            // While an update is paused a task may follow one of a revision before the current one.
            let is_sibling = |other: &&std::sync::Arc<Task>| {
                other.spec_version == task.spec_version && other.attachment.done.is_some()
            };
            let sibling = view.tasks_of_service(service.id).find(is_sibling);
            let known = sibling.map_or(endpoint.ports.as_slice(), |sibling| &sibling.attachment.ports);
            self.ports
                .choose(service.id, wanted, known)
                .map_err(|conflict| Lack::Reason(explain(view, service, &conflict)))
        }
    }
}

/// What a new task is given.
#[derive(Debug, Default)]
struct Given {
    ports: Vec<PortConfig>,
    networks: Vec<TaskNetwork>,
    virtual_ips: Vec<VirtualIp>,
    reason: Option<String>,
}

/// True when a service has what its current revision asks for.
fn has_endpoint(view: &State, service: &Service) -> bool {
    let endpoint = &service.endpoint;
    let wants_nothing = service.spec.ports().is_empty() && !networks::has_virtual_ips(view, &service.spec);
    if wants_nothing && endpoint.ports.is_empty() && endpoint.virtual_ips.is_empty() {
        return endpoint.reason.is_none();
    }
    endpoint.allocated_for == Some(service.spec_version) && endpoint.reason.is_none()
}

fn explain(view: &State, service: &Service, conflict: &PortConflict) -> String {
    let name = &service.spec.name;
    match conflict {
        PortConflict::Held { port: (protocol, number), by, hold } => {
            let tried = format!("cannot publish port {number}/{} for service \"{name}\"", protocol.name());
            match view.service(*by) {
                Some(other) if hold.by_service => {
                    format!("{tried}: already published by service \"{}\"", other.spec.name)
                }
                Some(other) => {
                    format!("{tried}: a task of service \"{}\" still has it until it has stopped", other.spec.name)
                }
                None => {
                    let past = view.tasks_of_service(*by).next().map(|task| view.spec_of(task).name.clone());
                    let past = past.map_or_else(|| by.to_string(), |past| format!("\"{past}\""));
                    format!("{tried}: a task of the removed service {past} still has it until it has stopped")
                }
            }
        }
        PortConflict::Exhausted(protocol) => format!(
            "cannot choose a {} port for service \"{name}\": all of {}-{} are published; name a port or remove a service",
            protocol.name(),
            crate::DYNAMIC_FIRST,
            crate::DYNAMIC_LAST
        ),
    }
}
