//! The log as `openraft` wants it: entries in memory at once, on disk when the writer thread says so.
//!
//! One thread does all writing, in order: records, votes, cuts and purges. Whatever waits for it when it comes back from a
//! sync goes out with the next one. Entries that are not yet both durable and applied are kept in memory, and some newer
//! ones beyond that; older ones are read from disk.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot, watch};

use crate::disk::{
    Damage, DiskError, Lock, LogFiles, LogRef, OpenedLog, Place, Position, Record, RecordHeader, StoredVote,
    keep_reserve, read_vote, release_reserve, write_vote,
};
use crate::types::{LogEntry, LogId, TypeConfig, Vote, decode_payload, encode_payload, log_id};

/// Commands that may wait for the writer; beyond it the caller waits.
const COMMANDS: usize = 256;
/// So many entries, of so many bytes, stay in memory after they are durable and applied.
const CACHE_ENTRIES: usize = 256;
const CACHE_BYTES: usize = 2 << 20;
/// Records that go out in one write at most.
const WRITE_RECORDS: usize = 4096;
/// Pause before a write is tried again that found no room.
pub(crate) const FULL_PAUSE: Duration = Duration::from_millis(200);

type Reply = oneshot::Sender<Result<(), io::Error>>;

enum Command {
    Append { records: Vec<Record>, done: IOFlushed<TypeConfig> },
    Vote { vote: StoredVote, done: Reply },
    Truncate { after: Option<LogRef>, done: Reply },
    Purge { upto: LogRef, done: Reply },
    Stop { done: oneshot::Sender<()> },
}

/// The log; clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

struct Shared {
    place: Place,
    state: Mutex<State>,
    /// A write waits for room on the disk.
    full: watch::Sender<bool>,
    /// Nobody waits for the writer any more.
    stopping: AtomicBool,
}

struct State {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    committed: Option<LogId>,
    /// Where the entries after `purged` lie on disk, as far as they are durable.
    positions: VecDeque<Position>,
    /// The newest entries in memory, without gaps, up to `last`.
    cache: VecDeque<(LogEntry, usize)>,
    cache_bytes: usize,
    applied: u64,
    /// Bytes appended since the log was opened.
    appended_bytes: u64,
    /// The newest batch of this process that was taken into the log.
    appended_batch: u64,
}

impl LogStore {
    /// Opens the log and starts its writer; the lock is held until the writer ends.
    pub(crate) fn open(
        place: &Place,
        lock: Lock,
        snapshot: Option<u64>,
        segment_bytes: u64,
    ) -> Result<(LogStore, JoinHandle<()>), DiskError> {
        let vote = read_vote(place)?;
        let OpenedLog { files, positions, purged, last, committed, entries, torn_bytes } =
            LogFiles::open(place, snapshot, segment_bytes)?;
        if torn_bytes > 0 {
            tracing::warn!(bytes = torn_bytes, "cut off the end of the raft log: its last write was never finished");
        }
        let mut state = State {
            vote: vote.map(|vote| vote_from_stored(&vote)),
            purged: purged.map(|id| log_id(id.term, id.index)),
            last: last.map(|id| log_id(id.term, id.index)),
            committed: None,
            positions: positions.into(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            applied: snapshot.unwrap_or(0),
            appended_bytes: 0,
            appended_batch: 0,
        };
        for record in entries {
            let bytes = record.content.len();
            if Some(record.header.index) == committed {
                state.committed = Some(log_id(record.header.term, record.header.index));
            }
            state.remember(entry_from_record(&record, place)?, bytes);
        }
        let shared = Arc::new(Shared {
            place: place.clone(),
            state: Mutex::new(state),
            full: watch::Sender::new(false),
            stopping: AtomicBool::new(false),
        });
        let (commands, queue) = mpsc::channel(COMMANDS);
        keep_reserve(place);
        let writer = Writer { files, shared: Arc::clone(&shared), _lock: lock };
        let thread = std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || writer.run(queue))
            .map_err(DiskError::io("start the writer of", &place.directory))?;
        Ok((LogStore { shared, commands }, thread))
    }

    /// What waits for room on the disk is given up, now and from now on.
    pub(crate) fn give_up(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }

    /// Ends the writer after everything sent before.
    pub(crate) async fn stop(&self) {
        self.give_up();
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Stop { done }).await.is_ok() {
            let _ = ended.await;
        }
    }

    /// Says that everything up to `index` is applied.
    pub(crate) fn applied(&self, index: u64) {
        let mut state = self.shared.lock();
        state.applied = state.applied.max(index);
        state.forget_old();
    }

    /// Bytes appended since the log was opened.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.shared.lock().appended_bytes
    }

    /// Whether a write waits for room on the disk, and each change of that.
    pub(crate) fn full(&self) -> watch::Receiver<bool> {
        self.shared.full.subscribe()
    }

    /// Whether the batch was taken into the log.
    pub(crate) fn took_batch(&self, batch: u64) -> bool {
        self.shared.lock().appended_batch >= batch
    }

    async fn order(&self, command: impl FnOnce(Reply) -> Command) -> Result<(), io::Error> {
        let (done, result) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?
    }
}

impl Shared {
    /// Does a write; as long as there is no room for it, again and again, until the log is stopped. What was taken into the
    /// log cannot be taken back, so waiting is all that can be done.
    fn patiently<T>(&self, mut write: impl FnMut() -> Result<T, DiskError>) -> Result<T, DiskError> {
        loop {
            match write() {
                Err(error) if error.is_full() && !self.stopping.load(Ordering::Relaxed) => {
                    if self.is_news(true) {
                        tracing::error!(%error, "no room for the raft log: changes of the cluster wait until there is some");
                    }
                    std::thread::sleep(FULL_PAUSE);
                }
                written => {
                    if self.is_news(false) && written.is_ok() {
                        tracing::info!("there is room for the raft log again");
                        keep_reserve(&self.place);
                    }
                    return written;
                }
            }
        }
    }

    /// A manager that was started on a full disk needs its vote to lead: for that room is kept.
    fn write_vote(&self, vote: StoredVote) -> Result<(), DiskError> {
        match write_vote(&self.place, vote) {
            Err(error) if error.is_full() && release_reserve(&self.place) => write_vote(&self.place, vote),
            written => written,
        }
    }

    fn is_news(&self, full: bool) -> bool {
        self.full.send_if_modified(|known| std::mem::replace(known, full) != full)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn first_index(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    fn next_index(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }

    fn cache_first(&self) -> u64 {
        self.next_index() - self.cache.len() as u64
    }

    /// Keeps an entry that is the newest.
    fn remember(&mut self, entry: LogEntry, bytes: usize) {
        self.cache.push_back((entry, bytes));
        self.cache_bytes += bytes;
    }

    fn forget_old(&mut self) {
        let durable = self.first_index() + self.positions.len() as u64;
        while self.cache.len() > CACHE_ENTRIES || self.cache_bytes > CACHE_BYTES {
            let oldest = self.cache_first();
            if oldest > self.applied || oldest >= durable {
                break;
            }
            let Some((_, bytes)) = self.cache.pop_front() else { break };
            self.cache_bytes -= bytes;
        }
    }

    fn cut(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |id| id.index + 1);
        while self.next_index() > keep && !self.cache.is_empty() {
            if let Some((_, bytes)) = self.cache.pop_back() {
                self.cache_bytes -= bytes;
            }
            // `last` moves with the cache's end so that the cache's front stays where it is.
            let index = self.next_index() - 1;
            self.last = index.checked_sub(1).map(|index| log_id(0, index));
        }
        self.last = last;
        let first = self.first_index();
        self.positions.truncate(usize::try_from(keep.saturating_sub(first)).unwrap_or(usize::MAX));
    }

    fn purge(&mut self, upto: LogId) {
        let gone = (upto.index + 1).saturating_sub(self.first_index());
        self.positions.drain(..usize::try_from(gone).unwrap_or(usize::MAX).min(self.positions.len()));
        while !self.cache.is_empty() && self.cache_first() <= upto.index {
            if let Some((_, bytes)) = self.cache.pop_front() {
                self.cache_bytes -= bytes;
            }
        }
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index < upto.index) {
            self.last = Some(upto);
        }
    }
}

/// What one lookup has to do for an index.
enum Source {
    Memory(LogEntry),
    Disk(Position),
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let sources = self.shared.sources(&range);
        if sources.iter().all(|source| matches!(source, Source::Memory(_))) {
            return read_sources(sources, &self.shared.place);
        }
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || read_sources(sources, &shared.place)).await.map_err(io::Error::other)?
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.lock().vote)
    }
}

impl Shared {
    fn sources(&self, range: &impl RangeBounds<u64>) -> Vec<Source> {
        let state = self.lock();
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let (first, cached) = (state.first_index(), state.cache_first());
        let at = |index: u64, first: u64| usize::try_from(index - first).unwrap_or(usize::MAX);
        (start.max(first)..end.min(state.next_index()))
            .map_while(|index| {
                if index >= cached {
                    return state.cache.get(at(index, cached)).map(|(entry, _)| Source::Memory(entry.clone()));
                }
                state.positions.get(at(index, first)).cloned().map(Source::Disk)
            })
            .collect()
    }
}

fn read_sources(sources: Vec<Source>, place: &Place) -> Result<Vec<LogEntry>, io::Error> {
    let read = |source| match source {
        Source::Memory(entry) => Ok(entry),
        Source::Disk(position) => {
            let record = position.read(place).map_err(io::Error::other)?;
            entry_from_record(&record, place).map_err(io::Error::other)
        }
    };
    sources.into_iter().map(read).collect()
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.shared.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let stored =
            StoredVote { term: vote.leader_id.term, candidate: vote.leader_id.voted_for, committed: vote.committed };
        self.order(|done| Command::Vote { vote: stored, done }).await?;
        self.shared.lock().vote = Some(*vote);
        Ok(())
    }

    /// Kept in memory and written with the next records: a restarted manager finds at least what was committed before its
    /// last write.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = {
            let mut state = self.shared.lock();
            let committed = state.committed.map(|id| id.index);
            entries
                .into_iter()
                .map(|entry| {
                    let (kind, content) = encode_payload(&entry.payload);
                    let id = entry.log_id;
                    let header = RecordHeader { kind, term: id.leader_id.term, index: id.index, committed };
                    if let openraft::EntryPayload::Normal(data) = &entry.payload {
                        state.appended_batch = state.appended_batch.max(data.batch);
                    }
                    state.remember(entry, content.len());
                    state.last = Some(id);
                    state.appended_bytes += content.len() as u64;
                    Record { header, content }
                })
                .collect()
        };
        self.commands.send(Command::Append { records, done: callback }).await.map_err(|_| stopped())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.shared.lock().cut(last_log_id);
        let after = last_log_id.map(|id| LogRef { term: id.leader_id.term, index: id.index });
        self.order(|done| Command::Truncate { after, done }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.shared.lock().purge(log_id);
        let upto = LogRef { term: log_id.leader_id.term, index: log_id.index };
        self.order(|done| Command::Purge { upto, done }).await
    }
}

/// The thread that writes.
struct Writer {
    files: LogFiles,
    shared: Arc<Shared>,
    /// Another process may open the log when the writer is gone.
    _lock: Lock,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut next = queue.blocking_recv();
        while let Some(command) = next.take() {
            match command {
                Command::Append { mut records, done } => {
                    let mut waiting = vec![done];
                    // Whatever else waits to be appended goes along.
                    while records.len() < WRITE_RECORDS {
                        match queue.try_recv() {
                            Ok(Command::Append { records: more, done }) => {
                                records.extend(more);
                                waiting.push(done);
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    let result = self.append(&records);
                    for done in waiting {
                        done.io_completed(result.as_ref().map_err(again).copied());
                    }
                }
                Command::Vote { vote, done } => {
                    let _ = done.send(self.shared.patiently(|| self.shared.write_vote(vote)).map_err(io::Error::other));
                }
                Command::Truncate { after, done } => {
                    let _ = done.send(self.files.truncate_after(after).map_err(io::Error::other));
                }
                Command::Purge { upto, done } => {
                    let (files, shared) = (&mut self.files, &self.shared);
                    let _ = done.send(shared.patiently(|| files.purge(upto)).map_err(io::Error::other));
                }
                Command::Stop { done } => {
                    drop(self);
                    let _ = done.send(());
                    return;
                }
            }
            if next.is_none() {
                next = queue.blocking_recv();
            }
        }
    }

    fn append(&mut self, records: &[Record]) -> Result<(), io::Error> {
        let (files, shared) = (&mut self.files, &self.shared);
        let positions = shared.patiently(|| files.append(records)).map_err(|error| {
            tracing::error!(%error, "cannot write the raft log");
            io::Error::other(error)
        })?;
        let mut state = self.shared.lock();
        // Purged or cut meanwhile: only what still follows is of interest.
        let next = state.first_index() + state.positions.len() as u64;
        let wanted = records.iter().zip(positions).filter(|(record, _)| record.header.index >= next);
        let wanted: Vec<Position> = wanted.map(|(_, position)| position).collect();
        state.positions.extend(wanted);
        state.forget_old();
        Ok(())
    }
}

fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the raft log's writer has stopped")
}

fn vote_from_stored(stored: &StoredVote) -> Vote {
    if stored.committed {
        Vote::new_committed(stored.term, stored.candidate)
    } else {
        Vote::new(stored.term, stored.candidate)
    }
}

fn entry_from_record(record: &Record, place: &Place) -> Result<LogEntry, DiskError> {
    let RecordHeader { kind, term, index, .. } = record.header;
    let payload = decode_payload(kind, &record.content)
        .ok_or_else(|| DiskError::damaged(&place.directory, index, Damage::Content))?;
    Ok(LogEntry { log_id: log_id(term, index), payload })
}
