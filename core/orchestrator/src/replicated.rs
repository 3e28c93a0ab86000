//! The loop for replicated services.

use std::collections::{BTreeSet, btree_map::BTreeMap};
use std::sync::Arc;

use skep_control::{ControlLoop, Env, InFlight, Plan};
use skep_model::{
    ClusterTime, DesiredState, NodeId, RestartHistory, Service, ServiceId, ServiceMode, Slot, Task, TaskId, TaskState,
};
use skep_store::{AtomicGroup, Change, Event, NewTask, Precondition, State};

use crate::scale::{self, SlotLoad};
use crate::slots::{SlotIndex, SlotKey};
use crate::{reaper, restart};

/// Most groups of changes in one plan; the rest follows in the next step, which is asked for at once.
pub(crate) const PLAN_MAX: usize = 4096;

/// The orchestrator of replicated services, with restart supervisor and reaper.
#[derive(Debug, Default)]
pub struct Replicated {
    index: SlotIndex,
    /// Tasks of which a change is on its way, with their slot.
    in_flight: InFlight<TaskId, SlotKey>,
    dirty_slots: BTreeSet<SlotKey>,
    dirty_services: BTreeSet<ServiceId>,
    timers: BTreeSet<(ClusterTime, SlotKey)>,
    retention: Option<i64>,
}

impl ControlLoop for Replicated {
    fn name(&self) -> &'static str {
        "orchestrator"
    }

    fn step(&mut self, view: &State, events: &[Event], env: &mut Env) -> Plan {
        if events.iter().any(|event| matches!(event, Event::Reset)) {
            self.reset(view);
        } else {
            events.iter().for_each(|event| self.observe(view, event));
        }
        while let Some((at, key)) = self.timers.first().copied().filter(|(at, _)| *at <= env.now) {
            self.timers.remove(&(at, key));
            self.index.entry(key).wake_at = None;
            self.dirty_slots.insert(key);
        }
        let mut plan = Plan::default();
        self.judge_slots(view, env, &mut plan);
        self.judge_services(view, env, &mut plan);
        if let Some((at, _)) = self.timers.first() {
            plan.wake(*at);
        }
        plan
    }
}

// Following what happens.
impl Replicated {
    fn reset(&mut self, view: &State) {
        *self = Self::default();
        self.retention = retention(view);
        for task in view.tasks() {
            self.index.add_task(key_of(task), task.id);
            self.dirty_slots.insert(key_of(task));
        }
        self.dirty_services.extend(view.services().map(|service| service.id));
    }

    fn observe(&mut self, view: &State, event: &Event) {
        match event {
            Event::Reset | Event::Secret(..) | Event::Config(..) => {}
            Event::Cluster(..) => {
                let retention = retention(view);
                if self.retention != retention {
                    self.retention = retention;
                    let all = self.index.services();
                    self.dirty_slots
                        .extend(all.flat_map(|(id, service)| service.slots.keys().map(move |slot| (id, *slot))));
                }
            }
            Event::Node(before, after) => {
                let loses = |node: &Option<Arc<skep_model::Node>>| node.as_ref().is_none_or(|node| node.loses_tasks());
                let Some(node) = after.as_ref().or(before.as_ref()) else { return };
                if before.is_some() && loses(after) {
                    self.dirty_slots.extend(view.tasks_on_node(node.id).map(|task| key_of(task)));
                }
            }
            Event::Service(before, after) => {
                let Some(service) = after.as_ref().or(before.as_ref()) else { return };
                let is_news = |before: &Arc<Service>| {
                    after.as_ref().is_none_or(|after| {
                        before.meta.version != after.meta.version || before.replicas != after.replicas
                    })
                };
                if before.as_ref().is_none_or(is_news) {
                    self.dirty_services.insert(service.id);
                    // What holds a slot depends on the service's policy, and all of it on whether the service exists.
                    if before.is_some() {
                        self.mark_slots_of(service.id);
                    }
                }
            }
            Event::Task(before, after) => {
                let Some(task) = after.as_ref().or(before.as_ref()) else { return };
                let key = key_of(task);
                if after.is_some() {
                    self.index.add_task(key, task.id);
                } else {
                    self.index.remove_task(key, task.id);
                }
                let seen = after.as_ref().map(|task| task.intent.version);
                if let Some(key) = self.in_flight.settle(&task.id, seen) {
                    self.index.end_flight(key);
                    self.dirty_services.insert(key.0);
                }
                self.dirty_slots.insert(key);
            }
        }
    }

    fn mark_slots_of(&mut self, id: ServiceId) {
        if let Some(service) = self.index.service(id) {
            self.dirty_slots.extend(service.slots.keys().map(|slot| (id, *slot)));
        }
    }

    fn propose(&mut self, plan: &mut Plan, key: SlotKey, touched: &[(TaskId, Option<&Task>)], group: AtomicGroup) {
        for (id, task) in touched {
            self.in_flight.propose(*id, task.map(|task| task.intent.version), key);
            self.index.begin_flight(key);
        }
        plan.propose(group);
    }
}

// One slot.
impl Replicated {
    fn judge_slots(&mut self, view: &State, env: &mut Env, plan: &mut Plan) {
        while let Some(key) = self.dirty_slots.pop_first() {
            if plan.changes.len() >= PLAN_MAX {
                self.dirty_slots.insert(key);
                plan.wake(env.now);
                return;
            }
            // A slot with changes on their way is looked at when they are seen.
            if self.index.get(key).is_some_and(|entry| entry.in_flight == 0) {
                self.judge_slot(view, key, env, plan);
            }
        }
    }

    fn judge_slot(&mut self, view: &State, key: SlotKey, env: &mut Env, plan: &mut Plan) {
        let Some(entry) = self.index.get(key) else { return };
        let tasks: Vec<Arc<Task>> = entry.tasks.iter().filter_map(|id| view.task(*id).cloned()).collect();
        self.set_timer(key, None);
        match view.service(key.0) {
            None => {
                self.index.set_occupied(key, false);
                tasks.iter().for_each(|task| self.discard(key, task, None, plan));
            }
            Some(service) => {
                let was_occupied = self.index.get(key).is_some_and(|entry| entry.is_occupied);
                if service.spec.mode == ServiceMode::Replicated {
                    self.judge_replica(view, key, service, &tasks, env, plan);
                }
                let limit = reaper::limit(view.cluster().map(AsRef::as_ref), service);
                let surplus = reaper::surplus(&tasks, limit);
                for task in tasks.iter().filter(|task| reaper::is_due(task) || surplus.contains(&task.id)) {
                    if !self.in_flight.contains(&task.id) {
                        self.propose(plan, key, &[(task.id, Some(task))], Change::DeleteTask(task.id).into());
                    }
                }
                let is_occupied = self.index.get(key).is_some_and(|entry| entry.is_occupied);
                if was_occupied != is_occupied {
                    self.dirty_services.insert(key.0);
                }
            }
        }
        self.index.prune(key);
    }

    /// Keeps exactly one wanted task in a slot, unless the policy says that none shall follow.
    fn judge_replica(
        &mut self,
        view: &State,
        key: SlotKey,
        service: &Service,
        tasks: &[Arc<Task>],
        env: &mut Env,
        plan: &mut Plan,
    ) {
        let mut wanted: Vec<&Arc<Task>> = tasks.iter().filter(|task| task.intent.desired.wants_alive()).collect();
        wanted.sort_by_key(|task| {
            (task.state().is_terminal(), std::cmp::Reverse(task.state()), task.created.cluster, task.id)
        });
        let Some((task, doubles)) = wanted.split_first() else {
            let is_held = reaper::newest(tasks).is_some_and(|newest| {
                newest.intent.desired == DesiredState::Shutdown && !restart::may_restart(newest, service, env.now)
            });
            self.index.set_occupied(key, is_held);
            return;
        };
        self.index.set_occupied(key, true);
        for double in doubles {
            let change = set_intent(double, DesiredState::Shutdown);
            self.propose(plan, key, &[(double.id, Some(double))], change.into());
        }
        let has_ended = task.state().is_terminal();
        let must_go = has_ended || restart::has_lost_node(view, task);
        if task.intent.desired == DesiredState::Ready
            && let Some(at) = restart::held_until(view, task, env.now)
        {
            // Also a held task that has failed already waits for its turn, so that a bad image does not spin.
            self.set_timer(key, Some(at));
        } else if must_go {
            self.restart(view, key, service, task, env, plan);
        } else if task.intent.desired == DesiredState::Ready {
            let group = AtomicGroup::of(set_intent(task, DesiredState::Running));
            self.propose(plan, key, &[(task.id, Some(task))], group);
        }
    }

    fn restart(&mut self, view: &State, key: SlotKey, service: &Service, old: &Task, env: &mut Env, plan: &mut Plan) {
        let group = AtomicGroup::of(set_intent(old, DesiredState::Shutdown));
        if restart::may_restart(old, service, env.now) {
            let new = restart::replacement(view, old, service, env);
            let id = new.id;
            let group = group
                .and(Change::CreateTask(Box::new(new)))
                .when(Precondition::ServiceRevision { service: service.id, spec_version: service.spec_version });
            self.propose(plan, key, &[(old.id, Some(old)), (id, None)], group);
        } else {
            plan.notes.push(format!("task {} is not replaced: its restart policy forbids it", old.id));
            let group =
                group.when(Precondition::ServiceRevision { service: service.id, spec_version: service.spec_version });
            self.propose(plan, key, &[(old.id, Some(old))], group);
        }
    }

    /// Sends a task away for good: deletes it when it has ended, else asks it to stop first.
    fn discard(&mut self, key: SlotKey, task: &Task, when: Option<Precondition>, plan: &mut Plan) {
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

    fn set_timer(&mut self, key: SlotKey, at: Option<ClusterTime>) {
        let entry = self.index.entry(key);
        let before = std::mem::replace(&mut entry.wake_at, at);
        if before != at {
            before.map(|before| self.timers.remove(&(before, key)));
            at.map(|at| self.timers.insert((at, key)));
        }
    }
}

// One service.
impl Replicated {
    fn judge_services(&mut self, view: &State, env: &mut Env, plan: &mut Plan) {
        for id in std::mem::take(&mut self.dirty_services) {
            let Some(service) = view.service(id) else { continue };
            if service.spec.mode != ServiceMode::Replicated {
                plan.notes.push(format!("service {id} is not replicated: it is left alone"));
                continue;
            }
            let slots = self.index.service(id);
            if slots.is_some_and(|slots| slots.in_flight > 0) {
                continue; // seen changes make it dirty again
            }
            if plan.changes.len() >= PLAN_MAX {
                self.dirty_services.insert(id);
                plan.wake(env.now);
                continue;
            }
            let occupied = slots.map_or(0, |slots| slots.occupied);
            if occupied < service.replicas {
                self.grow(service, service.replicas - occupied, env, plan);
            } else if occupied > service.replicas {
                self.shrink(view, service, plan);
            } else {
                self.clear_dead_slots(view, service, plan);
            }
        }
    }

    fn grow(&mut self, service: &Service, missing: u64, env: &mut Env, plan: &mut Plan) {
        let budget = u64::try_from(PLAN_MAX.saturating_sub(plan.changes.len())).unwrap_or(0);
        let slots = self.index.service(service.id);
        let is_taken = |number| {
            slots.is_some_and(|slots| slots.slots.get(&Slot::Number(number)).is_some_and(|entry| entry.is_occupied))
        };
        let count = usize::try_from(missing.min(budget)).unwrap_or(usize::MAX);
        let numbers: Vec<u64> = scale::free_numbers(is_taken).take(count).collect();
        for number in numbers {
            let new = NewTask {
                id: env.rng.id(),
                service_id: service.id,
                slot: Slot::Number(number),
                spec_version: service.spec_version,
                history: RestartHistory::default(),
                desired: DesiredState::Running,
                start_at: None,
                start_after: None,
                by_update: false,
            };
            let (id, key) = (new.id, (service.id, new.slot));
            let group = AtomicGroup::of(Change::CreateTask(Box::new(new)))
                .when(Precondition::ServiceRevision { service: service.id, spec_version: service.spec_version })
                .when(Precondition::ServiceReplicas { service: service.id, replicas: service.replicas });
            self.index.set_occupied(key, true);
            self.propose(plan, key, &[(id, None)], group);
        }
        // The service becomes dirty again when the new tasks are seen.
    }

    fn shrink(&mut self, view: &State, service: &Service, plan: &mut Plan) {
        let Some(slots) = self.index.service(service.id) else { return };
        let mut tasks_by_slot: BTreeMap<u64, Vec<Arc<Task>>> = BTreeMap::new();
        for (slot, entry) in slots.slots.iter().filter(|(_, entry)| entry.is_occupied) {
            if let Slot::Number(number) = slot {
                let tasks = entry.tasks.iter().filter_map(|id| view.task(*id).cloned()).collect();
                tasks_by_slot.insert(*number, tasks);
            }
        }
        let loads = tasks_by_slot.iter().map(|(number, tasks)| load_of(*number, tasks)).collect();
        let keep = usize::try_from(service.replicas).unwrap_or(usize::MAX);
        let when = Precondition::ServiceReplicas { service: service.id, replicas: service.replicas };
        for number in scale::surplus(loads, keep) {
            if plan.changes.len() >= PLAN_MAX {
                break; // the service becomes dirty again when these changes are seen
            }
            let key = (service.id, Slot::Number(number));
            self.index.set_occupied(key, false);
            for task in &tasks_by_slot[&number] {
                self.discard(key, task, Some(when.clone()), plan);
            }
        }
    }

    /// Removes the history of slots that nothing occupies and the scale does not need.
    fn clear_dead_slots(&mut self, view: &State, service: &Service, plan: &mut Plan) {
        let Some(slots) = self.index.service(service.id) else { return };
        let number_of_slots = u64::try_from(slots.slots.len()).unwrap_or(u64::MAX);
        if number_of_slots == slots.occupied {
            return;
        }
        let dead: Vec<SlotKey> = slots
            .slots
            .iter()
            .filter(|(_, entry)| !entry.is_occupied && entry.in_flight == 0)
            .map(|(slot, _)| (service.id, *slot))
            .collect();
        let when = Precondition::ServiceReplicas { service: service.id, replicas: service.replicas };
        for key in dead {
            let tasks: Vec<TaskId> = self.index.get(key).map(|entry| entry.tasks.clone()).unwrap_or_default();
            for task in tasks.into_iter().filter_map(|id| view.task(id)) {
                if plan.changes.len() < PLAN_MAX {
                    self.discard(key, task, Some(when.clone()), plan);
                }
            }
        }
    }
}

fn load_of(number: u64, tasks: &[Arc<Task>]) -> SlotLoad {
    let mut live = tasks.iter().filter(|task| task.intent.desired.wants_alive());
    let first = live.next().or_else(|| reaper::newest(tasks));
    let is_alone = live.next().is_none();
    let node: Option<NodeId> = first.filter(|_| is_alone).and_then(|task| task.placed.node);
    let is_running = tasks.iter().any(|task| task.intent.desired.wants_alive() && task.state() == TaskState::Running);
    SlotLoad { number, is_running, node }
}

fn set_intent(task: &Task, desired: DesiredState) -> Change {
    Change::SetIntent { task: task.id, expect: task.intent.version, desired, start_at: None, start_after: None }
}

fn key_of(task: &Task) -> SlotKey {
    (task.service_id, task.slot)
}

fn retention(view: &State) -> Option<i64> {
    view.cluster().map(|cluster| cluster.spec.orchestration.task_history_retention_limit)
}
