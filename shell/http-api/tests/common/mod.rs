//! A cluster and an engine that only remember and answer, and the router on top of them.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part of it; tests may unwrap")]

pub(crate) mod by_hand;
mod images;
mod networks;
mod observe;
pub(crate) mod shape;
mod values;
pub(crate) mod volumes;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use skep_api_types::{
    ContainerConfig, ContainerInspect, ContainerState, EndpointSettings, ExecConfig, ExecInspect, HostConfig,
    NetworkSettings, Timestamp,
};
use skep_http_api::*;
use skep_model::{
    Availability, ByteSize, ClusterSpec, ManagerAddress, NanoCpus, NodeCertificate, NodeDescription, NodeId, NodeRole,
    NodeSpec, NodeState, NodeStatus, Platform, Resources, ServiceDefinition, ServiceId, Version, WallTime,
};
use skep_store::{Change, NewNode, State};
use skep_testkit::{World, a_state, node_id, service_id};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

/// What a fake cluster was asked to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Init(Box<InitOptions>),
    Leave(bool),
    Unlock(String),
    UpdateCluster(Version, Box<ClusterSpec>, RotateTokens),
    Create(ServiceDefinition, Option<String>),
    Update(ServiceId, Version, ServiceDefinition, Option<String>),
    Rollback(ServiceId, Version),
    Remove(ServiceId),
    UpdateNode(NodeId, Version, NodeSpec),
    RemoveNode(NodeId, bool),
    CreateNetwork(Box<skep_model::NetworkSpec>),
    RemoveNetwork(skep_model::NetworkId),
    Logs(LogSelector, LogOptions),
    /// About a secret or config.
    Value(String),
}

pub(crate) struct FakeCluster {
    pub(crate) status: SwarmStatus,
    pub(crate) state: State,
    pub(crate) calls: Mutex<Vec<Call>>,
    pub(crate) refusal: Option<ClusterError>,
    pub(crate) lines: Vec<Result<LogMessage, String>>,
}

impl FakeCluster {
    /// Not in a swarm.
    pub(crate) fn outside() -> Self {
        Self {
            status: SwarmStatus::default(),
            state: State::default(),
            calls: Mutex::default(),
            refusal: None,
            lines: Vec::new(),
        }
    }

    /// The only manager of a swarm with this state.
    pub(crate) fn manager(world: World) -> Self {
        let id = node_id("one");
        let status = SwarmStatus {
            state: LocalState::Active,
            node_id: Some(id),
            node_addr: "192.0.2.1".to_owned(),
            control_available: true,
            managers: vec![Peer { node_id: id, addr: "192.0.2.1:2377".to_owned(), reachable: Some(true) }],
            leader: Some(id),
            ..SwarmStatus::default()
        };
        Self { status, state: world.state, ..Self::outside() }
    }

    fn did(&self, call: Call) -> Result<(), ClusterError> {
        self.calls.lock().unwrap().push(call);
        self.refusal.clone().map_or(Ok(()), Err)
    }
}

/// A cluster of one manager, `one`.
pub(crate) fn world() -> World {
    let (mut world, id) = (a_state(), node_id("one"));
    world.must_commit(vec![
        Change::CreateNode(Box::new(NewNode {
            id,
            role: NodeRole::Manager,
            availability: Availability::Active,
            certificate: NodeCertificate::default(),
            manager: Some(ManagerAddress { raft_id: 1, address: "192.0.2.1:2377".to_owned() }),
        }))
        .into(),
    ]);
    let status = NodeStatus { state: NodeState::Ready, message: String::new(), addr: "192.0.2.1".to_owned() };
    let platform = Platform { architecture: "x86_64".to_owned(), os: "linux".to_owned() };
    let resources = Resources { cpus: NanoCpus(4_000_000_000), memory: ByteSize(8 << 30), generic: Vec::new() };
    let about = NodeDescription { hostname: "one".to_owned(), platform, resources, ..NodeDescription::default() };
    let expect = world.state.node(id).unwrap().observed.version;
    let description = Some(Box::new(about));
    world.must_commit(vec![Change::ObserveNode { node: id, expect, status, description }.into()]);
    world
}

#[async_trait]
impl Cluster for FakeCluster {
    fn status(&self) -> SwarmStatus {
        self.status.clone()
    }
    async fn snapshot(&self) -> Result<State, ClusterError> {
        Ok(self.state.clone())
    }
    async fn init(&self, options: InitOptions) -> Result<NodeId, ClusterError> {
        self.did(Call::Init(Box::new(options)))?;
        Ok(node_id("one"))
    }
    async fn leave(&self, force: bool) -> Result<(), ClusterError> {
        self.did(Call::Leave(force))
    }
    async fn unlock_key(&self) -> Result<String, ClusterError> {
        Ok(String::new())
    }
    async fn unlock(&self, key: &str) -> Result<(), ClusterError> {
        self.did(Call::Unlock(key.to_owned()))
    }
    async fn update_cluster(
        &self,
        version: Version,
        spec: ClusterSpec,
        rotate: RotateTokens,
    ) -> Result<(), ClusterError> {
        self.did(Call::UpdateCluster(version, Box::new(spec), rotate))
    }
    async fn create_service(
        &self,
        definition: ServiceDefinition,
        registry_auth: Option<String>,
    ) -> Result<Created, ClusterError> {
        self.did(Call::Create(definition, registry_auth))?;
        Ok(Created { id: service_id("new"), warnings: Vec::new() })
    }
    async fn update_service(
        &self,
        service: ServiceId,
        version: Version,
        definition: ServiceDefinition,
        registry_auth: Option<String>,
    ) -> Result<Vec<String>, ClusterError> {
        self.did(Call::Update(service, version, definition, registry_auth))?;
        Ok(Vec::new())
    }
    async fn rollback_service(&self, service: ServiceId, version: Version) -> Result<Vec<String>, ClusterError> {
        self.did(Call::Rollback(service, version))?;
        Ok(Vec::new())
    }
    async fn remove_service(&self, service: ServiceId) -> Result<(), ClusterError> {
        self.did(Call::Remove(service))
    }
    async fn update_node(&self, node: NodeId, version: Version, spec: NodeSpec) -> Result<(), ClusterError> {
        self.did(Call::UpdateNode(node, version, spec))
    }
    async fn remove_node(&self, node: NodeId, force: bool) -> Result<(), ClusterError> {
        self.did(Call::RemoveNode(node, force))
    }
    async fn service_logs(&self, selector: LogSelector, options: LogOptions) -> Result<LogMessages, ClusterError> {
        self.did(Call::Logs(selector, options))?;
        Ok(stream::iter(self.lines.clone()).boxed())
    }
}

/// One container `web` that runs, one image, no network.
#[derive(Default)]
pub(crate) struct FakeEngine {
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) end: Mutex<Option<tokio::sync::oneshot::Receiver<Ended>>>,
    pub(crate) uploaded: Arc<Mutex<Vec<u8>>>,
    pub(crate) fails_to_start: bool,
}

impl FakeEngine {
    fn did(&self, call: String) -> Result<(), EngineError> {
        self.calls.lock().unwrap().push(call);
        Ok(())
    }
}

pub(crate) fn a_container() -> ContainerInspect {
    let labels = BTreeMap::from([("com.docker.swarm.task.id".to_owned(), "t1".to_owned())]);
    let endpoint = EndpointSettings { ip_address: "172.18.0.2".to_owned(), ..EndpointSettings::default() };
    ContainerInspect {
        id: "ab".repeat(32),
        name: "/web.1.t1".to_owned(),
        created: Timestamp(WallTime(1_700_000_000_000_000_000)),
        path: "sh".to_owned(),
        args: vec!["-c".to_owned(), "sleep 9".to_owned()],
        image: format!("sha256:{}", "cd".repeat(32)),
        state: ContainerState { status: "running".to_owned(), running: true, pid: 7, ..ContainerState::default() },
        host_config: HostConfig {
            network_mode: "default".to_owned(),
            port_bindings: Some(BTreeMap::new()),
            masked_paths: Some(Vec::new()),
            readonly_paths: Some(Vec::new()),
            ..HostConfig::default()
        },
        config: ContainerConfig {
            image: "busybox:latest".to_owned(),
            labels,
            cmd: Some(vec!["x".to_owned()]),
            ..ContainerConfig::default()
        },
        network_settings: NetworkSettings {
            networks: BTreeMap::from([("skep0".to_owned(), endpoint)]),
            ..NetworkSettings::default()
        },
        ..ContainerInspect::default()
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn facts(&self) -> EngineFacts {
        EngineFacts { hostname: "host".to_owned(), architecture: "x86_64".to_owned(), ..EngineFacts::default() }
    }
    fn containers(&self) -> Vec<ContainerInspect> {
        vec![a_container()]
    }
    fn container(&self, name: &str) -> Result<ContainerInspect, EngineError> {
        let container = a_container();
        if container.id.starts_with(name) || container.name == format!("/{name}") {
            Ok(container)
        } else {
            Err(EngineError::new(ErrorKind::NotFound, format!("No such container: {name}")))
        }
    }
    async fn kill(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        self.container(name)?;
        self.did(format!("kill {signal}"))
    }
    async fn stop(&self, name: &str, signal: Option<&str>, grace: Option<i64>) -> Result<(), EngineError> {
        self.container(name)?;
        self.did(format!("stop {signal:?} {grace:?}"))?;
        Err(EngineError::new(ErrorKind::NotModified, "already"))
    }
    async fn remove(&self, name: &str, force: bool, _: bool) -> Result<(), EngineError> {
        self.container(name)?;
        self.did(format!("remove {force}"))
    }
    fn wait(&self, name: &str, _: WaitCondition) -> Result<BoxFuture<'static, Ended>, EngineError> {
        self.container(name)?;
        let end = self.end.lock().unwrap().take();
        Ok(Box::pin(async move {
            match end {
                Some(end) => end.await.unwrap(),
                None => Ended { exit_code: 3, error: None },
            }
        }))
    }
    fn logs(
        &self,
        name: &str,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine, String>>, EngineError> {
        self.container(name)?;
        self.did(format!("logs {options:?}"))?;
        let line = |stream, text: &'static str| {
            Ok(LogLine { stream, time: WallTime(1_000_000_000), text: Bytes::from_static(text.as_bytes()) })
        };
        Ok(stream::iter([line(LogStream::Stdout, "out\n"), line(LogStream::Stderr, "err\n")]).boxed())
    }
    fn exec_create(&self, name: &str, config: ExecConfig) -> Result<String, EngineError> {
        self.container(name)?;
        self.did(format!("exec {:?}", config.cmd))?;
        Ok("ef".repeat(32))
    }
    /// Gives back its input in capitals on stdout, then `bye` on stderr.
    async fn exec_start(&self, exec: &str, _size: Option<[u16; 2]>) -> Result<ExecStreams, EngineError> {
        if self.fails_to_start {
            return Err(EngineError::new(ErrorKind::Start, "OCI runtime exec failed: no such file"));
        }
        if exec == "nosuch" {
            return Err(EngineError::new(ErrorKind::NotFound, "No such exec instance: nosuch"));
        }
        let (stdin, mut input) = tokio::io::duplex(64);
        let (mut output, stdout) = tokio::io::duplex(64);
        let (mut errors, stderr) = tokio::io::duplex(64);
        let program = tokio::spawn(async move {
            let mut buffer = [0; 16];
            loop {
                let count = input.read(&mut buffer).await.unwrap();
                if count == 0 {
                    break;
                }
                output.write_all(&buffer[..count].to_ascii_uppercase()).await.unwrap();
            }
            errors.write_all(b"bye").await.unwrap();
        });
        Ok(ExecStreams {
            stdin: Some(Box::pin(stdin)),
            stdout: Some(Box::pin(stdout)),
            stderr: Some(Box::pin(stderr)),
            exit: Box::pin(async move {
                program.await.unwrap();
                0
            }),
        })
    }
    fn exec_inspect(&self, exec: &str) -> Result<ExecInspect, EngineError> {
        Ok(ExecInspect { id: exec.to_owned(), exit_code: Some(0), ..ExecInspect::default() })
    }
}

/// The router and what is behind it.
pub(crate) struct Rig {
    pub(crate) cluster: Arc<FakeCluster>,
    pub(crate) engine: Arc<FakeEngine>,
    pub(crate) api: Api,
}

pub(crate) fn rig(cluster: FakeCluster) -> Rig {
    with_engine(cluster, FakeEngine::default())
}

pub(crate) fn with_engine(cluster: FakeCluster, engine: FakeEngine) -> Rig {
    let (cluster, engine) = (Arc::new(cluster), Arc::new(engine));
    let identity = Identity { version: "28.0.0-skep".to_owned(), ..Identity::default() };
    let api = Api { cluster: cluster.clone(), engine: engine.clone(), identity: Arc::new(identity) };
    Rig { cluster, engine, api }
}

/// An answer that has arrived whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Rig {
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = router(self.api.clone()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "").await
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.cluster.calls.lock().unwrap().clone()
    }
}

/// Percent-encodes what a query must not hold.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// All exchanges of a recording.
pub(crate) fn recorded(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/conformance/fixtures").join(file);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let steps: Vec<Value> = serde_json::from_slice(&text).unwrap();
    steps.into_iter().filter_map(|step| step["exchanges"].as_array().cloned()).flatten().collect()
}

/// Bodies of successful `GET`s whose path without version passes.
pub(crate) fn recorded_answers(files: &[&str], passes: impl Fn(&str) -> bool) -> Vec<Value> {
    let all = files.iter().flat_map(|file| recorded(file));
    all.filter(|exchange| {
        let path = exchange["path"].as_str().unwrap_or_default();
        let path = path.strip_prefix("/v1.41").unwrap_or(path);
        exchange["method"] == "GET" && exchange["status"] == 200 && passes(path)
    })
    .map(|exchange| exchange["response_body"].clone())
    .collect()
}
