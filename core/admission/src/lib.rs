//! Checks a user's request against the state and turns it into changes, or into a refusal that says why.
//!
//! The HTTP side has decoded the request and found the objects it names; here it is judged by Docker's rules, with Docker's
//! texts (scripts match on them), and by what this version of skep can do: a field that is not supported yet is refused by
//! name, never ignored. What `admit` returns is proposed as it is; the store checks versions and names once more at commit.

mod cluster;
mod image_name;
mod mounts;
mod names;
mod networks;
mod node;
mod ports;
mod references;
mod secret;
mod service;
mod unsupported;

use skep_control::Env;
use skep_model::{
    ClusterSpec, ConfigId, ConfigSpec, JoinTokens, Labels, NetworkId, NetworkSpec, NodeId, NodeSpec, SecretId,
    SecretSpec, ServiceDefinition, ServiceId, Version,
};
use skep_store::{ChangeSet, State};

/// Who asks. There is one kind so far: whoever may open the daemon's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// A client of the local API socket; may do everything.
    LocalSocket,
}

/// What a user asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Creates a service; an empty name gets a random one.
    CreateService(ServiceDefinition),
    /// Replaces a service's definition.
    UpdateService {
        /// Which.
        service: ServiceId,
        /// The version the user saw.
        version: Version,
        /// The new definition.
        definition: ServiceDefinition,
    },
    /// Returns a service to its previous spec.
    RollbackService {
        /// Which.
        service: ServiceId,
        /// The version the user saw.
        version: Version,
    },
    /// Removes a service and its tasks.
    RemoveService(ServiceId),
    /// Creates a network of the swarm.
    CreateNetwork(Box<NetworkSpec>),
    /// Removes a network of the swarm.
    RemoveNetwork(NetworkId),
    /// Replaces the cluster's spec and rotates join tokens.
    UpdateCluster {
        /// The version the user saw.
        version: Version,
        /// The new spec.
        spec: Box<ClusterSpec>,
        /// New tokens, made by the caller; an empty one stays as it is.
        new_tokens: JoinTokens,
        /// The unlock key shall change, too.
        rotate_unlock_key: bool,
    },
    /// Replaces a node's spec.
    UpdateNode {
        /// Which.
        node: NodeId,
        /// The version the user saw.
        version: Version,
        /// The new spec.
        spec: NodeSpec,
    },
    /// Removes a node.
    RemoveNode {
        /// Which.
        node: NodeId,
        /// Also when it is not down.
        force: bool,
    },
    /// Creates a secret.
    CreateSecret {
        /// Its id, made by the caller, who sealed the data for it.
        secret: SecretId,
        /// What the user gave, the data sealed.
        spec: SecretSpec,
        /// How many bytes the data has.
        size: usize,
    },
    /// Changes the labels of a secret.
    UpdateSecret {
        /// Which.
        secret: SecretId,
        /// The version the user saw.
        version: Version,
        /// The name in the request, which must be the same.
        name: String,
        /// The new labels.
        labels: Labels,
        /// The request has no data, or what is stored.
        is_same_data: bool,
    },
    /// Removes a secret.
    RemoveSecret(SecretId),
    /// Creates a config.
    CreateConfig {
        /// Its id, made by the caller.
        config: ConfigId,
        /// What the user gave.
        spec: ConfigSpec,
    },
    /// Changes the labels of a config.
    UpdateConfig {
        /// Which.
        config: ConfigId,
        /// The version the user saw.
        version: Version,
        /// The name in the request, which must be the same.
        name: String,
        /// The new labels.
        labels: Labels,
        /// The data in the request, if there is any: it must be what is stored.
        data: Option<Vec<u8>>,
    },
    /// Removes a config.
    RemoveConfig(ConfigId),
}

/// A request that is allowed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Admitted {
    /// What to propose. It stands or falls as a whole.
    pub changes: ChangeSet,
    /// The id of a service that was created.
    pub service: Option<ServiceId>,
    /// The id of a network that was created.
    pub network: Option<NetworkId>,
    /// For the user.
    pub warnings: Vec<String>,
}

/// The class of a refusal: gRPC's words, as Docker's API uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request is wrong in itself.
    InvalidArgument,
    /// An object is not there.
    NotFound,
    /// An object of this name is there.
    AlreadyExists,
    /// The state does not allow it now.
    FailedPrecondition,
    /// skep (or Docker) does not do this.
    Unimplemented,
}

/// A request that is refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Its class.
    pub code: Code,
    /// For the user; Docker's text where Docker has one.
    pub text: String,
}

impl Refusal {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    fn invalid(text: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, text)
    }

    fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new(Code::Unimplemented, format!("{what} is not supported by this version of skep"))
    }
}

/// Judges a request.
///
/// # Errors
/// When it is refused, with the reason for the user.
pub fn admit(view: &State, principal: Principal, request: Request, env: &mut Env) -> Result<Admitted, Refusal> {
    let Principal::LocalSocket = principal;
    match request {
        Request::CreateService(definition) => service::create(view, definition, env),
        Request::UpdateService { service, version, definition } => service::update(view, service, version, definition),
        Request::RollbackService { service, version } => service::rollback(view, service, version),
        Request::RemoveService(service) => service::remove(view, service),
        Request::CreateNetwork(spec) => networks::create(view, *spec, env),
        Request::RemoveNetwork(network) => networks::remove(view, network),
        Request::UpdateCluster { version, spec, new_tokens, rotate_unlock_key } => {
            cluster::update(view, version, *spec, new_tokens, rotate_unlock_key)
        }
        Request::UpdateNode { node, version, spec } => node::update(view, node, version, spec),
        Request::RemoveNode { node, force } => node::remove(view, node, force),
        Request::CreateSecret { secret, spec, size } => secret::create_secret(view, secret, spec, size),
        Request::UpdateSecret { secret, version, name, labels, is_same_data } => {
            secret::update_secret(view, secret, version, &name, labels, is_same_data)
        }
        Request::RemoveSecret(secret) => secret::remove_secret(view, secret),
        Request::CreateConfig { config, spec } => secret::create_config(view, config, spec),
        Request::UpdateConfig { config, version, name, labels, data } => {
            secret::update_config(view, config, version, &name, labels, data.as_deref())
        }
        Request::RemoveConfig(config) => secret::remove_config(view, config),
    }
}

#[cfg(test)]
mod tests;
