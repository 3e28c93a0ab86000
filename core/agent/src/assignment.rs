//! What a node is told to run. The `node` crate builds it from wire messages; it is self-contained, so that the agent and
//! the executor need to know nothing else of the cluster.

use std::sync::Arc;

use skep_model::{
    DesiredState, Labels, NodeId, PortConfig, ServiceId, Slot, SpecVersion, TaskId, TaskSpec, TaskStatus,
};

/// One task that this node shall run, with all that is needed to do so.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The task.
    pub task_id: TaskId,
    /// A name given to the task itself; empty as a rule, then it is made of service, slot and id (see
    /// [`crate::container_name`]).
    pub task_name: String,
    /// Labels given to the task itself; empty as a rule.
    pub task_labels: Labels,
    /// Its service; `None` for a task that belongs to none.
    pub service_id: Option<ServiceId>,
    /// Name of the service.
    pub service_name: String,
    /// Labels of the service object (for templates).
    pub service_labels: Labels,
    /// Which place of the service it fills.
    pub slot: Slot,
    /// This node.
    pub node_id: NodeId,
    /// The revision of the service's spec.
    pub spec_version: SpecVersion,
    /// Container, resources, log driver. Templates in it are not expanded yet.
    pub spec: Arc<TaskSpec>,
    /// Published ports with the numbers the managers chose; a host-mode port may still be 0: the node chooses.
    pub ports: Vec<PortConfig>,
    /// What is wanted of the task.
    pub desired: DesiredState,
    /// What the managers believe of it, from earlier reports. It counts only when the node has no memory of the task.
    pub known: Option<TaskStatus>,
}

/// One change to the set of assignments.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new task, or a new desired state of a known one.
    Update(Box<Assignment>),
    /// The task's record is deleted: stop it, delete everything of it.
    Remove(TaskId),
}
