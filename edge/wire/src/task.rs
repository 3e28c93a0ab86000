//! Tasks as nodes see them: the assignment of one, and the status that goes back.

use std::sync::Arc;

use skep_model::{
    ContainerStatus, DesiredState, Driver, Labels, NodeId, PortConfig, ServiceId, ServiceSpec, Slot, SpecVersion, Task,
    TaskId, TaskSpec, TaskState, TaskStatus, WallTime,
};

use crate::common::{annotations, desired_number, desired_state, id, task_state, timestamp, wall_time};
use crate::error::{DecodeError, Result, require};
use crate::network::AssignedNetwork;
use crate::service::ports;
use crate::swarmkit;

impl From<&TaskStatus> for swarmkit::TaskStatus {
    /// `applied_at` is a manager's affair and stays empty.
    fn from(status: &TaskStatus) -> Self {
        use swarmkit::task_status::RuntimeStatus;
        Self {
            timestamp: Some(timestamp(status.timestamp)),
            state: status.state as i32,
            message: status.message.clone(),
            err: status.err.clone(),
            port_status: (!status.ports.is_empty())
                .then(|| swarmkit::PortStatus { ports: status.ports.iter().map(Into::into).collect() }),
            applied_by: String::new(),
            applied_at: None,
            runtime_status: status.container.as_ref().map(|container| {
                RuntimeStatus::Container(swarmkit::ContainerStatus {
                    container_id: container.container_id.clone(),
                    pid: container.pid,
                    exit_code: container.exit_code,
                })
            }),
        }
    }
}

impl TryFrom<swarmkit::TaskStatus> for TaskStatus {
    type Error = DecodeError;

    /// `applied_at` is zero.
    fn try_from(status: swarmkit::TaskStatus) -> Result<Self> {
        use swarmkit::task_status::RuntimeStatus;
        let container = status.runtime_status.map(|RuntimeStatus::Container(container)| ContainerStatus {
            container_id: container.container_id,
            pid: container.pid,
            exit_code: container.exit_code,
        });
        Ok(Self {
            state: task_state(status.state)?,
            timestamp: status.timestamp.map_or(Ok(WallTime::default()), wall_time)?,
            applied_at: Default::default(),
            message: status.message,
            err: status.err,
            container,
            ports: ports(status.port_status.unwrap_or_default().ports)?,
        })
    }
}

/// What a task needs beside itself and its spec when it is sent to its node.
#[derive(Debug, Clone, Default)]
pub struct Sending<'a> {
    /// Its networks, see [`crate::network_attachment`].
    pub networks: Vec<swarmkit::NetworkAttachment>,
    /// The cluster's log driver, for tasks that name none.
    pub log_driver: Option<&'a Driver>,
    /// Registry credentials, opened; only their node may get them.
    pub registry_auth: Option<&'a str>,
}

/// SwarmKit's message of a task for its node. The service's spec is the one of the task's revision.
#[must_use]
pub fn task(task: &Task, node: NodeId, spec: &ServiceSpec, sending: Sending<'_>) -> swarmkit::Task {
    use swarmkit::container_spec::PullOptions;
    let mut task_spec = swarmkit::TaskSpec::from(&spec.task);
    if let (Some(auth), Some(swarmkit::task_spec::Runtime::Container(container))) =
        (sending.registry_auth, &mut task_spec.runtime)
    {
        container.pull_options = Some(PullOptions { registry_auth: auth.to_owned() });
    }
    swarmkit::Task {
        id: task.id.to_string(),
        meta: Some(swarmkit::Meta {
            version: Some(swarmkit::Version { index: task.updated.0 }),
            created_at: Some(timestamp(task.created.wall)),
            updated_at: Some(timestamp(task.updated.1)),
        }),
        spec: Some(task_spec),
        service_id: task.service_id.to_string(),
        slot: match task.slot {
            Slot::Number(number) => number,
            Slot::Node(_) => 0,
        },
        node_id: node.to_string(),
        annotations: Some(swarmkit::Annotations::default()),
        service_annotations: annotations(&spec.name, &spec.labels),
        status: Some((&task.status()).into()),
        desired_state: desired_number(task.intent.desired),
        networks: sending.networks,
        endpoint: Some(swarmkit::Endpoint {
            spec: spec.endpoint.as_ref().map(Into::into),
            ports: task.attachment.ports.iter().map(Into::into).collect(),
            virtual_ips: task.attachment.virtual_ips.iter().map(Into::into).collect(),
        }),
        log_driver: spec.task.log_driver.as_ref().or(sending.log_driver).map(Into::into),
        spec_version: Some(swarmkit::Version { index: task.spec_version.0 }),
        assigned_generic_resources: Vec::new(),
        job_iteration: None,
        volumes: Vec::new(),
    }
}

/// A task as its node was told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct AssignedTask {
    /// The task.
    pub task_id: TaskId,
    /// A name given to the task itself; empty as a rule.
    pub task_name: String,
    /// Labels given to the task itself; empty as a rule.
    pub task_labels: Labels,
    /// Its service; `None` for a task that belongs to none.
    pub service_id: Option<ServiceId>,
    /// Name of the service.
    pub service_name: String,
    /// Labels of the service.
    pub service_labels: Labels,
    /// Which place of the service it fills.
    pub slot: Slot,
    /// The node it is for.
    pub node_id: NodeId,
    /// The revision of the service's spec.
    pub spec_version: SpecVersion,
    /// What to run, with the log driver that was chosen.
    pub spec: Arc<TaskSpec>,
    /// Registry credentials, opened: never to be stored.
    pub registry_auth: Option<String>,
    /// Published ports with their numbers.
    pub ports: Vec<PortConfig>,
    /// Its networks, in the order of its interfaces.
    pub networks: Vec<AssignedNetwork>,
    /// What is wanted of the task.
    pub desired: DesiredState,
    /// What the managers believe of it from earlier reports; `None` before the first.
    pub known: Option<TaskStatus>,
}

impl TryFrom<swarmkit::Task> for AssignedTask {
    type Error = DecodeError;

    fn try_from(task: swarmkit::Task) -> Result<Self> {
        let mut wire_spec = require(task.spec, "task spec")?;
        let registry_auth = match &mut wire_spec.runtime {
            Some(swarmkit::task_spec::Runtime::Container(container)) => container.pull_options.take(),
            _ => None,
        };
        let mut spec = TaskSpec::try_from(wire_spec)?;
        if let Some(driver) = task.log_driver {
            spec.log_driver = Some(driver.into());
        }
        let node_id: NodeId = id(&task.node_id)?;
        let service = task.service_annotations.unwrap_or_default();
        let own = task.annotations.unwrap_or_default();
        let status = TaskStatus::try_from(task.status.unwrap_or_default())?;
        Ok(Self {
            task_id: id(&task.id)?,
            task_name: own.name,
            task_labels: own.labels,
            service_id: (!task.service_id.is_empty()).then(|| id(&task.service_id)).transpose()?,
            service_name: service.name,
            service_labels: service.labels,
            slot: if task.slot == 0 { Slot::Node(node_id) } else { Slot::Number(task.slot) },
            node_id,
            spec_version: SpecVersion(task.spec_version.unwrap_or_default().index),
            spec: Arc::new(spec),
            registry_auth: registry_auth.map(|options| options.registry_auth).filter(|auth| !auth.is_empty()),
            ports: ports(task.endpoint.unwrap_or_default().ports)?,
            networks: task.networks.into_iter().map(Into::into).collect(),
            desired: desired_state(task.desired_state)?,
            known: (status.state >= TaskState::Accepted).then_some(status),
        })
    }
}
