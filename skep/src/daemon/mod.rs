//! `skep daemon`: the composition root. Builds the parts, wires them, waits for a signal, takes them down again. No part is
//! stopped in a way that a container would notice.

mod cluster;
mod events;
mod lock;
mod machine;
mod networks;
mod notify;
mod sockets;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use skep_engine::{Engine, EngineConfig};
use skep_http_api::{Api, Identity, Listener};
use skep_node::{Node, NodeConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use cluster::NodeCluster;
use lock::FolderLock;
use machine::Machine;

/// Threads that move messages; work that blocks has threads of its own.
const WORKERS: usize = 2;
/// Threads that may block at a time.
const BLOCKING_MAX: usize = 64;
/// Threads without work end after this time, so that an idle daemon is small.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Runs the daemon until SIGTERM or SIGINT.
pub(crate) fn run(config: &Config) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the daemon needs root: it makes namespaces, mounts and networks for containers; run `sudo skep daemon`");
    }
    log_to_stderr(&config.log_level)?;
    let _data_lock = FolderLock::take(&config.data_root, "data-root")?;
    let _exec_lock = FolderLock::take(&config.exec_root, "exec-root")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_MAX)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .enable_all()
        .build()?;
    runtime.block_on(serve(config))?;
    // What still blocks (a slow disk, a stuck kernel call) does not hold the daemon back.
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr(level: &str) -> anyhow::Result<()> {
    // `openraft` tells of each heartbeat; what matters is told by skep itself.
    let filter =
        tracing_subscriber::EnvFilter::try_new(format!("{level},openraft=error,h2=warn,hyper=warn,tower=warn"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
    Ok(())
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut listeners = Vec::new();
    for host in &config.hosts {
        listeners.push(sockets::Listener::open(host).await?);
    }
    let mut engine_config = EngineConfig::new(&config.data_root, &config.exec_root);
    engine_config.cgroup_parent.clone_from(&config.cgroup_parent);
    engine_config.registries.insecure.clone_from(&config.insecure_registries);
    // Docker's name for it, so that a unit file can be kept.
    engine_config.prefer_local_images =
        std::env::var("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE").is_ok_and(|value| value == "1");
    engine_config.shim_binary = std::env::current_exe().context("cannot find the path of this program")?;
    let engine = Engine::open(engine_config).await.map_err(|error| anyhow::anyhow!("{}", error.full_text()))?;
    for warning in engine.info().warnings {
        tracing::warn!("{warning}");
    }
    let machine = Arc::new(Machine::new(engine.clone()));
    let node = Node::open(NodeConfig {
        data_root: config.data_root.clone(),
        exec_root: config.exec_root.clone(),
        executor: Arc::new(engine.clone()),
        describe: machine.clone(),
        logs: machine,
    })
    .await;
    let node = Arc::new(node);

    let api = Api {
        cluster: Arc::new(NodeCluster::new(node.clone())),
        engine: Arc::new(engine.clone()),
        identity: Arc::new(identity(config)?),
    };
    let (stop, servers) = (CancellationToken::new(), TaskTracker::new());
    let mut socket_files = Vec::new();
    for listener in listeners {
        let listener = match listener {
            sockets::Listener::Unix(listener, path) => {
                tracing::info!("API listens on unix://{}", path.display());
                socket_files.push(path);
                Listener::Unix(listener)
            }
            sockets::Listener::Tcp(listener) => {
                tracing::info!("API listens on tcp://{}", listener.local_addr()?);
                Listener::Tcp(listener)
            }
        };
        servers.spawn(skep_http_api::serve(listener, api.clone(), stop.clone()));
    }
    servers.close();
    notify::notify("READY=1");

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: the daemon stops, containers go on"),
        _ = interrupt.recv() => tracing::info!("SIGINT: the daemon stops, containers go on"),
    }
    notify::notify("STOPPING=1");
    stop.cancel();
    node.shutdown().await;
    tracing::debug!("the node has stopped");
    servers.wait().await;
    tracing::debug!("the API has stopped");
    drop(api);
    engine.close().await;
    tracing::debug!("the engine is closed");
    for path in socket_files {
        // The next daemon replaces a socket that stays.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Who this daemon is. The id is made once for a data root.
fn identity(config: &Config) -> anyhow::Result<Identity> {
    let path = config.data_root.join("engine-id");
    let id = match std::fs::read_to_string(&path) {
        Ok(id) => id.trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot make an id")?;
            std::fs::write(&path, &id).with_context(|| format!("cannot write {}", path.display()))?;
            id.trim().to_owned()
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    Ok(Identity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        git_commit: env!("SKEP_COMMIT").to_owned(),
        build_time: String::new(),
        id,
    })
}
