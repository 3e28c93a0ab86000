//! The loop itself: follows what happens, and looks at the slots and services that it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_control::{ControlLoop, Env, InFlight, Plan};
use skep_model::{ClusterTime, Node, NodeId, Service, ServiceId, ServiceMode, Slot, Task, TaskId};
use skep_store::{AtomicGroup, Event, State};

use crate::slots::{SlotIndex, SlotKey};

/// Most groups of changes in one plan; the rest follows in the next step, which is asked for at once.
pub(crate) const PLAN_MAX: usize = 4096;

/// What is looked at again at a certain time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timed {
    Slot(SlotKey),
    Service(ServiceId),
}

/// The orchestrator of replicated and global services, with update supervisor, restart supervisor and reaper.
#[derive(Debug, Default)]
pub struct Orchestrator {
    pub(crate) index: SlotIndex,
    /// Tasks of which a change is on its way, with their slot.
    pub(crate) in_flight: InFlight<TaskId, SlotKey>,
    /// Services of which a new update status, or a rollback, is on its way: their tasks are left alone meanwhile.
    pub(crate) updates_in_flight: InFlight<ServiceId>,
    pub(crate) dirty_slots: BTreeSet<SlotKey>,
    pub(crate) dirty_services: BTreeSet<ServiceId>,
    timers: BTreeSet<(ClusterTime, Timed)>,
    wakes: BTreeMap<Timed, ClusterTime>,
    globals: BTreeSet<ServiceId>,
    retention: Option<i64>,
    /// When it began to follow what happens, or began anew: before, it may have missed how a task went.
    pub(crate) leads_since: ClusterTime,
}

impl ControlLoop for Orchestrator {
    fn name(&self) -> &'static str {
        "orchestrator"
    }

    fn step(&mut self, view: &State, events: &[Event], env: &mut Env) -> Plan {
        if events.iter().any(|event| matches!(event, Event::Reset)) {
            self.reset(view);
            self.leads_since = env.now;
        } else {
            events.iter().for_each(|event| self.observe(view, event));
        }
        while let Some((at, what)) = self.timers.first().copied().filter(|(at, _)| *at <= env.now) {
            self.timers.remove(&(at, what));
            self.wakes.remove(&what);
            match what {
                Timed::Slot(key) => drop(self.dirty_slots.insert(key)),
                Timed::Service(id) => drop(self.dirty_services.insert(id)),
            }
        }
        let mut plan = Plan::default();
        // Updates come first: whether one is paused decides what follows a task that ends.
        self.judge_updates(view, env, &mut plan);
        self.judge_slots(view, env, &mut plan);
        self.judge_scales(view, env, &mut plan);
        if let Some((at, _)) = self.timers.first() {
            plan.wake(*at);
        }
        plan
    }
}

// Following what happens.
impl Orchestrator {
    fn reset(&mut self, view: &State) {
        *self = Self::default();
        self.retention = retention(view);
        for task in view.tasks() {
            self.index.add_task(key_of(task), task.id);
            self.dirty_slots.insert(key_of(task));
        }
        for service in view.services() {
            self.mark_service(view, service);
        }
    }

    fn observe(&mut self, view: &State, event: &Event) {
        match event {
            Event::Cluster(..) => {
                let retention = retention(view);
                if self.retention != retention {
                    self.retention = retention;
                    let all = self.index.services();
                    self.dirty_slots
                        .extend(all.flat_map(|(id, service)| service.slots.keys().map(move |slot| (id, *slot))));
                }
            }
            Event::Node(before, after) => self.observe_node(view, before.as_deref(), after.as_deref()),
            Event::Service(before, after) => self.observe_service(view, before.as_deref(), after.as_deref()),
            Event::Task(before, after) => self.observe_task(view, before.as_deref(), after.as_deref()),
            // The other objects say nothing about tasks.
            _ => {}
        }
    }

    fn observe_node(&mut self, view: &State, before: Option<&Node>, after: Option<&Node>) {
        let Some(node) = after.or(before) else { return };
        let is_same = |before: &Node, after: &Node| {
            before.spec == after.spec
                && before.role == after.role
                && before.observed.status == after.observed.status
                && before.observed.description == after.observed.description
        };
        if before.zip(after).is_some_and(|(before, after)| is_same(before, after)) {
            return;
        }
        for task in view.tasks_on_node(node.id) {
            self.dirty_slots.insert(key_of(task));
            self.dirty_services.insert(task.service_id);
        }
        for service in &self.globals {
            self.dirty_slots.insert((*service, Slot::Node(node.id)));
            self.dirty_services.insert(*service);
        }
    }

    fn observe_service(&mut self, view: &State, before: Option<&Service>, after: Option<&Service>) {
        let Some(service) = after.or(before) else { return };
        self.updates_in_flight.settle(&service.id, after.map(|service| service.update_version));
        let state = |service: &Service| service.update.as_ref().map(|update| update.state);
        let is_same = |before: &Service, after: &Service| {
            before.meta.version == after.meta.version
                && before.replicas == after.replicas
                && state(before) == state(after)
        };
        if before.zip(after).is_some_and(|(before, after)| is_same(before, after)) {
            return;
        }
        // What holds a slot and what follows a task depend on the service, and all of it on whether the service exists.
        if let Some(after) = after {
            self.mark_service(view, after);
        } else {
            self.globals.remove(&service.id);
            self.set_timer(Timed::Service(service.id), None);
            self.mark_slots_of(service.id);
        }
    }

    fn observe_task(&mut self, view: &State, before: Option<&Task>, after: Option<&Task>) {
        let Some(task) = after.or(before) else { return };
        let key = key_of(task);
        if after.is_some() {
            self.index.add_task(key, task.id);
        } else {
            self.index.remove_task(key, task.id);
        }
        if let Some(key) = self.in_flight.settle(&task.id, after.map(|task| task.intent.version)) {
            self.index.end_flight(key);
            self.dirty_services.insert(key.0);
        }
        self.dirty_slots.insert(key);
        let is_updating =
            |service: &Arc<Service>| service.update.as_ref().is_some_and(|update| update.state.is_running());
        if view.service(key.0).is_some_and(is_updating)
            || self.index.service(key.0).is_some_and(|service| service.has_outdated)
        {
            self.dirty_services.insert(key.0);
        }
    }

    /// Everything about a service is to be looked at.
    fn mark_service(&mut self, view: &State, service: &Service) {
        self.dirty_services.insert(service.id);
        self.mark_slots_of(service.id);
        if service.spec.mode == ServiceMode::Global {
            self.globals.insert(service.id);
            let nodes = view.nodes().map(|node| (service.id, Slot::Node(node.id)));
            self.dirty_slots.extend(nodes);
        }
    }

    fn mark_slots_of(&mut self, id: ServiceId) {
        if let Some(service) = self.index.service(id) {
            self.dirty_slots.extend(service.slots.keys().map(|slot| (id, *slot)));
        }
    }
}

// What all parts use.
impl Orchestrator {
    /// Proposes a group that writes these tasks of a slot; a task without an object is new.
    pub(crate) fn propose(
        &mut self,
        plan: &mut Plan,
        key: SlotKey,
        touched: &[(TaskId, Option<&Task>)],
        group: AtomicGroup,
    ) {
        for (id, task) in touched {
            self.in_flight.propose(*id, task.map(|task| task.intent.version), key);
            self.index.begin_flight(key);
        }
        plan.propose(group);
    }

    /// The tasks of a slot, history included.
    pub(crate) fn tasks_of(&self, view: &State, key: SlotKey) -> Vec<Arc<Task>> {
        let ids = self.index.get(key).map_or(&[][..], |entry| &entry.tasks);
        ids.iter().filter_map(|id| view.task(*id).cloned()).collect()
    }

    /// When to look at something again, instead of when it was before.
    pub(crate) fn set_timer(&mut self, what: Timed, at: Option<ClusterTime>) {
        let before = match at {
            Some(at) => self.wakes.insert(what, at),
            None => self.wakes.remove(&what),
        };
        if before != at {
            before.map(|before| self.timers.remove(&(before, what)));
            at.map(|at| self.timers.insert((at, what)));
        }
    }

    /// True while a slot is to be looked at again.
    pub(crate) fn has_timer(&self, key: SlotKey) -> bool {
        self.wakes.contains_key(&Timed::Slot(key))
    }
}

pub(crate) fn key_of(task: &Task) -> SlotKey {
    (task.service_id, task.slot)
}

/// The node of a global service's slot.
pub(crate) fn node_of(slot: Slot) -> Option<NodeId> {
    match slot {
        Slot::Node(node) => Some(node),
        Slot::Number(_) => None,
    }
}

fn retention(view: &State) -> Option<i64> {
    view.cluster().map(|cluster| cluster.spec.orchestration.task_history_retention_limit)
}
