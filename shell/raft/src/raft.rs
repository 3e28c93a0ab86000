//! The handle: create or open a log, propose, read, follow, stop.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use skep_model::ClusterTime;
use skep_trust::SealKey;
use tokio::sync::{mpsc, oneshot, watch};

use crate::batch::{Batcher, InFlight, Queued};
use crate::config::Config;
use crate::disk::{DiskError, Identity, Lock, Place};
use crate::error::{OpenError, ProposeError};
use crate::leadership::{Leadership, Watcher};
use crate::log_store::LogStore;
use crate::machine::{Machine, MachineError};
use crate::network::NoPeers;
use crate::publish::{Committed, Published, Publisher, Subscription};
use crate::state_machine::{Restored, StateMachine, WritingGate};
use crate::time::{Clock, TimeKeeper};
use crate::types::{Peer, TypeConfig};

/// One manager's place in the Raft group. Clones share it. Without [`Raft::shutdown`] it runs on until the runtime ends.
pub struct Raft<M: Machine>(Arc<Inner<M>>);

impl<M: Machine> Clone for Raft<M> {
    fn clone(&self) -> Self {
        Raft(Arc::clone(&self.0))
    }
}

struct Inner<M: Machine> {
    raft_id: u64,
    proposal_bytes_max: usize,
    raft: openraft::Raft<TypeConfig, StateMachine<M>>,
    log: LogStore,
    gate: WritingGate,
    publisher: Arc<Publisher<M>>,
    leadership: watch::Receiver<Leadership>,
    time: Arc<TimeKeeper>,
    queue: mpsc::Sender<Queued<M>>,
    failure: Arc<Mutex<Option<MachineError>>>,
}

impl<M: Machine> Raft<M> {
    /// Whether the directory holds a log.
    pub fn exists(config: &Config) -> bool {
        config.directory.join("identity").exists()
    }

    /// Founds a cluster: a new, empty log with this manager as its only voter, which begins to lead at once.
    pub async fn create(config: Config, me: Peer, key: SealKey, clock: impl Clock) -> Result<Raft<M>, OpenError> {
        let place = place(&config, key)?;
        place.create_directory()?;
        let lock = Lock::take(&place)?;
        Identity::create(&place)?;
        Raft::start(config, place, lock, me, Box::new(clock)).await
    }

    /// Opens the log of a cluster this manager is in; when it is the only voter it begins to lead at once. `me` counts only
    /// when the founding was cut short by a crash and is finished here.
    pub async fn open(config: Config, me: Peer, key: SealKey, clock: impl Clock) -> Result<Raft<M>, OpenError> {
        let place = place(&config, key)?;
        if !Raft::<M>::exists(&config) {
            return Err(DiskError::Missing { path: place.directory }.into());
        }
        let lock = Lock::take(&place)?;
        Raft::start(config, place, lock, me, Box::new(clock)).await
    }

    async fn start(
        config: Config,
        place: Place,
        lock: Lock,
        me: Peer,
        clock: Box<dyn Clock>,
    ) -> Result<Raft<M>, OpenError> {
        let raft_id = Identity::read(&place)?.raft_id;
        let (opening, segment_bytes) = (place.clone(), config.log_file_bytes);
        let (restored, log) = tokio::task::spawn_blocking(move || -> Result<_, OpenError> {
            let restored = Restored::<M>::load(&opening)?;
            let (log, _writer) = LogStore::open(&opening, lock, restored.snapshot_index(), segment_bytes)?;
            Ok((restored, log))
        })
        .await
        .map_err(|error| start_error(&error))??;

        let first = Published { state: restored.published.state.clone(), ..restored.published };
        let publisher = Publisher::new(first, config.subscriber_buffer);
        let in_flight = Arc::new(InFlight::new());
        let failure = Arc::default();
        let gate = WritingGate::new();
        let machine = StateMachine::new(
            place,
            log.clone(),
            restored,
            Arc::clone(&publisher),
            Arc::clone(&in_flight),
            Arc::clone(&failure),
            gate.clone(),
        );
        let settings = Arc::new(config.for_openraft()?);
        let started = openraft::Raft::new(raft_id, settings, NoPeers, log.clone(), machine).await;
        let raft = match started {
            Ok(raft) => raft,
            Err(error) => {
                gate.close().await;
                log.stop().await;
                return Err(match failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    Some(error) => OpenError::Machine(error),
                    None => start_error(&error),
                });
            }
        };

        let time = Arc::new(TimeKeeper::new(clock));
        let (leads, leadership) = watch::channel(Leadership::Following);
        let (queue, queued) = mpsc::channel(config.proposal_queue);
        let watcher = Watcher {
            raft: raft.clone(),
            log: log.clone(),
            publisher: Arc::clone(&publisher),
            time: Arc::clone(&time),
            leadership: leads,
            snapshot_log_bytes: config.snapshot_log_bytes,
        };
        tokio::spawn(watcher.run());
        let proposal_bytes_max = config.proposal_bytes_max;
        let batcher = Batcher {
            config,
            raft: raft.clone(),
            log: log.clone(),
            queue: queued,
            in_flight,
            leadership: leadership.clone(),
            publisher: Arc::clone(&publisher),
            time: Arc::clone(&time),
        };
        tokio::spawn(batcher.run());
        begin(&raft, raft_id, me).await?;
        Ok(Raft(Arc::new(Inner {
            raft_id,
            proposal_bytes_max,
            raft,
            log,
            gate,
            publisher,
            leadership,
            time,
            queue,
            failure,
        })))
    }

    /// This manager's random Raft id.
    pub fn raft_id(&self) -> u64 {
        self.0.raft_id
    }

    /// Proposes a change and waits for its outcome. Dropping the future does not take the proposal back.
    pub async fn propose(&self, proposal: M::Proposal) -> Result<Committed<M::Outcome>, ProposeError> {
        let (size, limit) = (M::proposal_size(&proposal), self.0.proposal_bytes_max);
        if size > limit {
            return Err(ProposeError::TooLarge { size, limit });
        }
        let (answer, outcome) = oneshot::channel();
        self.0.queue.try_send(Queued { proposal, size, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Busy,
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        outcome.await.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    /// The newest applied state; never waits.
    pub fn state(&self) -> Arc<Published<M>> {
        self.0.publisher.current()
    }

    /// The state now and everything that is committed after it.
    pub fn subscribe(&self) -> (Arc<Published<M>>, Subscription<M>) {
        self.0.publisher.subscribe()
    }

    /// Waits until this manager has applied the entry at `index`. Returns the state then; `None` when raft stopped before.
    pub async fn wait_applied(&self, index: u64) -> Option<Arc<Published<M>>> {
        let (mut applied, mut leadership) = (self.0.publisher.watch_index(), self.leadership());
        tokio::select! {
            biased;
            reached = applied.wait_for(|applied| *applied >= index) => reached.ok().map(|_| ())?,
            _ = leadership.wait_for(|leads| *leads == Leadership::Stopped) => return None,
        }
        Some(self.state())
    }

    /// Whether this manager leads, and each change of that.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// The cluster time now: counting on while this manager leads, else the newest committed.
    pub fn cluster_time(&self) -> ClusterTime {
        self.0.time.now(self.state().time)
    }

    /// Whether the disk has no room for what is to be committed, and each change of that. Proposals wait meanwhile; nothing
    /// that was acknowledged is touched.
    pub fn disk_full(&self) -> watch::Receiver<bool> {
        self.0.log.full()
    }

    /// Why raft stopped by itself, if the machine refused an entry.
    pub fn failure(&self) -> Option<MachineError> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a snapshot soon, whatever the interval says.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        self.0.raft.trigger().snapshot().await.map_err(|_| ProposeError::Stopped)
    }

    /// Stops: what was acknowledged is on disk, what waits is refused. Afterwards the log can be opened again.
    pub async fn shutdown(&self) {
        self.0.log.give_up();
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::error!(%error, "raft did not end well");
        }
        self.0.gate.close().await;
        self.0.log.stop().await;
    }
}

/// Founds the group if that is not done yet; a lone voter asks for its own vote at once.
async fn begin<M: Machine>(
    raft: &openraft::Raft<TypeConfig, StateMachine<M>>,
    raft_id: u64,
    me: Peer,
) -> Result<(), OpenError> {
    if !raft.is_initialized().await.map_err(|error| start_error(&error))? {
        return raft.initialize(BTreeMap::from([(raft_id, me)])).await.map_err(|error| start_error(&error));
    }
    let voters: Vec<u64> = raft.voter_ids().collect();
    if voters == [raft_id] {
        raft.trigger().elect(false).await.map_err(|error| start_error(&error))?;
    }
    Ok(())
}

fn place(config: &Config, key: SealKey) -> Result<Place, OpenError> {
    config.check()?;
    let (directory, cluster_id) = (config.directory.clone(), config.cluster_id.clone());
    Ok(Place { directory, cluster_id, epoch: config.epoch, key })
}

fn start_error(error: &impl std::fmt::Display) -> OpenError {
    OpenError::Start { detail: error.to_string() }
}
