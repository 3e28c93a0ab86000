//! Nodes: what they say of themselves, what a user wants of them, how they are shown to themselves.

use skep_model::{
    Availability, EngineDescription, Node, NodeDescription, NodeRole, NodeSpec, NodeState, NodeStatus, Plugin, TlsInfo,
};

use crate::common::{annotations, numbers, timestamp};
use crate::error::{DecodeError, Result};
use crate::swarmkit;

numbers! {
    role_number, role: NodeRole = swarmkit::NodeRole, "node role" { Worker = Worker, Manager = Manager }
    availability_number, availability: Availability = swarmkit::node_spec::Availability, "availability" {
        Active = Active, Pause = Pause, Drain = Drain,
    }
    node_state_number, node_state: NodeState = swarmkit::node_status::State, "node state" {
        Unknown = Unknown, Down = Down, Ready = Ready, Disconnected = Disconnected,
    }
}

impl From<&NodeDescription> for swarmkit::NodeDescription {
    fn from(description: &NodeDescription) -> Self {
        Self {
            hostname: description.hostname.clone(),
            platform: Some((&description.platform).into()),
            resources: Some((&description.resources).into()),
            engine: Some((&description.engine).into()),
            tls_info: description.tls.as_ref().map(Into::into),
            fips: false,
            csi_info: Vec::new(),
        }
    }
}

impl TryFrom<swarmkit::NodeDescription> for NodeDescription {
    type Error = DecodeError;

    /// FIPS and cluster volumes are not kept.
    fn try_from(description: swarmkit::NodeDescription) -> Result<Self> {
        Ok(Self {
            hostname: description.hostname,
            platform: description.platform.unwrap_or_default().into(),
            resources: description.resources.unwrap_or_default().try_into()?,
            engine: description.engine.unwrap_or_default().into(),
            tls: description.tls_info.map(Into::into),
        })
    }
}

impl From<&EngineDescription> for swarmkit::EngineDescription {
    fn from(engine: &EngineDescription) -> Self {
        let plugin =
            |plugin: &Plugin| swarmkit::PluginDescription { r#type: plugin.kind.clone(), name: plugin.name.clone() };
        Self {
            engine_version: engine.version.clone(),
            labels: engine.labels.clone(),
            plugins: engine.plugins.iter().map(plugin).collect(),
        }
    }
}

impl From<swarmkit::EngineDescription> for EngineDescription {
    fn from(engine: swarmkit::EngineDescription) -> Self {
        let plugin = |plugin: swarmkit::PluginDescription| Plugin { kind: plugin.r#type, name: plugin.name };
        Self {
            version: engine.engine_version,
            labels: engine.labels,
            plugins: engine.plugins.into_iter().map(plugin).collect(),
        }
    }
}

impl From<&TlsInfo> for swarmkit::NodeTlsInfo {
    fn from(info: &TlsInfo) -> Self {
        Self {
            trust_root: info.trust_root.clone(),
            cert_issuer_subject: info.issuer_subject.clone(),
            cert_issuer_public_key: info.issuer_public_key.clone(),
        }
    }
}

impl From<swarmkit::NodeTlsInfo> for TlsInfo {
    fn from(info: swarmkit::NodeTlsInfo) -> Self {
        Self {
            trust_root: info.trust_root,
            issuer_subject: info.cert_issuer_subject,
            issuer_public_key: info.cert_issuer_public_key,
        }
    }
}

impl From<&NodeSpec> for swarmkit::NodeSpec {
    fn from(spec: &NodeSpec) -> Self {
        Self {
            annotations: annotations(&spec.name, &spec.labels),
            desired_role: role_number(spec.role),
            membership: swarmkit::node_spec::Membership::Accepted.into(),
            availability: availability_number(spec.availability),
        }
    }
}

impl TryFrom<swarmkit::NodeSpec> for NodeSpec {
    type Error = DecodeError;

    fn try_from(spec: swarmkit::NodeSpec) -> Result<Self> {
        let annotations = spec.annotations.unwrap_or_default();
        Ok(Self {
            name: annotations.name,
            labels: annotations.labels,
            role: role(spec.desired_role)?,
            availability: availability(spec.availability)?,
        })
    }
}

impl From<&NodeStatus> for swarmkit::NodeStatus {
    fn from(status: &NodeStatus) -> Self {
        Self { state: node_state_number(status.state), message: status.message.clone(), addr: status.addr.clone() }
    }
}

impl TryFrom<swarmkit::NodeStatus> for NodeStatus {
    type Error = DecodeError;

    fn try_from(status: swarmkit::NodeStatus) -> Result<Self> {
        Ok(Self { state: node_state(status.state)?, message: status.message, addr: status.addr })
    }
}

/// A node as it is shown to itself in a session. `is_leader` is only looked at for managers.
#[must_use]
pub fn node(node: &Node, is_leader: bool) -> swarmkit::Node {
    use swarmkit::issuance_status::State;
    use swarmkit::raft_member_status::Reachability;
    let certificate_state = if node.certificate.certificate.is_empty() { State::Pending } else { State::Issued };
    swarmkit::Node {
        id: node.id.to_string(),
        meta: Some(swarmkit::Meta {
            version: Some(swarmkit::Version { index: node.meta.version.0 }),
            created_at: Some(timestamp(node.meta.created_at)),
            updated_at: Some(timestamp(node.meta.updated_at)),
        }),
        spec: Some((&node.spec).into()),
        description: node.observed.description.as_ref().map(Into::into),
        status: Some((&node.observed.status).into()),
        manager_status: node.manager.as_ref().map(|manager| swarmkit::ManagerStatus {
            raft_id: manager.raft_id,
            addr: manager.address.clone(),
            leader: is_leader,
            reachability: Reachability::Reachable.into(),
        }),
        attachment: None,
        certificate: Some(swarmkit::Certificate {
            role: role_number(node.role),
            csr: node.certificate.csr.clone(),
            status: Some(swarmkit::IssuanceStatus { state: certificate_state.into(), err: String::new() }),
            certificate: node.certificate.certificate.clone(),
            cn: node.id.to_string(),
        }),
        role: role_number(node.role),
        attachments: Vec::new(),
        vxlanudp_port: 0,
    }
}
