//! A held replacement runs only when its delay is over, and when the task before it has ended, its node is not reached, or a
//! minute has passed. Source: control plane reference §3.5, delayed start.

use std::time::Duration;

use skep_model::{DesiredState, NodeState};
use skep_store::Event;

use super::Commit;

pub(super) fn check(commit: &Commit<'_>, found: &mut Vec<String>) {
    for event in commit.events {
        let Event::Task(Some(before), Some(after)) = event else { continue };
        if before.intent.desired != DesiredState::Ready || after.intent.desired != DesiredState::Running {
            continue;
        }
        let now = commit.after.time();
        let start_at = before.intent.start_at.unwrap_or_default();
        if now < start_at {
            found.push(format!("task {} runs {:?} too early", after.id, start_at.since(now)));
        }
        let Some(old) = before.intent.start_after.and_then(|id| commit.before.task(id)) else { continue };
        let is_unreachable = old.placed.node.is_none_or(|node| {
            commit.before.node(node).is_none_or(|node| node.observed.status.state != NodeState::Ready)
        });
        if !old.state().is_terminal() && !is_unreachable && now < start_at.after(Duration::from_secs(60)) {
            found.push(format!("task {} runs before task {} has ended", after.id, old.id));
        }
    }
}
