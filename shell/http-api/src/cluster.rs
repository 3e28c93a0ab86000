//! What the API needs of the cluster. Implemented outside by the node's cluster client, and by a fake in tests.

mod networks;
mod values;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use skep_model::{
    Availability, ClusterSpec, NodeId, NodeSpec, ServiceDefinition, ServiceId, TaskId, Version, WallTime,
};
use skep_store::State;

pub use networks::ClusterNetworks;
pub use values::{Edit, NewSecret, Values};

/// The cluster as this node sees it. Every method may be called at any time, also without a swarm.
#[async_trait]
pub trait Cluster: ClusterNetworks + Values + Send + Sync + 'static {
    /// How this node stands to a swarm. Cheap.
    fn status(&self) -> SwarmStatus;

    /// The state to answer a read from; one immutable value.
    async fn snapshot(&self) -> Result<State, ClusterError>;

    /// Begins a swarm on this node.
    async fn init(&self, options: InitOptions) -> Result<NodeId, ClusterError>;
    /// Leaves the swarm.
    async fn leave(&self, force: bool) -> Result<(), ClusterError>;
    /// The key that unlocks managers; empty when autolock is off.
    async fn unlock_key(&self) -> Result<String, ClusterError>;
    /// Unlocks this manager.
    async fn unlock(&self, key: &str) -> Result<(), ClusterError>;
    /// Replaces the cluster's spec and rotates what is asked for.
    async fn update_cluster(
        &self,
        version: Version,
        spec: ClusterSpec,
        rotate: RotateTokens,
    ) -> Result<(), ClusterError>;

    /// Creates a service. `registry_auth` is the text of `X-Registry-Auth`, to be sealed and stored with it.
    async fn create_service(
        &self,
        definition: ServiceDefinition,
        registry_auth: Option<String>,
    ) -> Result<Created, ClusterError>;
    /// Replaces a service's definition; gives warnings. Without `registry_auth` the definition's own stays.
    async fn update_service(
        &self,
        service: ServiceId,
        version: Version,
        definition: ServiceDefinition,
        registry_auth: Option<String>,
    ) -> Result<Vec<String>, ClusterError>;
    /// Returns a service to its previous spec; gives warnings.
    async fn rollback_service(&self, service: ServiceId, version: Version) -> Result<Vec<String>, ClusterError>;
    /// Removes a service.
    async fn remove_service(&self, service: ServiceId) -> Result<(), ClusterError>;

    /// Replaces a node's spec.
    async fn update_node(&self, node: NodeId, version: Version, spec: NodeSpec) -> Result<(), ClusterError>;
    /// Removes a node.
    async fn remove_node(&self, node: NodeId, force: bool) -> Result<(), ClusterError>;

    /// What happened in the cluster and what will; nothing where there is none.
    fn happenings(&self) -> crate::Happenings {
        crate::ClusterEvents::default().listen()
    }

    /// Output of tasks on all nodes. It ends by itself unless it follows; dropping it ends it.
    async fn service_logs(&self, selector: LogSelector, options: LogOptions) -> Result<LogMessages, ClusterError>;
}

/// How this node stands to a swarm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SwarmStatus {
    /// Member or not.
    pub state: LocalState,
    /// This node, once it has an id.
    pub node_id: Option<NodeId>,
    /// The address it is known by, without a port.
    pub node_addr: String,
    /// It is a manager and can answer.
    pub control_available: bool,
    /// What is wrong, for people.
    pub error: String,
    /// Managers it knows, itself included.
    pub managers: Vec<Peer>,
    /// The manager that leads, if one does.
    pub leader: Option<NodeId>,
}

/// Member of a swarm or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalState {
    /// Not a member.
    #[default]
    Inactive,
    /// It is becoming one.
    Pending,
    /// A member.
    Active,
    /// A member that failed; see the error.
    Error,
    /// A manager that needs its unlock key.
    Locked,
}

impl LocalState {
    /// Docker's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Error => "error",
            Self::Locked => "locked",
        }
    }
}

/// A manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub node_id: NodeId,
    /// `host:port`.
    pub addr: String,
    /// It answers; `None` when nobody knows.
    pub reachable: Option<bool>,
}

/// How to begin a swarm. Addresses are as the user gave them: the implementation resolves and refuses.
#[derive(Debug, Clone, PartialEq)]
pub struct InitOptions {
    /// `host:port` to listen on.
    pub listen_addr: String,
    /// Address or interface, with or without a port; empty lets the node choose.
    pub advertise_addr: String,
    /// Address or interface of overlay traffic; empty is the advertised one.
    pub data_path_addr: String,
    /// Port of overlay traffic; 0 is the default.
    pub data_path_port: u32,
    /// Pools for networks in CIDR form; empty is the default.
    pub address_pools: Vec<String>,
    /// Prefix length of networks; 0 is the default.
    pub subnet_size: u32,
    /// Make a swarm of one out of what is left of one.
    pub force_new_cluster: bool,
    /// The cluster's spec, defaults filled in.
    pub spec: ClusterSpec,
    /// Whether the first node takes tasks.
    pub availability: Availability,
}

/// Which secrets an update of the cluster makes anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RotateTokens {
    /// The token of workers.
    pub worker: bool,
    /// The token of managers.
    pub manager: bool,
    /// The unlock key.
    pub unlock_key: bool,
}

/// A service that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: ServiceId,
    /// For the user.
    pub warnings: Vec<String>,
}

/// Whose output; any of these.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSelector {
    /// All tasks of these services.
    pub services: Vec<ServiceId>,
    /// These tasks.
    pub tasks: Vec<TaskId>,
}

/// Which lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
    /// Go on with lines that are yet to come.
    pub follow: bool,
    /// Not older than this.
    pub since: Option<WallTime>,
    /// Not newer than this.
    pub until: Option<WallTime>,
    /// Only so many of the last lines of each task; `None` is all.
    pub tail: Option<u64>,
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it came from.
    pub stream: LogStream,
    /// When it was written.
    pub time: WallTime,
    /// The line with its newline; without one, the next line of the stream continues it.
    pub text: Bytes,
}

/// A line of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogMessage {
    /// The node it ran on.
    pub node: NodeId,
    /// The task's service.
    pub service: ServiceId,
    /// The task.
    pub task: TaskId,
    /// The line.
    pub line: LogLine,
}

/// Lines of tasks, one by one; an error is the last thing.
pub type LogMessages = BoxStream<'static, Result<LogMessage, String>>;

/// Why the cluster refuses. The texts without a field are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// A manager is asked for and the node is in no swarm.
    #[error(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
    )]
    NoSwarm,
    /// A manager is asked for and the node is a worker.
    #[error(
        "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager."
    )]
    NotManager,
    /// The node is in no swarm, so it can leave none.
    #[error("This node is not part of a swarm")]
    NotPartOfSwarm,
    /// The node is in a swarm already.
    #[error(
        "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one."
    )]
    AlreadyInSwarm,
    /// The manager needs its unlock key.
    #[error(
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it."
    )]
    Locked,
    /// Nothing to unlock.
    #[error("swarm is not locked")]
    NotLocked,
    /// The wrong unlock key.
    #[error("swarm could not be unlocked: invalid key provided")]
    WrongUnlockKey,
    /// The input is wrong; the text is shown as it is.
    #[error("{0}")]
    Invalid(String),
    /// Not now; the text is shown as it is.
    #[error("{0}")]
    Unavailable(String),
    /// A refusal of the control API, shown in gRPC's words as Docker does.
    #[error("rpc error: code = {code} desc = {text}", code = code.name())]
    Rpc {
        /// Its class.
        code: Code,
        /// For people.
        text: String,
    },
    /// The machine failed, not the request.
    #[error("{0}")]
    Internal(String),
}

impl ClusterError {
    /// A refusal of the control API.
    pub fn rpc(code: Code, text: impl Into<String>) -> Self {
        Self::Rpc { code, text: text.into() }
    }
}

/// gRPC's classes of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are gRPC's and documented there")]
pub enum Code {
    Unknown,
    InvalidArgument,
    OutOfRange,
    FailedPrecondition,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    Unauthenticated,
    Unimplemented,
    Unavailable,
    DeadlineExceeded,
    ResourceExhausted,
    Aborted,
    Internal,
}

impl Code {
    /// gRPC's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::InvalidArgument => "InvalidArgument",
            Self::OutOfRange => "OutOfRange",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::PermissionDenied => "PermissionDenied",
            Self::Unauthenticated => "Unauthenticated",
            Self::Unimplemented => "Unimplemented",
            Self::Unavailable => "Unavailable",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::Aborted => "Aborted",
            Self::Internal => "Internal",
        }
    }
}
