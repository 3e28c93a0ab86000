//! How a container is made and started, step by step, and how each step is undone.
//!
//! | Step of the preparation | Undone by |
//! | --- | --- |
//! | directory `containers/<id>/` made | directory removed |
//! | snapshot made | snapshot removed |
//! | volumes made or found | those that were made for it removed, the others free |
//! | endpoint made | endpoint removed |
//! | `container.json` written: **now it exists** | it is removed |
//!
//! A removal goes the other way round: the container is stopped, `container.json` is deleted (**now it is gone**), then the
//! rest. Whatever the next engine finds without `container.json` it removes. A start reserves ports, writes the `/etc` files
//! and the bundle, and launches the shim; it needs no undo but the release of the network, for the bundle tells at any moment
//! how far it came.

use std::path::Path;
use std::sync::Arc;

use skep_agent::Assignment;
use skep_image::Image;
use skep_model::TaskId;
use skep_oci::{BindPropagation, Bundle, ExitRecord, MemoryFiles, Mount, RootFs, ShimLaunch, StartError, Status};
use tokio_util::sync::CancellationToken;

use crate::blueprint::{Site, Wanted, check_sources, draw, files};
use crate::container::Container;
use crate::contents::Contents;
use crate::engine::Inner;
use crate::error::{At, EngineError, Result};
use crate::etc_files;
use crate::facts::Facts;
use crate::layout::{Durability, write_json};
use crate::record::{PortRecord, Record, now};
use crate::tell::NOTHING;
use crate::view::ContainerState;

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
        self.bring_image(&assignment, cancel).await?;
        let cancel = cancel.clone();
        self.blocking(move |inner| inner.make(&assignment, &cancel)).await
    }

    fn make(&self, assignment: &Assignment, cancel: &CancellationToken) -> Result<Arc<Container>> {
        let image = self.images.require(&assignment.spec.container.image)?;
        let id = new_id()?;
        let volumes = self.layout.volumes();
        let site = self.site(&id, &volumes);
        let wanted = Wanted::by_task(assignment, &site)?;
        // What is missing, or cannot be filled in, is said now; the values are laid out when it starts.
        Contents::of_task(assignment, &files(&wanted.spec)?, self)?;
        self.build(wanted, &image, &site, cancel)
    }

    /// What a container with this id is drawn for.
    pub(crate) fn site<'a>(&'a self, id: &'a str, volumes: &'a Path) -> Site<'a> {
        Site {
            id,
            now: now(),
            hostname: &self.hostname,
            platform: &self.platform,
            cgroup_parent: &self.config.cgroup_parent,
            log_path: self.layout.container(id).log(),
            volumes,
        }
    }

    /// Makes a container; when it fails nothing is left.
    pub(crate) fn build(
        &self,
        wanted: Wanted,
        image: &Image,
        site: &Site<'_>,
        cancel: &CancellationToken,
    ) -> Result<Arc<Container>> {
        let id = site.id.to_owned();
        let mut record = draw(wanted, image, site)?;
        self.resolve_networks(&mut record)?;
        let directory = self.layout.container(&id);
        let by_hand = record.by_hand.is_some();
        let stop_if_cancelled = || if cancel.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) };
        directory.create()?;
        let made = (|| {
            stop_if_cancelled()?;
            let snapshot = self.images.create_snapshot(&id, image.id)?;
            self.provide_storage(&record, &snapshot)?;
            record.config.rootfs = RootFs::Overlay {
                lower: snapshot.lower,
                upper: snapshot.upper,
                work: snapshot.work,
                merged: snapshot.merged,
            };
            stop_if_cancelled()?;
            if !by_hand {
                // A task is started at once; what is made by hand may wait for ever, and has no address meanwhile.
                self.join(&record, &record.networks)?;
            }
            stop_if_cancelled()?;
            let facts = Facts::default();
            let container = Arc::new(Container::new(record, facts, directory.clone(), ContainerState::Created));
            self.table.insert(container.clone())?;
            // Managers know what their tasks are. Of a container made by hand nobody else does.
            let durability = if by_hand { Durability::Acknowledged } else { Durability::Whole };
            match write_json(&directory.record(), &*container.record, durability) {
                Ok(()) => {
                    self.tell(&container, "create", NOTHING);
                    Ok(container)
                }
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
        self.forget_storage(id);
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
        match self.started(container).await? {
            ContainerState::Created => self.launch_container(container).await,
            ContainerState::Removed => Err(EngineError::NoSuchContainer(container.record.name.clone())),
            _ => Ok(()),
        }
    }

    /// Starts a container that does not run; one that ran before has the same files again. The operation is held.
    pub(crate) async fn launch_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        // What is left of an earlier run must be gone: its network would be taken for that of the new one.
        drop(container.release.lock().await);
        // When the start fails their streams end.
        let clients = container.take_waiting();
        let _turn = self.starts.acquire().await.map_err(|_| EngineError::Closing)?;
        let prepared = container.clone();
        let written = self.blocking(move |inner| {
            let memory = inner.lay_out_contents(&prepared)?;
            Ok((inner.write_bundle(&prepared)?, memory))
        });
        let (bundle, memory) = match written.await {
            Ok(written) => written,
            Err(error) => {
                self.leave_storage(container).await;
                self.release(container).await;
                return Err(error);
            }
        };
        self.begin_health(container);
        container.set_state(ContainerState::Starting);
        match ShimLaunch::spawn_with(&self.config.shim_binary, &bundle, clients, memory).await {
            Ok(running) => {
                container.set_state(running_state(&running.pids));
                self.tell(container, "start", NOTHING);
                self.watch(container.clone());
                self.admit(container).await
            }
            Err(error) => {
                let error = self.failed_start(container, bundle, error).await;
                self.leave_storage(container).await;
                self.release(container).await;
                Err(error)
            }
        }
    }

    fn write_bundle(&self, container: &Container) -> Result<Bundle> {
        let record = container.current();
        let joined = self.join(&record, &record.networks)?;
        container.set_ports(self.reserve_ports(container)?);
        let machine = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let mut config = record.config.clone();
        self.join_namespaces(&record, &mut config)?;
        self.enter_storage(&record, &mut config.mounts)?;
        check_sources(&config.mounts)?;
        let etc = match &joined.with {
            Some(other) => {
                config.hostname = other.current().config.hostname.clone();
                etc_files::shared(&record, &other.directory)
            }
            None => etc_files::write(&record, joined.endpoint.as_ref(), &container.directory, &machine)?,
        };
        let directory = container.directory.bundle();
        // They are there when the shim has mounted them.
        config.mounts.extend(record.files.iter().enumerate().map(|(number, file)| Mount::Bind {
            source: MemoryFiles::path(&directory, number),
            target: file.target.clone(),
            read_only: true,
            propagation: BindPropagation::Rprivate,
            non_recursive: true,
            writable_below: false,
        }));
        // As in Docker: what lies deeper comes later, so that nothing is hidden.
        config.mounts.splice(0..0, etc);
        config.mounts.sort_by_key(|mount| mount_target(mount).components().count());
        config.network = joined.namespace;
        config.filter_cache = Some(self.layout.filters());
        let bundle = Bundle::create(container.directory.bundle(), &config)?;
        self.tell_networks("connect", container);
        Ok(bundle)
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
    pub(crate) async fn admit(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let Some(endpoint) = self.network.endpoint(container.id()) else { return Ok(()) };
        let entered = self.publisher.enter(container.id(), endpoint.address, &self.open_ports(container)).await;
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
        container.set_state_and(ContainerState::Exited(record.clone()), || self.tell_end(container, &record));
        EngineError::Start { exit_code, message }
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

pub(crate) fn never_started(exit_code: i32, message: &str) -> ExitRecord {
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

/// A container as it was stored, and how it goes.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) record: Record,
    pub(crate) facts: Facts,
    pub(crate) state: ContainerState,
}
