//! A task's node is written once; moving means a new task in the slot. Source: design rule 14.

use skep_store::Event;

use super::Commit;

pub(super) fn check(commit: &Commit<'_>, found: &mut Vec<String>) {
    for event in commit.events {
        let Event::Task(Some(before), Some(after)) = event else { continue };
        if before.placed.node.is_some() && before.placed.node != after.placed.node {
            found.push(format!("task {} moves from {:?} to {:?}", after.id, before.placed.node, after.placed.node));
        }
        if before.placed.node.is_none()
            && let Some(node) = after.placed.node
            && !commit.before.node(node).is_some_and(|node| node.takes_tasks())
        {
            found.push(format!("task {} is placed on node {node}, which takes no tasks", after.id));
        }
    }
}
