//! What this machine can tell of itself and of its tasks' output: seams to the engine.

use skep_model::{NodeDescription, TaskId, WallTime};
use tokio::sync::mpsc;

/// Describes the machine.
pub trait DescriptionSource: Send + Sync {
    /// What the machine is, without what it trusts. Called every 20 s: must be cheap.
    fn describe(&self) -> NodeDescription;
}

/// Gives the output of tasks.
pub trait LogSource: Send + Sync {
    /// Lines of a task's container in their order; `None` when it has no container yet. The receiver is dropped when no more
    /// are wanted.
    ///
    /// # Errors
    /// When they cannot be read; for people.
    fn task_logs(&self, task: TaskId, options: TaskLogOptions) -> Result<Option<TaskLogLines>, String>;
}

/// Lines one by one; an error is the last thing.
pub type TaskLogLines = mpsc::Receiver<Result<TaskLogLine, String>>;

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskLogOptions {
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
    /// Go on until the container has ended.
    pub follow: bool,
    /// Only so many of the last lines; `None` is all.
    pub tail: Option<u64>,
    /// Only lines from then on.
    pub since: Option<WallTime>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLogLine {
    /// When it was written.
    pub time: WallTime,
    /// Standard error rather than standard output.
    pub is_stderr: bool,
    /// The line with its newline.
    pub data: Vec<u8>,
}
