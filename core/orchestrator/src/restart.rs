//! The restart supervisor's rules: when a task is replaced, by what, and when a held replacement may run (SwarmKit
//! `manager/orchestrator/restart/restart.go`). Pure functions on stored tasks.

use std::time::Duration;

use skep_control::Env;
use skep_model::{
    Availability, ClusterTime, DesiredState, NodeState, RESTART_DELAY_DEFAULT, RestartCondition, RestartHistory,
    Service, Task, TaskState,
};
use skep_store::{NewTask, State};

/// How long a replacement waits at most for the task before it, from the time it could start at (Docker's
/// `defaultOldTaskTimeout`).
pub(crate) const OLD_TASK_WAIT: Duration = Duration::from_secs(60);

/// Least delay after a task that its node could not even prepare, whatever the policy says: trying again at once would only
/// keep every part of the cluster busy.
pub(crate) const REJECTED_DELAY_MIN: Duration = Duration::from_millis(500);

/// True when the task's node is down, drained or gone, so that it must be replaced.
pub(crate) fn has_lost_node(view: &State, task: &Task) -> bool {
    task.placed.node.is_some_and(|node| view.node(node).is_none_or(|node| node.loses_tasks()))
}

/// True when nothing more is to be expected of a task: it ended, or its node is down or gone.
fn is_gone(view: &State, task: &Task) -> bool {
    let is_unreachable = |node| view.node(node).is_none_or(|node| node.observed.status.state == NodeState::Down);
    task.state().is_terminal() || task.placed.node.is_some_and(is_unreachable)
}

/// When a task held at `Ready` may run: `None` is now, else the time to look again.
pub(crate) fn held_until(view: &State, task: &Task, now: ClusterTime) -> Option<ClusterTime> {
    let start_at = task.intent.start_at.unwrap_or_default();
    if now < start_at {
        return Some(start_at);
    }
    let before = task.intent.start_after.and_then(|id| view.task(id));
    let deadline = start_at.after(OLD_TASK_WAIT);
    if before.is_some_and(|before| !is_gone(view, before)) && now < deadline { Some(deadline) } else { None }
}

/// When a task ended, as the cluster counts; now when it has not.
fn ended_at(task: &Task, now: ClusterTime) -> ClusterTime {
    task.observed.as_ref().filter(|status| status.state.is_terminal()).map_or(now, |status| status.applied_at)
}

/// True when the policy lets a task be replaced. Attempts are counted per slot and revision: a task of another revision than
/// the service's may always be replaced.
pub(crate) fn may_restart(task: &Task, service: &Service, now: ClusterTime) -> bool {
    let policy = service.spec.task.restart_policy();
    match policy.condition {
        RestartCondition::None => return false,
        RestartCondition::OnFailure if task.state() == TaskState::Complete => return false,
        RestartCondition::OnFailure | RestartCondition::Any => {}
    }
    if policy.max_attempts == 0 || task.spec_version != service.spec_version {
        return true;
    }
    let attempts = match policy.window.filter(|window| !window.is_zero()) {
        None => task.history.count,
        Some(window) => {
            let end = ended_at(task, now);
            let counts = |at: &&ClusterTime| **at < end && end.since(**at) < window;
            u64::try_from(task.history.recent.iter().filter(counts).count()).unwrap_or(u64::MAX)
        }
    };
    attempts < policy.max_attempts
}

/// The history that a replacement made now carries.
fn history_of_next(old: &Task, service: &Service, now: ClusterTime) -> RestartHistory {
    let policy = service.spec.task.restart_policy();
    let mut history =
        if old.spec_version == service.spec_version { old.history.clone() } else { RestartHistory::default() };
    history.count = history.count.saturating_add(1);
    if policy.max_attempts > 0 && policy.window.is_some_and(|window| !window.is_zero()) {
        history.recent.push(now);
        let needed = usize::try_from(policy.max_attempts).unwrap_or(usize::MAX).min(RestartHistory::KEPT);
        let surplus = history.recent.len().saturating_sub(needed);
        history.recent.drain(..surplus);
    } else {
        history.recent.clear();
    }
    history
}

/// The task that takes a task's slot: held back for the restart delay and until the old one has ended, or running at once when
/// neither applies. It runs the service's current revision.
pub(crate) fn replacement(view: &State, old: &Task, service: &Service, env: &mut Env) -> NewTask {
    let node = old.placed.node.and_then(|node| view.node(node));
    let is_drained = node.is_some_and(|node| node.spec.availability == Availability::Drain);
    let wanted = service.spec.task.restart_policy().delay.unwrap_or(RESTART_DELAY_DEFAULT);
    let delay = match old.state() {
        _ if is_drained => Duration::ZERO,
        TaskState::Rejected => wanted.max(REJECTED_DELAY_MIN),
        _ => wanted,
    };
    let start_after = (old.placed.node.is_some() && !is_gone(view, old)).then_some(old.id);
    let is_held = !delay.is_zero() || start_after.is_some();
    NewTask {
        id: env.rng.id(),
        service_id: old.service_id,
        slot: old.slot,
        spec_version: service.spec_version,
        history: history_of_next(old, service, env.now),
        desired: if is_held { DesiredState::Ready } else { DesiredState::Running },
        start_at: is_held.then(|| env.now.after(delay)),
        start_after,
        by_update: false,
    }
}
