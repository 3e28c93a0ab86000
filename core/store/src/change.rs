//! What can be proposed. A change names one field group, carries only it, and states which version of it the proposer saw.
//! Each variant has exactly one kind of writer (see `ARCHITECTURE.md`).

use std::sync::Arc;

use skep_model::{
    Availability, ClusterId, ClusterSpec, ClusterTime, ConfigId, ConfigSpec, DesiredState, Endpoint, GroupVersion,
    Labels, Lineage, ManagerAddress, NetworkAllocation, NetworkId, NetworkSpec, NodeCertificate, NodeDescription,
    NodeId, NodeRole, NodeSpec, NodeStatus, PortConfig, RestartHistory, RootCa, SecretId, SecretSpec,
    ServiceDefinition, ServiceId, Slot, SpecVersion, TaskId, TaskNetwork, TaskStatus, UpdateStatus, Version, VirtualIp,
    WallTime,
};

/// One record of the Raft log: proposals that were collected while the one before was in flight.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Cluster time at which the leader made it; never below the one before.
    pub time: ClusterTime,
    /// The leader's wall clock, for display.
    pub wall: WallTime,
    /// Judged one by one, in order.
    pub proposals: Vec<Proposal>,
}

/// What one proposer asks for at once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Proposal {
    /// Each judged by itself, in order.
    pub change_set: ChangeSet,
}

/// A list of small atomic groups; a stale one is dropped alone and the others commit.
pub type ChangeSet = Vec<AtomicGroup>;

/// Changes that commit together or not at all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AtomicGroup {
    /// What the proposer read and relies on.
    pub preconditions: Vec<Precondition>,
    /// What it wants written.
    pub changes: Vec<Change>,
}

impl AtomicGroup {
    /// A group of one change without further preconditions.
    #[must_use]
    pub fn of(change: Change) -> Self {
        Self { preconditions: Vec::new(), changes: vec![change] }
    }

    /// Adds a precondition.
    #[must_use]
    pub fn when(mut self, precondition: Precondition) -> Self {
        self.preconditions.push(precondition);
        self
    }

    /// Adds a change.
    #[must_use]
    pub fn and(mut self, change: Change) -> Self {
        self.changes.push(change);
        self
    }
}

/// What a proposer read and relies on, beside the versions of the groups that it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// The service exists and its tasks shall have this revision.
    ServiceRevision {
        /// The service.
        service: ServiceId,
        /// Its current revision.
        spec_version: SpecVersion,
    },
    /// The service exists and wants at least this many tasks.
    ServiceReplicas {
        /// The service.
        service: ServiceId,
        /// The scale that was read.
        replicas: u64,
    },
    /// The service exists.
    ServiceExists(ServiceId),
    /// The service's endpoint group has this version.
    EndpointIs(ServiceId, GroupVersion),
    /// The node is ready and active.
    NodeTakesTasks(NodeId),
    /// The task's intent group has this version.
    IntentIs(TaskId, GroupVersion),
    /// The task is wanted and its node says that it runs.
    TaskRuns(TaskId),
    /// The network exists.
    NetworkExists(NetworkId),
    /// No service names the network, and none needs it for its published ports.
    NetworkUnused(NetworkId),
}

/// One write to one field group.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Creates the one cluster object. Writer: `swarm init`.
    CreateCluster(Box<NewCluster>),
    /// Replaces what a user may edit. Writer: admission.
    SetClusterSpec {
        /// The version the user saw.
        expect: Version,
        /// The new spec.
        spec: Box<ClusterSpec>,
    },
    /// Replaces the root of trust, join tokens included. Writer: ca, admission (token rotation).
    SetRootCa {
        /// The version that was read.
        expect: GroupVersion,
        /// The new root.
        root: Box<RootCa>,
    },
    /// Raises the cluster's level; never lowers it. Writer: the leader, when all managers support it.
    RaiseLevel(u32),

    /// Creates a node. Writer: `swarm init`, ca.
    CreateNode(Box<NewNode>),
    /// Replaces what a user may edit of a node. Writer: admission.
    SetNodeSpec {
        /// The node.
        node: NodeId,
        /// The version the user saw.
        expect: Version,
        /// The new spec.
        spec: NodeSpec,
    },
    /// Records whether a node is reached and what it says of itself. Writer: dispatcher.
    ObserveNode {
        /// The node.
        node: NodeId,
        /// The version that was read.
        expect: GroupVersion,
        /// Reached or not.
        status: NodeStatus,
        /// What it told of itself, when it did.
        description: Option<Box<NodeDescription>>,
    },
    /// Replaces a node's certificate. Writer: ca.
    CertifyNode {
        /// The node.
        node: NodeId,
        /// The version that was read.
        expect: GroupVersion,
        /// Chain and request; the version inside is ignored.
        certificate: Box<NodeCertificate>,
    },
    /// Removes a node; its tasks that have not ended become orphaned. Writer: admission.
    RemoveNode(NodeId),

    /// Creates a service. Writer: admission.
    CreateService {
        /// Its id, made by the proposer.
        service: ServiceId,
        /// Spec and scale.
        definition: ServiceDefinition,
    },
    /// Replaces what a user may edit of a service; the spec before is kept for a rollback. Writer: admission.
    UpdateService {
        /// The service.
        service: ServiceId,
        /// The version the user saw.
        expect: Version,
        /// Spec and scale.
        definition: ServiceDefinition,
    },
    /// Returns a service to the spec before. Writer: admission; orchestrator, after a failed update.
    RollbackService {
        /// The service.
        service: ServiceId,
        /// The version that was seen.
        expect: Version,
        /// Why the orchestrator does it: then what is rolled back is forgotten. `None` when a user asks: then the two specs
        /// change places.
        reason: Option<String>,
    },
    /// Records what the allocator gave a service. Writer: allocator.
    SetEndpoint {
        /// The service.
        service: ServiceId,
        /// The version that was read.
        expect: GroupVersion,
        /// The new endpoint; the version inside is ignored.
        endpoint: Endpoint,
    },
    /// Records how an update goes. Writer: orchestrator.
    SetUpdateStatus {
        /// The service.
        service: ServiceId,
        /// The version that was read.
        expect: GroupVersion,
        /// The new status.
        status: Option<UpdateStatus>,
    },
    /// Removes a service; the orchestrator then lets its tasks end. Writer: admission.
    RemoveService(ServiceId),

    /// Creates a network. Writer: `swarm init`, admission.
    CreateNetwork(Box<NewNetwork>),
    /// Records what the allocator gave a network. Writer: allocator.
    SetNetworkAllocation {
        /// The network.
        network: NetworkId,
        /// The version that was read.
        expect: GroupVersion,
        /// What was given; the version inside is ignored.
        allocation: Box<NetworkAllocation>,
    },
    /// Removes a network. Writer: admission.
    RemoveNetwork(NetworkId),

    /// Creates a task in `New`. Writer: orchestrator.
    CreateTask(Box<NewTask>),
    /// Says what is wanted of a task. Writer: orchestrator.
    SetIntent {
        /// The task.
        task: TaskId,
        /// The version that was read.
        expect: GroupVersion,
        /// The wanted state; a lower one than stored is refused.
        desired: DesiredState,
        /// Earliest start of a task held at `Ready`.
        start_at: Option<ClusterTime>,
        /// The task that must have ended before one held at `Ready` starts.
        start_after: Option<TaskId>,
    },
    /// Records what a task was given, or why it was not. Writer: allocator.
    Attach {
        /// The task.
        task: TaskId,
        /// The version that was read.
        expect: GroupVersion,
        /// Everything is given: the task is pending.
        done: bool,
        /// Published ports with numbers.
        ports: Vec<PortConfig>,
        /// Networks with addresses.
        networks: Vec<TaskNetwork>,
        /// The service's addresses.
        virtual_ips: Vec<VirtualIp>,
        /// Why something is missing.
        reason: Option<String>,
    },
    /// Puts a task on a node, or says why no node fits. Writer: scheduler.
    Place {
        /// The task.
        task: TaskId,
        /// The version that was read.
        expect: GroupVersion,
        /// The node; once written it stays.
        node: Option<NodeId>,
        /// Why no node fits.
        reason: Option<String>,
    },
    /// Folds in what a node reported. It is a join, not a replacement: a report below the stored state changes nothing, so it
    /// needs no version. Writer: dispatcher.
    ObserveTask {
        /// The task.
        task: TaskId,
        /// The report; `applied_at` inside is ignored.
        status: Box<TaskStatus>,
    },
    /// Forgets a task that has ended or was never placed. Writer: orchestrator (reaper).
    DeleteTask(TaskId),

    /// Creates a secret. Writer: admission.
    CreateSecret {
        /// Its id, made by the proposer: the data is sealed for it.
        secret: SecretId,
        /// What the user gave, its data sealed.
        spec: Arc<SecretSpec>,
        /// Which generation of its family it is.
        lineage: Lineage,
    },
    /// Replaces the labels of a secret: nothing else of it ever changes. Writer: admission.
    SetSecretLabels {
        /// The secret.
        secret: SecretId,
        /// The version the user saw.
        expect: Version,
        /// The new labels.
        labels: Labels,
    },
    /// Removes a secret that no service uses. Writer: admission.
    RemoveSecret(SecretId),

    /// Creates a config. Writer: admission.
    CreateConfig {
        /// Its id, made by the proposer.
        config: ConfigId,
        /// What the user gave.
        spec: Arc<ConfigSpec>,
    },
    /// Replaces the labels of a config: nothing else of it ever changes. Writer: admission.
    SetConfigLabels {
        /// The config.
        config: ConfigId,
        /// The version the user saw.
        expect: Version,
        /// The new labels.
        labels: Labels,
    },
    /// Removes a config that no service uses. Writer: admission.
    RemoveConfig(ConfigId),
}

/// A new cluster object.
#[derive(Debug, Clone, PartialEq)]
pub struct NewCluster {
    /// Its id.
    pub id: ClusterId,
    /// What a user may edit.
    pub spec: ClusterSpec,
    /// The root of trust.
    pub root_ca: RootCa,
    /// Pools for networks, CIDR.
    pub address_pools: Vec<String>,
    /// Prefix length of subnets.
    pub subnet_size: u32,
    /// UDP port of the overlay.
    pub data_path_port: u16,
}

/// A new node object.
#[derive(Debug, Clone, PartialEq)]
pub struct NewNode {
    /// Its id.
    pub id: NodeId,
    /// Role, both wanted and held.
    pub role: NodeRole,
    /// Whether it takes tasks.
    pub availability: Availability,
    /// Its certificate, when it was issued already.
    pub certificate: NodeCertificate,
    /// Where it is reached as a manager.
    pub manager: Option<ManagerAddress>,
}

/// A new network.
#[derive(Debug, Clone, PartialEq)]
pub struct NewNetwork {
    /// Its id.
    pub id: NetworkId,
    /// What was asked for.
    pub spec: Arc<NetworkSpec>,
}

/// A new task.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// The service.
    pub service_id: ServiceId,
    /// The place in it.
    pub slot: Slot,
    /// The revision it runs.
    pub spec_version: SpecVersion,
    /// Restarts that led to it.
    pub history: RestartHistory,
    /// `Running`, or `Ready` for a replacement that waits.
    pub desired: DesiredState,
    /// Earliest start when held.
    pub start_at: Option<ClusterTime>,
    /// The task that must have ended first when held.
    pub start_after: Option<TaskId>,
    /// A rolling update makes it, and will watch it.
    pub by_update: bool,
}

impl From<Change> for AtomicGroup {
    fn from(change: Change) -> Self {
        Self::of(change)
    }
}

/// A definition in the shape changes carry it.
pub(crate) fn shared(definition: &ServiceDefinition) -> (Arc<skep_model::ServiceSpec>, u64) {
    (definition.spec.clone(), definition.replicas)
}
