//! Which tasks of a slot can be forgotten (SwarmKit `manager/orchestrator/taskreaper`). Unlike there, a lowered limit takes
//! effect at once and not at the slot's next new task.

use std::sync::Arc;

use skep_model::{Cluster, DesiredState, Orchestration, Service, Task, TaskId};

/// How many tasks a slot of a service keeps, the live one included; `None` keeps all.
pub(crate) fn limit(cluster: Option<&Cluster>, service: &Service) -> Option<usize> {
    let settings = cluster.map_or_else(Orchestration::default, |cluster| cluster.spec.orchestration);
    let attempts = service.spec.task.restart_policy().max_attempts;
    if settings.task_history_retention_limit < 0 {
        None
    } else if attempts > 0 {
        Some(usize::try_from(attempts.saturating_add(1)).unwrap_or(usize::MAX))
    } else {
        Some(usize::try_from(settings.task_history_retention_limit).unwrap_or(usize::MAX))
    }
}

/// The oldest tasks above the limit that have ended and are not wanted. Without a wanted one the newest task stays whatever the limit: it may hold
/// its slot by its restart policy. So do those that a running update still counts (`is_kept`).
pub(crate) fn surplus(tasks: &[Arc<Task>], limit: Option<usize>, is_kept: impl Fn(&Task) -> bool) -> Vec<TaskId> {
    let above = limit.map_or(0, |limit| tasks.len().saturating_sub(limit));
    if above == 0 {
        return Vec::new();
    }
    let is_live = tasks.iter().any(|task| task.intent.desired.wants_alive());
    let newest = newest(tasks).filter(|_| !is_live).map(|task| task.id);
    let mut history: Vec<&Arc<Task>> =
        tasks.iter().filter(|task| is_forgettable(task) && Some(task.id) != newest && !is_kept(task)).collect();
    history.sort_by_key(|task| (task.status().applied_at, task.created.cluster, task.id));
    history.into_iter().take(above).map(|task| task.id).collect()
}

/// True when a task has ended, or never had a node, and is not wanted.
pub(crate) fn is_forgettable(task: &Task) -> bool {
    !task.intent.desired.wants_alive() && task.state().is_terminal()
}

/// True when a task shall be deleted now.
pub(crate) fn is_due(task: &Task) -> bool {
    task.intent.desired == DesiredState::Remove && task.state().is_terminal()
}

/// The slot's newest task. Of two that were made at one moment the one whose intent was written later is the newer.
pub(crate) fn newest(tasks: &[Arc<Task>]) -> Option<&Arc<Task>> {
    tasks.iter().max_by_key(|task| (task.created.cluster, task.intent.version, task.history.count, task.id))
}
