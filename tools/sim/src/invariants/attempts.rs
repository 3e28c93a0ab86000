//! No slot is restarted more often than its policy allows. Source: control plane reference §3.5, total restarts below
//! `max_attempts` when there is no window.

use skep_store::Event;

use super::Commit;

pub(super) fn check(commit: &Commit<'_>, found: &mut Vec<String>) {
    for event in commit.events {
        let Event::Task(None, Some(task)) = event else { continue };
        let policy = commit.after.spec_of(task).task.restart_policy();
        if policy.max_attempts > 0 && policy.window.is_none() && task.history.count > policy.max_attempts {
            found.push(format!("task {} is restart {} of {}", task.id, task.history.count, policy.max_attempts));
        }
    }
}
