//! A task as it is listed and inspected.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use skep_model as model;
use skep_model::ObjectId as _;

use crate::text::is_zero;
use crate::{Map, NetworkAttachment, ObjectVersion, PortConfig, TaskSpec, Text, Timestamp};

/// A task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Task and documented there")]
pub struct Task<'a> {
    #[serde(rename = "ID")]
    pub id: Text<'a>,
    pub version: ObjectVersion,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub labels: Map<'a>,
    pub spec: TaskSpec<'a>,
    #[serde(rename = "ServiceID", skip_serializing_if = "str::is_empty")]
    pub service_id: Text<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    pub slot: u64,
    #[serde(rename = "NodeID", skip_serializing_if = "str::is_empty")]
    pub node_id: Text<'a>,
    pub status: TaskStatus<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub desired_state: Text<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks_attachments: Vec<NetworkAttachment>,
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's TaskStatus and documented there")]
pub struct TaskStatus<'a> {
    pub timestamp: Timestamp,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub state: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub message: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub err: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_status: Option<ContainerStatus<'a>>,
    pub port_status: PortStatus<'a>,
}

/// A task's container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ContainerStatus<'a> {
    #[serde(rename = "ContainerID")]
    pub container_id: Text<'a>,
    #[serde(rename = "PID")]
    pub pid: i32,
    pub exit_code: i32,
}

/// Host-mode ports that are bound.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the name says it")]
pub struct PortStatus<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig<'a>>,
}

impl<'a> Task<'a> {
    /// The JSON form of a task that runs `spec`, with its `status` as [`model::Task::status`] tells it.
    #[must_use]
    pub fn of(task: &'a model::Task, spec: &'a model::ServiceSpec, status: &'a model::TaskStatus) -> Self {
        let container = status.container.as_ref().map(|container| ContainerStatus {
            container_id: Cow::Borrowed(&container.container_id),
            pid: container.pid,
            exit_code: container.exit_code,
        });
        Self {
            id: Cow::Borrowed(task.id.as_str()),
            version: ObjectVersion { index: task.updated.0 },
            created_at: task.created.wall.into(),
            updated_at: task.updated.1.into(),
            labels: Map::default(),
            // The engine shows the runtime in services only.
            spec: TaskSpec { runtime: Cow::Borrowed(""), ..TaskSpec::of(&spec.task) },
            service_id: Cow::Borrowed(task.service_id.as_str()),
            slot: match task.slot {
                model::Slot::Number(number) => number,
                model::Slot::Node(_) => 0,
            },
            node_id: task.node().map_or(Cow::Borrowed(""), |node| Cow::Owned(node.to_string())),
            status: TaskStatus {
                timestamp: status.timestamp.into(),
                state: Cow::Borrowed(status.state.name()),
                message: Cow::Borrowed(&status.message),
                err: Cow::Borrowed(&status.err),
                container_status: container,
                port_status: PortStatus { ports: status.ports.iter().map(PortConfig::of).collect() },
            },
            desired_state: Cow::Borrowed(task.intent.desired.as_state().name()),
            networks_attachments: Vec::new(),
        }
    }
}
