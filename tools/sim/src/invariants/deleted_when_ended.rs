//! A task's record is deleted only when the task has ended or never had a node: deleting it is what removes its container.
//! Source: control plane reference §2.3, deletable is observed above running, or never assigned and not wanted.

use skep_store::Event;

use super::Commit;

pub(super) fn check(commit: &Commit<'_>, found: &mut Vec<String>) {
    for event in commit.events {
        let Event::Task(Some(task), None) = event else { continue };
        if !task.state().is_terminal() {
            found.push(format!("task {} is deleted while {}", task.id, task.state().name()));
        }
    }
}
