//! A task's container is started at most once: a restart is a new task. Source: control plane reference §2.2, a task's states
//! only move forward, and §6.5, the agent waits for what ran before it was restarted.

use std::collections::BTreeMap;

use skep_model::TaskId;

pub(crate) fn check(starts: &BTreeMap<TaskId, u32>, found: &mut Vec<String>) {
    for (task, count) in starts.iter().filter(|(_, count)| **count > 1) {
        found.push(format!("the container of task {task} was started {count} times"));
    }
}
