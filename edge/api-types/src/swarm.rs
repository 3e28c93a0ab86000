//! The cluster as it is inspected, its part of `/info`, and the requests that begin and end membership.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use skep_model as model;
use skep_model::ObjectId as _;

use crate::{ObjectVersion, Refusal, SwarmSpec, Text, Timestamp, text};

/// What a node trusts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's TLSInfo and documented there")]
pub struct TlsInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub trust_root: Text<'a>,
    #[serde(with = "text::bytes", skip_serializing_if = "no_bytes")]
    pub cert_issuer_subject: Cow<'a, [u8]>,
    #[serde(with = "text::bytes", skip_serializing_if = "no_bytes")]
    pub cert_issuer_public_key: Cow<'a, [u8]>,
}

fn no_bytes(bytes: &[u8]) -> bool {
    bytes.is_empty()
}

impl<'a> TlsInfo<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(tls: &'a model::TlsInfo) -> Self {
        Self {
            trust_root: String::from_utf8_lossy(&tls.trust_root),
            cert_issuer_subject: Cow::Borrowed(&tls.issuer_subject),
            cert_issuer_public_key: Cow::Borrowed(&tls.issuer_public_key),
        }
    }
}

/// The cluster. `GET /swarm` has join tokens in it, `/info` has not.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Swarm and documented there")]
pub struct Swarm<'a> {
    #[serde(rename = "ID")]
    pub id: Text<'a>,
    pub version: ObjectVersion,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: SwarmSpec<'a>,
    #[serde(rename = "TLSInfo")]
    pub tls_info: TlsInfo<'a>,
    pub root_rotation_in_progress: bool,
    pub data_path_port: u16,
    pub default_addr_pool: Cow<'a, [String]>,
    pub subnet_size: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_tokens: Option<JoinTokens<'a>>,
}

/// What a machine must show to join.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct JoinTokens<'a> {
    pub worker: Text<'a>,
    pub manager: Text<'a>,
}

impl<'a> Swarm<'a> {
    /// The JSON form without join tokens.
    #[must_use]
    pub fn of(cluster: &'a model::Cluster, tls_info: TlsInfo<'a>) -> Self {
        Self {
            id: Cow::Borrowed(cluster.id.as_str()),
            version: cluster.meta.version.into(),
            created_at: cluster.meta.created_at.into(),
            updated_at: cluster.meta.updated_at.into(),
            spec: SwarmSpec::of(&cluster.spec),
            tls_info,
            root_rotation_in_progress: false,
            data_path_port: cluster.data_path_port,
            default_addr_pool: Cow::Borrowed(&cluster.address_pools),
            subnet_size: cluster.subnet_size,
            join_tokens: None,
        }
    }

    /// Adds the join tokens.
    #[must_use]
    pub fn with_join_tokens(mut self, tokens: &'a model::JoinTokens) -> Self {
        self.join_tokens =
            Some(JoinTokens { worker: Cow::Borrowed(&tokens.worker), manager: Cow::Borrowed(&tokens.manager) });
        self
    }
}

/// The swarm's part of `/info`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's swarm.Info and documented there")]
pub struct SwarmInfo<'a> {
    #[serde(rename = "NodeID")]
    pub node_id: Text<'a>,
    pub node_addr: Text<'a>,
    pub local_node_state: Text<'a>,
    pub control_available: bool,
    pub error: Text<'a>,
    pub remote_managers: Option<Vec<RemoteManager<'a>>>,
    #[serde(skip_serializing_if = "crate::text::is_zero")]
    pub nodes: usize,
    #[serde(skip_serializing_if = "crate::text::is_zero")]
    pub managers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Swarm<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A manager that this node knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct RemoteManager<'a> {
    #[serde(rename = "NodeID")]
    pub node_id: Text<'a>,
    pub addr: Text<'a>,
}

/// The body of `POST /swarm/init`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's InitRequest and documented there")]
pub struct InitRequest {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    pub data_path_port: u32,
    pub default_addr_pool: Vec<String>,
    pub subnet_size: u32,
    pub force_new_cluster: bool,
    pub spec: SwarmSpec<'static>,
    pub auto_lock_managers: bool,
    pub availability: String,
}

impl InitRequest {
    /// The availability of the first node; active when nothing is said.
    pub fn availability(&self) -> Result<model::Availability, Refusal> {
        if self.availability.is_empty() {
            Ok(model::Availability::Active)
        } else {
            crate::node::availability(&self.availability)
        }
    }
}

/// The answer of `GET /swarm/unlockkey` and the body of `POST /swarm/unlock`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UnlockKey {
    /// `SWMKEY-1-…`; empty when autolock is off.
    pub unlock_key: String,
}
