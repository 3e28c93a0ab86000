//! The state checker: lints a whole cluster state. One function for each invariant, each citing where the rule comes from.
//! Unit tests, property tests and the simulator use it; every committed state passes.

use std::collections::{BTreeMap, BTreeSet};

use skep_model::{
    ClusterTime, DesiredState, GenericResource, NodeId, Protocol, PublishMode, ServiceId, Slot, SpecVersion, Task,
    TaskId, TaskState,
};
use skep_store::State;

use crate::check_networks;

/// A rule that a state breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub invariant: &'static str,
    /// Where.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

type Check = fn(&State, &mut Vec<String>);

/// All invariants of one state by name.
const INVARIANTS: [(&str, Check); 16] = [
    ("indexes agree with tables", indexes_agree),
    ("every named revision is stored", revisions_are_stored),
    ("no revision is kept without use", revisions_are_used),
    ("service names are unique", names_are_unique),
    ("what a task went through is complete", tasks_are_complete),
    ("one wanted task of a revision in a slot, two of two", slots_are_unique),
    ("a task waits only for one of its slot", waiting_is_within_a_slot),
    ("live tasks are on known nodes", nodes_are_known),
    ("no node is promised more than it has", nodes_are_not_overbooked),
    ("no host port twice on a node", host_ports_are_unique),
    ("no published port twice", published_ports_are_unique),
    ("no address twice", check_networks::addresses_are_unique),
    ("subnets are apart", check_networks::subnets_are_apart),
    ("no more tasks on a node than the service allows", max_replicas_hold),
    ("nothing happened later than now", times_are_past),
    ("services use secrets and configs that are there", references_lead_somewhere),
];

/// Lints a state; empty when it is sound.
#[must_use]
pub fn check_state(state: &State) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut found = Vec::new();
    for (invariant, check) in INVARIANTS {
        check(state, &mut found);
        violations.extend(found.drain(..).map(|what| Violation { invariant, what }));
    }
    violations
}

fn reservations(state: &State, task: &Task) -> (i64, i64, BTreeMap<String, i64>) {
    let Some(reserved) = &state.spec_of(task).task.resources.reservations else { return Default::default() };
    let mut generic = BTreeMap::new();
    for resource in &reserved.generic {
        let (kind, amount) = amount_of(resource);
        *generic.entry(kind).or_default() += amount;
    }
    (reserved.cpus.0, reserved.memory.0, generic)
}

fn amount_of(resource: &GenericResource) -> (String, i64) {
    match resource {
        GenericResource::Named { kind, .. } => (kind.clone(), 1),
        GenericResource::Discrete { kind, value } => (kind.clone(), *value),
    }
}

/// Source: `core/store`: tables are the truth, indexes only find things faster.
fn indexes_agree(state: &State, found: &mut Vec<String>) {
    let services: BTreeSet<ServiceId> =
        state.tasks().map(|task| task.service_id).chain(state.services().map(|service| service.id)).collect();
    let nodes: BTreeSet<NodeId> =
        state.tasks().filter_map(|task| task.placed.node).chain(state.nodes().map(|node| node.id)).collect();
    let mut by_service = 0;
    for service in services {
        for task in state.tasks_of_service(service) {
            by_service += 1;
            if task.service_id != service {
                found.push(format!("task {} is listed for service {service}", task.id));
            }
        }
    }
    if by_service != state.task_count() {
        found.push(format!("{by_service} tasks are listed by service, there are {}", state.task_count()));
    }
    let mut by_node = 0;
    for node in nodes {
        for task in state.tasks_on_node(node) {
            by_node += 1;
            if task.placed.node != Some(node) {
                found.push(format!("task {} is listed for node {node}", task.id));
            }
        }
    }
    let placed = state.tasks().filter(|task| task.placed.node.is_some()).count();
    if by_node != placed {
        found.push(format!("{by_node} tasks are listed by node, {placed} are placed"));
    }
}

/// Source: design rule 2, a task refers to its spec by service and spec version.
fn revisions_are_stored(state: &State, found: &mut Vec<String>) {
    for task in state.tasks() {
        if state.revision(task.service_id, task.spec_version).is_none() {
            found
                .push(format!("task {} runs revision {} of service {}", task.id, task.spec_version.0, task.service_id));
        }
    }
    for service in state.services() {
        match state.revision(service.id, service.spec_version) {
            None => found.push(format!("service {} has revision {}", service.id, service.spec_version.0)),
            Some(spec) if **spec != *service.spec => {
                found.push(format!("service {} has another spec than its revision", service.id));
            }
            Some(_) => {}
        }
        if let Some(previous) = &service.previous
            && state.revision(service.id, previous.spec_version).is_none()
        {
            found.push(format!("service {} had revision {}", service.id, previous.spec_version.0));
        }
    }
}

/// Source: `State::revision`, a revision lives as long as the service's current or previous spec, or a task, is of it.
fn revisions_are_used(state: &State, found: &mut Vec<String>) {
    let mut used: BTreeSet<(ServiceId, SpecVersion)> =
        state.tasks().map(|task| (task.service_id, task.spec_version)).collect();
    for service in state.services() {
        used.insert((service.id, service.spec_version));
        used.extend(service.previous.iter().map(|previous| (service.id, previous.spec_version)));
    }
    for (service, version, _) in state.revisions() {
        if !used.contains(&(service, version)) {
            found.push(format!("revision {} of service {service}", version.0));
        }
    }
}

/// Source: control plane reference §1.1, names are unique without regard to case.
fn names_are_unique(state: &State, found: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for service in state.services() {
        if !names.insert(service.spec.name.to_lowercase()) {
            found.push(service.spec.name.clone());
        }
        if state.service_by_name(&service.spec.name).map(|found| found.id) != Some(service.id) {
            found.push(format!("{:?} does not find service {}", service.spec.name, service.id));
        }
    }
}

/// Source: the task life cycle, control plane reference §2.1: new, pending, assigned, and only then what the node reports.
fn tasks_are_complete(state: &State, found: &mut Vec<String>) {
    for task in state.tasks() {
        if task.placed.node.is_some() && task.attachment.done.is_none() {
            found.push(format!("task {} is placed and was given nothing", task.id));
        }
        if task.placed.node.is_some() != task.placed.at.is_some() {
            found.push(format!("task {} has a node without a time, or a time without a node", task.id));
        }
        if let Some(status) = &task.observed {
            if task.placed.node.is_none() {
                found.push(format!("task {} is reported and has no node", task.id));
            }
            if status.state <= TaskState::Assigned || status.state == TaskState::Remove {
                found.push(format!("task {} is reported as {}", task.id, status.state.name()));
            }
        }
    }
}

/// Source: control plane reference §2.3; while a replacement waits the old task is not wanted any more. Only an update that
/// starts the new task first (§3.6) wants two: one of each revision.
fn slots_are_unique(state: &State, found: &mut Vec<String>) {
    let mut slots: BTreeMap<(ServiceId, Slot), Vec<&Task>> = BTreeMap::new();
    for task in state.tasks().filter(|task| task.intent.desired.wants_alive()) {
        slots.entry((task.service_id, task.slot)).or_default().push(task);
    }
    for ((service, slot), tasks) in slots {
        let revisions: BTreeSet<SpecVersion> = tasks.iter().map(|task| task.spec_version).collect();
        if tasks.len() > 2 || revisions.len() < tasks.len() {
            let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
            found.push(format!("tasks {ids:?} in slot {slot} of service {service}"));
        }
        if tasks.iter().any(|task| matches!(slot, Slot::Node(node) if task.placed.node.is_some_and(|on| on != node))) {
            found.push(format!("a task of slot {slot} of service {service} is on another node"));
        }
    }
}

/// Source: control plane reference §3.5, a held replacement waits for the task before it.
fn waiting_is_within_a_slot(state: &State, found: &mut Vec<String>) {
    for task in state.tasks() {
        let Some(before) = task.intent.start_after else { continue };
        if task.intent.desired != DesiredState::Ready {
            found.push(format!("task {} is not held and waits for {before}", task.id));
        }
        if state.task(before).is_some_and(|before| (before.service_id, before.slot) != (task.service_id, task.slot)) {
            found.push(format!("task {} waits for {before} of another slot", task.id));
        }
    }
}

/// Source: control plane reference §2.4, the tasks of a removed node are orphaned.
fn nodes_are_known(state: &State, found: &mut Vec<String>) {
    for task in state.tasks().filter(|task| task.occupies_node()) {
        if let Some(node) = task.placed.node.filter(|node| state.node(*node).is_none()) {
            found.push(format!("task {} is {} on unknown node {node}", task.id, task.state().name()));
        }
    }
}

/// Source: control plane reference §4.1, available is what was reported minus the reservations of tasks that have not ended.
/// A node that shrinks may break it; none does in tests.
fn nodes_are_not_overbooked(state: &State, found: &mut Vec<String>) {
    for node in state.nodes() {
        let Some(description) = &node.observed.description else { continue };
        let (mut cpus, mut memory, mut generic) = (0, 0, BTreeMap::<String, i64>::new());
        for task in state.tasks_on_node(node.id).filter(|task| task.occupies_node()) {
            let reserved = reservations(state, task);
            cpus += reserved.0;
            memory += reserved.1;
            reserved.2.into_iter().for_each(|(kind, amount)| *generic.entry(kind).or_default() += amount);
        }
        if cpus > description.cpus().0 || memory > description.memory().0 {
            found.push(format!("node {}: {cpus} CPU billionths and {memory} bytes are reserved", node.id));
        }
        let mut has: BTreeMap<String, i64> = BTreeMap::new();
        for (kind, amount) in description.generic().iter().map(amount_of) {
            *has.entry(kind).or_default() += amount;
        }
        for (kind, amount) in generic {
            if amount > has.get(&kind).copied().unwrap_or(0) {
                found.push(format!("node {}: {amount} of {kind} are reserved", node.id));
            }
        }
    }
}

/// Source: control plane reference §4.4, filter 6.
fn host_ports_are_unique(state: &State, found: &mut Vec<String>) {
    let mut ports: BTreeMap<(NodeId, Protocol, u16), TaskId> = BTreeMap::new();
    for task in state.tasks().filter(|task| task.occupies_node()) {
        let Some(node) = task.placed.node else { continue };
        for port in state.spec_of(task).ports() {
            if port.mode != PublishMode::Host || port.published_port == 0 {
                continue;
            }
            if let Some(other) = ports.insert((node, port.protocol, port.published_port), task.id) {
                found.push(format!("port {} of node {node}: tasks {other} and {}", port.published_port, task.id));
            }
        }
    }
}

/// Source: design rule 13, released when safe: also a removed service's tasks hold its ports until they have ended.
fn published_ports_are_unique(state: &State, found: &mut Vec<String>) {
    let mut holders: BTreeMap<(Protocol, u16), BTreeSet<ServiceId>> = BTreeMap::new();
    let of_services = state.services().map(|service| (service.id, &service.endpoint.ports));
    let of_tasks =
        state.tasks().filter(|task| !task.state().is_terminal()).map(|task| (task.service_id, &task.attachment.ports));
    for (service, ports) in of_services.chain(of_tasks) {
        for port in ports.iter().filter(|port| port.mode == PublishMode::Ingress) {
            if port.published_port == 0 {
                found.push(format!("service {service} was given port 0"));
            }
            holders.entry((port.protocol, port.published_port)).or_default().insert(service);
        }
    }
    for ((protocol, number), holders) in holders {
        if holders.len() > 1 {
            found.push(format!("port {number}/{} is held by services {holders:?}", protocol.name()));
        }
    }
}

/// Source: control plane reference §4.4, filter 7.
fn max_replicas_hold(state: &State, found: &mut Vec<String>) {
    let mut counts: BTreeMap<(NodeId, ServiceId), (u64, u64)> = BTreeMap::new();
    for task in state.tasks().filter(|task| task.occupies_node() && task.intent.desired.wants_alive()) {
        let most = state.spec_of(task).task.placement.max_replicas;
        if let Some(node) = task.placed.node.filter(|_| most > 0) {
            let count = counts.entry((node, task.service_id)).or_default();
            *count = (count.0 + 1, count.1.max(most));
        }
    }
    for ((node, service), (count, most)) in counts {
        if count > most {
            found.push(format!("{count} tasks of service {service} on node {node}, {most} are allowed"));
        }
    }
}

/// Source: design rule 3, cluster time never goes back.
fn times_are_past(state: &State, found: &mut Vec<String>) {
    let is_future = |at: ClusterTime| at > state.time();
    for task in state.tasks() {
        let stamps = [Some(task.created), task.intent.at, task.attachment.done, task.placed.at];
        let observed = task.observed.as_ref().map(|status| status.applied_at);
        if stamps.into_iter().flatten().map(|stamp| stamp.cluster).chain(observed).any(is_future) {
            found.push(format!("task {}", task.id));
        }
        let versions = [task.intent.version, task.attachment.version, task.placed.version];
        if versions.into_iter().any(|version| version.0 > state.index()) || task.updated.0 > state.index() {
            found.push(format!("task {} has a version ahead of the log", task.id));
        }
    }
    for node in state.nodes() {
        if is_future(node.observed.since.cluster) {
            found.push(format!("node {}", node.id));
        }
    }
}

/// Source: control plane reference §1.3 and §10, a used secret or config is not removed; and `core/store`: the indexes by
/// secret and config find exactly the services that need one.
fn references_lead_somewhere(state: &State, found: &mut Vec<String>) {
    for service in state.services() {
        for reference in &service.spec.task.container.secrets {
            if state.secret(reference.secret_id).is_none() {
                found.push(format!("service {} uses missing secret {}", service.id, reference.secret_name));
            }
            if !state.users_of_secret(reference.secret_id).any(|user| user.id == service.id) {
                found.push(format!("service {} is not listed for secret {}", service.id, reference.secret_name));
            }
        }
        for reference in &service.spec.task.container.configs {
            if state.config(reference.config_id).is_none() {
                found.push(format!("service {} uses missing config {}", service.id, reference.config_name));
            }
            if !state.users_of_config(reference.config_id).any(|user| user.id == service.id) {
                found.push(format!("service {} is not listed for config {}", service.id, reference.config_name));
            }
        }
    }
    for secret in state.secrets() {
        if state.secret_by_name(&secret.spec.name).map(|found| found.id) != Some(secret.id) {
            found.push(format!("{:?} does not find secret {}", secret.spec.name, secret.id));
        }
    }
    for config in state.configs() {
        if state.config_by_name(&config.spec.name).map(|found| found.id) != Some(config.id) {
            found.push(format!("{:?} does not find config {}", config.spec.name, config.id));
        }
    }
}
