//! The one way the state changes.

mod configs;
mod secrets;

use std::sync::Arc;

use skep_model::{
    Cluster, Endpoint, GroupVersion, Intent, LEVEL, Meta, Node, NodeObserved, NodeSpec, ObjectId, Placed, PreviousSpec,
    Service, ServiceId, ServiceSpec, SpecVersion, Stamp, Task, TaskId, TaskState, TaskStatus, UpdateState,
    UpdateStatus, Version,
};

use crate::change::{NewCluster, NewNode, NewTask, shared};
use crate::network;
use crate::state::NAMESPACE;
use crate::{AtomicGroup, Change, Entry, Event, Precondition, State};

/// What became of an entry.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// One for each proposal, in order.
    pub outcomes: Vec<Outcome>,
    /// What changed, in order.
    pub events: Vec<Event>,
}

/// What became of a proposal: one result for each of its groups, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Committed, or why not.
    pub groups: Vec<Result<(), Rejection>>,
}

impl Outcome {
    /// The first refusal, for proposals that stand or fall as a whole.
    ///
    /// # Errors
    /// The first rejection among the groups.
    pub fn ok(&self) -> Result<(), Rejection> {
        self.groups.iter().find_map(|group| group.clone().err()).map_or(Ok(()), Err)
    }
}

/// Why a group was not committed. Nothing of it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A user's edit was made against another version (Docker's text).
    #[error("update out of sequence")]
    OutOfSequence,
    /// The object is not there.
    #[error("{kind} {id} not found")]
    NotFound {
        /// Kind of object.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// Another object has this name (Docker's text).
    #[error("name conflicts with an existing object: {kind} {name} already exists")]
    NameConflict {
        /// Kind of object.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// An object with this id exists.
    #[error("{kind} {id} already exists")]
    Exists {
        /// Kind of object.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// The field group was written since the proposer read it.
    #[error("{group} of {kind} {id} was changed meanwhile")]
    Stale {
        /// Kind of object.
        kind: &'static str,
        /// Its id.
        id: String,
        /// The group.
        group: &'static str,
    },
    /// Something the proposer relied on does not hold any more.
    #[error("precondition no longer holds: {0}")]
    Unmet(String),
    /// The change would break a rule of the state.
    #[error("{0}")]
    Invalid(String),
}

/// Applies one committed entry. Total: whatever an entry holds, every proposal in it gets an outcome and the state stays
/// whole.
pub fn apply(state: &mut State, index: u64, entry: &Entry) -> Applied {
    state.index = index;
    state.time = state.time.max(entry.time);
    state.wall = entry.wall;
    let mut events = Vec::new();
    let outcomes = entry
        .proposals
        .iter()
        .map(|proposal| Outcome {
            groups: proposal.change_set.iter().map(|group| apply_group(state, group, &mut events)).collect(),
        })
        .collect();
    Applied { outcomes, events }
}

fn apply_group(state: &mut State, group: &AtomicGroup, events: &mut Vec<Event>) -> Result<(), Rejection> {
    for precondition in &group.preconditions {
        check(state, precondition)?;
    }
    if let [change] = group.changes.as_slice() {
        // Every single change checks before it writes, so there is nothing to take back.
        return write(state, change, events);
    }
    let (before, seen) = (state.clone(), events.len());
    for change in &group.changes {
        if let Err(rejection) = write(state, change, events) {
            *state = before;
            events.truncate(seen);
            return Err(rejection);
        }
    }
    Ok(())
}

fn check(state: &State, precondition: &Precondition) -> Result<(), Rejection> {
    let unmet = |text: String| Err(Rejection::Unmet(text));
    match precondition {
        Precondition::ServiceRevision { service, spec_version } => {
            if find_service(state, *service)?.spec_version != *spec_version {
                return unmet(format!("service {service} has another revision"));
            }
        }
        Precondition::ServiceReplicas { service, replicas } => {
            if find_service(state, *service)?.replicas != *replicas {
                return unmet(format!("service {service} has another scale"));
            }
        }
        Precondition::ServiceExists(service) => {
            find_service(state, *service)?;
        }
        Precondition::EndpointIs(service, version) => {
            if find_service(state, *service)?.endpoint.version != *version {
                return unmet(format!("service {service} has another endpoint"));
            }
        }
        Precondition::NetworkExists(network) => {
            network::find(state, *network)?;
        }
        Precondition::NetworkUnused(network) => network::check_unused(state, *network)?,
        Precondition::NodeTakesTasks(node) => {
            if !state.node(*node).is_some_and(|node| node.takes_tasks()) {
                return unmet(format!("node {node} takes no tasks"));
            }
        }
        Precondition::IntentIs(task, version) => {
            if find_task(state, *task)?.intent.version != *version {
                return unmet(format!("something else is wanted of task {task}"));
            }
        }
        Precondition::TaskRuns(task) => {
            let found = find_task(state, *task)?;
            if found.state() != TaskState::Running || !found.intent.desired.wants_alive() {
                return unmet(format!("task {task} does not run"));
            }
        }
    }
    Ok(())
}

fn write(state: &mut State, change: &Change, events: &mut Vec<Event>) -> Result<(), Rejection> {
    match change {
        Change::CreateCluster(new) => create_cluster(state, new, events),
        Change::SetClusterSpec { expect, spec } => edit_cluster(state, events, |cluster, version| {
            expect_version(cluster.meta.version, *expect)?;
            cluster.meta.version = version;
            cluster.spec.clone_from(spec);
            Ok(())
        }),
        Change::SetRootCa { expect, root } => edit_cluster(state, events, |cluster, version| {
            expect_group(cluster.root_version, *expect, "cluster", &cluster.id, "root")?;
            cluster.root_version = GroupVersion(version.0);
            cluster.meta.version = version;
            cluster.root_ca.clone_from(root);
            Ok(())
        }),
        Change::RaiseLevel(level) => edit_cluster(state, events, |cluster, _| {
            if *level > LEVEL {
                return Err(Rejection::Invalid(format!("level {level} is newer than this build knows ({LEVEL})")));
            }
            cluster.level = cluster.level.max(*level);
            Ok(())
        }),
        Change::CreateNode(new) => create_node(state, new, events),
        Change::SetNodeSpec { node, expect, spec } => edit_node(state, *node, events, |node, stamp, version| {
            expect_version(node.meta.version, *expect)?;
            node.meta.version = version;
            node.meta.updated_at = stamp.wall;
            node.spec.clone_from(spec);
            Ok(())
        }),
        Change::ObserveNode { node, expect, status, description } => {
            edit_node(state, *node, events, |node, stamp, version| {
                expect_group(node.observed.version, *expect, "node", &node.id, "status")?;
                if node.observed.status.state != status.state {
                    node.observed.since = stamp;
                }
                node.observed.version = GroupVersion(version.0);
                node.observed.status.clone_from(status);
                if let Some(description) = description {
                    node.observed.description = Some((**description).clone());
                }
                node.meta.updated_at = stamp.wall;
                Ok(())
            })
        }
        Change::CertifyNode { node, expect, certificate } => edit_node(state, *node, events, |node, _, version| {
            expect_group(node.certificate.version, *expect, "node", &node.id, "certificate")?;
            node.certificate.clone_from(certificate);
            node.certificate.version = GroupVersion(version.0);
            Ok(())
        }),
        Change::RemoveNode(node) => remove_node(state, *node, events),
        Change::CreateService { service, definition } => create_service(state, *service, definition, events),
        Change::UpdateService { service, expect, definition } => {
            update_service(state, *service, *expect, definition, events)
        }
        Change::RollbackService { service, expect, reason } => {
            rollback_service(state, *service, *expect, reason, events)
        }
        Change::SetEndpoint { service, expect, endpoint } => {
            edit_service(state, *service, events, |service, version| {
                expect_group(service.endpoint.version, *expect, "service", &service.id, "endpoint")?;
                service.endpoint = Endpoint { version: GroupVersion(version.0), ..endpoint.clone() };
                Ok(())
            })
        }
        Change::SetUpdateStatus { service, expect, status } => {
            let now = state.time;
            edit_service(state, *service, events, |service, version| {
                expect_group(service.update_version, *expect, "service", &service.id, "update status")?;
                service.update_version = GroupVersion(version.0);
                if let Some(status) = status
                    && status.state.is_running()
                    && service.update.as_ref().map(|known| known.state) != Some(status.state)
                {
                    service.update_since = now;
                }
                service.update.clone_from(status);
                Ok(())
            })
        }
        Change::RemoveService(service) => remove_service(state, *service, events),
        Change::CreateNetwork(new) => network::create(state, new, events),
        Change::SetNetworkAllocation { network, expect, allocation } => {
            network::allocate(state, *network, *expect, allocation, events)
        }
        Change::RemoveNetwork(network) => network::remove(state, *network, events),
        Change::CreateTask(new) => create_task(state, new, events),
        Change::SetIntent { task, expect, desired, start_at, start_after } => {
            edit_task(state, *task, events, |task, stamp, version| {
                expect_group(task.intent.version, *expect, "task", &task.id, "intent")?;
                if *desired < task.intent.desired {
                    return Err(Rejection::Invalid(format!("the desired state of task {} only grows", task.id)));
                }
                task.intent = Intent {
                    desired: *desired,
                    at: Some(stamp),
                    start_at: *start_at,
                    start_after: *start_after,
                    version,
                };
                Ok(())
            })
        }
        Change::Attach { task, expect, done, ports, networks, virtual_ips, reason } => {
            edit_task(state, *task, events, |task, stamp, version| {
                expect_group(task.attachment.version, *expect, "task", &task.id, "attachment")?;
                task.attachment.done = done.then_some(stamp);
                task.attachment.ports.clone_from(ports);
                task.attachment.networks.clone_from(networks);
                task.attachment.virtual_ips.clone_from(virtual_ips);
                task.attachment.reason.clone_from(reason);
                task.attachment.version = version;
                Ok(())
            })
        }
        Change::Place { task, expect, node, reason } => edit_task(state, *task, events, |task, stamp, version| {
            expect_group(task.placed.version, *expect, "task", &task.id, "placement")?;
            if task.placed.node.is_some() {
                return Err(Rejection::Invalid(format!("task {} has a node already", task.id)));
            }
            task.placed = Placed { node: *node, at: node.map(|_| stamp), reason: reason.clone(), version };
            Ok(())
        }),
        Change::ObserveTask { task, status } => observe_task(state, *task, status, events),
        Change::DeleteTask(task) => delete_task(state, *task, events),
        Change::CreateSecret { secret, spec, lineage } => secrets::create(state, *secret, spec, lineage, events),
        Change::SetSecretLabels { secret, expect, labels } => {
            secrets::set_labels(state, *secret, *expect, labels, events)
        }
        Change::RemoveSecret(secret) => secrets::remove(state, *secret, events),
        Change::CreateConfig { config, spec } => configs::create(state, *config, spec, events),
        Change::SetConfigLabels { config, expect, labels } => {
            configs::set_labels(state, *config, *expect, labels, events)
        }
        Change::RemoveConfig(config) => configs::remove(state, *config, events),
    }
}

fn stamp(state: &State) -> Stamp {
    Stamp { cluster: state.time, wall: state.wall }
}

pub(crate) fn new_meta(state: &State) -> Meta {
    Meta { version: Version(state.index), created_at: state.wall, updated_at: state.wall }
}

pub(crate) fn not_found(kind: &'static str, id: &impl ObjectId) -> Rejection {
    Rejection::NotFound { kind, id: id.to_string() }
}

fn find_service(state: &State, id: ServiceId) -> Result<&Arc<Service>, Rejection> {
    state.service(id).ok_or_else(|| not_found("service", &id))
}

fn find_task(state: &State, id: TaskId) -> Result<&Arc<Task>, Rejection> {
    state.task(id).ok_or_else(|| not_found("task", &id))
}

fn expect_version(stored: Version, seen: Version) -> Result<(), Rejection> {
    if stored == seen { Ok(()) } else { Err(Rejection::OutOfSequence) }
}

pub(crate) fn expect_group(
    stored: GroupVersion,
    seen: GroupVersion,
    kind: &'static str,
    id: &impl ObjectId,
    group: &'static str,
) -> Result<(), Rejection> {
    if stored == seen { Ok(()) } else { Err(Rejection::Stale { kind, id: id.to_string(), group }) }
}

fn create_cluster(state: &mut State, new: &NewCluster, events: &mut Vec<Event>) -> Result<(), Rejection> {
    if let Some(cluster) = &state.cluster {
        return Err(Rejection::Exists { kind: "cluster", id: cluster.id.to_string() });
    }
    let cluster = Arc::new(Cluster {
        id: new.id,
        meta: new_meta(state),
        level: LEVEL,
        spec: new.spec.clone(),
        root_ca: new.root_ca.clone(),
        root_version: GroupVersion(state.index),
        address_pools: new.address_pools.clone(),
        subnet_size: new.subnet_size,
        data_path_port: new.data_path_port,
    });
    state.cluster = Some(cluster.clone());
    events.push(Event::Cluster(None, Some(cluster)));
    Ok(())
}

fn edit_cluster(
    state: &mut State,
    events: &mut Vec<Event>,
    edit: impl FnOnce(&mut Cluster, Version) -> Result<(), Rejection>,
) -> Result<(), Rejection> {
    let before = state.cluster.clone().ok_or(Rejection::NotFound { kind: "cluster", id: "default".to_owned() })?;
    let mut cluster = (*before).clone();
    edit(&mut cluster, Version(state.index))?;
    cluster.meta.updated_at = state.wall;
    let after = Arc::new(cluster);
    state.cluster = Some(after.clone());
    events.push(Event::Cluster(Some(before), Some(after)));
    Ok(())
}

fn create_node(state: &mut State, new: &NewNode, events: &mut Vec<Event>) -> Result<(), Rejection> {
    if state.nodes.contains_key(&new.id) {
        return Err(Rejection::Exists { kind: "node", id: new.id.to_string() });
    }
    let node = Arc::new(Node {
        id: new.id,
        meta: new_meta(state),
        spec: NodeSpec { role: new.role, availability: new.availability, ..NodeSpec::default() },
        observed: NodeObserved { since: stamp(state), ..NodeObserved::default() },
        certificate: new.certificate.clone(),
        role: new.role,
        manager: new.manager.clone(),
    });
    state.nodes.insert(new.id, node.clone());
    events.push(Event::Node(None, Some(node)));
    Ok(())
}

fn edit_node(
    state: &mut State,
    id: skep_model::NodeId,
    events: &mut Vec<Event>,
    edit: impl FnOnce(&mut Node, Stamp, Version) -> Result<(), Rejection>,
) -> Result<(), Rejection> {
    let before = state.nodes.get(&id).cloned().ok_or_else(|| not_found("node", &id))?;
    let mut node = (*before).clone();
    edit(&mut node, stamp(state), Version(state.index))?;
    let after = Arc::new(node);
    state.nodes.insert(id, after.clone());
    events.push(Event::Node(Some(before), Some(after)));
    Ok(())
}

fn remove_node(state: &mut State, id: skep_model::NodeId, events: &mut Vec<Event>) -> Result<(), Rejection> {
    let before = state.nodes.remove(&id).ok_or_else(|| not_found("node", &id))?;
    let orphans: Vec<TaskId> =
        state.tasks_on_node(id).filter(|task| !task.state().is_terminal()).map(|task| task.id).collect();
    for task in orphans {
        let status = TaskStatus {
            state: TaskState::Orphaned,
            timestamp: state.wall,
            applied_at: state.time,
            message: "Task belonged to a node that has been deleted".to_owned(),
            err: String::new(),
            container: None,
            ports: Vec::new(),
        };
        observe_task(state, task, &status, events).expect("a task of the node's index is stored and placed");
    }
    events.push(Event::Node(Some(before), None));
    Ok(())
}

fn create_service(
    state: &mut State,
    id: ServiceId,
    definition: &skep_model::ServiceDefinition,
    events: &mut Vec<Event>,
) -> Result<(), Rejection> {
    let (spec, replicas) = shared(definition);
    let name = (NAMESPACE, spec.name.to_lowercase());
    if state.services.contains_key(&id) {
        return Err(Rejection::Exists { kind: "service", id: id.to_string() });
    }
    if state.service_names.contains_key(&name) {
        return Err(Rejection::NameConflict { kind: "service", name: spec.name.clone() });
    }
    require_references(state, &spec)?;
    let spec_version = SpecVersion(state.index);
    state.service_names.insert(name, id);
    state.keep_revision(id, spec_version, &spec);
    let meta = new_meta(state);
    let service = state.put_service(Service {
        id,
        meta,
        spec,
        spec_version,
        replicas,
        previous: None,
        endpoint: Endpoint::default(),
        update: None,
        update_since: state.time,
        update_version: GroupVersion::default(),
    });
    events.push(Event::Service(None, Some(service)));
    Ok(())
}

fn edit_service(
    state: &mut State,
    id: ServiceId,
    events: &mut Vec<Event>,
    edit: impl FnOnce(&mut Service, Version) -> Result<(), Rejection>,
) -> Result<(), Rejection> {
    let before = find_service(state, id)?.clone();
    let mut service = (*before).clone();
    edit(&mut service, Version(state.index))?;
    service.meta.updated_at = state.wall;
    let after = state.put_service(service);
    events.push(Event::Service(Some(before), Some(after)));
    Ok(())
}

fn update_service(
    state: &mut State,
    id: ServiceId,
    expect: Version,
    definition: &skep_model::ServiceDefinition,
    events: &mut Vec<Event>,
) -> Result<(), Rejection> {
    let (spec, replicas) = shared(definition);
    require_references(state, &spec)?;
    let new_version = SpecVersion(state.index);
    let now = state.time;
    edit_service(state, id, events, |service, version| {
        expect_version(service.meta.version, expect)?;
        if !service.spec.name.eq_ignore_ascii_case(&spec.name) {
            return Err(Rejection::Invalid("renaming services is not supported".to_owned()));
        }
        let previous =
            PreviousSpec { spec: service.spec.clone(), spec_version: service.spec_version, replicas: service.replicas };
        if !service.spec.is_same_for_tasks(&spec) {
            service.spec_version = new_version;
        }
        service.meta.version = version;
        service.spec = spec;
        service.replicas = replicas;
        service.previous = Some(previous);
        service.update = None;
        service.update_since = now;
        service.update_version = GroupVersion(version.0);
        Ok(())
    })?;
    refresh_revisions(state, id);
    Ok(())
}

fn rollback_service(
    state: &mut State,
    id: ServiceId,
    expect: Version,
    reason: &Option<String>,
    events: &mut Vec<Event>,
) -> Result<(), Rejection> {
    let (now, wall) = (state.time, state.wall);
    if let Some(previous) = &find_service(state, id)?.previous {
        require_references(state, &previous.spec)?;
    }
    edit_service(state, id, events, |service, version| {
        expect_version(service.meta.version, expect)?;
        let Some(previous) = service.previous.take() else {
            return Err(Rejection::Invalid(format!("service {} does not have a previous spec", service.id)));
        };
        let current =
            PreviousSpec { spec: service.spec.clone(), spec_version: service.spec_version, replicas: service.replicas };
        service.spec = previous.spec;
        service.spec_version = previous.spec_version;
        service.replicas = previous.replicas;
        service.previous = reason.is_none().then_some(current);
        service.meta.version = version;
        service.update_since = now;
        service.update_version = GroupVersion(version.0);
        service.update = Some(UpdateStatus {
            state: UpdateState::RollbackStarted,
            started_at: Some(wall),
            completed_at: None,
            message: reason.clone().unwrap_or_else(|| "manually requested rollback".to_owned()),
        });
        Ok(())
    })?;
    refresh_revisions(state, id);
    Ok(())
}

/// Keeps the revisions that the service names and those that tasks run; forgets the others.
fn refresh_revisions(state: &mut State, id: ServiceId) {
    let service = state.services.get(&id).expect("the service was just written").clone();
    if let Some(previous) = &service.previous
        && previous.spec_version != service.spec_version
    {
        state.keep_revision(id, previous.spec_version, &previous.spec);
    }
    state.keep_revision(id, service.spec_version, &service.spec);
    state.drop_unused_revisions(id);
}

fn remove_service(state: &mut State, id: ServiceId, events: &mut Vec<Event>) -> Result<(), Rejection> {
    let before = state.services.remove(&id).ok_or_else(|| not_found("service", &id))?;
    state.service_names.remove(&(NAMESPACE, before.spec.name.to_lowercase()));
    state.index_references(Some(&before), None);
    state.drop_unused_revisions(id);
    events.push(Event::Service(Some(before), None));
    Ok(())
}

/// What tasks shall get must be there, under the name that the user saw: a removal may have come first.
fn require_references(state: &State, spec: &ServiceSpec) -> Result<(), Rejection> {
    secrets::require(state, spec)?;
    configs::require(state, spec)
}

fn create_task(state: &mut State, new: &NewTask, events: &mut Vec<Event>) -> Result<(), Rejection> {
    if state.tasks.contains_key(&new.id) {
        return Err(Rejection::Exists { kind: "task", id: new.id.to_string() });
    }
    find_service(state, new.service_id)?;
    if state.revision(new.service_id, new.spec_version).is_none() {
        return Err(Rejection::Unmet(format!("service {} has no revision {}", new.service_id, new.spec_version.0)));
    }
    let version = GroupVersion(state.index);
    let created = stamp(state);
    let task = state.add_task(Task {
        id: new.id,
        service_id: new.service_id,
        slot: new.slot,
        spec_version: new.spec_version,
        created,
        updated: (version.0, created.wall),
        history: new.history.clone(),
        intent: Intent {
            desired: new.desired,
            at: Some(created),
            start_at: new.start_at,
            start_after: new.start_after,
            version,
        },
        attachment: skep_model::Attachment::default(),
        placed: Placed::default(),
        observed: None,
        started: None,
        by_update: new.by_update,
    });
    events.push(Event::Task(None, Some(task)));
    Ok(())
}

fn edit_task(
    state: &mut State,
    id: TaskId,
    events: &mut Vec<Event>,
    edit: impl FnOnce(&mut Task, Stamp, GroupVersion) -> Result<(), Rejection>,
) -> Result<(), Rejection> {
    let before = find_task(state, id)?.clone();
    let mut task = (*before).clone();
    edit(&mut task, stamp(state), GroupVersion(state.index))?;
    task.updated = (state.index, state.wall);
    let after = state.put_task(task);
    events.push(Event::Task(Some(before), Some(after)));
    Ok(())
}

fn observe_task(state: &mut State, id: TaskId, status: &TaskStatus, events: &mut Vec<Event>) -> Result<(), Rejection> {
    let task = find_task(state, id)?;
    if task.placed.node.is_none() {
        return Err(Rejection::Invalid(format!("task {id} has no node that could report it")));
    }
    let status = TaskStatus { applied_at: state.time, ..status.clone() };
    let is_news = match &task.observed {
        None => status.state > TaskState::Assigned,
        Some(known) => {
            status.state >= known.state && status != TaskStatus { applied_at: status.applied_at, ..known.clone() }
        }
    };
    if !is_news {
        return Ok(());
    }
    edit_task(state, id, events, |task, now, _| {
        if status.state == TaskState::Running && task.started.is_none() {
            task.started = Some(now.cluster);
        }
        if matches!(status.state, TaskState::Complete | TaskState::Failed)
            && let (Some(started), Some(known)) = (task.started, &task.observed)
            && known.state == TaskState::Running
        {
            // It may be heard of long after: how long it ran, the node knows.
            let ran = u64::try_from(status.timestamp.0.saturating_sub(known.timestamp.0)).unwrap_or(0);
            task.started = Some(started.max(skep_model::ClusterTime(status.applied_at.0.saturating_sub(ran))));
        }
        task.observed = Some(status);
        Ok(())
    })
}

fn delete_task(state: &mut State, id: TaskId, events: &mut Vec<Event>) -> Result<(), Rejection> {
    let task = find_task(state, id)?.clone();
    if task.occupies_node() {
        return Err(Rejection::Invalid(format!("task {id} may still run on its node")));
    }
    state.drop_task(&task);
    events.push(Event::Task(Some(task), None));
    Ok(())
}
