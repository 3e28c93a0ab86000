//! The states of a task and their order (SwarmKit `api/types.proto`; numbers are those of the wire).

/// Where a task is in its life. States are compared as numbers, and an observed state only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum TaskState {
    /// Created by the orchestrator.
    New = 0,
    /// Allocated: everything unique that it needs is given; waits for a node.
    Pending = 64,
    /// A node was chosen.
    Assigned = 192,
    /// The node has taken it.
    Accepted = 256,
    /// The node fetches image, networks and volumes, and creates the container.
    Preparing = 320,
    /// Everything is prepared; waits until it shall run.
    Ready = 384,
    /// The container is being started.
    Starting = 448,
    /// The container runs.
    Running = 512,
    /// Ended by itself with exit code 0.
    Complete = 576,
    /// Stopped because it was asked to.
    Shutdown = 640,
    /// Ended by an error at or after starting.
    Failed = 704,
    /// The node could not take or prepare it.
    Rejected = 768,
    /// Desired only: stop it, then forget it.
    Remove = 800,
    /// Its node is gone for too long or was removed; nothing more will be reported.
    Orphaned = 832,
}

impl TaskState {
    /// All states in order.
    pub const ALL: [Self; 14] = [
        Self::New,
        Self::Pending,
        Self::Assigned,
        Self::Accepted,
        Self::Preparing,
        Self::Ready,
        Self::Starting,
        Self::Running,
        Self::Complete,
        Self::Shutdown,
        Self::Failed,
        Self::Rejected,
        Self::Remove,
        Self::Orphaned,
    ];

    /// True when a task in this state does nothing more: it ended, or never will report again.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }

    /// Docker's lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        }
    }

    /// The state with this wire number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i32 == number)
    }
}

/// What the managers want of a task. It only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DesiredState {
    /// Prepared and held: a replacement that waits for its turn.
    Ready,
    /// Running.
    Running,
    /// Run to completion (jobs).
    Complete,
    /// Stopped, its record kept as history.
    Shutdown,
    /// Stopped, then its record deleted.
    Remove,
}

impl DesiredState {
    /// The task state with the same meaning.
    #[must_use]
    pub fn as_state(self) -> TaskState {
        match self {
            Self::Ready => TaskState::Ready,
            Self::Running => TaskState::Running,
            Self::Complete => TaskState::Complete,
            Self::Shutdown => TaskState::Shutdown,
            Self::Remove => TaskState::Remove,
        }
    }

    /// The desired state that means this task state, if one does.
    #[must_use]
    pub fn from_state(state: TaskState) -> Option<Self> {
        [Self::Ready, Self::Running, Self::Complete, Self::Shutdown, Self::Remove]
            .into_iter()
            .find(|desired| desired.as_state() == state)
    }

    /// True while the task shall live (it is not asked to stop).
    #[must_use]
    pub fn wants_alive(self) -> bool {
        self <= Self::Complete
    }
}
