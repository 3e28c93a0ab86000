//! Which secrets and configs one node's tasks need. A value goes down before the first task that needs it, and is taken back
//! when the last one has ended or is gone (SwarmKit `manager/dispatcher/assignments.go`).

use std::collections::{BTreeMap, BTreeSet};

use skep_model::{ConfigId, SecretId, ServiceSpec, TaskId};
use skep_store::State;

use crate::AssignmentChange;

/// A secret or a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Secret(SecretId),
    Config(ConfigId),
}

/// Who needs what on one node.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    by_task: BTreeMap<TaskId, BTreeSet<Value>>,
    users: BTreeMap<Value, BTreeSet<TaskId>>,
    /// Values whose first user came or whose last one went since the last [`Self::take`].
    changed: BTreeSet<Value>,
}

/// What to send: values before the tasks that need them, and values to be forgotten after.
#[derive(Debug, Default)]
pub(crate) struct ValueChanges {
    pub(crate) first: Vec<AssignmentChange>,
    pub(crate) last: Vec<AssignmentChange>,
}

impl Needs {
    /// A task needs what this spec refers to; without a spec it needs nothing any more.
    pub(crate) fn set(&mut self, task: TaskId, spec: Option<&ServiceSpec>) {
        let wanted: BTreeSet<Value> = spec.map(values).unwrap_or_default();
        let known = self.by_task.get(&task).cloned().unwrap_or_default();
        if wanted == known {
            return;
        }
        for value in known.difference(&wanted) {
            if let Some(users) = self.users.get_mut(value) {
                users.remove(&task);
                if users.is_empty() {
                    self.users.remove(value);
                    self.changed.insert(*value);
                }
            }
        }
        for value in wanted.difference(&known) {
            let users = self.users.entry(*value).or_default();
            if users.is_empty() {
                self.changed.insert(*value);
            }
            users.insert(task);
        }
        if wanted.is_empty() {
            self.by_task.remove(&task);
        } else {
            self.by_task.insert(task, wanted);
        }
    }

    /// What changed since the last call. A value that is not in the state any more is not sent: its task will say so.
    pub(crate) fn take(&mut self, view: &State) -> ValueChanges {
        let mut changes = ValueChanges::default();
        for value in std::mem::take(&mut self.changed) {
            match (value, self.users.contains_key(&value)) {
                (Value::Secret(id), true) => {
                    changes.first.extend(view.secret(id).cloned().map(AssignmentChange::UpdateSecret));
                }
                (Value::Config(id), true) => {
                    changes.first.extend(view.config(id).cloned().map(AssignmentChange::UpdateConfig));
                }
                (Value::Secret(id), false) => changes.last.push(AssignmentChange::RemoveSecret(id)),
                (Value::Config(id), false) => changes.last.push(AssignmentChange::RemoveConfig(id)),
            }
        }
        changes
    }
}

fn values(spec: &ServiceSpec) -> BTreeSet<Value> {
    let container = &spec.task.container;
    let secrets = container.secrets.iter().map(|reference| Value::Secret(reference.secret_id));
    let configs = container.configs.iter().map(|reference| Value::Config(reference.config_id));
    secrets.chain(configs).collect()
}
