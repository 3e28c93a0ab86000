//! What a worker's database holds of a task. Secret values are never in it.

use prost::Message as _;
use skep_model::{Slot, TaskStatus};

use crate::common::{annotations, desired_number};
use crate::entry::{FORMAT, decode_versioned};
use crate::error::{Result, require};
use crate::proto::skep::worker::v1 as proto;
use crate::{AssignedTask, swarmkit};

/// A worker's memory of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerTask {
    /// What it was told; registry credentials and what managers believe are not kept.
    pub task: AssignedTask,
    /// How far the task is; `applied_at` is not kept.
    pub status: TaskStatus,
    /// Its record is deleted and what it left is being removed.
    pub removing: bool,
    /// It had secrets, configs or registry credentials: they are not kept.
    pub withheld: bool,
}

/// The bytes of a worker's memory of a task.
#[must_use]
pub fn encode_worker_task(memory: &WorkerTask) -> Vec<u8> {
    let WorkerTask { task, status, removing, withheld } = memory;
    let task = swarmkit::Task {
        id: task.task_id.to_string(),
        spec: Some((&*task.spec).into()),
        service_id: task.service_id.map(|id| id.to_string()).unwrap_or_default(),
        slot: match task.slot {
            Slot::Number(number) => number,
            Slot::Node(_) => 0,
        },
        node_id: task.node_id.to_string(),
        annotations: annotations(&task.task_name, &task.task_labels),
        service_annotations: annotations(&task.service_name, &task.service_labels),
        status: Some(status.into()),
        desired_state: desired_number(task.desired),
        endpoint: Some(swarmkit::Endpoint {
            ports: task.ports.iter().map(Into::into).collect(),
            ..swarmkit::Endpoint::default()
        }),
        networks: task.networks.iter().map(Into::into).collect(),
        spec_version: Some(swarmkit::Version { index: task.spec_version.0 }),
        ..swarmkit::Task::default()
    };
    proto::WorkerTask { version: FORMAT, task: Some(task), removing: *removing, withheld: *withheld }.encode_to_vec()
}

/// The memory that these bytes hold.
///
/// # Errors
/// When the bytes are damaged, or were written by a newer skep.
pub fn decode_worker_task(bytes: &[u8]) -> Result<WorkerTask> {
    let stored: proto::WorkerTask = decode_versioned("record of a task", bytes)?;
    let task = require(stored.task, "task")?;
    let status = TaskStatus::try_from(task.status.clone().unwrap_or_default())?;
    let task = AssignedTask { known: None, ..AssignedTask::try_from(task)? };
    Ok(WorkerTask { task, status, removing: stored.removing, withheld: stored.withheld })
}
