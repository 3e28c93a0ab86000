//! A task: one slot's turn of a service on one node. Its fields lie in groups with one writer each (`ARCHITECTURE.md`), and
//! its state is *derived* from them, so that two writers never fight over it.

use std::fmt;

use crate::{
    ClusterTime, DesiredState, GroupVersion, NodeId, PortConfig, ServiceId, SpecVersion, Stamp, TaskId, TaskNetwork,
    TaskState, VirtualIp, WallTime,
};

/// Which of a service's places a task fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Numbered from 1: replicated services.
    Number(u64),
    /// The node itself: global services.
    Node(NodeId),
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Node(node) => write!(f, "{node}"),
        }
    }
}

/// One slot's turn of a service on one node. What it runs is in the service's revision `spec_version`.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The service it belongs to.
    pub service_id: ServiceId,
    /// Its place in the service.
    pub slot: Slot,
    /// The revision of the service's spec it runs.
    pub spec_version: SpecVersion,
    /// When it was created.
    pub created: Stamp,
    /// Raft index and wall time of the last write to any group: Docker's `Version.Index` and `UpdatedAt` of a task.
    pub updated: (u64, WallTime),
    /// Restarts of this slot that led to this task. Fixed at creation, by the orchestrator.
    pub history: RestartHistory,
    /// What is wanted of it. Written by the orchestrator.
    pub intent: Intent,
    /// What it was given. Written by the allocator.
    pub attachment: Attachment,
    /// Where it runs. Written by the scheduler; the node is written once.
    pub placed: Placed,
    /// What its node reported last; `None` before the first report. Written by the dispatcher, from the agent.
    pub observed: Option<TaskStatus>,
    /// When it was first stored that it runs; `None` while it never did. When it ended and that was heard of late, by the
    /// node's clock, it is moved by as much: from here to the end's `applied_at` is how long it ran. Follows from what was
    /// observed.
    pub started: Option<ClusterTime>,
    /// A rolling update made it, and watches it. Fixed at creation, by the orchestrator.
    pub by_update: bool,
}

impl Task {
    /// The task's state: what its node reported, or, before that, how far the managers have got. A task that was never
    /// placed and is not wanted any more is shut down.
    #[must_use]
    pub fn state(&self) -> TaskState {
        if let Some(status) = &self.observed {
            status.state
        } else if self.placed.node.is_some() {
            TaskState::Assigned
        } else if !self.intent.desired.wants_alive() {
            TaskState::Shutdown
        } else if self.attachment.done.is_some() {
            TaskState::Pending
        } else {
            TaskState::New
        }
    }

    /// The state with its time and texts, as `docker service ps` shows them.
    #[must_use]
    pub fn status(&self) -> TaskStatus {
        if let Some(status) = &self.observed {
            return status.clone();
        }
        let state = self.state();
        let (at, message, err) = match state {
            TaskState::Assigned => (self.placed.at, "scheduler assigned task to node", None),
            TaskState::Pending => (self.attachment.done, "pending task scheduling", self.placed.reason.clone()),
            TaskState::Shutdown => (self.intent.at, "shutdown", None),
            _ => (None, "created", self.attachment.reason.clone()),
        };
        let at = at.unwrap_or(self.created);
        TaskStatus {
            state,
            timestamp: at.wall,
            applied_at: at.cluster,
            message: message.to_owned(),
            err: err.unwrap_or_default(),
            container: None,
            ports: Vec::new(),
        }
    }

    /// The node it runs on, or is bound to by its slot.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        self.placed.node.or(match self.slot {
            Slot::Node(node) => Some(node),
            Slot::Number(_) => None,
        })
    }

    /// True while it holds, or will hold, resources of its node: it is placed and has not ended.
    #[must_use]
    pub fn occupies_node(&self) -> bool {
        self.placed.node.is_some() && !self.state().is_terminal()
    }
}

/// What the orchestrator wants of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The wanted state; it only grows.
    pub desired: DesiredState,
    /// When it was last written.
    pub at: Option<Stamp>,
    /// For a task held at `Ready`: the earliest time it may run.
    pub start_at: Option<ClusterTime>,
    /// For a task held at `Ready`: the task that must have ended first.
    pub start_after: Option<TaskId>,
    /// Version of this group.
    pub version: GroupVersion,
}

/// What the allocator gave a task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attachment {
    /// When everything was given; `None` while something is missing.
    pub done: Option<Stamp>,
    /// Published ports of the task: the service's, with numbers filled in.
    pub ports: Vec<PortConfig>,
    /// Its networks, that of the routing mesh first.
    pub networks: Vec<TaskNetwork>,
    /// The service's addresses when it was attached.
    pub virtual_ips: Vec<VirtualIp>,
    /// Why something is missing, for people.
    pub reason: Option<String>,
    /// Version of this group.
    pub version: GroupVersion,
}

/// Where a task runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placed {
    /// The node; written once.
    pub node: Option<NodeId>,
    /// When it was placed.
    pub at: Option<Stamp>,
    /// Why no node fits yet, for people.
    pub reason: Option<String>,
    /// Version of this group.
    pub version: GroupVersion,
}

/// What a node reported of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// How far it is.
    pub state: TaskState,
    /// When, by the node's clock.
    pub timestamp: WallTime,
    /// When a manager stored it.
    pub applied_at: ClusterTime,
    /// A short text: `preparing`, `started`, `finished`, …
    pub message: String,
    /// What went wrong; empty when nothing did.
    pub err: String,
    /// The container, once there is one.
    pub container: Option<ContainerStatus>,
    /// Host-mode ports with the numbers really bound.
    pub ports: Vec<PortConfig>,
}

/// What is known of a task's container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerStatus {
    /// Its id, 64 hex digits.
    pub container_id: String,
    /// Process id of its first process; 0 when it does not run.
    pub pid: i32,
    /// Exit code of its first process, 128 + signal when killed.
    pub exit_code: i32,
}

/// Restarts of one slot under one revision that led to a task; what `max_attempts` and `window` are judged by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestartHistory {
    /// How many.
    pub count: u64,
    /// When the newest of them were, oldest first; as many as the policy needs, at most [`Self::KEPT`].
    pub recent: Vec<ClusterTime>,
}

impl RestartHistory {
    /// Most times kept.
    pub const KEPT: usize = 256;
}
