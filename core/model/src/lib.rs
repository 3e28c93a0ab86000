//! The nouns of a skep cluster, and the rules about one value of them.
//!
//! Specs are what a user wrote, status is what a node reported, and the objects ([`Cluster`], [`Node`], [`Service`], [`Task`], [`Network`])
//! hold both, split into *field groups* with one writer each. Nothing here knows a wire format, a clock or another object:
//! those rules live in the store, the deciders and the edge crates. Everybody uses this crate; it uses nobody.

mod cluster;
pub mod constraint;
mod id;
mod name;
mod network;
mod node;
mod quantity;
mod sealed;
mod secret;
mod service;
mod spec;
mod state;
mod task;
mod time;

pub use cluster::{CaConfig, Cluster, ClusterSpec, JoinTokens, LEVEL, Orchestration, RaftConfig, RootCa};
pub use id::{ClusterId, ConfigId, IdError, NetworkId, NodeId, ObjectId, SecretId, ServiceId, SessionId, TaskId};
pub use name::{NameError, check_object_name, check_service_name};
pub use network::{
    Cidr, CidrError, INGRESS_NAME, IpamConfig, IpamOptions, Network, NetworkAllocation, NetworkSpec, PREDEFINED_LABEL,
    TaskNetwork, VXLAN_ID_LIST, VirtualIp,
};
pub use node::{
    Availability, EngineDescription, ManagerAddress, Node, NodeCertificate, NodeDescription, NodeObserved, NodeRole,
    NodeSpec, NodeState, NodeStatus, Platform, Plugin, TlsInfo,
};
pub use quantity::{ByteSize, NanoCpus};
pub use sealed::Sealed;
pub use secret::{
    CONFIG_SIZE_LIMIT, Config, ConfigSpec, Lineage, SECRET_SIZE_LIMIT, Secret, SecretSpec, TEMPLATE_DRIVER,
};
pub use service::{Endpoint, PreviousSpec, Service, ServiceDefinition, UpdateState, UpdateStatus};
pub use spec::*;
pub use state::{DesiredState, TaskState};
pub use task::{Attachment, ContainerStatus, Intent, Placed, RestartHistory, Slot, Task, TaskStatus};
pub use time::{ClusterTime, Stamp, WallTime};

use std::collections::BTreeMap;

/// User-given key/value pairs on an object.
pub type Labels = BTreeMap<String, String>;

/// The raft index of the last write to what a *user* may edit of an object: Docker's `Version.Index`. An edit must carry
/// the stored value, else it is refused with "update out of sequence".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

/// The raft index of the last write to one field group of an object; 0 when the group was never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupVersion(pub u64);

/// Names one revision of what a service asks of its tasks. It changes when the task template or the published ports
/// change, and not when only labels, scale or the update configuration do, so tasks of an equal spec version are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpecVersion(pub u64);

/// What every listed object carries: its edit version and when it was made and last edited (for display only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// Version of what a user may edit.
    pub version: Version,
    /// When the object was created.
    pub created_at: WallTime,
    /// When the object was last changed.
    pub updated_at: WallTime,
}
