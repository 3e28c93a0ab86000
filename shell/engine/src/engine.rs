//! The engine itself: opens, closes, and answers what is asked of one machine. The doing is in the modules beside it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skep_image::{ContainerUse, Image, ImageId, ImageStore, Registries, RegistryConfig};
use skep_model::{Platform, TaskId};
use skep_network::Network;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::Container;
use crate::ending::{Ended, WaitCondition, wait};
use crate::error::{EngineError, Result};
use crate::events::{Event, Events};
use crate::exec::{ExecOptions, ExecState, ExecStreams, Execs};
use crate::executor::Operations;
use crate::health::Healths;
use crate::info::EngineInfo;
use crate::layout::Layout;
use crate::logs::{LogOptions, LogReader};
use crate::networks::LocalNetworks;
use crate::publish::Publisher;
use crate::sweep;
use crate::table::Table;
use crate::task_image::TaskPulls;
use crate::view::ContainerView;
use crate::volumes::Volumes;
use crate::{etc_files, info};

/// Most containers whose files and network are taken away at a time; the rest wait.
const REMOVALS: usize = 8;
/// Most copies of files from or into containers at a time; the rest wait.
const TRANSFERS: usize = 32;
/// How often the kernel's network is compared with what it should be.
const RECONCILE_PERIOD: Duration = Duration::from_secs(5);

/// How to open an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where everything that must last lies.
    pub data_root: PathBuf,
    /// Where sockets and pins lie.
    pub exec_root: PathBuf,
    /// Cgroup below which containers get theirs, absolute from the root of each hierarchy.
    pub cgroup_parent: String,
    /// The program that becomes a shim when its first argument is `shim`.
    pub shim_binary: PathBuf,
    /// Most containers that are started at a time; the rest wait.
    pub starts: usize,
    /// Name of the gateway bridge.
    pub bridge_name: String,
    /// Addresses of containers; a free default when `None`.
    pub subnet: Option<skep_network::Subnet>,
    /// How registries are spoken to.
    pub registries: RegistryConfig,
    /// An image that is here is never asked for at a registry on behalf of a task.
    pub prefer_local_images: bool,
}

impl EngineConfig {
    /// The defaults: this program as the shim, cgroup `/skep`, bridge `skep0`, twice as many starts as processors.
    #[must_use]
    pub fn new(data_root: impl Into<PathBuf>, exec_root: impl Into<PathBuf>) -> Self {
        Self {
            data_root: data_root.into(),
            exec_root: exec_root.into(),
            cgroup_parent: "/skep".to_owned(),
            shim_binary: PathBuf::from("/proc/self/exe"),
            starts: 2 * std::thread::available_parallelism().map_or(1, usize::from),
            bridge_name: "skep0".to_owned(),
            subnet: None,
            registries: RegistryConfig::default(),
            prefer_local_images: false,
        }
    }
}

/// One machine's containers. Clones are handles to the same engine. Dropping the last one, as the end of the process does,
/// leaves every container as it is.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
    _closer: Arc<Closer>,
}

pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) layout: Layout,
    pub(crate) images: ImageStore,
    pub(crate) volumes: Volumes,
    pub(crate) registries: Registries,
    pub(crate) task_pulls: TaskPulls,
    pub(crate) healths: Healths,
    pub(crate) networks: LocalNetworks,
    pub(crate) network: Arc<Network>,
    pub(crate) publisher: Publisher,
    pub(crate) table: Table,
    pub(crate) starts: Semaphore,
    pub(crate) removals: Semaphore,
    /// Copies of files in flight, each with a thread.
    pub(crate) transfers: Semaphore,
    pub(crate) hostname: String,
    pub(crate) platform: Platform,
    pub(crate) operations: Operations,
    pub(crate) execs: Execs,
    pub(crate) events: Events,
    pub(crate) runtime: tokio::runtime::Handle,
    /// Cancelled when the engine closes: what only waits ends then.
    pub(crate) closing: CancellationToken,
    pub(crate) tracker: TaskTracker,
    /// Keeps other engines from the same data root.
    _lock: Mutex<Option<nix::fcntl::Flock<File>>>,
}

/// Tells the engine's own tasks to end when nobody has a handle any more.
struct Closer(CancellationToken);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// One line of the answer to the removal of an image.
pub use skep_image::Removed as ImageRemoval;

impl Engine {
    /// Opens the engine in the network namespace of the calling runtime: adopts the containers that run, learns of those
    /// that ended meanwhile, sweeps what was half made or half removed. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When another engine has the data root, a newer release wrote it, or the machine lacks what containers need.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let closing = CancellationToken::new();
        let opened =
            tokio::task::spawn_blocking(move || sweep::open(config)).await.map_err(|_| EngineError::Closing)?;
        let opened = opened?;
        let platform = skep_image::Platform::host();
        let inner = Arc::new(Inner {
            publisher: Publisher::new(opened.network.clone()),
            starts: Semaphore::new(opened.config.starts.max(1)),
            removals: Semaphore::new(REMOVALS),
            registries: Registries::new(opened.images.clone(), opened.config.registries.clone()),
            task_pulls: TaskPulls::default(),
            transfers: Semaphore::new(TRANSFERS),
            config: opened.config,
            layout: opened.layout,
            images: opened.images,
            volumes: opened.volumes,
            healths: Healths::default(),
            networks: LocalNetworks::default(),
            network: opened.network,
            table: Table::default(),
            hostname: info::hostname(),
            platform: Platform { architecture: info::machine(), os: platform.os },
            operations: Operations::default(),
            execs: Execs::default(),
            events: Events::default(),
            runtime: tokio::runtime::Handle::current(),
            closing: closing.clone(),
            tracker: TaskTracker::new(),
            _lock: Mutex::new(Some(opened.lock)),
        });
        inner.blocking(|inner| inner.restore_networks()).await?;
        inner.adopt(opened.containers).await;
        inner.tracker.spawn(inner.clone().keep_network());
        Ok(Self { inner, _closer: Arc::new(Closer(closing)) })
    }

    /// Ends the engine's own work and waits for it; containers go on. Operations in flight end or are cancelled. Without
    /// containers the network is taken down, too, so that nothing of the engine stays but its files.
    pub async fn close(self) {
        self.inner.closing.cancel();
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
        if self.inner.table.all().is_empty() {
            let network = self.inner.network.clone();
            let removed = tokio::task::spawn_blocking(move || network.remove_all()).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(%error, "the network without containers stays");
            }
        }
        self.inner._lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// All containers, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<ContainerView> {
        self.inner.table.all().iter().map(|container| self.view(container)).collect()
    }

    /// The container with this id, name or unambiguous id prefix.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], [`EngineError::Ambiguous`].
    pub fn inspect(&self, name: &str) -> Result<ContainerView> {
        self.inner.table.find(name).map(|container| self.view(&container))
    }

    /// The container of a task.
    #[must_use]
    pub fn of_task(&self, task: TaskId) -> Option<ContainerView> {
        self.inner.table.of_task(task).map(|container| self.view(&container))
    }

    pub(crate) fn view(&self, container: &Container) -> ContainerView {
        let directory = &container.directory;
        let facts = container.facts();
        // Docker shows the path of a json-file only.
        let log = container.record.config.log.as_ref().filter(|log| log.format == skep_oci::LogFormat::JsonFile);
        ContainerView {
            record: container.current(),
            state: container.state(),
            paused: container.is_paused(),
            restarting: container.is_restarting(),
            restarts: facts.restarts,
            last_run: facts.last_run,
            health: self.inner.healths.of(container.id()),
            endpoint: self.inner.network.endpoint(container.id()),
            ports: container.ports(),
            log_path: log.map(|log| log.path.clone()).unwrap_or_default(),
            etc: etc_files::NAMES.map(|name| directory.etc(name)),
            exec_ids: self.inner.execs.of(container.id()),
        }
    }

    /// Waits for an end of the container.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`].
    pub fn wait(&self, name: &str, condition: WaitCondition) -> Result<impl Future<Output = Ended> + Send + use<>> {
        Ok(wait(&self.inner.table.find(name)?, condition))
    }

    /// The container's output.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] when its log driver keeps nothing that can be read.
    pub fn logs(&self, name: &str, options: LogOptions) -> Result<LogReader> {
        self.open_logs(&self.inner.table.find(name)?, options)
    }

    /// The output of a task's container; `None` when the task has none here.
    ///
    /// # Errors
    /// As [`Self::logs`].
    pub fn task_logs(&self, task: TaskId, options: LogOptions) -> Result<Option<LogReader>> {
        self.inner.table.of_task(task).map(|container| self.open_logs(&container, options)).transpose()
    }

    fn open_logs(&self, container: &Arc<Container>, options: LogOptions) -> Result<LogReader> {
        if container.record.config.log.is_none() {
            return Err(EngineError::Invalid("configured logging driver does not support reading".to_owned()));
        }
        Ok(LogReader::open(container, options, self.inner.closing.clone(), &self.inner.tracker))
    }

    /// Prepares a program to be run in a running container; gives its id.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`]; [`EngineError::Conflict`] when too many are known already.
    pub fn exec_create(&self, name: &str, options: ExecOptions) -> Result<String> {
        let container = self.inner.table.find(name)?;
        if container.is_paused() {
            let text = format!("Container {name} is paused, unpause the container before exec");
            return Err(EngineError::Conflict(text));
        }
        self.inner.exec_create(&container, options)
    }

    /// Starts it; gives its streams. Dropping them does not end it; its output is then read and thrown away.
    ///
    /// # Errors
    /// [`EngineError::NoSuchExec`]; [`EngineError::Conflict`] when it was started already; [`EngineError::Start`] when the
    /// program cannot be run, with Docker's exit code, which [`Self::exec_inspect`] then shows, too.
    /// `size` are rows and columns of its terminal, unless its creation said so already.
    pub async fn exec_start(&self, exec: &str, size: Option<[u16; 2]>) -> Result<ExecStreams> {
        let (inner, exec) = (self.inner.clone(), exec.to_owned());
        self.inner.to_its_end(async move { inner.exec_start(&exec, size).await }).await
    }

    /// Sets rows and columns of the terminal of an exec.
    ///
    /// # Errors
    /// [`EngineError::NoSuchExec`], also when it does not run (any more).
    pub async fn exec_resize(&self, exec: &str, rows: u16, columns: u16) -> Result<()> {
        self.inner.exec_resize(exec, rows, columns).await
    }

    /// Tells that a client has left an exec that goes on.
    pub fn exec_detached(&self, exec: &str) {
        self.inner.exec_detached(exec);
    }

    /// How an exec goes.
    ///
    /// # Errors
    /// [`EngineError::NoSuchExec`].
    pub fn exec_inspect(&self, exec: &str) -> Result<ExecState> {
        self.inner.execs.inspect(exec)
    }

    /// The image store. Its calls block. Remove images by [`Self::remove_image`], which knows what is in use.
    #[must_use]
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// How many containers use an image.
    #[must_use]
    pub fn image_users(&self, image: &ImageId) -> usize {
        let id = image.to_string();
        self.inner.table.all().iter().filter(|container| container.record.image_id == id).count()
    }

    /// An image by reference, id or id prefix.
    ///
    /// # Errors
    /// `No such image: …`.
    pub fn image(&self, name: &str) -> Result<Image> {
        Ok(self.inner.images.require(name)?)
    }

    /// What happened on this machine: the last events, oldest first, and those to come.
    #[must_use]
    pub fn events(&self) -> (Vec<Arc<Event>>, tokio::sync::broadcast::Receiver<Arc<Event>>) {
        self.inner.events.listen()
    }

    /// What this machine is and has.
    #[must_use]
    pub fn info(&self) -> EngineInfo {
        info::gather(&self.inner)
    }

    /// The network of this machine. Its calls block.
    #[must_use]
    pub fn network(&self) -> &Arc<Network> {
        &self.inner.network
    }
}

impl Inner {
    /// A container that uses the image, a running one first.
    pub(crate) fn user_of(&self, image: &ImageId) -> Option<ContainerUse> {
        let id = image.to_string();
        let users = self.table.all();
        let mut users = users.iter().filter(|container| container.record.image_id == id);
        let first = users.clone().next()?;
        let chosen = users.find(|container| container.state().is_running()).unwrap_or(first);
        Some(ContainerUse { container_id: chosen.id().to_owned(), running: chosen.state().is_running() })
    }

    /// Runs something to its end, also when the caller goes away meanwhile.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.tracker.spawn(work).await.map_err(|_| EngineError::Closing)?
    }

    /// Mends the kernel's network, whoever disturbed it, until the engine closes.
    async fn keep_network(self: Arc<Self>) {
        let mut period = tokio::time::interval(RECONCILE_PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        period.tick().await;
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return,
                _ = period.tick() => {}
            }
            // The network says itself what it repaired.
            if let Err(error) = self.blocking(|inner| Ok(inner.network.reconcile()?)).await {
                tracing::warn!(error = error.full_text(), "cannot check the network");
            }
            if let Err(error) = self.publisher.apply().await {
                tracing::warn!(error = error.full_text(), "cannot publish ports");
            }
        }
    }

    /// Runs what blocks where blocking is fine.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.clone();
        self.tracker.spawn_blocking(move || work(&inner)).await.map_err(|_| EngineError::Closing)?
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("data_root", &self.inner.config.data_root).finish_non_exhaustive()
    }
}
