//! What was committed, for everybody else: the newest state without waiting, and a bounded stream of commits.
//!
//! The one writer never waits for a reader. A reader of the state takes a reference; a subscriber that cannot keep up loses
//! its place and is told to look at everything again.

use std::sync::Arc;

use arc_swap::ArcSwap;
use skep_model::ClusterTime;
use tokio::sync::{broadcast, watch};

use crate::machine::Machine;

/// The newest applied state.
pub struct Published<M: Machine> {
    /// Index of the newest applied log entry; 0 before the first.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The newest committed cluster time.
    pub time: ClusterTime,
    /// The state after that entry.
    pub state: M::State,
}

/// One committed entry's effect.
pub struct Commit<M: Machine> {
    /// Index of the log entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Its cluster time.
    pub time: ClusterTime,
    /// The state after it.
    pub state: M::State,
    /// What it changed.
    pub events: Vec<M::Event>,
}

/// The outcome of one proposal and the index of the entry it was part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed<O> {
    /// Index of the log entry.
    pub index: u64,
    /// What became of the proposal.
    pub outcome: O,
}

/// What a subscriber gets.
pub enum Next<M: Machine> {
    /// The next commit.
    Commit(Arc<Commit<M>>),
    /// The subscriber was too slow, and commits were dropped: here is the state to start over from.
    Reset(Arc<Published<M>>),
}

/// Where commits come out; written by the state machine alone.
pub(crate) struct Publisher<M: Machine> {
    current: ArcSwap<Published<M>>,
    index: watch::Sender<u64>,
    /// A commit, or nothing when the state came about otherwise.
    commits: broadcast::Sender<Option<Arc<Commit<M>>>>,
}

impl<M: Machine> Publisher<M> {
    pub(crate) fn new(first: Published<M>, buffer: usize) -> Arc<Publisher<M>> {
        let (index, _) = watch::channel(first.index);
        Arc::new(Publisher { current: ArcSwap::from_pointee(first), index, commits: broadcast::Sender::new(buffer) })
    }

    pub(crate) fn current(&self) -> Arc<Published<M>> {
        self.current.load_full()
    }

    /// Publishes the state after an entry; `events` is `None` for entries that are Raft's own.
    pub(crate) fn publish(&self, next: Published<M>, events: Option<Vec<M::Event>>) {
        let Published { index, term, time, .. } = next;
        let commit = events.map(|events| Commit { index, term, time, state: next.state.clone(), events });
        // The state first: who subscribes in between skips the commit as already seen.
        self.current.store(Arc::new(next));
        if let Some(commit) = commit {
            // Without subscribers there is nobody to tell.
            let _ = self.commits.send(Some(Arc::new(commit)));
        }
        self.index.send_replace(index);
    }

    /// Publishes a state that did not come about by entries: everybody starts over.
    pub(crate) fn publish_reset(&self, next: Published<M>) {
        self.publish(next, None);
        let _ = self.commits.send(None);
    }

    pub(crate) fn watch_index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    pub(crate) fn subscribe(self: &Arc<Self>) -> (Arc<Published<M>>, Subscription<M>) {
        let commits = self.commits.subscribe();
        let current = self.current();
        let subscription = Subscription { commits, seen: current.index, publisher: Arc::clone(self) };
        (current, subscription)
    }
}

/// A stream of commits in order, without gaps except where it says so.
pub struct Subscription<M: Machine> {
    commits: broadcast::Receiver<Option<Arc<Commit<M>>>>,
    seen: u64,
    publisher: Arc<Publisher<M>>,
}

impl<M: Machine> Subscription<M> {
    /// The next commit, or a reset when this subscriber lags more than the buffer behind. Waits while there is none; safe
    /// to cancel.
    pub async fn next(&mut self) -> Next<M> {
        loop {
            match self.commits.recv().await {
                Ok(Some(commit)) if commit.index <= self.seen => {}
                Ok(Some(commit)) => {
                    self.seen = commit.index;
                    return Next::Commit(commit);
                }
                Ok(None) | Err(broadcast::error::RecvError::Lagged(_)) => return self.reset(),
                // The publisher is held by this subscription, so its channel is not closed.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// The next commit if there is one already.
    pub fn try_next(&mut self) -> Option<Next<M>> {
        loop {
            match self.commits.try_recv() {
                Ok(Some(commit)) if commit.index <= self.seen => {}
                Ok(Some(commit)) => {
                    self.seen = commit.index;
                    return Some(Next::Commit(commit));
                }
                Ok(None) | Err(broadcast::error::TryRecvError::Lagged(_)) => return Some(self.reset()),
                Err(_) => return None,
            }
        }
    }

    fn reset(&mut self) -> Next<M> {
        let (current, subscription) = self.publisher.subscribe();
        *self = subscription;
        Next::Reset(current)
    }
}
