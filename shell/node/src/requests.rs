//! What the API asks of the cluster, answered by the manager on this node.

use std::sync::Arc;

use skep_admission::{Principal, Request};
use skep_manager::{Answer, LogOptions, LogReader, LogSelector, NewSecret, StoreMachine};
use skep_model::{
    ClusterSpec, ConfigId, ConfigSpec, JoinTokens, Labels, NodeSpec, SecretId, ServiceDefinition, ServiceId, Version,
};
use skep_raft::Subscription;
use skep_store::State;

use crate::found::new_tokens;
use crate::{LocalState, Node, NodeError};

/// Which secrets an update of the cluster makes anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RotateTokens {
    /// The token of workers.
    pub worker: bool,
    /// The token of managers.
    pub manager: bool,
    /// The unlock key.
    pub unlock_key: bool,
}

impl Node {
    /// The state to answer a read from: one immutable value, with everything in it that was answered before.
    ///
    /// # Errors
    /// When this node is no manager that runs.
    pub fn snapshot(&self) -> Result<State, NodeError> {
        Ok(self.member()?.manager.state().state.clone())
    }

    /// The state now and everything that is committed after it.
    ///
    /// # Errors
    /// When this node is no manager that runs.
    pub fn subscribe(&self) -> Result<(State, Subscription<StoreMachine>), NodeError> {
        let (published, commits) = self.member()?.manager.subscribe();
        Ok((published.state.clone(), commits))
    }

    /// Carries out a user's request; committed when this returns.
    ///
    /// # Errors
    /// When it is refused or cannot be committed.
    pub async fn submit(&self, request: Request) -> Result<Answer, NodeError> {
        let member = self.member()?;
        Ok(member.manager.submit(Principal::LocalSocket, request).await?)
    }

    /// Creates a service. `registry_auth` is the text of `X-Registry-Auth`; it is sealed before it is stored.
    ///
    /// # Errors
    /// When it is refused or cannot be committed.
    pub async fn create_service(
        &self,
        definition: ServiceDefinition,
        registry_auth: Option<&str>,
    ) -> Result<Answer, NodeError> {
        let definition = self.with_auth(definition, registry_auth)?;
        self.submit(Request::CreateService(definition)).await
    }

    /// Replaces a service's definition. Without `registry_auth` the definition's own stays.
    ///
    /// # Errors
    /// When it is refused, out of sequence, or cannot be committed.
    pub async fn update_service(
        &self,
        service: ServiceId,
        version: Version,
        definition: ServiceDefinition,
        registry_auth: Option<&str>,
    ) -> Result<Answer, NodeError> {
        let definition = self.with_auth(definition, registry_auth)?;
        self.submit(Request::UpdateService { service, version, definition }).await
    }

    fn with_auth(
        &self,
        mut definition: ServiceDefinition,
        registry_auth: Option<&str>,
    ) -> Result<ServiceDefinition, NodeError> {
        if let Some(auth) = registry_auth {
            let sealed = self.member()?.manager.seal_registry_auth(auth);
            Arc::make_mut(&mut definition.spec).task.container.registry_auth = Some(sealed);
        }
        Ok(definition)
    }

    /// Creates a secret; its data is sealed before it is stored.
    ///
    /// # Errors
    /// When it is refused or cannot be committed.
    pub async fn create_secret(&self, new: NewSecret) -> Result<SecretId, NodeError> {
        Ok(self.member()?.manager.create_secret(Principal::LocalSocket, new).await?)
    }

    /// Changes the labels of a secret. Data in the request must be what is stored.
    ///
    /// # Errors
    /// When it is refused, out of sequence, or cannot be committed.
    pub async fn update_secret(
        &self,
        secret: SecretId,
        version: Version,
        name: String,
        labels: Labels,
        data: Option<Vec<u8>>,
    ) -> Result<(), NodeError> {
        let member = self.member()?;
        Ok(member.manager.update_secret(Principal::LocalSocket, secret, version, name, labels, data).await?)
    }

    /// Creates a config.
    ///
    /// # Errors
    /// When it is refused or cannot be committed.
    pub async fn create_config(&self, spec: ConfigSpec) -> Result<ConfigId, NodeError> {
        Ok(self.member()?.manager.create_config(Principal::LocalSocket, spec).await?)
    }

    /// Replaces the cluster's spec and makes new tokens where asked for.
    ///
    /// # Errors
    /// When it is refused, out of sequence, or cannot be committed.
    pub async fn update_cluster(
        &self,
        version: Version,
        spec: ClusterSpec,
        rotate: RotateTokens,
    ) -> Result<Answer, NodeError> {
        let state = self.snapshot()?;
        let bundle = state.cluster().map(|cluster| cluster.root_ca.certificate.clone()).unwrap_or_default();
        let fresh = new_tokens(&bundle);
        let new_tokens = JoinTokens {
            worker: if rotate.worker { fresh.worker } else { String::new() },
            manager: if rotate.manager { fresh.manager } else { String::new() },
        };
        let rotate_unlock_key = rotate.unlock_key;
        self.submit(Request::UpdateCluster { version, spec: Box::new(spec), new_tokens, rotate_unlock_key }).await
    }

    /// Replaces a node's spec.
    ///
    /// # Errors
    /// When it is refused, out of sequence, or cannot be committed.
    pub async fn update_node(
        &self,
        node: skep_model::NodeId,
        version: Version,
        spec: NodeSpec,
    ) -> Result<Answer, NodeError> {
        self.submit(Request::UpdateNode { node, version, spec }).await
    }

    /// The key that unlocks managers: empty, because they are never locked yet.
    ///
    /// # Errors
    /// When this node is no manager that runs.
    pub fn unlock_key(&self) -> Result<String, NodeError> {
        self.member().map(|_| String::new())
    }

    /// Unlocks this manager, which is never locked yet.
    ///
    /// # Errors
    /// Always.
    pub fn unlock(&self) -> Result<(), NodeError> {
        match self.status().state {
            LocalState::Inactive => Err(NodeError::NotPartOfSwarm),
            LocalState::Pending | LocalState::Active | LocalState::Error => Err(NodeError::NotLocked),
        }
    }

    /// Begins to read logs of tasks on all nodes.
    ///
    /// # Errors
    /// When this node is no manager that runs, or nothing is selected.
    pub fn service_logs(&self, selector: LogSelector, options: LogOptions) -> Result<LogReader, NodeError> {
        Ok(self.member()?.manager.subscribe_logs(selector, options)?)
    }
}
