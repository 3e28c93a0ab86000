//! Records of the Raft log.

use std::sync::Arc;

use prost::Message;
use skep_model::{ClusterTime, GroupVersion, NodeDescription, SpecVersion, Version, WallTime};
use skep_store::{AtomicGroup, Change, Entry, NewCluster, NewNode, NewTask, Precondition, Proposal};

use crate::common::{desired_number, desired_state, id, optional_id, port_number};
use crate::error::{DecodeError, Result, require};
use crate::network::all;
use crate::node::{availability, availability_number, role, role_number};
use crate::service::ports;
use crate::stored;

/// The format that this build writes and the newest it reads. A new kind of change, precondition or field raises it.
pub const FORMAT: u32 = 1;

/// The first field of every format.
#[derive(Clone, PartialEq, Message)]
struct Versioned {
    #[prost(uint32, tag = "1")]
    version: u32,
}

/// Reads a message whose first field is its format, and refuses newer formats before it looks at the rest.
pub(crate) fn decode_versioned<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M> {
    let malformed = |source| DecodeError::Malformed { what, source };
    match Versioned::decode(bytes).map_err(malformed)?.version {
        0 => Err(DecodeError::Missing { field: "format number" }),
        version if version > FORMAT => Err(DecodeError::NewerFormat { what, version, known: FORMAT }),
        _ => M::decode(bytes).map_err(malformed),
    }
}

/// The bytes of a record of the log.
#[must_use]
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    stored::Entry {
        version: FORMAT,
        cluster_time: entry.time.0,
        wall_time: entry.wall.0,
        proposals: entry.proposals.iter().map(Into::into).collect(),
    }
    .encode_to_vec()
}

/// The record that these bytes hold.
///
/// # Errors
/// When the bytes are damaged, or were written by a newer skep.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry> {
    let stored: stored::Entry = decode_versioned("log entry", bytes)?;
    Ok(Entry {
        time: ClusterTime(stored.cluster_time),
        wall: WallTime(stored.wall_time),
        proposals: stored.proposals.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
    })
}

/// How many bytes a proposal adds to a record of the log, without the few that say so.
#[must_use]
pub fn proposal_size(proposal: &Proposal) -> usize {
    stored::Proposal::from(proposal).encoded_len()
}

impl From<&Proposal> for stored::Proposal {
    fn from(proposal: &Proposal) -> Self {
        Self { groups: proposal.change_set.iter().map(Into::into).collect() }
    }
}

impl TryFrom<stored::Proposal> for Proposal {
    type Error = DecodeError;

    fn try_from(stored: stored::Proposal) -> Result<Self> {
        Ok(Self { change_set: stored.groups.into_iter().map(TryInto::try_into).collect::<Result<_>>()? })
    }
}

impl From<&AtomicGroup> for stored::AtomicGroup {
    fn from(group: &AtomicGroup) -> Self {
        Self {
            preconditions: group.preconditions.iter().map(Into::into).collect(),
            changes: group.changes.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<stored::AtomicGroup> for AtomicGroup {
    type Error = DecodeError;

    fn try_from(stored: stored::AtomicGroup) -> Result<Self> {
        Ok(Self {
            preconditions: stored.preconditions.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            changes: stored.changes.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        })
    }
}

impl From<&Precondition> for stored::Precondition {
    fn from(precondition: &Precondition) -> Self {
        use stored::precondition as wire;
        let kind = match precondition {
            Precondition::ServiceRevision { service, spec_version } => {
                wire::Kind::ServiceRevision(wire::ServiceRevision {
                    service: service.to_string(),
                    spec_version: spec_version.0,
                })
            }
            Precondition::ServiceReplicas { service, replicas } => {
                wire::Kind::ServiceReplicas(wire::ServiceReplicas { service: service.to_string(), replicas: *replicas })
            }
            Precondition::ServiceExists(service) => wire::Kind::ServiceExists(service.to_string()),
            Precondition::EndpointIs(service, version) => {
                wire::Kind::EndpointIs(wire::EndpointIs { service: service.to_string(), version: version.0 })
            }
            Precondition::NodeTakesTasks(node) => wire::Kind::NodeTakesTasks(node.to_string()),
            Precondition::NetworkExists(network) => wire::Kind::NetworkExists(network.to_string()),
            Precondition::NetworkUnused(network) => wire::Kind::NetworkUnused(network.to_string()),
            Precondition::IntentIs(task, version) => {
                wire::Kind::IntentIs(wire::IntentIs { task: task.to_string(), version: version.0 })
            }
            Precondition::TaskRuns(task) => wire::Kind::TaskRuns(task.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<stored::Precondition> for Precondition {
    type Error = DecodeError;

    fn try_from(stored: stored::Precondition) -> Result<Self> {
        use stored::precondition::Kind;
        Ok(match stored.kind.ok_or(DecodeError::UnknownKind { what: "kind of precondition" })? {
            Kind::ServiceRevision(revision) => Self::ServiceRevision {
                service: id(&revision.service)?,
                spec_version: SpecVersion(revision.spec_version),
            },
            Kind::ServiceReplicas(scale) => {
                Self::ServiceReplicas { service: id(&scale.service)?, replicas: scale.replicas }
            }
            Kind::ServiceExists(service) => Self::ServiceExists(id(&service)?),
            Kind::EndpointIs(endpoint) => Self::EndpointIs(id(&endpoint.service)?, GroupVersion(endpoint.version)),
            Kind::NodeTakesTasks(node) => Self::NodeTakesTasks(id(&node)?),
            Kind::NetworkExists(network) => Self::NetworkExists(id(&network)?),
            Kind::NetworkUnused(network) => Self::NetworkUnused(id(&network)?),
            Kind::IntentIs(intent) => Self::IntentIs(id(&intent.task)?, GroupVersion(intent.version)),
            Kind::TaskRuns(task) => Self::TaskRuns(id(&task)?),
        })
    }
}

impl From<&Change> for stored::Change {
    fn from(change: &Change) -> Self {
        use stored::change as wire;
        let kind = match change {
            Change::CreateCluster(new) => wire::Kind::CreateCluster((&**new).into()),
            Change::SetClusterSpec { expect, spec } => {
                wire::Kind::SetClusterSpec(wire::SetClusterSpec { expect: expect.0, spec: Some((&**spec).into()) })
            }
            Change::SetRootCa { expect, root } => {
                wire::Kind::SetRootCa(wire::SetRootCa { expect: expect.0, root: Some((&**root).into()) })
            }
            Change::RaiseLevel(level) => wire::Kind::RaiseLevel(*level),
            Change::CreateNode(new) => wire::Kind::CreateNode((&**new).into()),
            Change::SetNodeSpec { node, expect, spec } => wire::Kind::SetNodeSpec(wire::SetNodeSpec {
                node: node.to_string(),
                expect: expect.0,
                spec: Some(spec.into()),
            }),
            Change::ObserveNode { node, expect, status, description } => wire::Kind::ObserveNode(wire::ObserveNode {
                node: node.to_string(),
                expect: expect.0,
                status: Some(status.into()),
                description: description.as_ref().map(|description| (&**description).into()),
            }),
            Change::CertifyNode { node, expect, certificate } => wire::Kind::CertifyNode(wire::CertifyNode {
                node: node.to_string(),
                expect: expect.0,
                certificate: Some((&**certificate).into()),
            }),
            Change::RemoveNode(node) => wire::Kind::RemoveNode(node.to_string()),
            Change::CreateService { service, definition } => wire::Kind::CreateService(wire::CreateService {
                service: service.to_string(),
                definition: Some(definition.into()),
            }),
            Change::UpdateService { service, expect, definition } => wire::Kind::UpdateService(wire::UpdateService {
                service: service.to_string(),
                expect: expect.0,
                definition: Some(definition.into()),
            }),
            Change::RollbackService { service, expect, reason } => wire::Kind::RollbackService(wire::RollbackService {
                service: service.to_string(),
                expect: expect.0,
                reason: reason.clone(),
            }),
            Change::SetEndpoint { service, expect, endpoint } => wire::Kind::SetEndpoint(wire::SetEndpoint {
                service: service.to_string(),
                expect: expect.0,
                endpoint: Some(endpoint.into()),
            }),
            Change::SetUpdateStatus { service, expect, status } => wire::Kind::SetUpdateStatus(wire::SetUpdateStatus {
                service: service.to_string(),
                expect: expect.0,
                status: status.as_ref().map(Into::into),
            }),
            Change::RemoveService(service) => wire::Kind::RemoveService(service.to_string()),
            Change::CreateNetwork(new) => wire::Kind::CreateNetwork((&**new).into()),
            Change::SetNetworkAllocation { network, expect, allocation } => {
                wire::Kind::SetNetworkAllocation(wire::SetNetworkAllocation {
                    network: network.to_string(),
                    expect: expect.0,
                    allocation: Some((&**allocation).into()),
                })
            }
            Change::RemoveNetwork(network) => wire::Kind::RemoveNetwork(network.to_string()),
            Change::CreateTask(new) => wire::Kind::CreateTask((&**new).into()),
            Change::SetIntent { task, expect, desired, start_at, start_after } => {
                wire::Kind::SetIntent(wire::SetIntent {
                    task: task.to_string(),
                    expect: expect.0,
                    desired: desired_number(*desired),
                    start_at: start_at.map(|time| time.0),
                    start_after: start_after.map(|task| task.to_string()),
                })
            }
            Change::Attach { task, expect, done, ports, networks, virtual_ips, reason } => {
                wire::Kind::Attach(wire::Attach {
                    task: task.to_string(),
                    expect: expect.0,
                    done: *done,
                    ports: ports.iter().map(Into::into).collect(),
                    reason: reason.clone(),
                    networks: networks.iter().map(Into::into).collect(),
                    virtual_ips: virtual_ips.iter().map(Into::into).collect(),
                })
            }
            Change::Place { task, expect, node, reason } => wire::Kind::Place(wire::Place {
                task: task.to_string(),
                expect: expect.0,
                node: node.map(|node| node.to_string()),
                reason: reason.clone(),
            }),
            Change::ObserveTask { task, status } => {
                wire::Kind::ObserveTask(wire::ObserveTask { task: task.to_string(), status: Some((&**status).into()) })
            }
            Change::DeleteTask(task) => wire::Kind::DeleteTask(task.to_string()),
            Change::CreateSecret { secret, spec, lineage } => wire::Kind::CreateSecret(wire::CreateSecret {
                secret: secret.to_string(),
                spec: Some((&**spec).into()),
                lineage: Some(lineage.into()),
            }),
            Change::SetSecretLabels { secret, expect, labels } => wire::Kind::SetSecretLabels(wire::SetSecretLabels {
                secret: secret.to_string(),
                expect: expect.0,
                labels: labels.clone(),
            }),
            Change::RemoveSecret(secret) => wire::Kind::RemoveSecret(secret.to_string()),
            Change::CreateConfig { config, spec } => wire::Kind::CreateConfig(wire::CreateConfig {
                config: config.to_string(),
                spec: Some((&**spec).into()),
            }),
            Change::SetConfigLabels { config, expect, labels } => wire::Kind::SetConfigLabels(wire::SetConfigLabels {
                config: config.to_string(),
                expect: expect.0,
                labels: labels.clone(),
            }),
            Change::RemoveConfig(config) => wire::Kind::RemoveConfig(config.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<stored::Change> for Change {
    type Error = DecodeError;

    fn try_from(stored: stored::Change) -> Result<Self> {
        use stored::change::Kind;
        Ok(match stored.kind.ok_or(DecodeError::UnknownKind { what: "kind of change" })? {
            Kind::CreateCluster(new) => Self::CreateCluster(Box::new(new.try_into()?)),
            Kind::SetClusterSpec(change) => Self::SetClusterSpec {
                expect: Version(change.expect),
                spec: Box::new(require(change.spec, "cluster spec")?.try_into()?),
            },
            Kind::SetRootCa(change) => Self::SetRootCa {
                expect: GroupVersion(change.expect),
                root: Box::new(require(change.root, "root")?.into()),
            },
            Kind::RaiseLevel(level) => Self::RaiseLevel(level),
            Kind::CreateNode(new) => Self::CreateNode(Box::new(new.try_into()?)),
            Kind::SetNodeSpec(change) => Self::SetNodeSpec {
                node: id(&change.node)?,
                expect: Version(change.expect),
                spec: require(change.spec, "node spec")?.try_into()?,
            },
            Kind::ObserveNode(change) => Self::ObserveNode {
                node: id(&change.node)?,
                expect: GroupVersion(change.expect),
                status: require(change.status, "node status")?.try_into()?,
                description: change
                    .description
                    .map(|description| NodeDescription::try_from(description).map(Box::new))
                    .transpose()?,
            },
            Kind::CertifyNode(change) => Self::CertifyNode {
                node: id(&change.node)?,
                expect: GroupVersion(change.expect),
                certificate: Box::new(require(change.certificate, "certificate")?.into()),
            },
            Kind::RemoveNode(node) => Self::RemoveNode(id(&node)?),
            Kind::CreateService(change) => Self::CreateService {
                service: id(&change.service)?,
                definition: require(change.definition, "service definition")?.try_into()?,
            },
            Kind::UpdateService(change) => Self::UpdateService {
                service: id(&change.service)?,
                expect: Version(change.expect),
                definition: require(change.definition, "service definition")?.try_into()?,
            },
            Kind::RollbackService(change) => Self::RollbackService {
                service: id(&change.service)?,
                expect: Version(change.expect),
                reason: change.reason,
            },
            Kind::SetEndpoint(change) => Self::SetEndpoint {
                service: id(&change.service)?,
                expect: GroupVersion(change.expect),
                endpoint: require(change.endpoint, "endpoint")?.try_into()?,
            },
            Kind::SetUpdateStatus(change) => Self::SetUpdateStatus {
                service: id(&change.service)?,
                expect: GroupVersion(change.expect),
                status: change.status.map(TryInto::try_into).transpose()?,
            },
            Kind::RemoveService(service) => Self::RemoveService(id(&service)?),
            Kind::CreateNetwork(new) => Self::CreateNetwork(Box::new(new.try_into()?)),
            Kind::SetNetworkAllocation(change) => Self::SetNetworkAllocation {
                network: id(&change.network)?,
                expect: GroupVersion(change.expect),
                allocation: Box::new(require(change.allocation, "allocation")?.into()),
            },
            Kind::RemoveNetwork(network) => Self::RemoveNetwork(id(&network)?),
            Kind::CreateTask(new) => Self::CreateTask(Box::new(new.try_into()?)),
            Kind::SetIntent(change) => Self::SetIntent {
                task: id(&change.task)?,
                expect: GroupVersion(change.expect),
                desired: desired_state(change.desired)?,
                start_at: change.start_at.map(ClusterTime),
                start_after: optional_id(change.start_after.as_ref())?,
            },
            Kind::Attach(change) => Self::Attach {
                task: id(&change.task)?,
                expect: GroupVersion(change.expect),
                done: change.done,
                ports: ports(change.ports)?,
                networks: all(change.networks)?,
                virtual_ips: all(change.virtual_ips)?,
                reason: change.reason,
            },
            Kind::Place(change) => Self::Place {
                task: id(&change.task)?,
                expect: GroupVersion(change.expect),
                node: optional_id(change.node.as_ref())?,
                reason: change.reason,
            },
            Kind::ObserveTask(change) => Self::ObserveTask {
                task: id(&change.task)?,
                status: Box::new(require(change.status, "task status")?.try_into()?),
            },
            Kind::DeleteTask(task) => Self::DeleteTask(id(&task)?),
            Kind::CreateSecret(change) => Self::CreateSecret {
                secret: id(&change.secret)?,
                spec: Arc::new(require(change.spec, "secret spec")?.into()),
                lineage: change.lineage.unwrap_or_default().into(),
            },
            Kind::SetSecretLabels(change) => Self::SetSecretLabels {
                secret: id(&change.secret)?,
                expect: Version(change.expect),
                labels: change.labels,
            },
            Kind::RemoveSecret(secret) => Self::RemoveSecret(id(&secret)?),
            Kind::CreateConfig(change) => Self::CreateConfig {
                config: id(&change.config)?,
                spec: Arc::new(require(change.spec, "config spec")?.into()),
            },
            Kind::SetConfigLabels(change) => Self::SetConfigLabels {
                config: id(&change.config)?,
                expect: Version(change.expect),
                labels: change.labels,
            },
            Kind::RemoveConfig(config) => Self::RemoveConfig(id(&config)?),
        })
    }
}

impl From<&NewCluster> for stored::NewCluster {
    fn from(new: &NewCluster) -> Self {
        Self {
            id: new.id.to_string(),
            spec: Some((&new.spec).into()),
            root_ca: Some((&new.root_ca).into()),
            address_pools: new.address_pools.clone(),
            subnet_size: new.subnet_size,
            data_path_port: u32::from(new.data_path_port),
        }
    }
}

impl TryFrom<stored::NewCluster> for NewCluster {
    type Error = DecodeError;

    fn try_from(stored: stored::NewCluster) -> Result<Self> {
        Ok(Self {
            id: id(&stored.id)?,
            spec: require(stored.spec, "cluster spec")?.try_into()?,
            root_ca: require(stored.root_ca, "root")?.into(),
            address_pools: stored.address_pools,
            subnet_size: stored.subnet_size,
            data_path_port: port_number(stored.data_path_port, "data path port")?,
        })
    }
}

impl From<&NewNode> for stored::NewNode {
    fn from(new: &NewNode) -> Self {
        Self {
            id: new.id.to_string(),
            role: role_number(new.role),
            availability: availability_number(new.availability),
            certificate: Some((&new.certificate).into()),
            manager: new.manager.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<stored::NewNode> for NewNode {
    type Error = DecodeError;

    fn try_from(stored: stored::NewNode) -> Result<Self> {
        Ok(Self {
            id: id(&stored.id)?,
            role: role(stored.role)?,
            availability: availability(stored.availability)?,
            certificate: stored.certificate.unwrap_or_default().into(),
            manager: stored.manager.map(Into::into),
        })
    }
}

impl From<&NewTask> for stored::NewTask {
    fn from(new: &NewTask) -> Self {
        Self {
            id: new.id.to_string(),
            service_id: new.service_id.to_string(),
            slot: Some(new.slot.into()),
            spec_version: new.spec_version.0,
            history: Some((&new.history).into()),
            desired: desired_number(new.desired),
            start_at: new.start_at.map(|time| time.0),
            start_after: new.start_after.map(|task| task.to_string()),
            by_update: new.by_update,
        }
    }
}

impl TryFrom<stored::NewTask> for NewTask {
    type Error = DecodeError;

    fn try_from(stored: stored::NewTask) -> Result<Self> {
        Ok(Self {
            id: id(&stored.id)?,
            service_id: id(&stored.service_id)?,
            slot: require(stored.slot, "slot")?.try_into()?,
            spec_version: SpecVersion(stored.spec_version),
            history: stored.history.unwrap_or_default().into(),
            desired: desired_state(stored.desired)?,
            start_at: stored.start_at.map(ClusterTime),
            start_after: optional_id(stored.start_after.as_ref())?,
            by_update: stored.by_update,
        })
    }
}
