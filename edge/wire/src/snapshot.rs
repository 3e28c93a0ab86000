//! The whole state as bytes. A spec that several revisions and services share is written once.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use skep_model::{
    Attachment, Cluster, ClusterTime, GroupVersion, Intent, Node, NodeCertificate, NodeObserved, Placed, PreviousSpec,
    Service, ServiceSpec, SpecVersion, Stamp, Task, WallTime,
};
use skep_store::{Parts, State};

use crate::common::{desired_number, desired_state, id, optional_id, port_number};
use crate::entry::{FORMAT, decode_versioned};
use crate::error::{DecodeError, Result, require};
use crate::network::all;
use crate::node::{role, role_number};
use crate::service::ports;
use crate::stored;

/// The bytes of a state.
#[must_use]
pub fn encode_snapshot(state: &State) -> Vec<u8> {
    let mut specs = Specs::default();
    let revisions = state
        .revisions()
        .map(|(service, version, spec)| stored::Revision {
            service_id: service.to_string(),
            spec_version: version.0,
            spec: specs.place_of(spec),
        })
        .collect();
    let services = state.services().map(|object| service(object, &mut specs)).collect();
    stored::Snapshot {
        version: FORMAT,
        index: state.index(),
        cluster_time: state.time().0,
        wall_time: state.wall().0,
        cluster: state.cluster().map(|object| (&**object).into()),
        specs: specs.list,
        revisions,
        nodes: state.nodes().map(|object| (&**object).into()).collect(),
        services,
        tasks: state.tasks().map(|object| (&**object).into()).collect(),
        secrets: state.secrets().map(|object| (&**object).into()).collect(),
        configs: state.configs().map(|object| (&**object).into()).collect(),
        networks: state.networks().map(|object| (&**object).into()).collect(),
    }
    .encode_to_vec()
}

/// The state that these bytes hold.
///
/// # Errors
/// When the bytes are damaged, were written by a newer skep, or their parts do not fit together.
pub fn decode_snapshot(bytes: &[u8]) -> Result<State> {
    let stored: stored::Snapshot = decode_versioned("snapshot", bytes)?;
    let specs: Vec<Arc<ServiceSpec>> =
        stored.specs.into_iter().map(|spec| ServiceSpec::try_from(spec).map(Arc::new)).collect::<Result<_>>()?;
    let revision = |stored: stored::Revision| {
        Ok((id(&stored.service_id)?, SpecVersion(stored.spec_version), spec_at(&specs, stored.spec)?))
    };
    let parts = Parts {
        index: stored.index,
        time: ClusterTime(stored.cluster_time),
        wall: WallTime(stored.wall_time),
        cluster: stored.cluster.map(TryInto::try_into).transpose()?,
        nodes: stored.nodes.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        revisions: stored.revisions.into_iter().map(revision).collect::<Result<_>>()?,
        services: stored.services.into_iter().map(|stored| from_service(stored, &specs)).collect::<Result<_>>()?,
        tasks: stored.tasks.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        secrets: stored.secrets.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        configs: stored.configs.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        networks: all(stored.networks)?,
    };
    Ok(State::restore(parts)?)
}

/// Specs in the order they were first met, found again by address.
#[derive(Default)]
struct Specs {
    list: Vec<stored::ServiceSpec>,
    places: BTreeMap<*const ServiceSpec, u32>,
}

impl Specs {
    fn place_of(&mut self, spec: &Arc<ServiceSpec>) -> u32 {
        *self.places.entry(Arc::as_ptr(spec)).or_insert_with(|| {
            let place = u32::try_from(self.list.len()).expect("fewer specs than 2^32 fit into memory");
            self.list.push((&**spec).into());
            place
        })
    }
}

fn spec_at(specs: &[Arc<ServiceSpec>], place: u32) -> Result<Arc<ServiceSpec>> {
    let spec = usize::try_from(place).ok().and_then(|place| specs.get(place));
    spec.cloned().ok_or(DecodeError::Missing { field: "service spec" })
}

fn service(service: &Service, specs: &mut Specs) -> stored::Service {
    stored::Service {
        id: service.id.to_string(),
        meta: Some(service.meta.into()),
        spec: specs.place_of(&service.spec),
        spec_version: service.spec_version.0,
        replicas: service.replicas,
        previous: service.previous.as_ref().map(|previous| stored::PreviousSpec {
            spec: specs.place_of(&previous.spec),
            spec_version: previous.spec_version.0,
            replicas: previous.replicas,
        }),
        endpoint: Some((&service.endpoint).into()),
        update: service.update.as_ref().map(Into::into),
        update_since: service.update_since.0,
        update_version: service.update_version.0,
    }
}

fn from_service(stored: stored::Service, specs: &[Arc<ServiceSpec>]) -> Result<Service> {
    let previous = |stored: stored::PreviousSpec| {
        Ok::<_, DecodeError>(PreviousSpec {
            spec: spec_at(specs, stored.spec)?,
            spec_version: SpecVersion(stored.spec_version),
            replicas: stored.replicas,
        })
    };
    Ok(Service {
        id: id(&stored.id)?,
        meta: require(stored.meta, "meta")?.into(),
        spec: spec_at(specs, stored.spec)?,
        spec_version: SpecVersion(stored.spec_version),
        replicas: stored.replicas,
        previous: stored.previous.map(previous).transpose()?,
        endpoint: stored.endpoint.unwrap_or_default().try_into()?,
        update: stored.update.map(TryInto::try_into).transpose()?,
        update_since: ClusterTime(stored.update_since),
        update_version: GroupVersion(stored.update_version),
    })
}

impl From<&Cluster> for stored::Cluster {
    fn from(cluster: &Cluster) -> Self {
        Self {
            id: cluster.id.to_string(),
            meta: Some(cluster.meta.into()),
            level: cluster.level,
            spec: Some((&cluster.spec).into()),
            root_ca: Some((&cluster.root_ca).into()),
            root_version: cluster.root_version.0,
            address_pools: cluster.address_pools.clone(),
            subnet_size: cluster.subnet_size,
            data_path_port: u32::from(cluster.data_path_port),
        }
    }
}

impl TryFrom<stored::Cluster> for Cluster {
    type Error = DecodeError;

    fn try_from(stored: stored::Cluster) -> Result<Self> {
        Ok(Self {
            id: id(&stored.id)?,
            meta: require(stored.meta, "meta")?.into(),
            level: stored.level,
            spec: require(stored.spec, "cluster spec")?.try_into()?,
            root_ca: require(stored.root_ca, "root")?.into(),
            root_version: GroupVersion(stored.root_version),
            address_pools: stored.address_pools,
            subnet_size: stored.subnet_size,
            data_path_port: port_number(stored.data_path_port, "data path port")?,
        })
    }
}

impl From<&Node> for stored::Node {
    fn from(node: &Node) -> Self {
        Self {
            id: node.id.to_string(),
            meta: Some(node.meta.into()),
            spec: Some((&node.spec).into()),
            status: Some((&node.observed.status).into()),
            description: node.observed.description.as_ref().map(Into::into),
            since: Some(node.observed.since.into()),
            observed_version: node.observed.version.0,
            certificate: Some((&node.certificate).into()),
            role: role_number(node.role),
            manager: node.manager.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<stored::Node> for Node {
    type Error = DecodeError;

    fn try_from(stored: stored::Node) -> Result<Self> {
        Ok(Self {
            id: id(&stored.id)?,
            meta: require(stored.meta, "meta")?.into(),
            spec: require(stored.spec, "node spec")?.try_into()?,
            observed: NodeObserved {
                status: require(stored.status, "node status")?.try_into()?,
                description: stored.description.map(TryInto::try_into).transpose()?,
                since: stored.since.unwrap_or_default().into(),
                version: GroupVersion(stored.observed_version),
            },
            certificate: NodeCertificate::from(stored.certificate.unwrap_or_default()),
            role: role(stored.role)?,
            manager: stored.manager.map(Into::into),
        })
    }
}

impl From<&Task> for stored::Task {
    fn from(task: &Task) -> Self {
        Self {
            id: task.id.to_string(),
            service_id: task.service_id.to_string(),
            slot: Some(task.slot.into()),
            spec_version: task.spec_version.0,
            created: Some(task.created.into()),
            updated_index: task.updated.0,
            updated_at: task.updated.1.0,
            history: Some((&task.history).into()),
            intent: Some((&task.intent).into()),
            attachment: Some((&task.attachment).into()),
            placed: Some((&task.placed).into()),
            observed: task.observed.as_ref().map(Into::into),
            started: task.started.map(|time| time.0),
            by_update: task.by_update,
        }
    }
}

impl TryFrom<stored::Task> for Task {
    type Error = DecodeError;

    fn try_from(stored: stored::Task) -> Result<Self> {
        Ok(Self {
            id: id(&stored.id)?,
            service_id: id(&stored.service_id)?,
            slot: require(stored.slot, "slot")?.try_into()?,
            spec_version: SpecVersion(stored.spec_version),
            created: stored.created.unwrap_or_default().into(),
            updated: (stored.updated_index, WallTime(stored.updated_at)),
            history: stored.history.unwrap_or_default().into(),
            intent: require(stored.intent, "intent")?.try_into()?,
            attachment: stored.attachment.unwrap_or_default().try_into()?,
            placed: stored.placed.unwrap_or_default().try_into()?,
            observed: stored.observed.map(TryInto::try_into).transpose()?,
            started: stored.started.map(ClusterTime),
            by_update: stored.by_update,
        })
    }
}

impl From<&Intent> for stored::Intent {
    fn from(intent: &Intent) -> Self {
        Self {
            desired: desired_number(intent.desired),
            at: intent.at.map(Into::into),
            start_at: intent.start_at.map(|time| time.0),
            start_after: intent.start_after.map(|task| task.to_string()),
            version: intent.version.0,
        }
    }
}

impl TryFrom<stored::Intent> for Intent {
    type Error = DecodeError;

    fn try_from(stored: stored::Intent) -> Result<Self> {
        Ok(Self {
            desired: desired_state(stored.desired)?,
            at: stored.at.map(Stamp::from),
            start_at: stored.start_at.map(ClusterTime),
            start_after: optional_id(stored.start_after.as_ref())?,
            version: GroupVersion(stored.version),
        })
    }
}

impl From<&Attachment> for stored::Attachment {
    fn from(attachment: &Attachment) -> Self {
        Self {
            done: attachment.done.map(Into::into),
            ports: attachment.ports.iter().map(Into::into).collect(),
            networks: attachment.networks.iter().map(Into::into).collect(),
            virtual_ips: attachment.virtual_ips.iter().map(Into::into).collect(),
            reason: attachment.reason.clone(),
            version: attachment.version.0,
        }
    }
}

impl TryFrom<stored::Attachment> for Attachment {
    type Error = DecodeError;

    fn try_from(stored: stored::Attachment) -> Result<Self> {
        Ok(Self {
            done: stored.done.map(Stamp::from),
            ports: ports(stored.ports)?,
            networks: all(stored.networks)?,
            virtual_ips: all(stored.virtual_ips)?,
            reason: stored.reason,
            version: GroupVersion(stored.version),
        })
    }
}

impl From<&Placed> for stored::Placed {
    fn from(placed: &Placed) -> Self {
        Self {
            node: placed.node.map(|node| node.to_string()),
            at: placed.at.map(Into::into),
            reason: placed.reason.clone(),
            version: placed.version.0,
        }
    }
}

impl TryFrom<stored::Placed> for Placed {
    type Error = DecodeError;

    fn try_from(stored: stored::Placed) -> Result<Self> {
        Ok(Self {
            node: optional_id(stored.node.as_ref())?,
            at: stored.at.map(Stamp::from),
            reason: stored.reason,
            version: GroupVersion(stored.version),
        })
    }
}
