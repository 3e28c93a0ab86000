//! A service: what a user wants to run.

use std::sync::Arc;

use crate::{ClusterTime, GroupVersion, Meta, PortConfig, ServiceId, ServiceSpec, SpecVersion, VirtualIp, WallTime};

/// What a user gives to create or update a service: the spec and, for replicated ones, the scale.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceDefinition {
    /// The spec.
    pub spec: Arc<ServiceSpec>,
    /// Wanted number of tasks of a replicated service.
    pub replicas: u64,
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// Edit version and times.
    pub meta: Meta,
    /// The current spec.
    pub spec: Arc<ServiceSpec>,
    /// Which revision tasks shall have.
    pub spec_version: SpecVersion,
    /// Wanted number of tasks of a replicated service.
    pub replicas: u64,
    /// What a rollback returns to.
    pub previous: Option<PreviousSpec>,
    /// What the allocator gave. Written by the allocator.
    pub endpoint: Endpoint,
    /// How the running or last update goes. Written by the orchestrator.
    pub update: Option<UpdateStatus>,
    /// When that update or rollback began, in cluster time: tasks that it made are not older.
    pub update_since: ClusterTime,
    /// Version of the update group.
    pub update_version: GroupVersion,
}

impl Service {
    /// The definition that a user would give to get this service.
    #[must_use]
    pub fn definition(&self) -> ServiceDefinition {
        ServiceDefinition { spec: self.spec.clone(), replicas: self.replicas }
    }
}

/// The spec before the last update.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviousSpec {
    /// The spec.
    pub spec: Arc<ServiceSpec>,
    /// Its revision.
    pub spec_version: SpecVersion,
    /// The scale then.
    pub replicas: u64,
}

/// What the allocator gave a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// The revision whose ports these are; `None` before the first allocation.
    pub allocated_for: Option<SpecVersion>,
    /// The ports with their published numbers filled in.
    pub ports: Vec<PortConfig>,
    /// Its address on each network.
    pub virtual_ips: Vec<VirtualIp>,
    /// Why nothing could be given yet, for people.
    pub reason: Option<String>,
    /// Version of this group.
    pub version: GroupVersion,
}

/// How an update goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateStatus {
    /// Where it is.
    pub state: UpdateState,
    /// When it began.
    pub started_at: Option<WallTime>,
    /// When it ended.
    pub completed_at: Option<WallTime>,
    /// For people, as Docker words it.
    pub message: String,
}

/// Where an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateState {
    /// Tasks are being replaced.
    Updating,
    /// Waits for a person after a failure.
    Paused,
    /// All tasks are replaced.
    Completed,
    /// Tasks go back to the previous spec.
    RollbackStarted,
    /// The rollback waits for a person after a failure.
    RollbackPaused,
    /// All tasks are back.
    RollbackCompleted,
}

impl UpdateState {
    /// True while tasks are being replaced.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Updating | Self::RollbackStarted)
    }

    /// True while it waits for a person.
    #[must_use]
    pub fn is_paused(self) -> bool {
        matches!(self, Self::Paused | Self::RollbackPaused)
    }

    /// Docker's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Updating => "updating",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::RollbackStarted => "rollback_started",
            Self::RollbackPaused => "rollback_paused",
            Self::RollbackCompleted => "rollback_completed",
        }
    }
}
