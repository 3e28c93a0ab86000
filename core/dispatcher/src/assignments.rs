//! What one node should run, as a stream: a complete set, then what changed. Cost follows the changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::{NodeId, SessionId, Task, TaskId, TaskState};
use skep_store::State;

use crate::Assigned;

/// Most changes in one message.
const CHANGES_MAX: usize = 100;

/// One message on an assignments stream.
#[derive(Debug, Clone, PartialEq)]
pub struct AssignmentsMessage {
    /// True: tasks that are not listed are to be removed.
    pub is_complete: bool,
    /// `results_in` of the message before; empty for the first.
    pub applies_to: String,
    /// Names the state of the stream after this message.
    pub results_in: String,
    /// What changed.
    pub changes: Vec<AssignmentChange>,
}

/// One change of what a node should run.
#[derive(Debug, Clone, PartialEq)]
pub enum AssignmentChange {
    /// A task is new or something else than its status changed.
    Update(Assigned),
    /// A task is gone: stop it if it runs, and forget it.
    Remove(TaskId),
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) session: SessionId,
    sequence: u64,
    /// Tasks that the node was told of.
    told: BTreeMap<TaskId, Arc<Task>>,
    /// Changes to send with the next message.
    pending: BTreeMap<TaskId, AssignmentChange>,
}

impl Stream {
    /// Opens a stream; the message is the complete set.
    pub(crate) fn open(view: &State, node: NodeId, session: SessionId) -> (Self, AssignmentsMessage) {
        let mut stream = Self { session, sequence: 1, told: BTreeMap::new(), pending: BTreeMap::new() };
        let changes = view
            .tasks_on_node(node)
            .filter(|task| is_sent(task))
            .filter_map(|task| {
                stream.told.insert(task.id, task.clone());
                update(view, task)
            })
            .collect();
        let complete = AssignmentsMessage {
            is_complete: true,
            applies_to: String::new(),
            results_in: stream.sequence.to_string(),
            changes,
        };
        (stream, complete)
    }

    /// A task of this node changed.
    pub(crate) fn note(&mut self, view: &State, before: Option<&Task>, after: Option<&Arc<Task>>) {
        match after {
            Some(task) if is_sent(task) => {
                // A task whose revision is gone was deleted since: that event follows.
                if self.told.get(&task.id).is_none_or(|told| is_news(told, task))
                    && let Some(change) = update(view, task)
                {
                    self.told.insert(task.id, task.clone());
                    self.pending.insert(task.id, change);
                }
            }
            Some(_) => {}
            None => {
                if let Some(task) = before
                    && self.told.remove(&task.id).is_some()
                {
                    self.pending.insert(task.id, AssignmentChange::Remove(task.id));
                }
            }
        }
    }

    /// Messages with everything noted since the last flush.
    pub(crate) fn flush(&mut self) -> impl Iterator<Item = AssignmentsMessage> + use<> {
        let mut changes: Vec<_> = std::mem::take(&mut self.pending).into_values().collect();
        let mut messages = Vec::new();
        while !changes.is_empty() {
            let rest = changes.split_off(changes.len().min(CHANGES_MAX));
            let applies_to = self.sequence.to_string();
            self.sequence += 1;
            let results_in = self.sequence.to_string();
            messages.push(AssignmentsMessage { is_complete: false, applies_to, results_in, changes });
            changes = rest;
        }
        messages.into_iter()
    }

    /// Events were lost: finds the differences by looking at all tasks of the node.
    pub(crate) fn resync(&mut self, view: &State, node: NodeId) -> impl Iterator<Item = AssignmentsMessage> + use<> {
        for task in view.tasks_on_node(node) {
            self.note(view, None, Some(task));
        }
        let gone: Vec<_> = self.told.keys().filter(|id| view.task(**id).is_none()).copied().collect();
        for id in gone {
            self.told.remove(&id);
            self.pending.insert(id, AssignmentChange::Remove(id));
        }
        self.flush()
    }
}

/// Tasks go down once they are assigned; one that another node would have to give up never does.
fn is_sent(task: &Task) -> bool {
    task.placed.node.is_some() && task.state() >= TaskState::Assigned && task.state() != TaskState::Orphaned
}

/// True when something else than the status changed.
fn is_news(told: &Task, now: &Task) -> bool {
    told.intent.desired != now.intent.desired || told.placed != now.placed || told.attachment != now.attachment
}

fn update(view: &State, task: &Arc<Task>) -> Option<AssignmentChange> {
    let spec = view.revision(task.service_id, task.spec_version)?.clone();
    Some(AssignmentChange::Update(Assigned { task: task.clone(), spec }))
}
