//! One machine: member of a swarm or not, and how it becomes the one or the other.
//!
//! ```text
//!   inactive ──init──▶ (founding) ──▶ active ──leave──▶ (leaving) ──▶ inactive
//!                          └── killed: taken back           └── killed: finished
//! ```

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use skep_agent::Executor;
use skep_model::{NodeId, NodeState};
use tokio::sync::Mutex;

use crate::error::text_of;
use crate::found::found;
use crate::member::Member;
use crate::membership::{Folder, Membership, Phase};
use crate::options::InitOptions;
use crate::worker::Worker;
use crate::{DescriptionSource, LogSource, NodeError};

/// Time for a new member to be ready before its founder is answered.
const READY_WAIT: Duration = Duration::from_secs(10);
/// Time for all containers of a leaving node to be gone.
const CLEAR_WAIT: Duration = Duration::from_secs(60);

/// What a node needs.
#[derive(Clone)]
pub struct NodeConfig {
    /// Where state lies that must last: `<data-root>/swarm`.
    pub data_root: PathBuf,
    /// Where sockets lie: `<exec-root>/control.sock`. Exists.
    pub exec_root: PathBuf,
    /// Runs tasks.
    pub executor: Arc<dyn Executor>,
    /// Describes the machine.
    pub describe: Arc<dyn DescriptionSource>,
    /// Reads the output of tasks.
    pub logs: Arc<dyn LogSource>,
}

impl NodeConfig {
    pub(crate) fn socket(&self) -> PathBuf {
        self.exec_root.join("control.sock")
    }
}

/// One machine and its membership. Clones share it. When the last one is dropped without [`Self::shutdown`] it ends as a killed
/// one does.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    config: NodeConfig,
    folder: Folder,
    mode: RwLock<Mode>,
    /// Held while the membership changes.
    changing: Mutex<()>,
}

#[derive(Clone)]
enum Mode {
    Inactive,
    Pending,
    Active(Arc<Member>),
    /// A member by its files that does not run.
    Failed(Arc<Failed>),
    Stopped,
}

struct Failed {
    reason: String,
    membership: Option<Membership>,
}

/// Member of a swarm or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalState {
    /// Not a member.
    #[default]
    Inactive,
    /// It is becoming one, or leaving.
    Pending,
    /// A member.
    Active,
    /// A member that failed; see the error.
    Error,
}

/// How this node stands to a swarm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SwarmStatus {
    /// Member or not.
    pub state: LocalState,
    /// This node, once it has an id.
    pub node_id: Option<NodeId>,
    /// The address it is known by, without a port.
    pub node_addr: String,
    /// It is a manager and can answer.
    pub control_available: bool,
    /// What is wrong, for people.
    pub error: String,
    /// Managers it knows with their `host:port`, itself included.
    pub managers: Vec<(NodeId, String)>,
    /// The manager that leads, if one does.
    pub leader: Option<NodeId>,
}

impl Node {
    /// Goes on where this machine was: starts what it is a member of, takes back a founding and finishes a leaving that were
    /// cut short. What does not start is told by [`Self::status`]; containers run on either way.
    pub async fn open(config: NodeConfig) -> Self {
        let folder = Folder::of(&config.data_root);
        let mode = match Membership::load(&folder) {
            Ok(None) => Mode::Inactive,
            Ok(Some(membership)) => begin(&config, &folder, membership).await,
            Err(error) => failed(text_of(&error), None),
        };
        Self(Arc::new(Inner { config, folder, mode: RwLock::new(mode), changing: Mutex::new(()) }))
    }

    fn mode(&self) -> Mode {
        self.0.mode()
    }

    /// How this node stands to a swarm. Cheap.
    #[must_use]
    pub fn status(&self) -> SwarmStatus {
        match self.mode() {
            Mode::Inactive | Mode::Stopped => SwarmStatus::default(),
            Mode::Pending => SwarmStatus { state: LocalState::Pending, ..SwarmStatus::default() },
            Mode::Failed(failed) => SwarmStatus {
                state: LocalState::Error,
                node_id: failed.membership.as_ref().map(|membership| membership.node_id),
                node_addr: failed
                    .membership
                    .as_ref()
                    .map(|membership| host_of(&membership.address))
                    .unwrap_or_default(),
                error: failed.reason.clone(),
                ..SwarmStatus::default()
            },
            Mode::Active(member) => status_of(&member),
        }
    }

    /// The running member, or why there is none.
    pub(crate) fn member(&self) -> Result<Arc<Member>, NodeError> {
        match self.mode() {
            Mode::Active(member) => Ok(member),
            Mode::Inactive => Err(NodeError::NoSwarm),
            Mode::Pending | Mode::Failed(_) | Mode::Stopped => Err(NodeError::NotReady),
        }
    }

    /// Founds a swarm with this node as its first manager; answers when the node is ready. Once begun it goes on to its end,
    /// also when the caller goes away.
    ///
    /// # Errors
    /// When the node is in a swarm already or the options make no sense. Nothing is left behind then.
    pub async fn init(&self, options: InitOptions) -> Result<NodeId, NodeError> {
        let inner = self.0.clone();
        to_its_end(async move { inner.init(options).await }).await
    }

    /// Leaves the swarm: stops and deletes its containers here and forgets everything about it. When that fails the node says
    /// so and the next try, or the next start, goes on. Once begun it goes on to its end, also when the caller goes away.
    ///
    /// # Errors
    /// When the node is in no swarm, is a manager and `force` is not given, or something cannot be removed.
    pub async fn leave(&self, force: bool) -> Result<(), NodeError> {
        let inner = self.0.clone();
        to_its_end(async move { inner.leave(force).await }).await
    }

    /// Ends sessions and Raft cleanly. Containers are left alone and no task is reported as stopped.
    pub async fn shutdown(&self) {
        let inner = self.0.clone();
        // A panic in it is told by the runtime already.
        let _ = tokio::spawn(async move { inner.shutdown().await }).await;
    }
}

/// Runs work that must not stop halfway, whatever becomes of who asked for it.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, NodeError>> + Send + 'static,
) -> Result<T, NodeError> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(NodeError::Internal(format!("the work broke off: {error}"))))
}

impl Inner {
    fn mode(&self) -> Mode {
        self.mode.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_mode(&self, mode: Mode) {
        let before = std::mem::replace(&mut *self.mode.write().unwrap_or_else(PoisonError::into_inner), mode);
        drop(before);
    }

    async fn init(&self, options: InitOptions) -> Result<NodeId, NodeError> {
        let _changing = self.changing.lock().await;
        match self.mode() {
            Mode::Inactive => {}
            Mode::Stopped => return Err(NodeError::NotReady),
            Mode::Pending | Mode::Active(_) | Mode::Failed(_) => return Err(NodeError::AlreadyInSwarm),
        }
        let plan = options.check()?;
        self.folder.create().map_err(|error| NodeError::internal(&error))?;
        self.set_mode(Mode::Pending);
        let founded = async {
            let (membership, manager) = found(&self.folder, self.config.socket(), plan).await?;
            let membership = membership.in_phase(Phase::Active);
            if let Err(error) = membership.save(&self.folder) {
                manager.shutdown().await;
                return Err(NodeError::internal(&error));
            }
            Member::start(&self.config, &self.folder, membership, manager).await
        };
        match founded.await {
            Ok(member) => {
                let node_id = member.membership.node_id;
                let member = Arc::new(member);
                self.set_mode(Mode::Active(member.clone()));
                wait_ready(&member).await;
                Ok(node_id)
            }
            Err(error) => {
                let wiped = self.folder.wipe();
                self.set_mode(match wiped {
                    Ok(()) => Mode::Inactive,
                    Err(cause) => failed(format!("a swarm that was half founded cannot be removed: {cause}"), None),
                });
                Err(error)
            }
        }
    }

    async fn leave(&self, force: bool) -> Result<(), NodeError> {
        let _changing = self.changing.lock().await;
        let mode = self.mode();
        match (&mode, force) {
            (Mode::Inactive, _) => return Err(NodeError::NotPartOfSwarm),
            (Mode::Stopped | Mode::Pending, _) => return Err(NodeError::NotReady),
            (Mode::Active(_) | Mode::Failed(_), false) => return Err(NodeError::LastManager),
            (Mode::Active(_) | Mode::Failed(_), true) => {}
        }
        let membership = match &mode {
            Mode::Active(member) => Some(member.membership.clone()),
            Mode::Failed(failed) => failed.membership.clone(),
            _ => None,
        };
        if let Some(membership) = &membership {
            let leaving = membership.in_phase(Phase::Leaving);
            leaving.save(&self.folder).map_err(|error| NodeError::internal(&error))?;
        }
        self.set_mode(Mode::Pending);
        let left = match mode {
            Mode::Active(member) => {
                member.end_sessions();
                let is_clear = member.worker.clear(CLEAR_WAIT).await;
                member.stop().await;
                drop(member);
                if is_clear {
                    self.folder.wipe().map_err(|error| NodeError::internal(&error))
                } else {
                    Err(not_clear())
                }
            }
            _ => finish_leaving(&self.config, &self.folder).await,
        };
        match left {
            Ok(()) => {
                self.set_mode(Mode::Inactive);
                Ok(())
            }
            Err(error) => {
                let membership = membership.map(|membership| membership.in_phase(Phase::Leaving));
                self.set_mode(failed(error.to_string(), membership));
                Err(error)
            }
        }
    }

    async fn shutdown(&self) {
        let _changing = self.changing.lock().await;
        let mode = self.mode();
        self.set_mode(Mode::Stopped);
        if let Mode::Active(member) = mode {
            member.stop().await;
        }
    }
}

/// What the files of a membership ask for at a start.
async fn begin(config: &NodeConfig, folder: &Folder, membership: Membership) -> Mode {
    match membership.phase {
        Phase::Founding => match folder.wipe() {
            Ok(()) => {
                tracing::info!("a swarm that was half founded was removed");
                Mode::Inactive
            }
            Err(error) => failed(format!("a swarm that was half founded cannot be removed: {error}"), Some(membership)),
        },
        Phase::Leaving => match finish_leaving(config, folder).await {
            Ok(()) => Mode::Inactive,
            Err(error) => failed(error.to_string(), Some(membership)),
        },
        Phase::Active => match Member::resume(config, folder, membership.clone()).await {
            Ok(member) => Mode::Active(Arc::new(member)),
            Err(error) => failed(error.to_string(), Some(membership)),
        },
    }
}

fn failed(reason: String, membership: Option<Membership>) -> Mode {
    tracing::error!(reason, "this node is in a swarm and cannot take part in it");
    Mode::Failed(Arc::new(Failed { reason, membership }))
}

fn not_clear() -> NodeError {
    NodeError::Internal(format!(
        "cannot leave the swarm yet: after {} s some containers of it are still there; try again",
        CLEAR_WAIT.as_secs()
    ))
}

/// Removes what is left of a membership: containers first, then files. A worker's database that cannot be read is not needed
/// for that: the executor knows what it has.
async fn finish_leaving(config: &NodeConfig, folder: &Folder) -> Result<(), NodeError> {
    let started = Worker::start(&folder.tasks(), config.executor.clone());
    let worker = match started {
        Ok(worker) => worker,
        Err(error) => {
            tracing::warn!(error = %text_of(&error), "the worker's database is left out while leaving");
            let path = folder.tasks();
            let is_gone = std::fs::remove_file(&path);
            is_gone.map_err(|error| NodeError::Internal(format!("cannot remove {path:?}: {error}")))?;
            Worker::start(&path, config.executor.clone()).map_err(|error| NodeError::internal(&error))?
        }
    };
    let is_clear = worker.clear(CLEAR_WAIT).await;
    worker.stop().await;
    if !is_clear {
        return Err(not_clear());
    }
    folder.wipe().map_err(|error| NodeError::internal(&error))
}

async fn wait_ready(member: &Member) {
    let (published, mut commits) = member.manager.subscribe();
    let is_ready = |state: &skep_store::State| {
        state.node(member.membership.node_id).is_some_and(|node| node.observed.status.state == NodeState::Ready)
    };
    if is_ready(&published.state) {
        return;
    }
    let ready = async {
        loop {
            let state = match commits.next().await {
                skep_raft::Next::Commit(commit) => commit.state.clone(),
                skep_raft::Next::Reset(published) => published.state.clone(),
            };
            if is_ready(&state) {
                return;
            }
        }
    };
    if tokio::time::timeout(READY_WAIT, ready).await.is_err() {
        tracing::warn!("the new node is not ready yet");
    }
}

fn status_of(member: &Member) -> SwarmStatus {
    let published = member.manager.state();
    let managers =
        published.state.nodes().filter_map(|node| Some((node.id, node.manager.as_ref()?.address.clone()))).collect();
    let failure = member.failure();
    SwarmStatus {
        state: if failure.is_some() { LocalState::Error } else { LocalState::Active },
        node_id: Some(member.membership.node_id),
        node_addr: host_of(&member.membership.address),
        control_available: failure.is_none(),
        error: failure.unwrap_or_default(),
        managers,
        leader: member.leader(),
    }
}

/// The host of `host:port`, without brackets.
fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}
