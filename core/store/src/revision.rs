//! Which tasks need no replacement for their service's current spec (SwarmKit `manager/orchestrator/task.go`).

use skep_model::{Node, Placement, ServiceSpec, Task, TaskState, constraint};

use crate::State;

impl State {
    /// True when a task is as its service's current spec would make it, so that an update leaves it alone. Two differences do
    /// not count: other placement when the task's node fulfils the new constraints, and other registry credentials of a task
    /// that has its image already.
    #[must_use]
    pub fn is_up_to_date(&self, task: &Task) -> bool {
        let Some(service) = self.service(task.service_id) else { return false };
        let Some(own) = self.revision(task.service_id, task.spec_version) else { return false };
        if task.spec_version == service.spec_version || own.is_same_for_tasks(&service.spec) {
            return true;
        }
        let node = task.placed.node.and_then(|node| self.node(node));
        let has_image =
            task.intent.desired.wants_alive() && (TaskState::Ready..=TaskState::Running).contains(&task.state());
        let fits = node.is_some_and(|node| fulfils(node, &service.spec.task.placement));
        is_same_but(own, &service.spec, fits, has_image)
    }
}

/// True when a node fulfils all constraints of a placement. One that cannot be read is fulfilled by no node.
#[must_use]
pub fn fulfils(node: &Node, placement: &Placement) -> bool {
    placement.constraints.iter().all(|text| constraint::parse(text).is_ok_and(|one| one.matches(node)))
}

fn is_same_but(own: &ServiceSpec, new: &ServiceSpec, but_placement: bool, but_credentials: bool) -> bool {
    // The cheap comparisons first: they tell most updates apart.
    if own.endpoint != new.endpoint
        || own.networks != new.networks
        || own.task.force_update != new.task.force_update
        || own.task.container.image != new.task.container.image
    {
        return false;
    }
    let mut task = own.task.clone();
    if but_placement {
        task.placement.clone_from(&new.task.placement);
    }
    if but_credentials {
        task.container.registry_auth.clone_from(&new.task.container.registry_auth);
    }
    task == new.task
}
