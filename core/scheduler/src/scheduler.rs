//! The loop: keeps the node table and the pending groups from events, and places the groups that may have a chance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_control::{ControlLoop, Env, InFlight, Plan};
use skep_model::constraint::label_value;
use skep_model::{ClusterTime, Node, NodeId, ServiceMode, Slot, Task, TaskId, TaskState};
use skep_store::{AtomicGroup, Change, Event, Precondition, State};

use crate::filter;
use crate::needs::Needs;
use crate::nodes::{GroupKey, NodeTable, Share};
use crate::rank::{Candidate, Member, Tree};

/// Most groups of changes in one plan; the rest follows in the next step, which is asked for at once.
pub(crate) const PLAN_MAX: usize = 4096;

/// Equal tasks that wait for a node.
#[derive(Debug, Default)]
struct Pending {
    tasks: BTreeSet<TaskId>,
    /// Those that were not told yet why they wait.
    untold: BTreeSet<TaskId>,
    /// What the others were told.
    told: Option<String>,
}

/// The scheduler.
#[derive(Debug, Default)]
pub struct Scheduler {
    nodes: NodeTable,
    needs: BTreeMap<GroupKey, Arc<Needs>>,
    pending: BTreeMap<GroupKey, Pending>,
    /// Groups to be tried in this step.
    dirty: BTreeSet<GroupKey>,
    /// Placements on their way, with the share that is counted for them already.
    in_flight: InFlight<TaskId, Option<Share>>,
}

impl ControlLoop for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    fn step(&mut self, view: &State, events: &[Event], env: &mut Env) -> Plan {
        if events.iter().any(|event| matches!(event, Event::Reset)) {
            self.reset(view, env.now);
        } else {
            self.observe(view, events, env.now);
        }
        let mut plan = Plan::default();
        while let Some(group) = self.dirty.pop_first() {
            if plan.changes.len() >= PLAN_MAX {
                self.dirty.insert(group);
                plan.wake(env.now);
                break;
            }
            self.place_group(view, group, env.now, &mut plan);
        }
        plan
    }
}

impl Scheduler {
    fn reset(&mut self, view: &State, now: ClusterTime) {
        *self = Self::default();
        for node in view.nodes() {
            self.nodes.set_node(node.id, Some(node.clone()));
        }
        for task in view.tasks() {
            self.observe_task(view, None, Some(task), now);
        }
    }

    fn observe(&mut self, view: &State, events: &[Event], now: ClusterTime) {
        let mut has_more_room = false;
        let mut maybe_unused = BTreeSet::new();
        for event in events {
            match event {
                Event::Reset | Event::Network(..) | Event::Secret(..) | Event::Config(..) => {}
                Event::Cluster(..) => self.observe_cluster(view),
                Event::Node(before, after) => {
                    let Some(node) = after.as_ref().or(before.as_ref()) else { continue };
                    self.nodes.set_node(node.id, after.clone());
                    has_more_room |= changes_chances(before.as_deref(), after.as_deref());
                }
                Event::Service(before, after) => {
                    if let (Some(service), None) = (before, after) {
                        maybe_unused.extend(self.keys_of(service.id));
                    }
                }
                Event::Task(before, after) => {
                    has_more_room |= self.observe_task(view, before.as_deref(), after.as_deref(), now);
                    if let (Some(task), None) = (before, after) {
                        maybe_unused.insert(group_of(task));
                    }
                }
            }
        }
        if has_more_room {
            self.dirty.extend(self.pending.keys().copied());
        }
        for key in maybe_unused {
            if view.revision(key.0, key.1).is_none() {
                self.needs.remove(&key);
            }
        }
    }

    /// The cluster's default log driver may have changed: it is part of what tasks need of a node.
    fn observe_cluster(&mut self, view: &State) {
        let cluster = view.cluster().map(AsRef::as_ref);
        for (key, needs) in &mut self.needs {
            if let Some(spec) = view.revision(key.0, key.1) {
                let now = Needs::of(spec, cluster);
                if now.log_driver != needs.log_driver {
                    *needs = Arc::new(now);
                    self.dirty.insert(*key);
                }
            }
        }
    }

    fn keys_of(&self, service: skep_model::ServiceId) -> Vec<GroupKey> {
        let all = (service, skep_model::SpecVersion(0))..=(service, skep_model::SpecVersion(u64::MAX));
        self.needs.range(all).map(|(key, _)| *key).collect()
    }

    /// Follows one task; true when its node may have more room than before.
    fn observe_task(&mut self, view: &State, before: Option<&Task>, after: Option<&Task>, now: ClusterTime) -> bool {
        let Some(task) = after.or(before) else { return false };
        let group = group_of(task);
        let planned = self.in_flight.settle(&task.id, after.map(|task| task.placed.version)).flatten();
        let old_share = planned.or_else(|| before.and_then(|task| self.share_of(view, task)));
        let new_share = after.and_then(|task| self.share_of(view, task));
        // While a placement is on its way its share stays counted; one that has come is counted already.
        let is_on_its_way = self.in_flight.contains(&task.id) && new_share.is_none();
        if !is_on_its_way && !same_share(old_share.as_ref(), new_share.as_ref()) {
            old_share.iter().for_each(|share| self.nodes.vacate(share));
            new_share.iter().for_each(|share| self.nodes.occupy(share));
        }
        self.observe_pending(group, task.id, after);
        if let Some(after) = after {
            self.observe_failure(group, before, after, now);
        }
        match (old_share, new_share) {
            (Some(_), None) => true,
            (Some(old), Some(new)) => old.is_wanted && !new.is_wanted,
            _ => false,
        }
    }

    fn observe_pending(&mut self, group: GroupKey, id: TaskId, after: Option<&Task>) {
        let waits = after.filter(|task| task.state() == TaskState::Pending);
        if let Some(task) = waits {
            let pending = self.pending.entry(group).or_default();
            pending.tasks.insert(id);
            if task.placed.reason.is_none() || task.placed.reason != pending.told {
                pending.untold.insert(id);
            }
            self.dirty.insert(group);
        } else if let Some(pending) = self.pending.get_mut(&group) {
            pending.tasks.remove(&id);
            pending.untold.remove(&id);
            if pending.tasks.is_empty() {
                self.pending.remove(&group);
            }
        }
    }

    fn observe_failure(&mut self, group: GroupKey, before: Option<&Task>, after: &Task, now: ClusterTime) {
        let has_failed = |task: &Task| matches!(task.state(), TaskState::Failed | TaskState::Rejected);
        if has_failed(after)
            && !before.is_some_and(has_failed)
            && let (Some(node), Some(status)) = (after.placed.node, &after.observed)
        {
            self.nodes.record_failure(node, group, status.applied_at, now);
        }
    }

    fn share_of(&mut self, view: &State, task: &Task) -> Option<Share> {
        let node = task.placed.node.filter(|_| task.occupies_node())?;
        let needs = self.needs_of(view, group_of(task))?;
        Some(Share { node, service: task.service_id, is_wanted: task.intent.desired.wants_alive(), needs })
    }

    /// What a group needs, from memory, or from the revision in the state. `None` when it is gone from both: the tasks of
    /// that revision were made and deleted between two steps.
    fn needs_of(&mut self, view: &State, group: GroupKey) -> Option<Arc<Needs>> {
        if let Some(needs) = self.needs.get(&group) {
            return Some(needs.clone());
        }
        let spec = view.revision(group.0, group.1)?;
        let needs = Arc::new(Needs::of(spec, view.cluster().map(AsRef::as_ref)));
        self.needs.insert(group, needs.clone());
        Some(needs)
    }

    fn place_group(&mut self, view: &State, group: GroupKey, now: ClusterTime, plan: &mut Plan) {
        let Some(needs) = self.needs_of(view, group) else { return };
        let Some(service) = view.service(group.0) else {
            return; // the orchestrator takes its tasks back
        };
        if service.spec.mode == ServiceMode::Global {
            return self.place_bound(view, group, &needs, now, plan);
        }
        let Some(pending) = self.pending.get(&group) else { return };
        let budget = PLAN_MAX.saturating_sub(plan.changes.len());
        let mut waiting = pending.tasks.iter().filter(|task| !self.in_flight.contains(task));
        let turn: Vec<TaskId> = waiting.by_ref().take(budget).copied().collect();
        if waiting.next().is_some() {
            self.dirty.insert(group);
            plan.wake(now);
        }
        let mut tree = self.rank(group, &needs, now);
        for id in turn {
            let Some(task) = view.task(id).filter(|task| task.state() == TaskState::Pending) else { continue };
            let Some(node) = tree.take() else {
                self.explain_group(view, group, &needs, now, plan);
                return;
            };
            self.place(task, node, &needs, plan);
        }
    }

    /// Puts a task on a node.
    fn place(&mut self, task: &Task, node: NodeId, needs: &Arc<Needs>, plan: &mut Plan) {
        let share = Share { node, service: task.service_id, is_wanted: true, needs: needs.clone() };
        self.nodes.occupy(&share);
        self.in_flight.propose(task.id, Some(task.placed.version), Some(share));
        plan.propose(AtomicGroup {
            preconditions: vec![
                Precondition::NodeTakesTasks(node),
                Precondition::IntentIs(task.id, task.intent.version),
            ],
            changes: vec![Change::Place { task: task.id, expect: task.placed.version, node: Some(node), reason: None }],
        });
    }

    /// Tasks of a global service: each goes to the node of its slot, or waits for it.
    fn place_bound(&mut self, view: &State, group: GroupKey, needs: &Arc<Needs>, now: ClusterTime, plan: &mut Plan) {
        let Some(pending) = self.pending.get(&group) else { return };
        let waiting: Vec<TaskId> = pending.tasks.iter().filter(|id| !self.in_flight.contains(id)).copied().collect();
        for task in waiting.into_iter().filter_map(|id| view.task(id)) {
            if plan.changes.len() >= PLAN_MAX {
                self.dirty.insert(group);
                plan.wake(now);
                return;
            }
            let Slot::Node(node) = task.slot else { continue };
            if task.state() != TaskState::Pending {
                continue;
            }
            let info = self.nodes.get(node).ok_or(filter::Filter::Ready);
            match info.and_then(|info| filter::room(info, needs, group.0)) {
                Ok(_) => self.place(task, node, needs, plan),
                Err(rejection) => {
                    let reason = filter::explain(std::iter::once(rejection));
                    if task.placed.reason.as_ref() != Some(&reason) {
                        self.tell(task, reason, plan);
                    }
                }
            }
        }
    }

    /// Says why a task waits.
    fn tell(&mut self, task: &Task, reason: String, plan: &mut Plan) {
        self.in_flight.propose(task.id, Some(task.placed.version), None);
        plan.propose(AtomicGroup::of(Change::Place {
            task: task.id,
            expect: task.placed.version,
            node: None,
            reason: Some(reason),
        }));
    }

    fn rank(&self, group: GroupKey, needs: &Needs, now: ClusterTime) -> Tree {
        let members = self.nodes.iter().filter_map(|(id, info)| {
            let node = info.node.as_deref()?;
            let service_tasks = info.tasks_of(group.0);
            let candidate = filter::room(info, needs, group.0).ok().map(|room| Candidate {
                failures: info.failures_counted(group, now),
                service_tasks,
                tasks: info.tasks(),
                node: id,
                room,
            });
            let path = needs.spread_over.iter().map(|key| label_value(key, node).unwrap_or_default()).collect();
            Some(Member { path, service_tasks, candidate })
        });
        Tree::new(members.collect(), needs.spread_over.len())
    }

    /// Tells the tasks of a group that no node takes why, where it is news.
    fn explain_group(&mut self, view: &State, group: GroupKey, needs: &Needs, now: ClusterTime, plan: &mut Plan) {
        let live = self.nodes.iter().filter(|(_, info)| info.node.is_some());
        let reason = filter::explain(live.filter_map(|(_, info)| filter::room(info, needs, group.0).err()));
        let Some(pending) = self.pending.get_mut(&group) else { return };
        if pending.told.as_ref() != Some(&reason) {
            pending.told = Some(reason.clone());
            pending.untold.clone_from(&pending.tasks);
        }
        let untold: Vec<TaskId> =
            pending.untold.iter().filter(|task| !self.in_flight.contains(task)).copied().collect();
        for id in untold {
            if plan.changes.len() >= PLAN_MAX {
                self.dirty.insert(group);
                plan.wake(now);
                break;
            }
            if let Some(pending) = self.pending.get_mut(&group) {
                pending.untold.remove(&id);
            }
            let Some(task) = view.task(id).filter(|task| task.placed.reason.as_ref() != Some(&reason)) else {
                continue;
            };
            self.tell(task, reason.clone(), plan);
        }
        plan.notes.push(format!("tasks of service {} wait: {reason}", group.0));
    }
}

fn same_share(old: Option<&Share>, new: Option<&Share>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            (old.node, old.is_wanted) == (new.node, new.is_wanted) && Arc::ptr_eq(&old.needs, &new.needs)
        }
        (None, None) => true,
        _ => false,
    }
}

fn group_of(task: &Task) -> GroupKey {
    (task.service_id, task.spec_version)
}

/// True when a change of a node may let a task in that was kept out, or changes why it is kept out.
fn changes_chances(before: Option<&Node>, after: Option<&Node>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return true };
    before.spec != after.spec
        || before.role != after.role
        || before.observed.status != after.observed.status
        || before.observed.description != after.observed.description
}
