//! The Docker Engine API's JSON as types, and the conversions to and from the model.
//!
//! One set of types serves both directions. They borrow where they can ([`Text`], [`Texts`], [`Map`]), so that an answer
//! is written straight from the state without copying it; a request is read by [`decode`] into the same types with
//! `'static`. What a field is when it is empty (absent, `null`, `[]`, `{}`) is the engine's habit and part of the API: the
//! recordings under `tools/conformance/fixtures` are the judge. Nothing here knows HTTP, a socket or the state; `http-api`
//! and the client verbs use it.

mod container;
mod decode;
mod exec;
mod filters;
mod image;
mod network;
mod node;
mod observe;
mod query;
mod refusal;
mod secret;
mod service;
mod spec;
mod swarm;
mod swarm_spec;
mod system;
mod task;
mod text;
mod time;
mod version;
mod volume;

pub use container::*;
pub use decode::{DecodeError, decode};
pub use exec::{ExecConfig, ExecInspect, ExecProcess, ExecStart, WaitError, WaitResponse};
pub use filters::{FilterError, Filters};
pub use image::*;
pub use network::{
    EndpointResource, Ipam, IpamConfig, NetworkAttachment, NetworkConnect, NetworkCreate, NetworkCreated,
    NetworkDisconnect, NetworkPeer, NetworkReference, NetworkResource, NetworksPruned, SwarmDriver, SwarmIpam,
    SwarmIpamConfig, SwarmNetwork, SwarmNetworkSpec,
};
pub use node::*;
pub use observe::*;
pub use query::{QueryError, boolean, event_time, strict_boolean, unix_time, version_index};
pub use refusal::Refusal;
pub use secret::{DataCreated, DataObject, DataSpec};
pub use service::{CreateResponse, Endpoint, Service, ServiceStatus, UpdateResponse, UpdateStatus};
pub use spec::*;
pub use swarm::{InitRequest, JoinTokens, RemoteManager, Swarm, SwarmInfo, TlsInfo, UnlockKey};
pub use swarm_spec::*;
pub use system::*;
pub use task::*;
pub use text::{Map, Text, Texts};
pub use time::Timestamp;
pub use version::{ApiVersion, VersionError};
pub use volume::{Volume, VolumeCreate, VolumeList, VolumeUsage, VolumesPruned};

use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// What a person reads.
    pub message: String,
}

/// What creating a container or an exec answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct IdResponse {
    /// The new object's id.
    pub id: String,
}

/// The `Version` object of swarm objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ObjectVersion {
    /// Must be given back on an update.
    pub index: u64,
}

impl From<skep_model::Version> for ObjectVersion {
    fn from(version: skep_model::Version) -> Self {
        Self { index: version.0 }
    }
}
