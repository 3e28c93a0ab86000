//! The node as the HTTP API sees it: every call passes through, words are exchanged one for one.

mod values;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use skep_http_api::{
    Cluster, ClusterError, ClusterEvents, Code, Created, Happenings, InitOptions, LocalState, LogLine, LogMessage,
    LogMessages, LogOptions, LogSelector, LogStream, Peer, RotateTokens, SwarmStatus,
};
use skep_model::{ClusterSpec, NodeId, NodeSpec, ServiceDefinition, ServiceId, Version, WallTime};
use skep_node::{ErrorClass, Node, NodeError, Request};
use skep_store::State;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::events::feed;

/// This machine's node.
pub(super) struct NodeCluster {
    pub(super) node: Arc<Node>,
    events: ClusterEvents,
    /// Rung when a swarm is founded or left.
    changed: Arc<Notify>,
    _feeder: AbortOnDropHandle<()>,
}

impl NodeCluster {
    /// Must be called within a runtime.
    pub(super) fn new(node: Arc<Node>) -> Self {
        let (events, changed) = (ClusterEvents::default(), Arc::new(Notify::new()));
        let feeder = tokio::spawn(feed(node.clone(), events.clone(), changed.clone()));
        Self { node, events, changed, _feeder: AbortOnDropHandle::new(feeder) }
    }
}

#[async_trait]
impl Cluster for NodeCluster {
    fn status(&self) -> SwarmStatus {
        let status = self.node.status();
        SwarmStatus {
            state: match status.state {
                skep_node::LocalState::Inactive => LocalState::Inactive,
                skep_node::LocalState::Pending => LocalState::Pending,
                skep_node::LocalState::Active => LocalState::Active,
                skep_node::LocalState::Error => LocalState::Error,
            },
            node_id: status.node_id,
            node_addr: status.node_addr,
            control_available: status.control_available,
            error: status.error,
            managers: status
                .managers
                .into_iter()
                .map(|(node_id, addr)| Peer { node_id, addr, reachable: Some(true) })
                .collect(),
            leader: status.leader,
        }
    }

    async fn snapshot(&self) -> Result<State, ClusterError> {
        self.node.snapshot().map_err(error)
    }

    async fn init(&self, options: InitOptions) -> Result<NodeId, ClusterError> {
        let options = skep_node::InitOptions {
            listen_addr: options.listen_addr,
            advertise_addr: options.advertise_addr,
            data_path_addr: options.data_path_addr,
            data_path_port: options.data_path_port,
            address_pools: options.address_pools,
            subnet_size: options.subnet_size,
            force_new_cluster: options.force_new_cluster,
            spec: options.spec,
            availability: options.availability,
        };
        let founded = self.node.init(options).await.map_err(error);
        self.changed.notify_one();
        founded
    }

    async fn leave(&self, force: bool) -> Result<(), ClusterError> {
        let left = self.node.leave(force).await.map_err(error);
        self.changed.notify_one();
        left
    }

    async fn unlock_key(&self) -> Result<String, ClusterError> {
        self.node.unlock_key().map_err(error)
    }

    async fn unlock(&self, _key: &str) -> Result<(), ClusterError> {
        self.node.unlock().map_err(error)
    }

    async fn update_cluster(
        &self,
        version: Version,
        spec: ClusterSpec,
        rotate: RotateTokens,
    ) -> Result<(), ClusterError> {
        let rotate =
            skep_node::RotateTokens { worker: rotate.worker, manager: rotate.manager, unlock_key: rotate.unlock_key };
        self.node.update_cluster(version, spec, rotate).await.map_err(error).map(drop)
    }

    async fn create_service(
        &self,
        definition: ServiceDefinition,
        registry_auth: Option<String>,
    ) -> Result<Created, ClusterError> {
        let answer = self.node.create_service(definition, registry_auth.as_deref()).await.map_err(error)?;
        let id = answer.service.ok_or_else(|| ClusterError::Internal("a created service has no id".to_owned()))?;
        Ok(Created { id, warnings: answer.warnings })
    }

    async fn update_service(
        &self,
        service: ServiceId,
        version: Version,
        definition: ServiceDefinition,
        registry_auth: Option<String>,
    ) -> Result<Vec<String>, ClusterError> {
        let auth = registry_auth.as_deref();
        Ok(self.node.update_service(service, version, definition, auth).await.map_err(error)?.warnings)
    }

    async fn rollback_service(&self, service: ServiceId, version: Version) -> Result<Vec<String>, ClusterError> {
        let request = Request::RollbackService { service, version };
        Ok(self.node.submit(request).await.map_err(error)?.warnings)
    }

    async fn remove_service(&self, service: ServiceId) -> Result<(), ClusterError> {
        self.node.submit(Request::RemoveService(service)).await.map_err(error).map(drop)
    }

    async fn update_node(&self, node: NodeId, version: Version, spec: NodeSpec) -> Result<(), ClusterError> {
        self.node.update_node(node, version, spec).await.map_err(error).map(drop)
    }

    async fn remove_node(&self, node: NodeId, force: bool) -> Result<(), ClusterError> {
        self.node.submit(Request::RemoveNode { node, force }).await.map_err(error).map(drop)
    }

    fn happenings(&self) -> Happenings {
        self.events.listen()
    }

    async fn service_logs(&self, selector: LogSelector, options: LogOptions) -> Result<LogMessages, ClusterError> {
        let selector = skep_node::LogSelector { services: selector.services, nodes: Vec::new(), tasks: selector.tasks };
        let until = options.until;
        let options = skep_node::LogOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            follow: options.follow,
            tail: options.tail,
            since: options.since,
        };
        let reader = self.node.service_logs(selector, options).map_err(error)?;
        let lines = futures_util::stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Some(Ok(line)) => Some((Ok(line), Some(reader))),
                Some(Err(error)) => Some((Err(error.to_string()), None)),
                None => None,
            }
        });
        let messages = lines.filter_map(move |line| async move { line.map(|line| message(line, until)).transpose() });
        Ok(messages.boxed())
    }
}

/// A line with what the API needs; lines of no service and those after `until` are left out.
fn message(line: skep_node::LogLine, until: Option<WallTime>) -> Option<LogMessage> {
    let time = line.timestamp.unwrap_or_default();
    if until.is_some_and(|until| time > until) {
        return None;
    }
    let stream = if line.is_stderr { LogStream::Stderr } else { LogStream::Stdout };
    Some(LogMessage {
        node: line.node_id,
        service: line.service_id?,
        task: line.task_id,
        line: LogLine { stream, time, text: Bytes::from(line.data) },
    })
}

pub(super) fn error(error: NodeError) -> ClusterError {
    match error {
        NodeError::NoSwarm => ClusterError::NoSwarm,
        NodeError::NotPartOfSwarm => ClusterError::NotPartOfSwarm,
        NodeError::AlreadyInSwarm => ClusterError::AlreadyInSwarm,
        NodeError::NotLocked => ClusterError::NotLocked,
        NodeError::Invalid(text) => ClusterError::Invalid(text),
        error @ (NodeError::NotReady | NodeError::LastManager) => ClusterError::Unavailable(error.to_string()),
        NodeError::Internal(text) => ClusterError::Internal(text),
        error => {
            let text = error.to_string();
            let code = code(error.class());
            let prefix = format!("rpc error: code = {} desc = ", code.name());
            ClusterError::rpc(code, text.strip_prefix(&prefix).unwrap_or(&text))
        }
    }
}

fn code(class: ErrorClass) -> Code {
    match class {
        ErrorClass::InvalidArgument => Code::InvalidArgument,
        ErrorClass::NotFound => Code::NotFound,
        ErrorClass::AlreadyExists => Code::AlreadyExists,
        ErrorClass::FailedPrecondition => Code::FailedPrecondition,
        ErrorClass::Unimplemented => Code::Unimplemented,
        ErrorClass::Unavailable => Code::Unavailable,
        ErrorClass::Unknown => Code::Unknown,
    }
}
