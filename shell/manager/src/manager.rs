//! One manager: its place in the Raft group, what it runs while it leads, and the socket it serves nodes on.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skep_admission::{Principal, Request};
use skep_model::{NodeId, ObjectId, Sealed};
use skep_raft::{Committed, Leadership, OpenError, Peer, ProposeError, Published, Raft, Subscription, SystemClock};
use skep_store::{Outcome, Proposal};
use skep_trust::{ClusterKey, SealKey};
use skep_wire::swarmkit::dispatcher_server::DispatcherServer;
use skep_wire::swarmkit::health_server::HealthServer;
use skep_wire::swarmkit::log_broker_server::LogBrokerServer;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;

use crate::StoreMachine;
use crate::dispatch::{Calls, serve};
use crate::driver::{control_loops, drive};
use crate::leading::{Envs, while_leading};
use crate::logs::{Broker, LogError, LogOptions, LogReader, LogSelector};
use crate::sealing::Opener;
use crate::server::{Caller, DispatcherService, HealthService, LogBrokerService};
use crate::submit::{Answer, SubmitError, submit};

/// Largest message that a manager takes (SwarmKit: 4 MiB).
const MESSAGE_MAX: usize = 4 << 20;
/// Time that open calls get to end when the manager stops.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// What a manager needs to run.
pub struct ManagerConfig {
    /// How the log is kept, and where.
    pub raft: skep_raft::Config,
    /// The node this manager runs on.
    pub node_id: NodeId,
    /// `host:port` where other managers and nodes reach this one.
    pub address: String,
    /// Seals log and snapshots of this manager.
    pub manager_key: SealKey,
    /// Seals secret values for all managers.
    pub cluster_key: ClusterKey,
    /// Socket for the local node; its directory exists.
    pub socket: PathBuf,
}

/// Why a manager does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be used.
    #[error(transparent)]
    Raft(#[from] OpenError),
    /// The socket cannot be served.
    #[error("cannot listen on {path:?}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A running manager. Dropped without [`Self::shutdown`] it ends as a killed one does.
pub struct Manager {
    raft: Raft<StoreMachine>,
    broker: Broker,
    envs: Mutex<Envs>,
    opener: Opener,
    parts: Vec<JoinHandle<()>>,
    server: Mutex<Option<Server>>,
    socket: PathBuf,
}

struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Manager {
    /// Founds a new, empty log with this manager as its only voter, and starts.
    ///
    /// # Errors
    /// When there is a log already, or disk or socket cannot be used.
    pub async fn create(config: ManagerConfig) -> Result<Self, StartError> {
        let peer = peer(&config);
        let raft = Raft::create(config.raft.clone(), peer, config.manager_key.clone(), SystemClock::new()).await?;
        Self::start(raft, config).await
    }

    /// Goes on with the log that is there.
    ///
    /// # Errors
    /// When there is none, it is damaged or of another cluster, or the socket cannot be used.
    pub async fn open(config: ManagerConfig) -> Result<Self, StartError> {
        let peer = peer(&config);
        let raft = Raft::open(config.raft.clone(), peer, config.manager_key.clone(), SystemClock::new()).await?;
        Self::start(raft, config).await
    }

    async fn start(raft: Raft<StoreMachine>, config: ManagerConfig) -> Result<Self, StartError> {
        let listener = match listen(&config.socket) {
            Ok(listener) => listener,
            Err(source) => {
                raft.shutdown().await;
                return Err(StartError::Socket { path: config.socket, source });
            }
        };
        let opener = Opener::new(config.cluster_key);
        let broker = Broker::default();
        let calls: Arc<Calls> = Arc::new(watch::Sender::new(None));
        let loops = {
            let raft = raft.clone();
            while_leading(raft.clone(), move |term| drive(raft.clone(), control_loops(), term))
        };
        let desk = {
            let (raft, calls, opener) = (raft.clone(), calls.clone(), opener.clone());
            while_leading(raft.clone(), move |term| serve(raft.clone(), calls.clone(), opener.clone(), term))
        };
        let parts = vec![tokio::spawn(loops), tokio::spawn(desk)];
        let addr = host_of(&config.address).to_owned();
        let caller = Caller { node: config.node_id, addr };
        let server = Server::start(listener, caller, &raft, calls, broker.clone());
        Ok(Self {
            raft,
            broker,
            envs: Mutex::new(Envs::new()),
            opener,
            parts,
            server: Mutex::new(Some(server)),
            socket: config.socket,
        })
    }

    /// The newest applied state; never waits.
    #[must_use]
    pub fn state(&self) -> Arc<Published<StoreMachine>> {
        self.raft.state()
    }

    /// The state now and everything that is committed after it.
    #[must_use]
    pub fn subscribe(&self) -> (Arc<Published<StoreMachine>>, Subscription<StoreMachine>) {
        self.raft.subscribe()
    }

    /// Whether this manager leads, and each change of that.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.raft.leadership()
    }

    /// This manager's random Raft id.
    #[must_use]
    pub fn raft_id(&self) -> u64 {
        self.raft.raft_id()
    }

    /// Why Raft stopped by itself, if it did over an entry that it could not apply.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.raft.failure().map(|error| error.to_string())
    }

    /// Carries out a user's request: judged, committed, and applied here when this returns.
    ///
    /// # Errors
    /// When it is refused or cannot be committed; see [`SubmitError::class`].
    pub async fn submit(&self, principal: Principal, request: Request) -> Result<Answer, SubmitError> {
        submit(&self.raft, &self.envs, principal, request).await
    }

    /// Proposes a change that no user asked for (the first ones of a cluster).
    ///
    /// # Errors
    /// When it has no outcome.
    pub async fn propose(&self, proposal: Proposal) -> Result<Committed<Outcome>, ProposeError> {
        self.raft.propose(proposal).await
    }

    /// Seals registry credentials (an `X-Registry-Auth` value) for a service's spec.
    #[must_use]
    pub fn seal_registry_auth(&self, auth: &str) -> Sealed {
        self.opener.seal(auth)
    }

    /// Seals and opens secret values.
    pub(crate) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// A fresh id.
    pub(crate) fn mint<T: ObjectId>(&self) -> T {
        self.envs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).now(&self.raft).rng.id()
    }

    /// Begins to read logs.
    ///
    /// # Errors
    /// When nothing is selected or too many read already.
    pub fn subscribe_logs(&self, selector: LogSelector, options: LogOptions) -> Result<LogReader, LogError> {
        let (published, commits) = self.raft.subscribe();
        self.broker.subscribe(&published.state, commits, selector, options)
    }

    /// Stops: streams to nodes end, what was acknowledged is on disk, the log can be opened again.
    pub async fn shutdown(&self) {
        // Without Raft the parts that lead end, and with them the streams.
        self.raft.shutdown().await;
        let server = self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(server) = server {
            server.stop().await;
            // The next manager replaces a socket that stays.
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        for part in &self.parts {
            part.abort();
        }
        if let Some(server) = self.server.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner) {
            server.task.abort();
        }
    }
}

impl Server {
    fn start(
        listener: UnixListener,
        caller: Caller,
        raft: &Raft<StoreMachine>,
        calls: Arc<Calls>,
        broker: Broker,
    ) -> Self {
        let identify = move |mut request: tonic::Request<()>| {
            request.extensions_mut().insert(caller.clone());
            Ok(request)
        };
        let dispatcher = DispatcherServer::new(DispatcherService { calls }).max_decoding_message_size(MESSAGE_MAX);
        let log_broker = LogBrokerServer::new(LogBrokerService { broker, raft: raft.clone() })
            .max_decoding_message_size(MESSAGE_MAX);
        let health = HealthServer::new(HealthService { raft: raft.clone() });
        let router = tonic::transport::Server::builder()
            .layer(tonic::service::InterceptorLayer::new(identify))
            .add_service(dispatcher)
            .add_service(log_broker)
            .add_service(health);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async {
                // A dropped sender means the same.
                let _ = stopped.await;
            };
            let served = router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped).await;
            if let Err(error) = served {
                tracing::error!(%error, "the manager's socket is served no more");
            }
        });
        Self { stop, task }
    }

    async fn stop(mut self) {
        // The task may have ended already.
        let _ = self.stop.send(());
        if tokio::time::timeout(STOP_WAIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Listens on a path, in the place of a socket that an earlier process left.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn peer(config: &ManagerConfig) -> Peer {
    Peer { node_id: config.node_id.to_string(), address: config.address.clone() }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_addresses() {
        assert_eq!(host_of("10.0.0.1:2377"), "10.0.0.1");
        assert_eq!(host_of("[fd00::1]:2377"), "fd00::1");
        assert_eq!(host_of("name"), "name");
    }
}
