//! A service as it is listed and inspected.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use skep_model as model;

use crate::{EndpointSpec, ObjectVersion, PortConfig, ServiceSpec, Text, Timestamp};

/// A service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Service and documented there")]
pub struct Service<'a> {
    #[serde(rename = "ID")]
    pub id: Text<'a>,
    pub version: ObjectVersion,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: ServiceSpec<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_spec: Option<ServiceSpec<'a>>,
    pub endpoint: Endpoint<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_status: Option<UpdateStatus<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_status: Option<ServiceStatus>,
}

/// What a service was given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Endpoint and documented there")]
pub struct Endpoint<'a> {
    pub spec: EndpointSpec<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig<'a>>,
    #[serde(rename = "VirtualIPs", skip_serializing_if = "Vec::is_empty")]
    pub virtual_ips: Vec<VirtualIp>,
}

/// The address of a service on a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VirtualIp {
    /// Which network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// The address, CIDR.
    pub addr: String,
}

/// How an update goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's UpdateStatus and documented there")]
pub struct UpdateStatus<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub state: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub message: Text<'a>,
}

/// Counts that are made for a list with `status=true`; all three are always written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceStatus {
    /// Tasks that run and shall run.
    pub running_tasks: u64,
    /// Tasks that shall run.
    pub desired_tasks: u64,
    /// Tasks of a job that are done.
    pub completed_tasks: u64,
}

impl<'a> Service<'a> {
    /// The JSON form; the status is for the caller to count.
    #[must_use]
    pub fn of(service: &'a model::Service) -> Self {
        Self {
            id: Cow::Borrowed(model::ObjectId::as_str(&service.id)),
            version: service.meta.version.into(),
            created_at: service.meta.created_at.into(),
            updated_at: service.meta.updated_at.into(),
            spec: ServiceSpec::of(&service.spec, service.replicas),
            previous_spec: service.previous.as_ref().map(|old| ServiceSpec::of(&old.spec, old.replicas)),
            endpoint: Endpoint::of(service),
            update_status: service.update.as_ref().map(UpdateStatus::of),
            service_status: None,
        }
    }
}

impl<'a> Endpoint<'a> {
    /// The engine shows the spec here once it was allocated, and nothing before.
    fn of(service: &'a model::Service) -> Self {
        if service.endpoint.allocated_for.is_none() {
            return Self::default();
        }
        Self {
            spec: service.spec.endpoint.as_ref().map(EndpointSpec::of).unwrap_or_default(),
            ports: service.endpoint.ports.iter().map(PortConfig::of).collect(),
            virtual_ips: service.endpoint.virtual_ips.iter().map(VirtualIp::of).collect(),
        }
    }
}

impl VirtualIp {
    fn of(ip: &model::VirtualIp) -> Self {
        Self { network_id: ip.network.to_string(), addr: ip.address.to_string() }
    }
}

impl<'a> UpdateStatus<'a> {
    fn of(update: &'a model::UpdateStatus) -> Self {
        Self {
            state: Cow::Borrowed(update.state.name()),
            started_at: update.started_at.map(Timestamp),
            completed_at: update.completed_at.map(Timestamp),
            message: Cow::Borrowed(&update.message),
        }
    }
}

/// What creating a service answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateResponse {
    /// The new service's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// What a person should know; `null` when there is nothing (the engine omits it here).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What updating a service answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateResponse {
    /// What a person should know; `null` when there is nothing.
    pub warnings: Option<Vec<String>>,
}
