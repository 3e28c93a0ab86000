//! Group commit: proposals that arrive while an entry is on its way to disk become the next entry.
//!
//! One entry is in flight at a time. A lone proposer so pays one append and one sync; many share them. The queue is
//! bounded; at its bound a proposal is refused at once and nothing waits.

use std::sync::{Arc, Mutex, PoisonError};

use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::error::ProposeError;
use crate::leadership::Leadership;
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::publish::{Committed, Publisher};
use crate::time::TimeKeeper;
use crate::types::{LogData, TypeConfig};

pub(crate) type Answer<M> = oneshot::Sender<Result<Committed<<M as Machine>::Outcome>, ProposeError>>;

/// A proposal in the queue.
pub(crate) struct Queued<M: Machine> {
    pub(crate) proposal: M::Proposal,
    pub(crate) size: usize,
    pub(crate) answer: Answer<M>,
}

/// An entry of this manager on its way, with those who wait for it.
pub(crate) struct Batch<M: Machine> {
    number: u64,
    pub(crate) entry: M::Entry,
    answers: Vec<Answer<M>>,
}

impl<M: Machine> Batch<M> {
    /// Gives each proposer its outcome.
    pub(crate) fn answer(self, index: u64, outcomes: Vec<M::Outcome>) {
        let mut outcomes = outcomes.into_iter();
        for answer in self.answers {
            let result = match outcomes.next() {
                Some(outcome) => Ok(Committed { index, outcome }),
                // The machine broke its promise of one outcome a proposal.
                None => Err(ProposeError::OutcomeUnknown),
            };
            // Whoever went away does not want to know.
            let _ = answer.send(result);
        }
    }

    fn refuse(self, error: &ProposeError) {
        for answer in self.answers {
            let _ = answer.send(Err(error.clone()));
        }
    }
}

/// The batch in flight: put by the batcher, taken by the state machine when its entry is committed, so that the entry need
/// not be decoded again.
pub(crate) struct InFlight<M: Machine>(Mutex<Option<Batch<M>>>);

impl<M: Machine> InFlight<M> {
    pub(crate) fn new() -> InFlight<M> {
        InFlight(Mutex::new(None))
    }

    fn put(&self, batch: Batch<M>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch);
    }

    /// Takes the batch with this number; other numbers came from elsewhere.
    pub(crate) fn take(&self, number: u64) -> Option<Batch<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take_if(|batch| batch.number == number)
    }
}

/// The task that makes batches.
pub(crate) struct Batcher<M: Machine> {
    pub(crate) config: Config,
    pub(crate) raft: openraft::Raft<TypeConfig, crate::state_machine::StateMachine<M>>,
    pub(crate) log: LogStore,
    pub(crate) queue: mpsc::Receiver<Queued<M>>,
    pub(crate) in_flight: Arc<InFlight<M>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) publisher: Arc<Publisher<M>>,
    pub(crate) time: Arc<TimeKeeper>,
}

impl<M: Machine> Batcher<M> {
    /// Runs until the queue is closed.
    pub(crate) async fn run(mut self) {
        let mut number = 0;
        let mut left_over = None;
        loop {
            let first = match left_over.take() {
                Some(queued) => queued,
                None => match self.queue.recv().await {
                    Some(queued) => queued,
                    None => return,
                },
            };
            let (proposals, answers) = self.collect(first, &mut left_over);
            number += 1;
            self.commit(number, proposals, answers).await;
        }
    }

    /// Takes what waits, up to the limits; a proposal that does not fit is left over for the next batch.
    fn collect(&mut self, first: Queued<M>, left_over: &mut Option<Queued<M>>) -> (Vec<M::Proposal>, Vec<Answer<M>>) {
        let mut bytes = first.size;
        let (mut proposals, mut answers) = (vec![first.proposal], vec![first.answer]);
        while proposals.len() < self.config.batch_proposals_max {
            let Ok(queued) = self.queue.try_recv() else { break };
            if bytes + queued.size > self.config.batch_bytes_max {
                *left_over = Some(queued);
                break;
            }
            bytes += queued.size;
            proposals.push(queued.proposal);
            answers.push(queued.answer);
        }
        (proposals, answers)
    }

    async fn commit(&self, number: u64, proposals: Vec<M::Proposal>, answers: Vec<Answer<M>>) {
        let refused = match *self.leadership.borrow() {
            Leadership::Leading { .. } => None,
            Leadership::Following => Some(ProposeError::NotLeader),
            Leadership::Stopped => Some(ProposeError::Stopped),
        };
        if let Some(error) = refused {
            answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone()))));
            return;
        }
        let time = self.time.now(self.publisher.current().time);
        let entry = M::entry(time, self.time.wall(), proposals);
        let data = LogData { batch: number, time, bytes: M::encode_entry(&entry).into() };
        self.in_flight.put(Batch { number, entry, answers });
        let result = self.raft.client_write(data).await;
        // Normally the state machine has taken it and answered.
        if let Some(batch) = self.in_flight.take(number) {
            let error = match result {
                _ if self.log.took_batch(number) => ProposeError::OutcomeUnknown,
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => ProposeError::NotLeader,
                Err(RaftError::Fatal(_)) => ProposeError::Stopped,
                Err(RaftError::APIError(_)) | Ok(_) => ProposeError::OutcomeUnknown,
            };
            batch.refuse(&error);
        }
    }
}
