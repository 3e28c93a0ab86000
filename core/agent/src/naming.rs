//! Names and labels that Docker gives to a task's container (SwarmKit `api/naming/naming.go`, moby
//! `executor/container/container.go`).

use skep_model::{Labels, Slot};

use crate::Assignment;

/// The container's name: the task's own name when it has one, else `<service>.<slot>.<task id>`; the slot of a global
/// task, and slot 0, is the node's id.
#[must_use]
pub fn container_name(assignment: &Assignment) -> String {
    if !assignment.task_name.is_empty() {
        return assignment.task_name.clone();
    }
    format!("{}.{}.{}", assignment.service_name, slot_text(assignment), assignment.task_id)
}

pub(crate) fn slot_text(assignment: &Assignment) -> String {
    match assignment.slot {
        Slot::Number(0) => assignment.node_id.to_string(),
        slot => slot.to_string(),
    }
}

/// The container's labels: those of the container spec, then the task's, then `com.docker.swarm.*`, later ones winning.
#[must_use]
pub fn container_labels(assignment: &Assignment) -> Labels {
    let mut labels = assignment.spec.container.labels.clone();
    labels.extend(assignment.task_labels.clone());
    let service_id = assignment.service_id.map(|id| id.to_string()).unwrap_or_default();
    for (key, value) in [
        ("com.docker.swarm.task", String::new()),
        ("com.docker.swarm.task.id", assignment.task_id.to_string()),
        ("com.docker.swarm.task.name", container_name(assignment)),
        ("com.docker.swarm.node.id", assignment.node_id.to_string()),
        ("com.docker.swarm.service.id", service_id),
        ("com.docker.swarm.service.name", assignment.service_name.clone()),
    ] {
        labels.insert(key.to_owned(), value);
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{node_id, task};

    #[test]
    fn names_as_docker_gives_them() {
        let mut assignment = task(7);
        assert_eq!(container_name(&assignment), format!("web.1.{}", assignment.task_id));
        assignment.slot = Slot::Number(0);
        assert_eq!(container_name(&assignment), format!("web.{}.{}", node_id(), assignment.task_id));
        assignment.slot = Slot::Node(node_id());
        assert_eq!(container_name(&assignment), format!("web.{}.{}", node_id(), assignment.task_id));
        assignment.task_name = "own".to_owned();
        assert_eq!(container_name(&assignment), "own");
    }

    #[test]
    fn system_labels_win() {
        let mut assignment = task(7);
        let mut spec = (*assignment.spec).clone();
        spec.container.labels.insert("com.docker.swarm.task.id".to_owned(), "fake".to_owned());
        spec.container.labels.insert("a".to_owned(), "b".to_owned());
        assignment.spec = spec.into();
        let labels = container_labels(&assignment);
        assert_eq!(labels["a"], "b");
        assert_eq!(labels["com.docker.swarm.task.id"], assignment.task_id.to_string());
        assert_eq!(labels.len(), 7);
    }
}
