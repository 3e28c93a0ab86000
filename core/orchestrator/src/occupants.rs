//! One slot: who fills it, what follows a task that ends, and what is history.

use std::cmp::Reverse;
use std::sync::Arc;

use skep_control::{Env, Plan};
use skep_model::{DesiredState, Service, ServiceMode, Task, TaskState};
use skep_store::{AtomicGroup, Change, Precondition, State};

use crate::global::{self, Standing};
use crate::orchestrator::{Orchestrator, PLAN_MAX, Timed, node_of};
use crate::restart::{self, Aim};
use crate::slots::SlotKey;
use crate::{reaper, update};

impl Orchestrator {
    pub(crate) fn judge_slots(&mut self, view: &State, env: &mut Env, plan: &mut Plan) {
        while let Some(key) = self.dirty_slots.pop_first() {
            if plan.changes.len() >= PLAN_MAX {
                self.dirty_slots.insert(key);
                plan.wake(env.now);
                return;
            }
            // A slot with changes on their way is looked at when they are seen.
            let waits = self.index.get(key).is_some_and(|entry| entry.in_flight > 0);
            if !waits && !self.updates_in_flight.contains(&key.0) {
                self.judge_slot(view, key, env, plan);
            }
        }
    }

    fn judge_slot(&mut self, view: &State, key: SlotKey, env: &mut Env, plan: &mut Plan) {
        let tasks = self.tasks_of(view, key);
        self.set_timer(Timed::Slot(key), None);
        if let Some(service) = view.service(key.0) {
            let was_occupied = self.index.get(key).is_some_and(|entry| entry.is_occupied);
            match (service.spec.mode, node_of(key.1)) {
                (ServiceMode::Replicated, None) => self.judge_occupants(view, key, service, &tasks, env, plan),
                (ServiceMode::Global, Some(node)) => {
                    let standing = global::standing(view, service, node);
                    if standing == Standing::Open {
                        self.judge_occupants(view, key, service, &tasks, env, plan);
                        if self.index.get(key).is_none_or(|entry| !entry.is_occupied) {
                            self.fill(service, key, env, plan);
                        }
                    } else {
                        self.vacate(key, standing, &tasks, plan);
                    }
                }
                _ => {}
            }
            self.reap(view, key, service, &tasks, plan);
            if self.index.get(key).is_some_and(|entry| entry.is_occupied) != was_occupied {
                self.dirty_services.insert(key.0);
            }
        } else {
            self.index.set_occupied(key, false);
            tasks.iter().for_each(|task| self.discard(key, task, None, plan));
        }
        let is_awaited = self.has_timer(key);
        self.index.prune(key, is_awaited);
    }

    /// The slot of a global service on a node that gets no task.
    fn vacate(&mut self, key: SlotKey, standing: Standing, tasks: &[Arc<Task>], plan: &mut Plan) {
        self.index.set_occupied(key, false);
        match standing {
            Standing::Open => {}
            Standing::Frozen => self.shut(key, tasks.iter().filter(|task| task.state().is_terminal()), plan),
            Standing::Closed => self.shut(key, tasks, plan),
            Standing::Gone => tasks.iter().for_each(|task| self.discard(key, task, None, plan)),
        }
    }

    /// Keeps exactly one wanted task in a slot, or two while an update starts the new one first; unless the policy says that
    /// none shall follow the last.
    fn judge_occupants(
        &mut self,
        view: &State,
        key: SlotKey,
        service: &Service,
        tasks: &[Arc<Task>],
        env: &mut Env,
        plan: &mut Plan,
    ) {
        let mut wanted: Vec<&Arc<Task>> = tasks.iter().filter(|task| task.intent.desired.wants_alive()).collect();
        if wanted.is_empty() {
            let is_held = restart::holder(view, tasks, service, env.now).is_some();
            self.index.set_occupied(key, is_held);
            return;
        }
        self.index.set_occupied(key, true);
        wanted.sort_by_key(|task| {
            (task.state().is_terminal(), Reverse(task.state()), task.created.cluster, task.intent.version, task.id)
        });
        let (current, outdated): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|task| view.is_up_to_date(task));
        self.shut(key, current.iter().skip(1).copied(), plan);
        self.shut(key, outdated.iter().skip(1).copied(), plan);
        match (current.first(), outdated.first()) {
            (Some(new), Some(old)) => self.judge_pair(view, key, service, (new, old), env, plan),
            (Some(only), None) | (None, Some(only)) => self.judge_one(view, key, service, only, env, plan),
            (None, None) => {}
        }
    }

    fn judge_one(
        &mut self,
        view: &State,
        key: SlotKey,
        service: &Service,
        task: &Task,
        env: &mut Env,
        plan: &mut Plan,
    ) {
        let is_held = task.intent.desired == DesiredState::Ready;
        if is_held && let Some(at) = restart::held_until(view, task, env.now) {
            // Also a held task that has failed already waits for its turn, so that a bad image does not spin.
            self.set_timer(Timed::Slot(key), Some(at));
        } else if restart::must_go(view, task) {
            self.restart(view, key, service, task, env, plan);
        } else if is_held {
            let group = AtomicGroup::of(set_intent(task, DesiredState::Running));
            self.propose(plan, key, &[(task.id, Some(task))], group);
        }
    }

    /// An update started the new task first: the old one stays until the new one runs, and when that fails.
    fn judge_pair(
        &mut self,
        view: &State,
        key: SlotKey,
        service: &Service,
        (new, old): (&Arc<Task>, &Arc<Task>),
        env: &mut Env,
        plan: &mut Plan,
    ) {
        if !serves(view, old) {
            self.shut(key, [old], plan);
        } else if new.state() == TaskState::Running && !restart::must_go(view, new) {
            let group = AtomicGroup::of(set_intent(old, DesiredState::Shutdown)).when(Precondition::TaskRuns(new.id));
            self.propose(plan, key, &[(old.id, Some(old))], group);
        } else if restart::must_go(view, new) && update::is_paused(service) {
            self.shut(key, [new], plan);
        } else {
            self.judge_one(view, key, service, new, env, plan);
        }
    }

    fn restart(&mut self, view: &State, key: SlotKey, service: &Service, old: &Task, env: &mut Env, plan: &mut Plan) {
        let aim = Aim::of(view, service, old);
        let group = AtomicGroup::of(set_intent(old, DesiredState::Shutdown))
            .when(Precondition::ServiceRevision { service: service.id, spec_version: service.spec_version });
        if restart::may_restart(old, &aim, env.now) {
            let new = restart::replacement(view, old, &aim, env);
            let id = new.id;
            let group = group.and(Change::CreateTask(Box::new(new)));
            self.propose(plan, key, &[(old.id, Some(old)), (id, None)], group);
        } else {
            plan.notes.push(format!("task {} is not replaced: its restart policy forbids it", old.id));
            self.propose(plan, key, &[(old.id, Some(old))], group);
        }
    }

    /// Asks the wanted ones of these tasks to stop.
    fn shut<'a>(&mut self, key: SlotKey, tasks: impl IntoIterator<Item = &'a Arc<Task>>, plan: &mut Plan) {
        for task in tasks.into_iter().filter(|task| task.intent.desired.wants_alive()) {
            self.propose(plan, key, &[(task.id, Some(task))], set_intent(task, DesiredState::Shutdown).into());
        }
    }

    /// Sends a task away for good: deletes it when it has ended, else asks it to stop first.
    pub(crate) fn discard(&mut self, key: SlotKey, task: &Task, when: Option<Precondition>, plan: &mut Plan) {
        let change = if task.state().is_terminal() {
            Change::DeleteTask(task.id)
        } else if task.intent.desired < DesiredState::Remove {
            set_intent(task, DesiredState::Remove)
        } else {
            return;
        };
        let group = AtomicGroup { preconditions: when.into_iter().collect(), changes: vec![change] };
        self.propose(plan, key, &[(task.id, Some(task))], group);
    }

    fn reap(&mut self, view: &State, key: SlotKey, service: &Service, tasks: &[Arc<Task>], plan: &mut Plan) {
        let limit = reaper::limit(view.cluster().map(AsRef::as_ref), service);
        let surplus = reaper::surplus(tasks, limit, |task| update::needs(view, service, tasks, task));
        for task in tasks.iter().filter(|task| reaper::is_due(task) || surplus.contains(&task.id)) {
            if !self.in_flight.contains(&task.id) {
                self.propose(plan, key, &[(task.id, Some(task))], Change::DeleteTask(task.id).into());
            }
        }
    }
}

/// True for a task that runs or comes to run: an update that starts the new task first keeps it meanwhile.
pub(crate) fn serves(view: &State, task: &Task) -> bool {
    task.intent.desired == DesiredState::Running && !restart::must_go(view, task)
}

pub(crate) fn set_intent(task: &Task, desired: DesiredState) -> Change {
    Change::SetIntent { task: task.id, expect: task.intent.version, desired, start_at: None, start_after: None }
}
