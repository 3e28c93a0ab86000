//! A paused update does not spread: it makes no task, and what follows a task that ended is of the same revision. Source:
//! control plane reference §13 row 32, a weak point of SwarmKit.

use skep_store::Event;

use super::Commit;

pub(super) fn check(commit: &Commit<'_>, found: &mut Vec<String>) {
    for event in commit.events {
        let Event::Task(None, Some(task)) = event else { continue };
        let is_paused = [commit.before, commit.after].into_iter().all(|state| {
            let service = state.service(task.service_id);
            service.and_then(|service| service.update.as_ref()).is_some_and(|update| update.state.is_paused())
        });
        if !is_paused {
            continue;
        }
        if task.by_update {
            found.push(format!("a paused update makes task {}", task.id));
        }
        let in_slot = commit.before.tasks_of_service(task.service_id).filter(|other| other.slot == task.slot);
        let wanted = in_slot.filter(|other| other.intent.desired.wants_alive());
        let outdated = wanted.filter(|other| !commit.before.is_up_to_date(other));
        for other in outdated.filter(|other| other.spec_version != task.spec_version) {
            found.push(format!("while the update is paused task {} follows {} of another revision", task.id, other.id));
        }
    }
}
