//! A state out of its parts: what a snapshot holds. Indexes are never stored; they are made again here.

use std::sync::Arc;

use skep_model::{
    Cluster, ClusterTime, Config, Network, Node, Secret, Service, ServiceId, ServiceSpec, SpecVersion, Task, WallTime,
};

use crate::State;
use crate::state::{NAMESPACE, Revision};

/// Everything a state is made of.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// Raft index of the last applied entry.
    pub index: u64,
    /// Cluster time then.
    pub time: ClusterTime,
    /// Wall time then.
    pub wall: WallTime,
    /// The cluster object.
    pub cluster: Option<Cluster>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All revisions.
    pub revisions: Vec<(ServiceId, SpecVersion, Arc<ServiceSpec>)>,
    /// All services. Their specs may be shared with the revisions.
    pub services: Vec<Service>,
    /// All tasks.
    pub tasks: Vec<Task>,
    /// All secrets.
    pub secrets: Vec<Secret>,
    /// All configs.
    pub configs: Vec<Config>,
    /// All networks.
    pub networks: Vec<Network>,
}

/// A snapshot whose parts do not fit together: it is damaged, or was written by something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A task or service names a revision that is not there.
    #[error("the snapshot lacks revision {version} of service {service}")]
    MissingRevision {
        /// The service.
        service: ServiceId,
        /// The revision.
        version: u64,
    },
    /// Two objects with one id.
    #[error("the snapshot holds {kind} {id:?} twice")]
    Twice {
        /// Kind of object.
        kind: &'static str,
        /// Its id or name.
        id: String,
    },
}

impl State {
    /// Puts a state together out of its parts.
    ///
    /// # Errors
    /// When the parts do not fit together.
    pub fn restore(parts: Parts) -> Result<Self, RestoreError> {
        let mut state = Self { index: parts.index, time: parts.time, wall: parts.wall, ..Self::default() };
        let twice = |kind, id: &dyn std::fmt::Display| RestoreError::Twice { kind, id: id.to_string() };
        state.cluster = parts.cluster.map(Arc::new);
        for node in parts.nodes {
            let id = node.id;
            if state.nodes.insert(id, Arc::new(node)).is_some() {
                return Err(twice("node", &id));
            }
        }
        for (service, version, spec) in parts.revisions {
            if state.revisions.insert((service, version), Revision { spec, tasks: 0 }).is_some() {
                return Err(twice("revision of service", &service));
            }
        }
        for service in parts.services {
            let id = service.id;
            let versions =
                [Some(service.spec_version), service.previous.as_ref().map(|previous| previous.spec_version)];
            for version in versions.into_iter().flatten() {
                state.require_revision(id, version)?;
            }
            let name = (NAMESPACE, service.spec.name.to_lowercase());
            if state.service_names.insert(name, id).is_some() {
                return Err(twice("service", &service.spec.name));
            }
            if state.services.contains_key(&id) {
                return Err(twice("service", &id));
            }
            state.put_service(service);
        }
        for network in parts.networks {
            let (id, name) = (network.id, network.spec.name.clone());
            if !state.add_network(network) {
                return Err(twice("network", &format!("{name} ({id})")));
            }
        }
        for task in parts.tasks {
            state.require_revision(task.service_id, task.spec_version)?;
            if state.tasks.contains_key(&task.id) {
                return Err(twice("task", &task.id));
            }
            state.add_task(task);
        }
        for secret in parts.secrets {
            let (id, name) = (secret.id, secret.spec.name.clone());
            let is_new_name = state.secret_names.insert((NAMESPACE, name.to_lowercase()), id).is_none();
            if !is_new_name || state.secrets.insert(id, Arc::new(secret)).is_some() {
                return Err(twice("secret", &name));
            }
        }
        for config in parts.configs {
            let (id, name) = (config.id, config.spec.name.clone());
            let is_new_name = state.config_names.insert((NAMESPACE, name.to_lowercase()), id).is_none();
            if !is_new_name || state.configs.insert(id, Arc::new(config)).is_some() {
                return Err(twice("config", &name));
            }
        }
        Ok(state)
    }

    fn require_revision(&self, service: ServiceId, version: SpecVersion) -> Result<(), RestoreError> {
        if self.revisions.contains_key(&(service, version)) {
            Ok(())
        } else {
            Err(RestoreError::MissingRevision { service, version: version.0 })
        }
    }
}
