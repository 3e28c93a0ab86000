//! The restart supervisor's rules: when a task is replaced, by what, and when a held replacement may run (SwarmKit
//! `manager/orchestrator/restart/restart.go`). Pure functions on stored tasks.

use std::sync::Arc;
use std::time::Duration;

use skep_control::Env;
use skep_model::{
    Availability, ClusterTime, DesiredState, NodeState, RESTART_DELAY_DEFAULT, RestartCondition, RestartHistory,
    Service, ServiceSpec, SpecVersion, Task, TaskState, UpdateState,
};
use skep_store::{NewTask, State, fulfils};

use crate::{reaper, update};

/// How long a replacement waits at most for the task before it, from the time it could start at (Docker's
/// `defaultOldTaskTimeout`).
pub(crate) const OLD_TASK_WAIT: Duration = Duration::from_secs(60);

/// Least delay after a task that its node could not even prepare, whatever the policy says: trying again at once would only
/// keep every part of the cluster busy.
pub(crate) const REJECTED_DELAY_MIN: Duration = Duration::from_millis(500);

/// What follows a task: the revision that its replacement runs.
#[derive(Debug)]
pub(crate) struct Aim {
    spec: Arc<ServiceSpec>,
    spec_version: SpecVersion,
    /// The replacement is the running update's work and counts for it.
    by_update: bool,
}

impl Aim {
    /// The service's current revision, whatever the task ran; but while its update is paused the task's own, so that the new
    /// revision does not spread.
    pub(crate) fn of(view: &State, service: &Service, old: &Task) -> Self {
        let is_outdated = !view.is_up_to_date(old);
        if is_outdated && update::is_paused(service) {
            return Self { spec: view.spec_of(old).clone(), spec_version: old.spec_version, by_update: false };
        }
        let is_unproven = update::watches(service, old) && !old.state().is_terminal();
        let by_update = update::is_running(service) && (is_outdated || is_unproven);
        Self { spec: service.spec.clone(), spec_version: service.spec_version, by_update }
    }
}

/// True when a task must be replaced: it ended, or its node is down, drained or gone, or does not fulfil its constraints any
/// more.
pub(crate) fn must_go(view: &State, task: &Task) -> bool {
    task.state().is_terminal() || has_lost_node(view, task)
}

fn has_lost_node(view: &State, task: &Task) -> bool {
    let Some(node) = task.placed.node else { return false };
    let Some(node) = view.node(node) else { return true };
    // The current placement counts as well: an update that changes nothing else leaves the task its old revision.
    let fits = fulfils(node, &view.spec_of(task).task.placement)
        || view.service(task.service_id).is_some_and(|service| fulfils(node, &service.spec.task.placement));
    node.loses_tasks() || (node.spec.availability == Availability::Active && !fits)
}

/// True when nothing more is to be expected of a task: it ended, or its node is down or gone.
pub(crate) fn is_gone(view: &State, task: &Task) -> bool {
    let is_unreachable = |node| view.node(node).is_none_or(|node| node.observed.status.state == NodeState::Down);
    task.state().is_terminal() || task.placed.node.is_some_and(is_unreachable)
}

/// The task that holds a slot without wanted tasks: the last one, when the policy says that none shall follow it. While a
/// rollback runs, what ended before it holds no slot, so that the rollback reaches all.
pub(crate) fn holder<'a>(
    view: &State,
    tasks: &'a [Arc<Task>],
    service: &Service,
    now: ClusterTime,
) -> Option<&'a Arc<Task>> {
    let newest = reaper::newest(tasks)?;
    let is_rolling_back = service.update.as_ref().is_some_and(|update| update.state == UpdateState::RollbackStarted);
    let is_void = is_rolling_back && newest.created.cluster < service.update_since;
    let is_last =
        newest.intent.desired == DesiredState::Shutdown && !may_restart(newest, &Aim::of(view, service, newest), now);
    (is_last && !is_void).then_some(newest)
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
/// its replacement may always be replaced.
pub(crate) fn may_restart(task: &Task, aim: &Aim, now: ClusterTime) -> bool {
    let policy = aim.spec.task.restart_policy();
    match policy.condition {
        RestartCondition::None => return false,
        RestartCondition::OnFailure if task.state() == TaskState::Complete => return false,
        RestartCondition::OnFailure | RestartCondition::Any => {}
    }
    if policy.max_attempts == 0 || task.spec_version != aim.spec_version {
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
fn history_of_next(old: &Task, aim: &Aim, now: ClusterTime) -> RestartHistory {
    let policy = aim.spec.task.restart_policy();
    let mut history =
        if old.spec_version == aim.spec_version { old.history.clone() } else { RestartHistory::default() };
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
/// neither applies.
pub(crate) fn replacement(view: &State, old: &Task, aim: &Aim, env: &mut Env) -> NewTask {
    let node = old.placed.node.and_then(|node| view.node(node));
    let is_drained = node.is_some_and(|node| node.spec.availability == Availability::Drain);
    let wanted = aim.spec.task.restart_policy().delay.unwrap_or(RESTART_DELAY_DEFAULT);
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
        spec_version: aim.spec_version,
        history: history_of_next(old, aim, env.now),
        desired: if is_held { DesiredState::Ready } else { DesiredState::Running },
        start_at: is_held.then(|| env.now.after(delay)),
        start_after,
        by_update: aim.by_update,
    }
}
