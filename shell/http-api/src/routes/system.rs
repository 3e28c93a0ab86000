//! What the daemon says of itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use skep_api_types::{
    ApiVersion, Commit, Component, PluginsInfo, RegistryConfig, RemoteManager, Runtime, Swarm, SwarmInfo, SystemInfo,
    SystemVersion, VersionPlatform,
};
use skep_model::{ObjectId as _, WallTime};

use crate::Api;
use crate::body::{Asked, ok};
use crate::cluster::SwarmStatus;
use crate::engine::EngineFacts;
use crate::routes::swarm::tls_info;

pub(crate) async fn ping(State(api): State<Api>) -> Response {
    let status = api.cluster.status();
    let role = match (status.node_id, status.control_available) {
        (Some(_), true) => "/manager",
        (Some(_), false) => "/worker",
        (None, _) => "",
    };
    let swarm = format!("{}{role}", status.state.name());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("builder-version"), HeaderValue::from_static("1"));
    if let Ok(swarm) = HeaderValue::from_str(&swarm) {
        headers.insert(HeaderName::from_static("swarm"), swarm);
    }
    (headers, "OK").into_response()
}

pub(crate) async fn version(State(api): State<Api>) -> Response {
    let facts = api.engine.facts().await;
    let identity = &api.identity;
    let version = SystemVersion {
        platform: VersionPlatform { name: "skep".to_owned() },
        components: Vec::new(),
        version: identity.version.clone(),
        api_version: ApiVersion::MAX.to_string(),
        min_api_version: ApiVersion::MIN.to_string(),
        git_commit: identity.git_commit.clone(),
        go_version: String::new(),
        os: "linux".to_owned(),
        arch: go_architecture(&facts.architecture).to_owned(),
        kernel_version: facts.kernel_version,
        build_time: identity.build_time.clone(),
    };
    let details = BTreeMap::from([
        ("ApiVersion".to_owned(), version.api_version.clone()),
        ("Arch".to_owned(), version.arch.clone()),
        ("BuildTime".to_owned(), version.build_time.clone()),
        ("Experimental".to_owned(), "false".to_owned()),
        ("GitCommit".to_owned(), version.git_commit.clone()),
        ("GoVersion".to_owned(), String::new()),
        ("KernelVersion".to_owned(), version.kernel_version.clone()),
        ("MinAPIVersion".to_owned(), version.min_api_version.clone()),
        ("Os".to_owned(), "linux".to_owned()),
    ]);
    let engine = Component { name: "Engine".to_owned(), version: version.version.clone(), details };
    ok(&SystemVersion { components: vec![engine], ..version })
}

/// The name that Go and images have for what `uname -m` says.
fn go_architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn now() -> WallTime {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    WallTime(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// `/info` always answers, also without a cluster that does.
pub(crate) async fn info(State(api): State<Api>, Asked(version): Asked) -> Response {
    let facts = api.engine.facts().await;
    let status = api.cluster.status();
    let state = if status.control_available { api.cluster.snapshot().await.ok() } else { None };
    let mut swarm = membership(&status);
    if let Some(state) = &state {
        swarm.nodes = state.nodes().count();
        swarm.managers = state.nodes().filter(|node| node.manager.is_some()).count();
        swarm.cluster = state.cluster().map(|cluster| Swarm::of(cluster, tls_info(&cluster.root_ca.certificate)));
    }
    ok(&machine(&api, facts, swarm, version))
}

fn membership(status: &SwarmStatus) -> SwarmInfo<'_> {
    let peers = status
        .managers
        .iter()
        .map(|peer| RemoteManager { node_id: Cow::Borrowed(peer.node_id.as_str()), addr: Cow::Borrowed(&peer.addr) });
    SwarmInfo {
        node_id: status.node_id.as_ref().map_or(Cow::Borrowed(""), |id| Cow::Borrowed(id.as_str())),
        node_addr: Cow::Borrowed(&status.node_addr),
        local_node_state: Cow::Borrowed(status.state.name()),
        control_available: status.control_available,
        error: Cow::Borrowed(&status.error),
        remote_managers: (!status.managers.is_empty()).then(|| peers.collect()),
        ..SwarmInfo::default()
    }
}

fn machine<'a>(api: &Api, facts: EngineFacts, swarm: SwarmInfo<'a>, version: ApiVersion) -> SystemInfo<'a> {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    // What Docker takes from other projects is built into this one.
    let own = || api.identity.version.clone();
    let commit = || Commit { id: own(), expected: (!version.is_at_least(50)).then(own) };
    let status = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let security = [(facts.seccomp, "name=seccomp,profile=builtin"), (true, "name=cgroupns")];
    SystemInfo {
        id: api.identity.id.clone(),
        containers: facts.containers_running + facts.containers_paused + facts.containers_stopped,
        containers_paused: facts.containers_paused,
        containers_running: facts.containers_running,
        containers_stopped: facts.containers_stopped,
        images: facts.images,
        driver: "overlay2".to_owned(),
        driver_status: vec![
            status("Backing Filesystem", &facts.backing),
            status("Supports d_type", "true"),
            status("Using metacopy", "false"),
            status("Native Overlay Diff", "true"),
            status("userxattr", "false"),
        ],
        plugins: PluginsInfo {
            volume: list(&["local"]),
            network: list(&["bridge", "host", "null", "overlay"]),
            authorization: None,
            log: list(&["json-file", "local"]),
        },
        memory_limit: facts.memory_limit,
        swap_limit: facts.memory_limit,
        cpu_cfs_period: facts.cpu_limit,
        cpu_cfs_quota: facts.cpu_limit,
        cpu_shares: facts.cpu_limit,
        cpu_set: facts.cpu_limit,
        pids_limit: facts.pids_limit,
        oom_kill_disable: facts.cgroup_version == "1",
        n_fd: open_files(),
        index_server_address: "https://index.docker.io/v1/".to_owned(),
        init_binary: "skep".to_owned(),
        os_version: facts.os_version,
        ipv4_forwarding: true,
        system_time: now().into(),
        logging_driver: "json-file".to_owned(),
        cgroup_driver: facts.cgroup_driver,
        cgroup_version: facts.cgroup_version,
        kernel_version: facts.kernel_version,
        operating_system: facts.operating_system,
        os_type: "linux".to_owned(),
        architecture: facts.architecture,
        registry_config: RegistryConfig {
            insecure_registry_cidrs: list(&["::1/128", "127.0.0.0/8"]),
            ..RegistryConfig::default()
        },
        n_cpu: facts.cpus,
        mem_total: facts.memory,
        docker_root_dir: facts.data_root,
        name: facts.hostname,
        server_version: api.identity.version.clone(),
        runtimes: BTreeMap::from([("skep".to_owned(), Runtime::default())]),
        default_runtime: "skep".to_owned(),
        swarm,
        live_restore_enabled: true,
        containerd_commit: commit(),
        runc_commit: commit(),
        init_commit: commit(),
        security_options: security.iter().filter(|(has, _)| *has).map(|(_, name)| (*name).to_owned()).collect(),
        warnings: (!facts.warnings.is_empty()).then_some(facts.warnings),
        ..SystemInfo::default()
    }
}

/// Descriptors that this process has open.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Nothing is built here, so there is no cache of builds: `docker system prune` is told so.
pub(crate) async fn prune_builds() -> Response {
    ok(&serde_json::json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }))
}
