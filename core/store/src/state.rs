//! The state itself: tables, indexes, and how they are read and kept together.

mod references;

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use skep_model::{
    Cluster, ClusterTime, Config, ConfigId, Network, NetworkId, Node, NodeId, Secret, SecretId, Service, ServiceId,
    ServiceSpec, SpecVersion, Task, TaskId, WallTime,
};

/// Names are unique within a namespace; there is one so far.
pub(crate) type Namespace = u32;
pub(crate) const NAMESPACE: Namespace = 0;

/// What tasks of one spec version run, and how many there are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Revision {
    pub(crate) spec: Arc<ServiceSpec>,
    pub(crate) tasks: u64,
}

/// The whole cluster state. A clone is a snapshot and costs O(1).
#[derive(Debug, Clone, Default)]
pub struct State {
    pub(crate) index: u64,
    pub(crate) time: ClusterTime,
    pub(crate) wall: WallTime,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) nodes: OrdMap<NodeId, Arc<Node>>,
    pub(crate) services: OrdMap<ServiceId, Arc<Service>>,
    pub(crate) revisions: OrdMap<(ServiceId, SpecVersion), Revision>,
    pub(crate) tasks: OrdMap<TaskId, Arc<Task>>,
    pub(crate) service_names: OrdMap<(Namespace, String), ServiceId>,
    pub(crate) networks: OrdMap<NetworkId, Arc<Network>>,
    pub(crate) network_names: OrdMap<(Namespace, String), NetworkId>,
    pub(crate) tasks_by_service: OrdSet<(ServiceId, TaskId)>,
    pub(crate) tasks_by_node: OrdSet<(NodeId, TaskId)>,
    pub(crate) secrets: OrdMap<SecretId, Arc<Secret>>,
    pub(crate) secret_names: OrdMap<(Namespace, String), SecretId>,
    /// Services whose current or previous spec refers to a secret.
    pub(crate) services_by_secret: OrdSet<(SecretId, ServiceId)>,
    pub(crate) configs: OrdMap<ConfigId, Arc<Config>>,
    pub(crate) config_names: OrdMap<(Namespace, String), ConfigId>,
    /// Services whose current or previous spec refers to a config.
    pub(crate) services_by_config: OrdSet<(ConfigId, ServiceId)>,
}

impl State {
    /// Raft index of the last applied entry.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Cluster time of the last applied entry.
    #[must_use]
    pub fn time(&self) -> ClusterTime {
        self.time
    }

    /// Wall time of the last applied entry.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        self.wall
    }

    /// The cluster object; `None` before `swarm init`.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// All nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// All services by id.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// How many services there are.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// One service.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    /// The service of this name; case does not matter.
    #[must_use]
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.service(*self.service_names.get(&(NAMESPACE, name.to_lowercase()))?)
    }

    /// All tasks by id.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    /// How many tasks there are, history included.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// One task.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(&id)
    }

    /// The tasks of a service (also of one that is removed already), by id.
    pub fn tasks_of_service(&self, id: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_by_service
            .range((id, TaskId::MIN)..=(id, TaskId::MAX))
            .map(|(_, task)| self.tasks.get(task).expect("the index by service names stored tasks"))
    }

    /// The tasks that were placed on a node, by id.
    pub fn tasks_on_node(&self, id: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_by_node
            .range((id, TaskId::MIN)..=(id, TaskId::MAX))
            .map(|(_, task)| self.tasks.get(task).expect("the index by node names stored tasks"))
    }

    /// What a revision of a service asks of its tasks. Revisions live as long as the service's current or previous spec is of
    /// that version, or a task is.
    #[must_use]
    pub fn revision(&self, service: ServiceId, version: SpecVersion) -> Option<&Arc<ServiceSpec>> {
        self.revisions.get(&(service, version)).map(|revision| &revision.spec)
    }

    /// All revisions, for snapshots.
    pub fn revisions(&self) -> impl Iterator<Item = (ServiceId, SpecVersion, &Arc<ServiceSpec>)> {
        self.revisions.iter().map(|((service, version), revision)| (*service, *version, &revision.spec))
    }

    /// What a task runs.
    #[must_use]
    pub fn spec_of(&self, task: &Task) -> &Arc<ServiceSpec> {
        self.revision(task.service_id, task.spec_version).expect("a stored task's revision is stored")
    }

    pub(crate) fn put_service(&mut self, service: Service) -> Arc<Service> {
        let service = Arc::new(service);
        let before = self.services.insert(service.id, service.clone());
        self.index_references(before.as_deref(), Some(&service));
        service
    }

    pub(crate) fn add_task(&mut self, task: Task) -> Arc<Task> {
        self.tasks_by_service.insert((task.service_id, task.id));
        if let Some(node) = task.placed.node {
            self.tasks_by_node.insert((node, task.id));
        }
        if let Some(revision) = self.revisions.get_mut(&(task.service_id, task.spec_version)) {
            revision.tasks += 1;
        }
        let task = Arc::new(task);
        self.tasks.insert(task.id, task.clone());
        task
    }

    pub(crate) fn put_task(&mut self, task: Task) -> Arc<Task> {
        if let Some(node) = task.placed.node {
            self.tasks_by_node.insert((node, task.id));
        }
        let task = Arc::new(task);
        self.tasks.insert(task.id, task.clone());
        task
    }

    pub(crate) fn drop_task(&mut self, task: &Task) {
        self.tasks.remove(&task.id);
        self.tasks_by_service.remove(&(task.service_id, task.id));
        if let Some(node) = task.placed.node {
            self.tasks_by_node.remove(&(node, task.id));
        }
        if let Some(revision) = self.revisions.get_mut(&(task.service_id, task.spec_version)) {
            revision.tasks = revision.tasks.saturating_sub(1);
            if revision.tasks == 0 {
                self.drop_unused_revisions(task.service_id);
            }
        }
    }

    pub(crate) fn keep_revision(&mut self, service: ServiceId, version: SpecVersion, spec: &Arc<ServiceSpec>) {
        if let Some(known) = self.revisions.get_mut(&(service, version)) {
            known.spec = spec.clone();
        } else {
            self.revisions.insert((service, version), Revision { spec: spec.clone(), tasks: 0 });
        }
    }

    pub(crate) fn drop_unused_revisions(&mut self, service: ServiceId) {
        let current = self.services.get(&service);
        let is_named = |version: SpecVersion| {
            current.is_some_and(|service| {
                service.spec_version == version
                    || service.previous.as_ref().is_some_and(|previous| previous.spec_version == version)
            })
        };
        let unused: Vec<_> = self
            .revisions
            .range((service, SpecVersion(0))..=(service, SpecVersion(u64::MAX)))
            .filter(|((_, version), revision)| revision.tasks == 0 && !is_named(*version))
            .map(|(key, _)| *key)
            .collect();
        for key in unused {
            self.revisions.remove(&key);
        }
    }
}
