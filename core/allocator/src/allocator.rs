//! The loop: follows who holds which port, gives services their ports and lets new tasks pass.

use std::collections::{BTreeMap, BTreeSet};

use skep_control::{ControlLoop, Env, InFlight, Plan};
use skep_model::{Endpoint, PortConfig, Service, ServiceId, Task, TaskId, TaskState};
use skep_store::{AtomicGroup, Change, Event, Precondition, State};

use crate::ports::{PortConflict, PortTable, ingress_keys};

/// Most groups of changes in one plan; the rest follows in the next step, which is asked for at once.
pub(crate) const PLAN_MAX: usize = 4096;

/// The allocator.
#[derive(Debug, Default)]
pub struct Allocator {
    ports: PortTable,
    /// New tasks by service: they wait for what is unique.
    waiting: BTreeMap<ServiceId, BTreeSet<TaskId>>,
    /// Services to be looked at in this step.
    dirty: BTreeSet<ServiceId>,
    /// Services that could not get their ports; tried again when one becomes free.
    conflicted: BTreeSet<ServiceId>,
    endpoints_in_flight: InFlight<ServiceId, Vec<PortConfig>>,
    /// Tasks that are let pass, with the ports that are held for them meanwhile.
    tasks_in_flight: InFlight<TaskId, Vec<PortConfig>>,
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
        while let Some(id) = self.dirty.pop_first() {
            if plan.changes.len() >= PLAN_MAX {
                self.dirty.insert(id);
                plan.wake(env.now);
                break;
            }
            let Some(service) = view.service(id) else { continue };
            self.give_ports(view, service, &mut plan);
            self.let_tasks_pass(view, service, env, &mut plan);
        }
        plan
    }
}

// Following what happens.
impl Allocator {
    fn reset(&mut self, view: &State) {
        *self = Self::default();
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
            Event::Reset | Event::Cluster(..) | Event::Node(..) | Event::Secret(..) | Event::Config(..) => {}
        }
    }

    fn observe_service(&mut self, id: ServiceId, before: Option<&Service>, after: Option<&Service>) {
        let planned = self.endpoints_in_flight.settle(&id, after.map(|service| service.endpoint.version));
        if self.endpoints_in_flight.contains(&id) {
            return; // the ports on their way stay held
        }
        let old = planned.as_deref().or(before.map(|service| service.endpoint.ports.as_slice())).unwrap_or_default();
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
        let planned = self.tasks_in_flight.settle(&task.id, after.map(|task| task.attachment.version));
        for key in ingress_keys(&planned.unwrap_or_default()) {
            self.release(key, service, |hold| hold.tasks = hold.tasks.saturating_sub(1));
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
    /// Gives a service its ports, unless it has them or they are on their way.
    fn give_ports(&mut self, view: &State, service: &Service, plan: &mut Plan) {
        if self.endpoints_in_flight.contains(&service.id) || has_endpoint(service) {
            self.conflicted.remove(&service.id);
            return;
        }
        let old = &service.endpoint;
        let endpoint = match self.ports.choose(service.id, service.spec.ports(), &old.ports) {
            Ok(ports) => {
                self.conflicted.remove(&service.id);
                Endpoint { allocated_for: Some(service.spec_version), ports, reason: None, ..Endpoint::default() }
            }
            Err(conflict) => {
                self.conflicted.insert(service.id);
                // Tasks of the revision before keep what they have.
                Endpoint { reason: Some(explain(view, service, &conflict)), ..old.clone() }
            }
        };
        if endpoint.reason.is_some() && endpoint.reason == old.reason {
            return;
        }
        plan.notes.extend(endpoint.reason.clone());
        for key in ingress_keys(&endpoint.ports) {
            self.ports.change(key, service.id, |hold| hold.by_service = true);
        }
        // Until it is seen both the old and the new ports are held.
        let both = [old.ports.as_slice(), &endpoint.ports].concat();
        self.endpoints_in_flight.propose(service.id, Some(old.version), both);
        plan.propose(
            AtomicGroup::of(Change::SetEndpoint { service: service.id, expect: old.version, endpoint })
                .when(Precondition::ServiceRevision { service: service.id, spec_version: service.spec_version }),
        );
    }

    /// Lets the new tasks of a service pass, or tells them what they wait for.
    fn let_tasks_pass(&mut self, view: &State, service: &Service, env: &Env, plan: &mut Plan) {
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
            let (is_given, ports, reason) = match self.ports_for(view, service, task) {
                Ok(ports) => (true, ports, None),
                Err(reason) => (false, Vec::new(), reason),
            };
            if !is_given && (reason.is_none() || reason == task.attachment.reason) {
                continue; // what it waits for is on its way, or was said
            }
            for key in ingress_keys(&ports) {
                self.ports.change(key, service.id, |hold| hold.tasks += 1);
            }
            self.tasks_in_flight.propose(id, Some(task.attachment.version), ports.clone());
            plan.propose(
                AtomicGroup::of(Change::Attach {
                    task: id,
                    expect: task.attachment.version,
                    done: is_given,
                    ports,
                    reason,
                })
                .when(Precondition::EndpointIs(service.id, service.endpoint.version)),
            );
        }
    }
}

impl Allocator {
    /// The ports of a task, or why it has none yet (`None`: they are on their way).
    fn ports_for(&mut self, view: &State, service: &Service, task: &Task) -> Result<Vec<PortConfig>, Option<String>> {
        let (wanted, endpoint) = (view.spec_of(task).ports(), &service.endpoint);
        let is_current = task.spec_version == service.spec_version;
        if wanted.is_empty() {
            Ok(Vec::new())
        } else if endpoint.allocated_for == Some(task.spec_version) && (endpoint.reason.is_none() || !is_current) {
            Ok(endpoint.ports.clone())
        } else if is_current || self.endpoints_in_flight.contains(&service.id) {
            Err(endpoint.reason.clone().filter(|_| is_current))
        } else {
            // While an update is paused a task may follow one of a revision before the current one.
            let is_sibling = |other: &&std::sync::Arc<Task>| {
                other.spec_version == task.spec_version && other.attachment.done.is_some()
            };
            let sibling = view.tasks_of_service(service.id).find(is_sibling);
            let known = sibling.map_or(endpoint.ports.as_slice(), |sibling| &sibling.attachment.ports);
            self.ports.choose(service.id, wanted, known).map_err(|conflict| {
                self.conflicted.insert(service.id);
                Some(explain(view, service, &conflict))
            })
        }
    }
}

/// True when a service has what its current revision asks for.
fn has_endpoint(service: &Service) -> bool {
    let endpoint = &service.endpoint;
    if service.spec.ports().is_empty() && endpoint.ports.is_empty() {
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
