//! What happens to a container, step by step, and how each step is undone.
//!
//! | Step of the preparation | Undone by |
//! | --- | --- |
//! | directory `containers/<id>/` made | directory removed |
//! | snapshot made | snapshot removed |
//! | endpoint made | endpoint removed |
//! | `container.json` written: **now it exists** | it is removed |
//!
//! A removal goes the other way round: the container is stopped, `container.json` is deleted (**now it is gone**), then the
//! rest. Whatever the next engine finds without `container.json` it removes. A start reserves ports, writes the `/etc` files
//! and the bundle, and launches the shim; it needs no undo but the release of the network, for the bundle tells at any moment
//! how far it came.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skep_agent::Assignment;
use skep_model::TaskId;
use skep_oci::{Bundle, ExitRecord, Mount, NetworkNamespace, RootFs, ShimLaunch, StartError, Status};
use tokio_util::sync::CancellationToken;

use crate::blueprint::{Site, check_sources, draw, parse_signal};
use crate::container::Container;
use crate::engine::Inner;
use crate::error::{At, EngineError, Result};
use crate::etc_files;
use crate::layout::{Durability, write_json};
use crate::record::{PortRecord, Record, now};
use crate::view::ContainerState;

/// How long a container may live after SIGKILL before it is called stuck.
const KILL_PATIENCE: Duration = Duration::from_secs(15);
/// Longest pause before a shim that does not answer is asked again.
const REASK_MAX: Duration = Duration::from_secs(2);

/// Which end is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// It does not run; at once when it does not.
    #[default]
    NotRunning,
    /// The next end after the call.
    NextExit,
    /// It is deleted.
    Removed,
}

/// An end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Exit code.
    pub exit_code: i32,
    /// Why it could not be started, if so.
    pub error: Option<String>,
}

pub(crate) async fn wait(container: Arc<Container>, condition: WaitCondition) -> Ended {
    let mut watch = container.watch();
    let mut last = Ended { exit_code: 0, error: None };
    let mut fresh = false;
    loop {
        let state = watch.borrow_and_update().clone();
        if let ContainerState::Exited(exit) = &state {
            last = Ended { exit_code: exit.exit_code, error: exit.error.clone() };
        }
        let done = match condition {
            WaitCondition::NotRunning => !matches!(state, ContainerState::Running { .. } | ContainerState::Starting),
            WaitCondition::NextExit => fresh && matches!(state, ContainerState::Exited(_)),
            WaitCondition::Removed => false,
        };
        if done || state == ContainerState::Removed {
            return last;
        }
        fresh = true;
        if watch.changed().await.is_err() {
            return last;
        }
    }
}

impl Inner {
    /// Makes the container of a task, or finds it.
    pub(crate) async fn prepare(
        self: &Arc<Self>,
        assignment: Arc<Assignment>,
        cancel: &CancellationToken,
    ) -> Result<Arc<Container>> {
        if let Some(container) = self.table.of_task(assignment.task_id) {
            return Ok(container);
        }
        let cancel = cancel.clone();
        self.blocking(move |inner| inner.make(&assignment, &cancel)).await
    }

    fn make(&self, assignment: &Assignment, cancel: &CancellationToken) -> Result<Arc<Container>> {
        let image = self.images.require(&assignment.spec.container.image)?;
        let id = new_id()?;
        let directory = self.layout.container(&id);
        let site = Site {
            id: &id,
            now: now(),
            hostname: &self.hostname,
            platform: &self.platform,
            cgroup_parent: &self.config.cgroup_parent,
            log_path: directory.log(),
        };
        let mut record = draw(assignment, &image, &site)?;
        if image.config.config.healthcheck.is_some() {
            tracing::warn!(task.id = %assignment.task_id, image = record.image, "health check of the image is not run yet");
        }
        let stop_if_cancelled = || if cancel.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) };
        directory.create()?;
        let made = (|| {
            stop_if_cancelled()?;
            let snapshot = self.images.create_snapshot(&id, image.id)?;
            record.config.rootfs = RootFs::Overlay {
                lower: snapshot.lower,
                upper: snapshot.upper,
                work: snapshot.work,
                merged: snapshot.merged,
            };
            stop_if_cancelled()?;
            self.network.create_endpoint(&id)?;
            stop_if_cancelled()?;
            let container = Arc::new(Container::new(record, directory.clone(), ContainerState::Created));
            self.table.insert(container.clone())?;
            match write_json(&directory.record(), &*container.record, Durability::Whole) {
                Ok(()) => Ok(container),
                Err(error) => {
                    self.table.remove(&container);
                    Err(error)
                }
            }
        })();
        if made.is_err()
            && let Err(error) = self.unmake(&id)
        {
            // The next engine sweeps it.
            tracing::warn!(container.id = id, %error, "cannot undo a preparation that failed");
        }
        made
    }

    /// Removes everything that is kept under this id, the record first. Nothing to remove is fine.
    pub(crate) fn unmake(&self, id: &str) -> Result<()> {
        let directory = self.layout.container(id);
        directory.uncommit()?;
        self.network.remove_endpoint(id)?;
        match self.images.remove_snapshot(id) {
            Ok(()) | Err(skep_image::Error::NoSuchSnapshot(_)) => {}
            Err(error) => return Err(error.into()),
        }
        directory.remove()
    }

    /// Starts a prepared container; one that runs, or ran, is left as it is.
    pub(crate) async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        match container.reach(|state| *state != ContainerState::Starting).await {
            ContainerState::Created => {}
            ContainerState::Removed => return Err(EngineError::NoSuchContainer(container.record.name.clone())),
            _ => return Ok(()),
        }
        let _turn = self.starts.acquire().await.map_err(|_| EngineError::Closing)?;
        let prepared = container.clone();
        let bundle = match self.blocking(move |inner| inner.write_bundle(&prepared)).await {
            Ok(bundle) => bundle,
            Err(error) => {
                self.release(container).await;
                return Err(error);
            }
        };
        container.set_state(ContainerState::Starting);
        match ShimLaunch::spawn(&self.config.shim_binary, &bundle).await {
            Ok(running) => {
                container.set_state(running_state(&running.pids));
                self.watch(container.clone());
                self.admit(container).await
            }
            Err(error) => {
                let error = self.failed_start(container, bundle, error).await;
                self.release(container).await;
                Err(error)
            }
        }
    }

    fn write_bundle(&self, container: &Container) -> Result<Bundle> {
        let record = &container.record;
        check_sources(&record.config.mounts)?;
        let endpoint = self.network.create_endpoint(&record.id)?;
        container.set_ports(self.reserve_ports(container)?);
        let machine = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let mut config = record.config.clone();
        let etc = etc_files::write(record, &endpoint, &container.directory, &machine)?;
        // As in Docker: what lies deeper comes later, so that nothing is hidden.
        config.mounts.splice(0..0, etc);
        config.mounts.sort_by_key(|mount| mount_target(mount).components().count());
        config.network = NetworkNamespace::Path(endpoint.netns_path);
        Ok(Bundle::create(container.directory.bundle(), &config)?)
    }

    fn reserve_ports(&self, container: &Container) -> Result<Vec<PortRecord>> {
        let mut ports = container.record.ports.clone();
        let mut chosen = false;
        for port in ports.iter_mut().filter(|port| port.host_mode) {
            chosen |= port.published == 0;
            port.published = self.network.reserve_host_port(container.id(), port.network_protocol(), port.published)?;
        }
        if chosen {
            write_json(&container.directory.ports(), &ports, Durability::Process)?;
        }
        Ok(ports)
    }

    /// Lets traffic in; a container that cannot have its ports does not go on.
    async fn admit(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let Some(endpoint) = self.network.endpoint(container.id()) else { return Ok(()) };
        let entered = self.publisher.enter(container.id(), endpoint.address, &container.ports()).await;
        if let Err(error) = entered {
            self.kill_hard(container).await?;
            return Err(error);
        }
        // It may have ended before it entered.
        if !container.state().is_running() {
            self.withdraw(container).await;
        }
        Ok(())
    }

    async fn failed_start(
        self: &Arc<Self>,
        container: &Arc<Container>,
        bundle: Bundle,
        error: StartError,
    ) -> EngineError {
        let (exit_code, message) = match &error {
            StartError::Container { exit_code, message } => (*exit_code, message.clone()),
            other => (128, with_causes(other)),
        };
        let cleaned = self
            .blocking(move |_| {
                let cleaned = bundle.cleanup()?;
                Ok(match bundle.status()? {
                    Status::Exited(record) => Some(record),
                    _ => cleaned,
                })
            })
            .await;
        let record = match cleaned {
            Ok(Some(record)) => record,
            Ok(None) => never_started(exit_code, &message),
            Err(error) => {
                tracing::error!(
                    container.id = container.id(),
                    error = error.full_text(),
                    "cannot clean up a failed start"
                );
                never_started(exit_code, &message)
            }
        };
        container.set_state(ContainerState::Exited(record));
        EngineError::Start { exit_code, message }
    }

    /// Follows a container to its end, in the background.
    pub(crate) fn watch(self: &Arc<Self>, container: Arc<Container>) {
        let inner = self.clone();
        self.tracker.spawn_on(
            async move {
                let closing = inner.closing.clone();
                tokio::select! {
                    () = closing.cancelled() => {}
                    record = inner.end_of(&container) => inner.settle(&container, record).await,
                }
            },
            &self.runtime,
        );
    }

    async fn end_of(self: &Arc<Self>, container: &Arc<Container>) -> ExitRecord {
        let mut pause = Duration::from_millis(10);
        loop {
            if container.state() != ContainerState::Starting
                && let Ok(client) = container.client().await
                && let Ok(record) = client.wait().await
            {
                return record;
            }
            match self.look(container).await {
                Ok(ContainerState::Exited(record)) => return record,
                Ok(state) if state.is_running() && container.state() == ContainerState::Starting => {
                    self.begin_running(container, state).await;
                    continue;
                }
                Ok(_) => {}
                Err(error) => {
                    let error = error.full_text();
                    tracing::error!(container.id = container.id(), error, "cannot tell how a container goes");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REASK_MAX);
        }
    }

    /// A container that an earlier engine was starting runs now.
    async fn begin_running(self: &Arc<Self>, container: &Arc<Container>, state: ContainerState) {
        let Some(endpoint) = self.network.endpoint(container.id()) else {
            return container.set_state(state);
        };
        if let Err(error) = self.publisher.enter(container.id(), endpoint.address, &container.ports()).await {
            let error = error.full_text();
            tracing::error!(container.id = container.id(), error, "cannot publish the ports of a container");
        }
        container.set_state(state);
    }

    /// What became of a container whose shim does not answer.
    async fn look(self: &Arc<Self>, container: &Arc<Container>) -> Result<ContainerState> {
        let bundle = container.bundle();
        self.blocking(move |_| {
            Ok(match state_of(&bundle)? {
                // It was starting and came to nothing.
                ContainerState::Created => {
                    ContainerState::Exited(never_started(128, "the container's shim was killed"))
                }
                state => state,
            })
        })
        .await
    }

    /// The end of a container: ports that the next one may want are free before anybody hears of it.
    async fn settle(self: &Arc<Self>, container: &Arc<Container>, record: ExitRecord) {
        if container.has_host_ports() {
            self.release(container).await;
        }
        container.set_state(ContainerState::Exited(record));
        self.execs.forget_ended(container.id());
        self.release(container).await;
    }

    /// Takes a container that does not run out of traffic and its endpoint away. A failure is for the next engine, or for
    /// the removal, to mend.
    async fn release(self: &Arc<Self>, container: &Arc<Container>) {
        let _release = container.release.lock().await;
        self.withdraw(container).await;
        let Ok(_turn) = self.removals.acquire().await else { return };
        let id = container.id().to_owned();
        if let Err(error) = self.blocking(move |inner| Ok(inner.network.remove_endpoint(&id)?)).await {
            let error = error.full_text();
            tracing::warn!(container.id = container.id(), error, "cannot release a network endpoint");
        }
    }

    /// Takes a container out of traffic. It is stopped also when this fails: its endpoint's removal takes it out, too.
    async fn withdraw(&self, container: &Container) {
        if let Err(error) = self.publisher.leave(container.id()).await {
            let error = error.full_text();
            tracing::error!(container.id = container.id(), error, "cannot take a container out of the published ports");
        }
    }

    /// Sends a signal to the first process.
    pub(crate) async fn signal(self: &Arc<Self>, container: &Arc<Container>, signal: i32) -> Result<()> {
        Ok(container.client().await?.kill(signal).await?)
    }

    /// Out of traffic, stop signal, grace, SIGKILL. When cancelled, the rest of the grace is cut short. One that does not
    /// run is left as it is.
    pub(crate) async fn stop(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: Option<i32>,
        grace: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        match container.reach(|state| *state != ContainerState::Starting).await {
            ContainerState::Running { .. } => {}
            ContainerState::Created => {
                let _operation = container.operation.lock().await;
                if container.state() == ContainerState::Created {
                    self.release(container).await;
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.withdraw(container).await;
        let signal = signal.or_else(|| parse_signal(&container.record.stop_signal).ok()).unwrap_or(15);
        if let Err(error) = self.signal(container, signal).await {
            tracing::debug!(container.id = container.id(), %error, "cannot send the stop signal");
        }
        let grace = grace.unwrap_or_else(|| container.record.stop_grace());
        tokio::select! {
            _ = container.ended() => return Ok(()),
            () = tokio::time::sleep(grace) => {}
            () = cancel.cancelled() => {}
            () = self.closing.cancelled() => return Err(EngineError::Closing),
        }
        self.kill_hard(container).await
    }

    /// SIGKILL, until it has ended.
    pub(crate) async fn kill_hard(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if self.signal(container, nix::libc::SIGKILL).await.is_err() {
            let bundle = container.bundle();
            self.blocking(move |_| {
                if let Status::Alive(pids) = bundle.status()?
                    && let Some(init) = pids.init
                {
                    let _ = init.kill(nix::libc::SIGKILL);
                }
                Ok(())
            })
            .await?;
        }
        match tokio::time::timeout(KILL_PATIENCE, container.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(EngineError::Unkillable(container.id().to_owned())),
        }
    }

    /// Ends a container and removes everything of it.
    pub(crate) async fn remove(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        match container.reach(|state| *state != ContainerState::Starting).await {
            ContainerState::Removed => return Ok(()),
            ContainerState::Running { .. } => {
                self.withdraw(container).await;
                self.kill_hard(container).await?;
            }
            _ => {}
        }
        let _release = container.release.lock().await;
        self.withdraw(container).await;
        let _turn = self.removals.acquire().await.map_err(|_| EngineError::Closing)?;
        let (gone, created) = (container.clone(), container.state() == ContainerState::Created);
        self.blocking(move |inner| {
            if created && gone.directory.bundle().exists() {
                gone.bundle().cleanup()?;
            }
            inner.unmake(gone.id())
        })
        .await?;
        self.table.remove(container);
        self.execs.forget(container.id());
        container.set_state(ContainerState::Removed);
        Ok(())
    }

    /// The container of a task, or Docker's error with the name it would have.
    pub(crate) fn container_of(&self, task: TaskId) -> Result<Arc<Container>> {
        self.table.of_task(task).ok_or_else(|| EngineError::NoSuchContainer(task.to_string()))
    }
}

/// How a container goes, from what is on disk and alive. Cleans up after a shim that died. Blocks.
pub(crate) fn state_of(bundle: &Bundle) -> Result<ContainerState> {
    let cleaned = match bundle.status()? {
        Status::Starting(_) => return Ok(ContainerState::Starting),
        Status::Alive(pids) => return Ok(running_state(&pids)),
        Status::Exited(record) => return Ok(ContainerState::Exited(record)),
        Status::Gone(None) if !bundle.dir().exists() => None,
        Status::Gone(_) => bundle.cleanup()?,
    };
    Ok(cleaned.map_or(ContainerState::Created, ContainerState::Exited))
}

fn mount_target(mount: &Mount) -> &Path {
    match mount {
        Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } => target,
    }
}

fn running_state(pids: &skep_oci::Pids) -> ContainerState {
    ContainerState::Running {
        pid: pids.init.map_or(0, |init| init.pid),
        started_at: pids.started_at.clone().unwrap_or_default(),
    }
}

fn never_started(exit_code: i32, message: &str) -> ExitRecord {
    ExitRecord { exit_code, finished_at: now(), error: Some(message.to_owned()), ..ExitRecord::default() }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

pub(crate) fn new_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| std::io::Error::other(error.to_string()))
        .at("read randomness from", "/dev/urandom")?;
    Ok(hex::encode(bytes))
}

/// A record as it was stored; how its container goes.
pub(crate) type Found = (Record, ContainerState);
