//! A node as it is listed, inspected and updated.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use skep_model as model;
use skep_model::ObjectId as _;

use crate::text::{is_empty_map, is_zero};
use crate::{Map, ObjectVersion, Platform, Refusal, Reservations, Text, Timestamp, TlsInfo};

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Node and documented there")]
pub struct Node<'a> {
    #[serde(rename = "ID")]
    pub id: Text<'a>,
    pub version: ObjectVersion,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: NodeSpec<'a>,
    pub description: NodeDescription<'a>,
    pub status: NodeStatus<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manager_status: Option<ManagerStatus<'a>>,
}

/// What a user may edit of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's NodeSpec and documented there")]
pub struct NodeSpec<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: Text<'a>,
    pub labels: Map<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub role: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub availability: Text<'a>,
}

impl<'a> NodeSpec<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(spec: &'a model::NodeSpec) -> Self {
        Self {
            name: Cow::Borrowed(&spec.name),
            labels: Cow::Borrowed(&spec.labels),
            role: Cow::Borrowed(spec.role.name()),
            availability: Cow::Borrowed(spec.availability.name()),
        }
    }

    /// The model's form.
    pub fn into_model(self) -> Result<model::NodeSpec, Refusal> {
        Ok(model::NodeSpec {
            role: match &*self.role {
                "worker" => model::NodeRole::Worker,
                "manager" => model::NodeRole::Manager,
                other => return Err(Refusal::Invalid(format!("invalid Role: {other:?}"))),
            },
            availability: availability(&self.availability)?,
            name: self.name.into_owned(),
            labels: self.labels.into_owned(),
        })
    }
}

/// A word for whether a node takes tasks.
pub(crate) fn availability(word: &str) -> Result<model::Availability, Refusal> {
    match word {
        "active" => Ok(model::Availability::Active),
        "pause" => Ok(model::Availability::Pause),
        "drain" => Ok(model::Availability::Drain),
        other => Err(Refusal::Invalid(format!("invalid Availability: {other:?}"))),
    }
}

/// What a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's NodeDescription and documented there")]
pub struct NodeDescription<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub hostname: Text<'a>,
    pub platform: Platform<'a>,
    pub resources: Reservations<'a>,
    pub engine: EngineDescription<'a>,
    #[serde(rename = "TLSInfo")]
    pub tls_info: TlsInfo<'a>,
}

/// The engine on a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's EngineDescription and documented there")]
pub struct EngineDescription<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub engine_version: Text<'a>,
    #[serde(skip_serializing_if = "is_empty_map")]
    pub labels: Map<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<Plugin<'a>>,
}

/// A built-in or added part of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Plugin<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub r#type: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: Text<'a>,
}

/// Whether a node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct NodeStatus<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub state: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub message: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub addr: Text<'a>,
}

/// A manager among managers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's ManagerStatus and documented there")]
pub struct ManagerStatus<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    pub leader: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reachability: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub addr: Text<'a>,
}

/// What is known of a manager that the state does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reachability {
    /// It leads.
    pub leader: bool,
    /// It answers; `None` when nobody knows.
    pub reachable: Option<bool>,
}

impl<'a> Node<'a> {
    /// The JSON form; `reachability` is used for managers.
    #[must_use]
    pub fn of(node: &'a model::Node, reachability: Reachability) -> Self {
        let manager_status = node.manager.as_ref().map(|manager| ManagerStatus {
            leader: reachability.leader,
            reachability: Cow::Borrowed(match reachability.reachable {
                Some(true) => "reachable",
                Some(false) => "unreachable",
                None => "unknown",
            }),
            addr: Cow::Borrowed(&manager.address),
        });
        let status = &node.observed.status;
        Self {
            id: Cow::Borrowed(node.id.as_str()),
            version: node.meta.version.into(),
            created_at: node.meta.created_at.into(),
            updated_at: node.meta.updated_at.into(),
            spec: NodeSpec::of(&node.spec),
            description: node.observed.description.as_ref().map(NodeDescription::of).unwrap_or_default(),
            status: NodeStatus {
                state: Cow::Borrowed(status.state.name()),
                message: Cow::Borrowed(&status.message),
                addr: Cow::Borrowed(&status.addr),
            },
            manager_status,
        }
    }
}

impl<'a> NodeDescription<'a> {
    fn of(description: &'a model::NodeDescription) -> Self {
        let plugin = |plugin: &'a model::Plugin| Plugin {
            r#type: Cow::Borrowed(&plugin.kind),
            name: Cow::Borrowed(&plugin.name),
        };
        Self {
            hostname: Cow::Borrowed(&description.hostname),
            platform: Platform::of(&description.platform),
            resources: Reservations::of(&description.resources),
            engine: EngineDescription {
                engine_version: Cow::Borrowed(&description.engine.version),
                labels: Cow::Borrowed(&description.engine.labels),
                plugins: description.engine.plugins.iter().map(plugin).collect(),
            },
            tls_info: description.tls.as_ref().map(TlsInfo::of).unwrap_or_default(),
        }
    }
}
