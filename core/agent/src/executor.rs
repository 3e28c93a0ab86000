//! The seam between deciding and doing: what an agent asks of whatever runs containers. The engine implements it; a fake
//! does for tests; `conformity` holds both to the same behaviour.

use std::sync::Arc;

use skep_model::{ContainerStatus, PortConfig, TaskId, WallTime};

use crate::Assignment;

/// Runs tasks. Per task at most one operation is in flight: the agent begins the next after [`Done`] was called.
///
/// Every operation may be repeated, also after a restart of the executor: what is done already stays as it is.
pub trait Executor: Send + Sync {
    /// Begins an operation and returns soon. `done` is called exactly once, from any thread, possibly before this
    /// returns.
    fn begin(&self, operation: Operation, done: Done);

    /// Asks that the task's operation in flight ends early. A wait ends at once, a preparation at its next step, with
    /// [`Failure::Cancelled`]; others may go on to their end. Without an operation in flight it does nothing.
    fn cancel(&self, task: TaskId);

    /// The tasks of which this executor has something: a container in any state.
    fn tasks(&self) -> Vec<TaskId>;
}

/// Called once with how an operation ended.
pub type Done = Box<dyn FnOnce(Finished) + Send>;

/// One operation on one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The task.
    pub task: TaskId,
    /// What to do.
    pub work: Work,
}

/// What to do with a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Make everything ready to start: image, networks, container. A container that exists already is success.
    Prepare(Arc<Assignment>),
    /// Start the prepared container. One that runs, or ran, is success and is not started again.
    Start(Arc<Assignment>),
    /// Wait until the container has ended; also for one that was started by an earlier process.
    Wait,
    /// Take it out of traffic, stop it with its grace period, keep it. Nothing to stop is success.
    Shutdown,
    /// Stop it at once and delete everything of it. Nothing to delete is success.
    Remove,
}

impl Work {
    /// One word for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "prepare",
            Self::Start(_) => "start",
            Self::Wait => "wait",
            Self::Shutdown => "shutdown",
            Self::Remove => "remove",
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Success or what failed. A container that ended is a success of [`Work::Wait`], whatever its exit code.
    pub result: Result<(), Failure>,
    /// The container as it is now, when there is one.
    pub container: Option<ContainerStatus>,
    /// Host-mode ports with the numbers really bound; empty when none is.
    pub ports: Vec<PortConfig>,
    /// When the container ended, by the node's clock; `None` while it runs, or when that is not known. A wait that begins after
    /// a restart of the node's daemon hears of an end long after it.
    pub ended_at: Option<WallTime>,
}

impl Finished {
    /// Success.
    #[must_use]
    pub fn done(container: Option<ContainerStatus>) -> Self {
        Self { result: Ok(()), container, ports: Vec::new(), ended_at: None }
    }

    /// Failure.
    #[must_use]
    pub fn failed(failure: Failure) -> Self {
        Self { result: Err(failure), container: None, ports: Vec::new(), ended_at: None }
    }
}

/// Why an operation did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It was asked to end early.
    #[error("cancelled")]
    Cancelled,
    /// It may succeed when it is tried again.
    #[error("{0}")]
    Temporary(String),
    /// Trying again does not help.
    #[error("{0}")]
    Fatal(String),
}
