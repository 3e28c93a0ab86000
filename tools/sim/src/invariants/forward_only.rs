//! A task's state and what is wanted of it only move forward, and a task begins as new. Source: control plane reference §2.1
//! and §2.2.

use skep_model::TaskState;
use skep_store::Event;

use super::Commit;

pub(super) fn check(commit: &Commit<'_>, found: &mut Vec<String>) {
    for event in commit.events {
        match event {
            Event::Task(None, Some(task)) if task.state() != TaskState::New => {
                found.push(format!("task {} begins as {}", task.id, task.state().name()));
            }
            Event::Task(Some(before), Some(after)) => {
                if after.state() < before.state() {
                    let (old, new) = (before.state().name(), after.state().name());
                    found.push(format!("task {} goes from {old} back to {new}", after.id));
                }
                if after.intent.desired < before.intent.desired {
                    let (old, new) = (before.intent.desired, after.intent.desired);
                    found.push(format!("task {} is wanted {new:?} after {old:?}", after.id));
                }
            }
            _ => {}
        }
    }
}
