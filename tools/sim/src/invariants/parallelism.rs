//! An update never replaces more slots at a time than it may. Source: control plane reference §3.6, `parallelism` workers take
//! slots one at a time, and wait until the new task runs. Tasks that ended by themselves are replaced beside it.

use std::collections::BTreeSet;

use skep_model::{Service, ServiceId, Task, UpdateState};
use skep_store::Event;

use super::Commit;

/// True for a task that the running update put into its slot.
fn is_made(service: &Service, task: &Task) -> bool {
    let is_replaced = task.by_update && task.history.count == 0;
    is_replaced && task.spec_version == service.spec_version && task.created.cluster >= service.update_since
}

pub(super) fn check(commit: &Commit<'_>, found: &mut Vec<String>) {
    let created = commit.events.iter().filter_map(|event| match event {
        Event::Task(None, Some(task)) if task.by_update => Some(task.service_id),
        _ => None,
    });
    for id in created.collect::<BTreeSet<ServiceId>>() {
        let Some(service) = commit.after.service(id) else { continue };
        let Some(state) = service.update.as_ref().map(|update| update.state) else { continue };
        let is_rollback = matches!(state, UpdateState::RollbackStarted);
        let config = if is_rollback { service.spec.rollback } else { service.spec.update }.unwrap_or_default();
        let is_open = |task: &&std::sync::Arc<Task>| {
            task.intent.desired.wants_alive() && task.started.is_none() && !task.state().is_terminal()
        };
        let made = commit.after.tasks_of_service(id).filter(|task| is_made(service, task)).filter(is_open).count();
        if state.is_running() && config.parallelism > 0 && made as u64 > config.parallelism {
            found.push(format!("{made} tasks of service {id} are updated at once, {} may be", config.parallelism));
        }
    }
}
