//! Parts of objects that records of the log and snapshots share.

use skep_model::{
    ClusterTime, Endpoint, GroupVersion, ManagerAddress, Meta, NodeCertificate, RestartHistory, RootCa, Sealed,
    ServiceDefinition, ServiceSpec, Slot, SpecVersion, Stamp, TaskStatus, Version, WallTime,
};

use crate::common::id;
use crate::container;
use crate::error::{DecodeError, Result, require};
use crate::network::all;
use crate::service::{ports, service_spec};
use crate::stored;

impl From<&ServiceSpec> for stored::ServiceSpec {
    fn from(spec: &ServiceSpec) -> Self {
        Self { spec: Some(service_spec(spec, 0)), container: container::extra(&spec.task.container) }
    }
}

impl TryFrom<stored::ServiceSpec> for ServiceSpec {
    type Error = DecodeError;

    fn try_from(stored: stored::ServiceSpec) -> Result<Self> {
        let mut spec = Self::try_from(require(stored.spec, "service spec")?)?;
        if let Some(extra) = stored.container {
            container::add_extra(&mut spec.task.container, extra)?;
        }
        Ok(spec)
    }
}

impl From<&ServiceDefinition> for stored::ServiceDefinition {
    fn from(definition: &ServiceDefinition) -> Self {
        Self { spec: Some((&*definition.spec).into()), replicas: definition.replicas }
    }
}

impl TryFrom<stored::ServiceDefinition> for ServiceDefinition {
    type Error = DecodeError;

    fn try_from(stored: stored::ServiceDefinition) -> Result<Self> {
        let spec = ServiceSpec::try_from(require(stored.spec, "service spec")?)?;
        Ok(Self { spec: spec.into(), replicas: stored.replicas })
    }
}

impl From<&RootCa> for stored::RootCa {
    fn from(root: &RootCa) -> Self {
        Self {
            certificate: root.certificate.clone(),
            key: root.key.0.clone(),
            digest: root.digest.clone(),
            join_tokens: Some((&root.join_tokens).into()),
        }
    }
}

impl From<stored::RootCa> for RootCa {
    fn from(stored: stored::RootCa) -> Self {
        Self {
            certificate: stored.certificate,
            key: Sealed(stored.key),
            digest: stored.digest,
            join_tokens: stored.join_tokens.unwrap_or_default().into(),
        }
    }
}

impl From<&NodeCertificate> for stored::NodeCertificate {
    fn from(certificate: &NodeCertificate) -> Self {
        Self {
            certificate: certificate.certificate.clone(),
            csr: certificate.csr.clone(),
            version: certificate.version.0,
        }
    }
}

impl From<stored::NodeCertificate> for NodeCertificate {
    fn from(stored: stored::NodeCertificate) -> Self {
        Self { certificate: stored.certificate, csr: stored.csr, version: GroupVersion(stored.version) }
    }
}

impl From<&ManagerAddress> for stored::ManagerAddress {
    fn from(manager: &ManagerAddress) -> Self {
        Self { raft_id: manager.raft_id, address: manager.address.clone() }
    }
}

impl From<stored::ManagerAddress> for ManagerAddress {
    fn from(stored: stored::ManagerAddress) -> Self {
        Self { raft_id: stored.raft_id, address: stored.address }
    }
}

impl From<&Endpoint> for stored::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            allocated_for: endpoint.allocated_for.map(|version| version.0),
            ports: endpoint.ports.iter().map(Into::into).collect(),
            virtual_ips: endpoint.virtual_ips.iter().map(Into::into).collect(),
            reason: endpoint.reason.clone(),
            version: endpoint.version.0,
        }
    }
}

impl TryFrom<stored::Endpoint> for Endpoint {
    type Error = DecodeError;

    fn try_from(stored: stored::Endpoint) -> Result<Self> {
        Ok(Self {
            allocated_for: stored.allocated_for.map(SpecVersion),
            ports: ports(stored.ports)?,
            virtual_ips: all(stored.virtual_ips)?,
            reason: stored.reason,
            version: GroupVersion(stored.version),
        })
    }
}

impl From<Slot> for stored::Slot {
    fn from(slot: Slot) -> Self {
        use stored::slot::Place;
        let place = match slot {
            Slot::Number(number) => Place::Number(number),
            Slot::Node(node) => Place::Node(node.to_string()),
        };
        Self { place: Some(place) }
    }
}

impl TryFrom<stored::Slot> for Slot {
    type Error = DecodeError;

    fn try_from(stored: stored::Slot) -> Result<Self> {
        use stored::slot::Place;
        match stored.place {
            Some(Place::Number(number)) => Ok(Self::Number(number)),
            Some(Place::Node(node)) => Ok(Self::Node(id(&node)?)),
            None => Err(DecodeError::UnknownKind { what: "kind of slot" }),
        }
    }
}

impl From<&RestartHistory> for stored::RestartHistory {
    fn from(history: &RestartHistory) -> Self {
        Self { count: history.count, recent: history.recent.iter().map(|time| time.0).collect() }
    }
}

impl From<stored::RestartHistory> for RestartHistory {
    fn from(stored: stored::RestartHistory) -> Self {
        Self { count: stored.count, recent: stored.recent.into_iter().map(ClusterTime).collect() }
    }
}

impl From<&TaskStatus> for stored::TaskStatus {
    fn from(status: &TaskStatus) -> Self {
        Self { status: Some(status.into()), applied_at: status.applied_at.0 }
    }
}

impl TryFrom<stored::TaskStatus> for TaskStatus {
    type Error = DecodeError;

    fn try_from(stored: stored::TaskStatus) -> Result<Self> {
        let status = Self::try_from(require(stored.status, "task status")?)?;
        Ok(Self { applied_at: ClusterTime(stored.applied_at), ..status })
    }
}

impl From<Stamp> for stored::Stamp {
    fn from(stamp: Stamp) -> Self {
        Self { cluster: stamp.cluster.0, wall: stamp.wall.0 }
    }
}

impl From<stored::Stamp> for Stamp {
    fn from(stored: stored::Stamp) -> Self {
        Self { cluster: ClusterTime(stored.cluster), wall: WallTime(stored.wall) }
    }
}

impl From<Meta> for stored::Meta {
    fn from(meta: Meta) -> Self {
        Self { version: meta.version.0, created_at: meta.created_at.0, updated_at: meta.updated_at.0 }
    }
}

impl From<stored::Meta> for Meta {
    fn from(stored: stored::Meta) -> Self {
        Self {
            version: Version(stored.version),
            created_at: WallTime(stored.created_at),
            updated_at: WallTime(stored.updated_at),
        }
    }
}
