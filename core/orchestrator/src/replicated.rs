//! Replicated services: as many slots as there shall be replicas (SwarmKit `manager/orchestrator/replicated`).

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_control::{Env, Plan};
use skep_model::{DesiredState, NodeId, RestartHistory, Service, ServiceMode, Slot, Task, TaskId, TaskState};
use skep_store::{AtomicGroup, Change, NewTask, Precondition, State};

use crate::orchestrator::{Orchestrator, PLAN_MAX};
use crate::reaper;
use crate::scale::{self, SlotLoad};
use crate::slots::SlotKey;

impl Orchestrator {
    pub(crate) fn judge_scales(&mut self, view: &State, env: &mut Env, plan: &mut Plan) {
        for id in std::mem::take(&mut self.dirty_services) {
            let Some(service) = view.service(id) else { continue };
            if plan.changes.len() >= PLAN_MAX {
                self.dirty_services.insert(id);
                plan.wake(env.now);
                continue;
            }
            match service.spec.mode {
                ServiceMode::Replicated => {}
                ServiceMode::Global => continue,
                ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob => {
                    plan.notes.push(format!("service {id} is a job: it is left alone"));
                    continue;
                }
            }
            let slots = self.index.service(id);
            if slots.is_some_and(|slots| slots.in_flight > 0) || self.updates_in_flight.contains(&id) {
                continue; // seen changes make it dirty again
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
