//! An update that starts the new task first stops no task that runs before another of its slot runs. Source: control plane
//! reference §3.6, old tasks are shut down only when the new one is observed running.

use std::time::Duration;

use skep_model::{Availability, DesiredState, NodeState, TaskState, UpdateOrder, UpdateState};
use skep_store::{Event, fulfils};

use super::Commit;

/// Longest time from a decision to its commit.
const COMMIT_MAX: Duration = Duration::from_secs(10);

pub(super) fn check(commit: &Commit<'_>, found: &mut Vec<String>) {
    for event in commit.events {
        let Event::Task(Some(before), Some(after)) = event else { continue };
        let is_stopped = before.intent.desired == DesiredState::Running
            && after.intent.desired == DesiredState::Shutdown
            && before.state() == TaskState::Running
            // What was decided may take seconds to commit, and the task's node may have been lost then.
            && before.started.is_some_and(|started| commit.after.time().since(started) > COMMIT_MAX);
        let Some(service) = commit.before.service(after.service_id).filter(|_| is_stopped) else { continue };
        let state = service.update.as_ref().map(|update| update.state);
        let config = match state {
            Some(UpdateState::Updating) => service.spec.update,
            Some(UpdateState::RollbackStarted) => service.spec.rollback,
            _ => continue,
        };
        // Tasks of nodes that are down, drained or do not fit any more go at once.
        let node = after.placed.node.and_then(|node| commit.before.node(node));
        let may_stay = node.is_some_and(|node| {
            node.observed.status.state != NodeState::Down
                && commit.after.time().since(node.observed.since.cluster) > COMMIT_MAX
                && node.spec.availability != Availability::Drain
                && fulfils(node, &service.spec.task.placement)
        });
        let runs = commit.before.tasks_of_service(after.service_id).any(|other| {
            other.slot == after.slot
                && other.id != after.id
                && other.intent.desired.wants_alive()
                && other.state() == TaskState::Running
        });
        if config.is_some_and(|config| config.order == UpdateOrder::StartFirst) && may_stay && !runs {
            found.push(format!("task {} is stopped before another of its slot runs", after.id));
        }
    }
}
