//! Objects with the few properties that a test is about. Names become ids: `a_node("one")` has the id `onex00…`; the `x` ends
//! the name, so that `t1` and `t10` differ.

use std::sync::Arc;
use std::time::Duration;

use skep_model::{
    Availability, ByteSize, DesiredState, EndpointSpec, GenericResource, NanoCpus, NodeDescription, NodeId, NodeRole,
    NodeState, ObjectId, PortConfig, Protocol, PublishMode, Resources, RestartCondition, RestartHistory, RestartPolicy,
    ServiceDefinition, ServiceId, ServiceMode, ServiceSpec, TaskId, TaskState,
};

pub(crate) fn id<T: ObjectId>(name: &str) -> T {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let text: String = letters.chain(std::iter::once('x')).chain(std::iter::repeat('0')).take(25).collect();
    T::parse(&text.to_lowercase()).expect("25 letters and digits are an id")
}

/// The id that a node of this name has.
#[must_use]
pub fn node_id(name: &str) -> NodeId {
    id(name)
}

/// The id that a service of this name has.
#[must_use]
pub fn service_id(name: &str) -> ServiceId {
    id(name)
}

/// The id that a task of this name has.
#[must_use]
pub fn task_id(name: &str) -> TaskId {
    id(name)
}

/// A ready, active worker with 4 CPUs and 8 GiB.
#[must_use]
pub fn a_node(name: &str) -> ANode {
    let resources = Resources { cpus: NanoCpus(4_000_000_000), memory: ByteSize(8 << 30), generic: Vec::new() };
    let mut description = NodeDescription { hostname: name.to_owned(), resources, ..NodeDescription::default() };
    description.platform.architecture = "x86_64".to_owned();
    description.platform.os = "linux".to_owned();
    ANode {
        id: node_id(name),
        role: NodeRole::Worker,
        availability: Availability::Active,
        state: NodeState::Ready,
        labels: Vec::new(),
        description: Some(description),
        address: String::new(),
    }
}

/// A node to be.
#[derive(Debug, Clone)]
pub struct ANode {
    pub(crate) id: NodeId,
    pub(crate) role: NodeRole,
    pub(crate) availability: Availability,
    pub(crate) state: NodeState,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) description: Option<NodeDescription>,
    pub(crate) address: String,
}

impl ANode {
    /// A manager.
    #[must_use]
    pub fn manager(mut self) -> Self {
        self.role = NodeRole::Manager;
        self
    }

    /// Takes no more tasks, or gives them away.
    #[must_use]
    pub fn availability(mut self, availability: Availability) -> Self {
        self.availability = availability;
        self
    }

    /// Reached or not.
    #[must_use]
    pub fn state(mut self, state: NodeState) -> Self {
        self.state = state;
        self
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Whole CPUs and bytes of memory.
    #[must_use]
    pub fn resources(mut self, cpus: i64, memory: i64) -> Self {
        if let Some(description) = &mut self.description {
            description.resources.cpus = NanoCpus(cpus * 1_000_000_000);
            description.resources.memory = ByteSize(memory);
        }
        self
    }

    /// A resource that an administrator named.
    #[must_use]
    pub fn generic(mut self, kind: &str, value: i64) -> Self {
        if let Some(description) = &mut self.description {
            description.resources.generic.push(GenericResource::Discrete { kind: kind.to_owned(), value });
        }
        self
    }

    /// Whatever else a test needs of its description.
    #[must_use]
    pub fn described(mut self, edit: impl FnOnce(&mut NodeDescription)) -> Self {
        if let Some(description) = &mut self.description {
            edit(description);
        }
        self
    }

    /// The address that the manager sees.
    #[must_use]
    pub fn address(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self
    }
}

/// A replicated service with one task of a small image, restarted without delay.
#[must_use]
pub fn a_service(name: &str) -> AService {
    let mut spec = ServiceSpec { name: name.to_owned(), ..ServiceSpec::default() };
    spec.task.container.image = "busybox:latest".to_owned();
    spec.task.restart = Some(RestartPolicy { delay: Some(Duration::ZERO), ..RestartPolicy::default() });
    AService { id: service_id(name), spec, replicas: 1 }
}

/// A service to be.
#[derive(Debug, Clone)]
pub struct AService {
    /// Its id.
    pub id: ServiceId,
    /// Its spec.
    pub spec: ServiceSpec,
    /// Its scale.
    pub replicas: u64,
}

impl AService {
    /// The wanted number of tasks.
    #[must_use]
    pub fn replicas(mut self, replicas: u64) -> Self {
        self.replicas = replicas;
        self
    }

    /// Another mode.
    #[must_use]
    pub fn mode(mut self, mode: ServiceMode) -> Self {
        self.spec.mode = mode;
        self
    }

    /// When and how soon tasks are replaced.
    #[must_use]
    pub fn restart(mut self, condition: RestartCondition, delay: Duration) -> Self {
        let policy = self.spec.task.restart.get_or_insert_default();
        policy.condition = condition;
        policy.delay = Some(delay);
        self
    }

    /// How often tasks are replaced, and within which time that counts (zero: ever).
    #[must_use]
    pub fn attempts(mut self, max_attempts: u64, window: Duration) -> Self {
        let policy = self.spec.task.restart.get_or_insert_default();
        policy.max_attempts = max_attempts;
        policy.window = (!window.is_zero()).then_some(window);
        self
    }

    /// A published port; 0 is one that skep chooses.
    #[must_use]
    pub fn port(mut self, published_port: u16, mode: PublishMode) -> Self {
        let target_port = 80 + u16::try_from(self.spec.ports().len()).unwrap_or(0);
        let endpoint = self.spec.endpoint.get_or_insert_with(EndpointSpec::default);
        endpoint.ports.push(PortConfig {
            name: String::new(),
            protocol: Protocol::Tcp,
            target_port,
            published_port,
            mode,
        });
        self
    }

    /// A placement constraint.
    #[must_use]
    pub fn constraint(mut self, text: &str) -> Self {
        self.spec.task.placement.constraints.push(text.to_owned());
        self
    }

    /// A label to spread over.
    #[must_use]
    pub fn spread(mut self, label: &str) -> Self {
        self.spec.task.placement.preferences.push(label.to_owned());
        self
    }

    /// Most tasks on one node.
    #[must_use]
    pub fn max_replicas(mut self, most: u64) -> Self {
        self.spec.task.placement.max_replicas = most;
        self
    }

    /// Reserved billionths of a CPU and bytes.
    #[must_use]
    pub fn reserve(mut self, nano_cpus: i64, memory: i64) -> Self {
        let reserved = self.spec.task.resources.reservations.get_or_insert_default();
        reserved.cpus = NanoCpus(nano_cpus);
        reserved.memory = ByteSize(memory);
        self
    }

    /// Whatever else a test needs of its spec.
    #[must_use]
    pub fn spec(mut self, edit: impl FnOnce(&mut ServiceSpec)) -> Self {
        edit(&mut self.spec);
        self
    }

    /// What a user would give.
    #[must_use]
    pub fn definition(&self) -> ServiceDefinition {
        ServiceDefinition { spec: Arc::new(self.spec.clone()), replicas: self.replicas }
    }
}

/// A new, wanted task in a numbered slot of a service.
#[must_use]
pub fn a_task(name: &str, service: &str, slot: u64) -> ATask {
    ATask {
        id: task_id(name),
        service_id: service_id(service),
        slot,
        desired: DesiredState::Running,
        history: RestartHistory::default(),
        is_attached: false,
        node: None,
        observed: None,
    }
}

/// A task to be.
#[derive(Debug, Clone)]
pub struct ATask {
    pub(crate) id: TaskId,
    pub(crate) service_id: ServiceId,
    pub(crate) slot: u64,
    pub(crate) desired: DesiredState,
    pub(crate) history: RestartHistory,
    pub(crate) is_attached: bool,
    pub(crate) node: Option<NodeId>,
    pub(crate) observed: Option<TaskState>,
}

impl ATask {
    /// What is wanted of it.
    #[must_use]
    pub fn desired(mut self, desired: DesiredState) -> Self {
        self.desired = desired;
        self
    }

    /// Restarts that led to it.
    #[must_use]
    pub fn history(mut self, history: RestartHistory) -> Self {
        self.history = history;
        self
    }

    /// It was given what it needs.
    #[must_use]
    pub fn pending(mut self) -> Self {
        self.is_attached = true;
        self
    }

    /// It is on a node, which reported this state (`Assigned`: nothing yet).
    #[must_use]
    pub fn on(mut self, node: &str, state: TaskState) -> Self {
        self.is_attached = true;
        self.node = Some(node_id(node));
        self.observed = (state > TaskState::Assigned).then_some(state);
        self
    }
}
