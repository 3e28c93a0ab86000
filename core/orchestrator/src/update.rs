//! The update supervisor: replaces the tasks of a service whose spec changed, so many at a time, and stops or turns back when
//! too many of the new ones fail (SwarmKit `manager/orchestrator/update/updater.go`).
//!
//! Nothing of it is in memory. Which slots are outdated follows from the tasks and the service; which tasks the update made,
//! when they first ran and how they ended is in the tasks; whether it goes on is the service's update status. A new leader
//! goes on where the old one was, with the same failures counted. What failed while its node, or the leader, was away is heard
//! of late and counts by how long it ran; so no update is complete before nodes and leader are there for as long as new tasks
//! are watched.
//!
//! Other than in SwarmKit a paused update does not spread (a task that fails is replaced by one of its own revision), and a new
//! task that does not come to run is a failure in the end.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use skep_control::{Env, Plan};
use skep_model::{
    ClusterTime, DesiredState, FailureAction, NodeState, RestartCondition, RestartHistory, Service, ServiceMode, Slot,
    Task, TaskId, TaskState, UPDATE_MONITOR_DEFAULT, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus,
};
use skep_store::{AtomicGroup, Change, NewTask, Precondition, State};

use crate::global::{self, Standing};
use crate::occupants::{serves, set_intent};
use crate::orchestrator::{Orchestrator, PLAN_MAX, Timed, node_of};
use crate::restart;
use crate::slots::SlotKey;

/// How long a new task may take to run before it counts as failed. SwarmKit waits for ever.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(600);

fn state_of(service: &Service) -> Option<UpdateState> {
    service.update.as_ref().map(|update| update.state)
}

/// True while an update or rollback replaces tasks.
pub(crate) fn is_running(service: &Service) -> bool {
    state_of(service).is_some_and(UpdateState::is_running)
}

/// True while an update or rollback waits for a person.
pub(crate) fn is_paused(service: &Service) -> bool {
    state_of(service).is_some_and(UpdateState::is_paused)
}

/// True for a task that the service's running or last update made.
fn made(service: &Service, task: &Task) -> bool {
    task.by_update && task.spec_version == service.spec_version && task.created.cluster >= service.update_since
}

/// True for a task that history must not lose: a running update counts it, or it says that the update had its turn in this
/// slot, where an outdated task stayed.
pub(crate) fn needs(view: &State, service: &Service, slot: &[Arc<Task>], task: &Task) -> bool {
    let is_outdated = |task: &Arc<Task>| task.intent.desired.wants_alive() && !view.is_up_to_date(task);
    made(service, task) && (is_running(service) || slot.iter().any(is_outdated))
}

/// True for a task that a running update made: what became of it counts.
pub(crate) fn watches(service: &Service, task: &Task) -> bool {
    is_running(service) && made(service, task)
}

/// How the service's update or rollback is to go.
fn config_of(service: &Service) -> UpdateConfig {
    let is_rollback = state_of(service) == Some(UpdateState::RollbackStarted);
    let config = if is_rollback { service.spec.rollback } else { service.spec.update };
    config.unwrap_or_default()
}

/// How long a new task is watched from when it runs.
fn monitor(config: &UpdateConfig) -> Duration {
    let asked = config.monitor.filter(|time| !time.is_zero()).unwrap_or(UPDATE_MONITOR_DEFAULT);
    if config.delay >= asked { config.delay.saturating_add(Duration::from_secs(1)) } else { asked }
}

/// When a task of the update failed, if it did: it ended by itself before it ran, or soon after, however late that was heard of. An end with exit code 0 is a
/// failure only when the policy would start the task again.
fn failed_at(service: &Service, config: &UpdateConfig, task: &Task, now: ClusterTime) -> Option<ClusterTime> {
    let Some(status) = task.observed.as_ref().filter(|status| status.state.is_terminal()) else {
        let waits_until = task.created.cluster.after(WAIT_MAX);
        let is_stuck = task.intent.desired.wants_alive() && task.started.is_none() && waits_until <= now;
        return is_stuck.then_some(waits_until);
    };
    let ends_by_itself = match status.state {
        TaskState::Failed | TaskState::Rejected => true,
        TaskState::Complete => service.spec.task.restart_policy().condition == RestartCondition::Any,
        _ => false,
    };
    let was_stopped =
        !task.intent.desired.wants_alive() && task.intent.at.is_some_and(|asked| asked.cluster < status.applied_at);
    let is_early = task.started.is_none_or(|started| status.applied_at.since(started) <= monitor(config));
    (ends_by_itself && !was_stopped && is_early).then_some(status.applied_at)
}

/// How far an update is.
#[derive(Debug, Default)]
struct Progress {
    /// Slots to be replaced, those where nothing runs first.
    outdated: Vec<(bool, Slot)>,
    /// Slots that are being replaced, or rest after it.
    busy: u64,
    /// Slots that this update has replaced, or begun to.
    begun: u64,
    /// When and where it failed, one for each such slot.
    failed: Vec<(ClusterTime, TaskId)>,
    /// When every new task has been watched long enough.
    proven_at: ClusterTime,
    /// A new task is on a node of which this leader has not heard yet: what became of it is not known.
    has_unheard: bool,
    /// When one of these changes with time alone.
    wake_at: Option<ClusterTime>,
}

impl Progress {
    fn wake(&mut self, at: ClusterTime) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    /// The task whose failure was one too many.
    fn one_too_many(&mut self, config: &UpdateConfig) -> Option<TaskId> {
        self.failed.sort_unstable();
        let slots = self.begun + self.outdated.len() as u64;
        #[expect(clippy::cast_precision_loss, reason = "a ratio of counts, compared as SwarmKit compares it")]
        let ratio = |failures: usize| failures as f32 / slots as f32;
        let is_too_many = |place: usize| ratio(place + 1) > config.max_failure_ratio;
        self.failed.iter().enumerate().find(|(place, _)| is_too_many(*place)).map(|(_, (_, task))| *task)
    }

    /// Takes in a slot: its tasks, the newest revision's first or not.
    fn add(
        &mut self,
        view: &State,
        service: &Service,
        config: &UpdateConfig,
        slot: Slot,
        tasks: &[Arc<Task>],
        now: ClusterTime,
    ) {
        let (mut failure, mut is_begun, mut is_busy) = (None, false, false);
        for task in tasks.iter().filter(|task| made(service, task)) {
            is_begun = true;
            let rest = if let Some(at) = failed_at(service, config, task, now) {
                failure = failure.max(Some(Reverse((at, task.id))));
                Some(at.after(config.delay))
            } else if task.state().is_terminal() || !task.intent.desired.wants_alive() {
                None
            } else if let Some(started) = task.started {
                let node = task.placed.node.and_then(|node| view.node(node)).map(|node| &node.observed);
                let seen = node.filter(|node| node.status.state == NodeState::Ready);
                let watched_from = seen.map_or(started, |node| started.max(node.since.cluster));
                self.has_unheard |= node.is_some_and(|node| node.status.state == NodeState::Unknown);
                self.proven_at = self.proven_at.max(watched_from.after(monitor(config)));
                Some(started.after(config.delay))
            } else {
                Some(task.created.cluster.after(WAIT_MAX))
            };
            if let Some(until) = rest.filter(|until| *until > now) {
                is_busy = true;
                self.wake(until);
            }
        }
        self.begun += u64::from(is_begun);
        self.busy += u64::from(is_busy);
        self.failed.extend(failure.map(|Reverse(failure)| failure));
        let wanted = || tasks.iter().filter(|task| task.intent.desired.wants_alive());
        let is_outdated = if wanted().next().is_some() {
            !wanted().any(|task| view.is_up_to_date(task))
        } else {
            restart::holder(view, tasks, service, now).is_some_and(|task| !view.is_up_to_date(task))
        };
        // Where the old task stayed because the new one failed, the update has had its turn.
        if is_outdated && !is_busy && failure.is_none() {
            self.outdated.push((wanted().any(|task| task.state() == TaskState::Running), slot));
        }
    }
}

impl Orchestrator {
    pub(crate) fn judge_updates(&mut self, view: &State, env: &mut Env, plan: &mut Plan) {
        let dirty: Vec<_> = self.dirty_services.iter().filter_map(|id| view.service(*id).cloned()).collect();
        for service in dirty {
            let is_job = !matches!(service.spec.mode, ServiceMode::Replicated | ServiceMode::Global);
            if !is_job && !self.updates_in_flight.contains(&service.id) && plan.changes.len() < PLAN_MAX {
                self.supervise(view, &service, env, plan);
            }
        }
    }

    fn supervise(&mut self, view: &State, service: &Service, env: &mut Env, plan: &mut Plan) {
        self.set_timer(Timed::Service(service.id), None);
        if is_paused(service) {
            self.index.set_outdated(service.id, false);
            return;
        }
        let config = config_of(service);
        let mut progress = self.progress(view, service, &config, env.now);
        let is_done = progress.outdated.is_empty() && progress.busy == 0;
        if progress.proven_at > ClusterTime::default() {
            progress.proven_at = progress.proven_at.max(self.leads_since.after(monitor(&config)));
        }
        self.index.set_outdated(service.id, !is_done);
        if !is_running(service) {
            match state_of(service) {
                None if progress.outdated.is_empty() => {}
                None => self.set_status(service, UpdateState::Updating, "update in progress".to_owned(), env, plan),
                // After the end: a node came back, or its labels changed.
                Some(_) => self.replace_outdated(view, service, &config, progress, env, plan),
            }
            return;
        }
        let watches = config.failure_action != FailureAction::Continue;
        if let Some(task) = progress.one_too_many(&config).filter(|_| watches) {
            self.give_up(service, &config, task, env, plan);
        } else if is_done && (!watches || (progress.proven_at <= env.now && !progress.has_unheard)) {
            if self.index.service(service.id).is_none_or(|slots| slots.in_flight == 0) {
                self.complete(service, env, plan);
            }
        } else if is_done {
            // A node that is heard of is an event.
            self.set_timer(Timed::Service(service.id), Some(progress.proven_at).filter(|at| *at > env.now));
        } else {
            self.replace_outdated(view, service, &config, progress, env, plan);
        }
    }

    fn progress(&self, view: &State, service: &Service, config: &UpdateConfig, now: ClusterTime) -> Progress {
        let mut progress = Progress::default();
        for (slot, entry) in self.index.service(service.id).into_iter().flat_map(|slots| &slots.slots) {
            let key = (service.id, *slot);
            let standing = node_of(*slot).map_or(Standing::Open, |node| global::standing(view, service, node));
            if matches!(standing, Standing::Closed | Standing::Gone) {
                continue;
            }
            if entry.in_flight > 0 {
                progress.busy += 1; // it is judged when the changes are seen
                continue;
            }
            progress.add(view, service, config, *slot, &self.tasks_of(view, key), now);
            if standing == Standing::Frozen {
                progress.outdated.retain(|(_, outdated)| outdated != slot);
            }
        }
        progress
    }

    fn replace_outdated(
        &mut self,
        view: &State,
        service: &Service,
        config: &UpdateConfig,
        mut progress: Progress,
        env: &mut Env,
        plan: &mut Plan,
    ) {
        let places = if config.parallelism == 0 { u64::MAX } else { config.parallelism.saturating_sub(progress.busy) };
        progress.outdated.sort_unstable();
        for (_, slot) in progress.outdated.iter().take(usize::try_from(places).unwrap_or(usize::MAX)) {
            if plan.changes.len() >= PLAN_MAX {
                break; // the rest follows when these changes are seen
            }
            self.replace(view, service, (service.id, *slot), config.order, env, plan);
        }
        self.set_timer(Timed::Service(service.id), progress.wake_at);
    }

    /// Puts a task of the current revision into a slot.
    fn replace(
        &mut self,
        view: &State,
        service: &Service,
        key: SlotKey,
        order: UpdateOrder,
        env: &mut Env,
        plan: &mut Plan,
    ) {
        let tasks = self.tasks_of(view, key);
        let wanted: Vec<_> = tasks.iter().filter(|task| task.intent.desired.wants_alive()).collect();
        let keeps = |task: &&&Arc<Task>| order == UpdateOrder::StartFirst && serves(view, task);
        let kept = wanted.iter().filter(keeps).max_by_key(|task| (task.state(), task.id)).map(|task| task.id);
        let ends = |task: &&&Arc<Task>| task.placed.node.is_some() && !restart::is_gone(view, task);
        let start_after = match kept {
            Some(_) => None,
            None => wanted.iter().filter(ends).max_by_key(|task| (task.state(), task.id)).map(|task| task.id),
        };
        let new = NewTask {
            id: env.rng.id(),
            service_id: service.id,
            slot: key.1,
            spec_version: service.spec_version,
            history: RestartHistory::default(),
            desired: if start_after.is_some() { DesiredState::Ready } else { DesiredState::Running },
            start_at: start_after.map(|_| env.now),
            start_after,
            by_update: true,
        };
        let mut touched = vec![(new.id, None)];
        let mut group = AtomicGroup::of(Change::CreateTask(Box::new(new)))
            .when(Precondition::ServiceRevision { service: service.id, spec_version: service.spec_version });
        for task in wanted.into_iter().filter(|task| Some(task.id) != kept) {
            touched.push((task.id, Some(task.as_ref())));
            group = group.and(set_intent(task, DesiredState::Shutdown));
        }
        self.index.set_occupied(key, true);
        self.propose(plan, key, &touched, group);
    }

    /// Pauses, or returns to the previous spec. A rollback is never rolled back.
    fn give_up(&mut self, service: &Service, config: &UpdateConfig, task: TaskId, env: &Env, plan: &mut Plan) {
        let cause = format!("due to failure or early termination of task {task}");
        let is_rollback = state_of(service) == Some(UpdateState::RollbackStarted);
        if is_rollback {
            self.set_status(service, UpdateState::RollbackPaused, format!("rollback paused {cause}"), env, plan);
        } else if config.failure_action == FailureAction::Rollback && service.previous.is_some() {
            let reason = Some(format!("update rolled back {cause}"));
            let change = Change::RollbackService { service: service.id, expect: service.meta.version, reason };
            self.updates_in_flight.propose(service.id, Some(service.update_version), ());
            plan.propose(change);
        } else {
            self.set_status(service, UpdateState::Paused, format!("update paused {cause}"), env, plan);
        }
    }

    fn complete(&mut self, service: &Service, env: &Env, plan: &mut Plan) {
        if state_of(service) == Some(UpdateState::RollbackStarted) {
            self.set_status(service, UpdateState::RollbackCompleted, "rollback completed".to_owned(), env, plan);
        } else {
            self.set_status(service, UpdateState::Completed, "update completed".to_owned(), env, plan);
        }
    }

    fn set_status(&mut self, service: &Service, state: UpdateState, message: String, env: &Env, plan: &mut Plan) {
        let is_over = matches!(state, UpdateState::Completed | UpdateState::RollbackCompleted);
        let status = UpdateStatus {
            state,
            started_at: service.update.as_ref().map_or(Some(env.wall), |update| update.started_at),
            completed_at: is_over.then_some(env.wall),
            message,
        };
        self.updates_in_flight.propose(service.id, Some(service.update_version), ());
        plan.propose(Change::SetUpdateStatus {
            service: service.id,
            expect: service.update_version,
            status: Some(status),
        });
    }
}

#[cfg(test)]
mod tests;
