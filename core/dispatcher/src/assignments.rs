//! What one node should run, as a stream: a complete set, then what changed. Cost follows the changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::{Config, ConfigId, NodeId, Secret, SecretId, ServiceSpec, SessionId, Task, TaskId, TaskState};
use skep_store::State;

use crate::Assigned;
use crate::needs::{Needs, ValueChanges};

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
    /// A task needs this secret. Its data is sealed still: whoever sends it opens it.
    UpdateSecret(Arc<Secret>),
    /// No task needs this secret any more.
    RemoveSecret(SecretId),
    /// A task needs this config.
    UpdateConfig(Arc<Config>),
    /// No task needs this config any more.
    RemoveConfig(ConfigId),
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
    /// What its tasks need beside themselves.
    needs: Needs,
}

impl Stream {
    /// Opens a stream; the message is the complete set.
    pub(crate) fn open(view: &State, node: NodeId, session: SessionId) -> (Self, AssignmentsMessage) {
        let mut stream =
            Self { session, sequence: 1, told: BTreeMap::new(), pending: BTreeMap::new(), needs: Needs::default() };
        let mut tasks = Vec::new();
        for task in view.tasks_on_node(node).filter(|task| is_sent(task)) {
            stream.told.insert(task.id, task.clone());
            stream.needs.set(task.id, needed(view, task));
            tasks.extend(update(view, task));
        }
        let mut changes = stream.needs.take(view).first;
        changes.append(&mut tasks);
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
                self.needs.set(task.id, needed(view, task));
                // A task whose revision is gone was deleted since: that event follows.
                if self.told.get(&task.id).is_none_or(|told| is_news(told, task))
                    && let Some(change) = update(view, task)
                {
                    self.told.insert(task.id, task.clone());
                    self.pending.insert(task.id, change);
                }
            }
            Some(task) => self.needs.set(task.id, None),
            None => {
                if let Some(task) = before
                    && self.told.remove(&task.id).is_some()
                {
                    self.needs.set(task.id, None);
                    self.pending.insert(task.id, AssignmentChange::Remove(task.id));
                }
            }
        }
    }

    /// Messages with everything noted since the last flush.
    pub(crate) fn flush(&mut self, view: &State) -> impl Iterator<Item = AssignmentsMessage> + use<> {
        let ValueChanges { first: mut changes, last } = self.needs.take(view);
        changes.extend(std::mem::take(&mut self.pending).into_values());
        changes.extend(last);
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
            self.needs.set(id, None);
            self.pending.insert(id, AssignmentChange::Remove(id));
        }
        self.flush(view)
    }
}

/// Tasks go down once they are assigned; one that another node would have to give up never does.
fn is_sent(task: &Task) -> bool {
    task.placed.node.is_some() && task.state() >= TaskState::Assigned && task.state() != TaskState::Orphaned
}

/// The spec whose values a task needs: until it has ended.
fn needed<'a>(view: &'a State, task: &Task) -> Option<&'a ServiceSpec> {
    let spec = view.revision(task.service_id, task.spec_version)?;
    (task.state() <= TaskState::Running).then_some(&**spec)
}

/// True when something else than the status changed.
fn is_news(told: &Task, now: &Task) -> bool {
    told.intent.desired != now.intent.desired || told.placed != now.placed || told.attachment != now.attachment
}

fn update(view: &State, task: &Arc<Task>) -> Option<AssignmentChange> {
    let spec = view.revision(task.service_id, task.spec_version)?.clone();
    Some(AssignmentChange::Update(Assigned { task: task.clone(), spec }))
}
