//! Applies committed entries to the state, publishes each result, answers the proposers, takes snapshots.
//!
//! The state lives in memory; what survives a restart is the newest snapshot and the log after it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use skep_model::ClusterTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::batch::InFlight;
use crate::disk::codec::{Reader, Writer};
use crate::disk::{DiskError, Place, SnapshotFile, newest_snapshot, write_snapshot};
use crate::error::OpenError;
use crate::log_store::LogStore;
use crate::machine::{Machine, MachineError};
use crate::publish::{Published, Publisher};
use crate::types::{
    LogData, LogId, SnapshotMeta, StoredMembership, TypeConfig, log_id, read_log_id, read_membership, write_log_id,
    write_membership,
};

/// Pause before a snapshot is tried again for which there was no room.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(5);

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// A snapshot's content: it lies on this manager's disk, sealed by its key.
pub(crate) type SnapshotData = SnapshotFile;

/// What a snapshot file says about itself.
struct About {
    last: Option<LogId>,
    membership: StoredMembership,
    time: ClusterTime,
}

/// What was there when the log was opened.
pub(crate) struct Restored<M: Machine> {
    pub(crate) published: Published<M>,
    last: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<(SnapshotMeta, SnapshotFile)>,
}

impl<M: Machine> Restored<M> {
    /// The last index that is in the snapshot.
    pub(crate) fn snapshot_index(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|(_, file)| file.index)
    }

    /// Reads the newest snapshot, or begins with nothing.
    pub(crate) fn load(place: &Place) -> Result<Restored<M>, OpenError> {
        let Some(file) = newest_snapshot(place)? else {
            let published = Published { index: 0, term: 0, time: ClusterTime(0), state: M::empty_state() };
            return Ok(Restored { published, last: None, membership: StoredMembership::default(), snapshot: None });
        };
        let (about, content) = file.read(place)?;
        let About { last, membership, time } = read_about(&about)?;
        let published = Published {
            index: file.index,
            term: last.map_or(0, |id| id.leader_id.term),
            time,
            state: M::decode_snapshot(&content)?,
        };
        let meta = SnapshotMeta { last_log_id: last, last_membership: membership.clone() };
        Ok(Restored { published, last, membership, snapshot: Some((meta, file)) })
    }
}

/// The newest snapshot on disk, shared with whoever builds the next.
type CurrentSnapshot = Arc<Mutex<Option<(SnapshotMeta, SnapshotFile)>>>;

/// Lets one snapshot be written at a time, and none after [`WritingGate::close`].
#[derive(Clone)]
pub(crate) struct WritingGate(Arc<Semaphore>);

impl WritingGate {
    pub(crate) fn new() -> WritingGate {
        WritingGate(Arc::new(Semaphore::new(1)))
    }

    /// Waits until nothing is written any more: the files may then belong to somebody else.
    pub(crate) async fn close(&self) {
        let last = self.0.acquire().await;
        self.0.close();
        drop(last);
    }

    async fn enter(&self) -> io::Result<OwnedSemaphorePermit> {
        Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)
    }
}

/// The state machine as `openraft` drives it.
pub(crate) struct StateMachine<M: Machine> {
    place: Place,
    log: LogStore,
    publisher: Arc<Publisher<M>>,
    in_flight: Arc<InFlight<M>>,
    /// Why the machine refused an entry: it stops this manager.
    failure: Arc<Mutex<Option<MachineError>>>,
    state: M::State,
    time: ClusterTime,
    last: Option<LogId>,
    membership: StoredMembership,
    snapshot: CurrentSnapshot,
    gate: WritingGate,
}

impl<M: Machine> StateMachine<M> {
    pub(crate) fn new(
        place: Place,
        log: LogStore,
        restored: Restored<M>,
        publisher: Arc<Publisher<M>>,
        in_flight: Arc<InFlight<M>>,
        failure: Arc<Mutex<Option<MachineError>>>,
        gate: WritingGate,
    ) -> StateMachine<M> {
        StateMachine {
            place,
            log,
            publisher,
            in_flight,
            failure,
            state: restored.published.state,
            time: restored.published.time,
            last: restored.last,
            membership: restored.membership,
            snapshot: Arc::new(Mutex::new(restored.snapshot)),
            gate,
        }
    }

    fn apply_entry(&mut self, id: LogId, payload: EntryPayload<LogData, u64, crate::types::Peer>) -> io::Result<()> {
        self.last = Some(id);
        match payload {
            EntryPayload::Blank => self.publish(id, None),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                self.publish(id, None);
            }
            EntryPayload::Normal(data) => {
                let batch = self.in_flight.take(data.batch);
                let applied = match &batch {
                    Some(batch) => M::apply(&mut self.state, id.index, &batch.entry),
                    None => M::decode_entry(&data.bytes).and_then(|entry| M::apply(&mut self.state, id.index, &entry)),
                };
                let applied = applied.map_err(|error| self.fail(id, error))?;
                self.time = self.time.max(data.time);
                self.publish(id, Some(applied.events));
                if let Some(batch) = batch {
                    batch.answer(id.index, applied.outcomes);
                }
            }
        }
        Ok(())
    }

    fn publish(&self, id: LogId, events: Option<Vec<M::Event>>) {
        let next = Published { index: id.index, term: id.leader_id.term, time: self.time, state: self.state.clone() };
        self.publisher.publish(next, events);
    }

    fn fail(&self, id: LogId, error: MachineError) -> io::Error {
        tracing::error!(index = id.index, %error, "cannot apply a committed entry: raft stops on this manager");
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        io::Error::other(error)
    }
}

impl<M: Machine> RaftStateMachine<TypeConfig> for StateMachine<M> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder<M>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let index = entry.log_id.index;
            self.apply_entry(entry.log_id, entry.payload)?;
            self.log.applied(index);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<M> {
        SnapshotBuilder {
            place: self.place.clone(),
            state: self.state.clone(),
            time: self.time,
            last: self.last,
            membership: self.membership.clone(),
            current: Arc::clone(&self.snapshot),
            gate: self.gate.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let place = self.place.clone();
        let work = move || -> Result<(M::State, ClusterTime), OpenError> {
            let (about, content) = snapshot.read(&place)?;
            Ok((M::decode_snapshot(&content)?, read_about(&about)?.time))
        };
        let (state, time) = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?.map_err(|error| {
            tracing::error!(%error, "cannot install a snapshot");
            io::Error::other(error)
        })?;
        self.state = state;
        self.time = self.time.max(time);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        let id = self.last.unwrap_or(log_id(0, 0));
        let state = self.state.clone();
        self.publisher.publish_reset(Published { index: id.index, term: id.leader_id.term, time: self.time, state });
        self.log.applied(id.index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let current = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(current.map(|(meta, file)| Snapshot { meta, snapshot: file }))
    }
}

/// One state on its way to disk; later entries do not touch it.
pub(crate) struct SnapshotBuilder<M: Machine> {
    place: Place,
    state: M::State,
    time: ClusterTime,
    last: Option<LogId>,
    membership: StoredMembership,
    current: CurrentSnapshot,
    gate: WritingGate,
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder<M> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let about = About { last: self.last, membership: self.membership.clone(), time: self.time };
        let (place, state, current) = (self.place.clone(), self.state.clone(), Arc::clone(&self.current));
        let about = Arc::new(about);
        loop {
            let permit = self.gate.enter().await?;
            let (place, about, state, current) = (place.clone(), about.clone(), state.clone(), current.clone());
            let work = move || {
                let _permit = permit;
                let content = M::encode_snapshot(&state);
                store(&place, &about, &content, &current)
            };
            match tokio::task::spawn_blocking(work).await.map_err(io::Error::other)? {
                // The log goes on without it meanwhile.
                Err(error) if error.is_full() => {
                    tracing::warn!(%error, "no room for a snapshot of the cluster state, it is tried again");
                    tokio::time::sleep(SNAPSHOT_PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot write a snapshot");
                    return Err(io::Error::other(error));
                }
                Ok(snapshot) => return Ok(snapshot),
            }
        }
    }
}

fn store(place: &Place, about: &About, content: &[u8], current: &CurrentSnapshot) -> Result<Snapshot, DiskError> {
    let meta = SnapshotMeta { last_log_id: about.last, last_membership: about.membership.clone() };
    let index = about.last.map_or(0, |id| id.index);
    let file = write_snapshot(place, index, &write_about(about), content)?;
    tracing::info!(index, bytes = content.len(), "took a snapshot of the cluster state");
    let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
    if current.as_ref().is_none_or(|(_, newest)| newest.index <= index) {
        *current = Some((meta.clone(), file.clone()));
    }
    Ok(Snapshot { meta, snapshot: file })
}

fn write_about(about: &About) -> Vec<u8> {
    let mut out = Writer::default();
    out.u64(about.time.0);
    write_log_id(&mut out, about.last.as_ref());
    write_log_id(&mut out, about.membership.log_id().as_ref());
    write_membership(&mut out, about.membership.membership());
    out.into_bytes()
}

fn read_about(bytes: &[u8]) -> Result<About, MachineError> {
    let damaged = || MachineError("the snapshot's description makes no sense".to_owned());
    let mut input = Reader::new(bytes);
    let mut read = || {
        let time = ClusterTime(input.u64()?);
        let (last, membership_id) = (read_log_id(&mut input)?, read_log_id(&mut input)?);
        Ok((time, last, membership_id, read_membership(&mut input)?))
    };
    let (time, last, membership_id, membership) = read().map_err(|_: crate::disk::codec::Truncated| damaged())?;
    let membership = StoredMembership::new(membership_id, membership.ok_or_else(damaged)?);
    Ok(About { last, membership, time })
}
