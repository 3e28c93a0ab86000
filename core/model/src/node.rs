//! A machine of the cluster.

use crate::{ByteSize, GenericResource, GroupVersion, Labels, Meta, NanoCpus, NodeId, Resources, Stamp};

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its id; the common name in its certificate.
    pub id: NodeId,
    /// Edit version and times.
    pub meta: Meta,
    /// What a user may edit.
    pub spec: NodeSpec,
    /// What the node told of itself and whether it is reached. Written by the dispatcher.
    pub observed: NodeObserved,
    /// Its certificate. Written by `ca`.
    pub certificate: NodeCertificate,
    /// The role it has now (in its certificate), while `spec.role` is the wanted one.
    pub role: NodeRole,
    /// Raft id and address when it is a manager.
    pub manager: Option<ManagerAddress>,
}

impl Node {
    /// True when new tasks may be placed here.
    #[must_use]
    pub fn takes_tasks(&self) -> bool {
        self.observed.status.state == NodeState::Ready && self.spec.availability == Availability::Active
    }

    /// True when tasks here must be replaced: it is down or drained.
    #[must_use]
    pub fn loses_tasks(&self) -> bool {
        self.observed.status.state == NodeState::Down || self.spec.availability == Availability::Drain
    }
}

/// Where a manager is reached by other managers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerAddress {
    /// Random, never reused.
    pub raft_id: u64,
    /// `host:port`.
    pub address: String,
}

/// What a user may edit of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeSpec {
    /// A name beside the host name; mostly empty.
    pub name: String,
    /// Labels to place by.
    pub labels: Labels,
    /// The wanted role.
    pub role: NodeRole,
    /// Whether it takes tasks.
    pub availability: Availability,
}

/// Worker or manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum NodeRole {
    /// Runs tasks.
    #[default]
    Worker,
    /// Holds the state, too.
    Manager,
}

impl NodeRole {
    /// Docker's lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

/// Whether a node takes tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Availability {
    /// Takes tasks.
    #[default]
    Active,
    /// Keeps its tasks, takes no new ones.
    Pause,
    /// Gives its tasks away.
    Drain,
}

impl Availability {
    /// Docker's lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }
}

/// What the node told of itself and whether it is reached.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeObserved {
    /// Reached or not.
    pub status: NodeStatus,
    /// What the machine is; `None` before its first session.
    pub description: Option<NodeDescription>,
    /// When the status last changed.
    pub since: Stamp,
    /// Version of this group.
    pub version: GroupVersion,
}

/// Whether a node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeStatus {
    /// Reached or not.
    pub state: NodeState,
    /// Why, for people.
    pub message: String,
    /// Address seen by the manager.
    pub addr: String,
}

/// Whether a node is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeState {
    /// Not known, for instance after a change of leader.
    #[default]
    Unknown,
    /// Its heartbeat failed.
    Down,
    /// It has a session.
    Ready,
    /// It looks for another manager.
    Disconnected,
}

impl NodeState {
    /// Docker's lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Down => "down",
            Self::Ready => "ready",
            Self::Disconnected => "disconnected",
        }
    }
}

/// What a machine is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeDescription {
    /// Host name.
    pub hostname: String,
    /// Processor and system.
    pub platform: Platform,
    /// What it has.
    pub resources: Resources,
    /// The engine on it.
    pub engine: EngineDescription,
    /// What it trusts.
    pub tls: Option<TlsInfo>,
}

impl NodeDescription {
    /// Processor time the machine has.
    #[must_use]
    pub fn cpus(&self) -> NanoCpus {
        self.resources.cpus
    }

    /// Memory the machine has.
    #[must_use]
    pub fn memory(&self) -> ByteSize {
        self.resources.memory
    }

    /// Resources that an administrator named.
    #[must_use]
    pub fn generic(&self) -> &[GenericResource] {
        &self.resources.generic
    }
}

/// Processor architecture and operating system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Platform {
    /// As `uname -m` says, or Go's name in image platforms.
    pub architecture: String,
    /// For instance `linux`.
    pub os: String,
}

/// The engine on a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineDescription {
    /// Its version.
    pub version: String,
    /// Labels given to the daemon.
    pub labels: Labels,
    /// What it has built in.
    pub plugins: Vec<Plugin>,
}

/// A built-in or added part of an engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plugin {
    /// `Volume`, `Network`, `Log`, …
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// What a node trusts and by whom it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsInfo {
    /// Root bundle, PEM.
    pub trust_root: Vec<u8>,
    /// DER of the issuer's subject.
    pub issuer_subject: Vec<u8>,
    /// DER of the issuer's public key.
    pub issuer_public_key: Vec<u8>,
}

/// A node's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeCertificate {
    /// Certificate chain, PEM; empty before it was issued.
    pub certificate: Vec<u8>,
    /// The request it answers, PEM.
    pub csr: Vec<u8>,
    /// Version of this group.
    pub version: GroupVersion,
}
