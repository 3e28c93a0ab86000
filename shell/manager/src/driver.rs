//! Drives the control loops: steps each on what was committed, proposes what it plans.
//!
//! ```text
//!   commits ──▶ every loop steps at once ──▶ proposals of all, not waiting for each other ──▶ group commit
//!      ▲                                                                                         │
//!      └─────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A loop may be stepped again while its plans are on their way. When one of its groups is refused it is stepped with
//! [`Event::Reset`], but not before all its proposals have an outcome and are in its view: it forgets what it proposed, and
//! must not propose it twice.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use skep_control::{ControlLoop, Env};
use skep_model::ClusterTime;
use skep_raft::{Committed, Machine as _, Next, ProposeError, Raft, Subscription};
use skep_store::{ChangeSet, Event, Outcome, Proposal, State};

use crate::StoreMachine;
use crate::leading::{Envs, Term};

/// Proposals of control loops that may wait for their outcome at once. More stay here, and no loop is stepped meanwhile.
const IN_FLIGHT_MAX: usize = 64;
/// Groups in one proposal at most.
const GROUPS_MAX: usize = 256;
/// Bytes in one proposal at most, unless a single group has more.
const BYTES_MAX: usize = 512 << 10;
/// Events kept for a loop that cannot be stepped; with more it looks at everything instead.
const EVENTS_MAX: usize = 100_000;
/// Least time between two steps that only the clock asked for.
const TICK_MIN: Duration = Duration::from_millis(1);
/// Pause of a loop whose proposal found the queue full.
const BUSY_DELAY: Duration = Duration::from_millis(50);
/// Pause of a loop that proposed something that can never be committed.
const HOPELESS_DELAY: Duration = Duration::from_secs(10);

/// A control loop that may move between threads.
pub(crate) type Loop = Box<dyn ControlLoop + Send>;

/// The control loops of a leader, without memory.
pub(crate) fn control_loops() -> Vec<Loop> {
    vec![
        Box::new(skep_orchestrator::Orchestrator::default()),
        Box::new(skep_allocator::Allocator::default()),
        Box::new(skep_scheduler::Scheduler::default()),
    ]
}

/// Drives loops until the leadership ends or a proposal's fate is unknown.
pub(crate) async fn drive(raft: Raft<StoreMachine>, loops: Vec<Loop>, mut term: Term) {
    let (published, subscription) = raft.subscribe();
    let seats = loops.into_iter().map(Seat::new).collect();
    let mut driver = Driver {
        raft,
        envs: Envs::new(),
        seats,
        view: published.state.clone(),
        subscription,
        waiting: VecDeque::new(),
        in_flight: FuturesUnordered::new(),
    };
    tokio::select! {
        biased;
        () = term.ended() => {}
        () = driver.run() => tracing::warn!("the outcome of a plan is unknown, control loops begin anew"),
    }
}

/// A loop with what it must see next.
struct Seat {
    control: Loop,
    events: Vec<Event>,
    needs_reset: bool,
    /// Proposals without outcome.
    outstanding: usize,
    /// Index of the newest entry with one of its proposals.
    settled: u64,
    wake_at: Option<ClusterTime>,
    not_before: Option<Instant>,
}

impl Seat {
    fn new(control: Loop) -> Self {
        Self {
            control,
            events: Vec::new(),
            needs_reset: true,
            outstanding: 0,
            settled: 0,
            wake_at: None,
            not_before: None,
        }
    }

    fn take_in(&mut self, events: &[Event]) {
        if self.needs_reset {
            return;
        }
        self.events.extend_from_slice(events);
        if self.events.len() > EVENTS_MAX {
            self.reset();
        }
    }

    fn reset(&mut self) {
        self.needs_reset = true;
        self.events.clear();
    }

    fn pause(&mut self, delay: Duration) {
        self.not_before = Some(Instant::now() + delay);
    }

    fn is_paused(&self) -> bool {
        self.not_before.is_some_and(|at| at > Instant::now())
    }

    /// What the loop must be stepped with now, if it must be.
    fn due(&mut self, view: &State, now: ClusterTime) -> Option<Vec<Event>> {
        if self.is_paused() {
            return None;
        }
        if self.needs_reset {
            let is_settled = self.outstanding == 0 && view.index() >= self.settled;
            return is_settled.then(|| vec![Event::Reset]);
        }
        let is_woken = self.wake_at.is_some_and(|at| at <= now);
        (is_woken || !self.events.is_empty()).then(|| std::mem::take(&mut self.events))
    }

    /// Steps the loop; answers with what it wants to propose.
    fn step(&mut self, view: &State, events: &[Event], env: &mut Env) -> ChangeSet {
        self.needs_reset = false;
        self.not_before = None;
        let plan = self.control.step(view, events, env);
        for note in &plan.notes {
            tracing::debug!(control_loop = self.control.name(), "{note}");
        }
        self.wake_at = plan.wake_at;
        plan.changes
    }
}

type Fate = (usize, Result<Committed<Outcome>, ProposeError>);

struct Driver {
    raft: Raft<StoreMachine>,
    envs: Envs,
    seats: Vec<Seat>,
    view: State,
    subscription: Subscription<StoreMachine>,
    /// Proposals that wait for room, with their loop.
    waiting: VecDeque<(usize, Proposal)>,
    in_flight: FuturesUnordered<BoxFuture<'static, Fate>>,
}

impl Driver {
    /// Runs until the outcome of a proposal is not known.
    async fn run(&mut self) {
        loop {
            if self.waiting.is_empty() {
                self.step();
            }
            self.feed();
            let sleep = self.sleep();
            tokio::select! {
                biased;
                next = self.subscription.next() => self.take_in(next),
                Some(fate) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    if self.settle(fate).is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
            }
            while let Some(next) = self.subscription.try_next() {
                self.take_in(next);
            }
            while let Some(Some(fate)) = self.in_flight.next().now_or_never() {
                if self.settle(fate).is_err() {
                    return;
                }
            }
        }
    }

    fn take_in(&mut self, next: Next<StoreMachine>) {
        match next {
            Next::Commit(commit) => {
                self.view = commit.state.clone();
                self.seats.iter_mut().for_each(|seat| seat.take_in(&commit.events));
            }
            Next::Reset(published) => {
                self.view = published.state.clone();
                self.seats.iter_mut().for_each(Seat::reset);
            }
        }
    }

    /// Steps every loop that has something to see, all on the same view.
    fn step(&mut self) {
        for place in 0..self.seats.len() {
            let mut env = self.envs.now(&self.raft);
            let seat = &mut self.seats[place];
            if let Some(events) = seat.due(&self.view, env.now) {
                let changes = seat.step(&self.view, &events, &mut env);
                for proposal in proposals(changes) {
                    seat.outstanding += 1;
                    self.waiting.push_back((place, proposal));
                }
            }
        }
    }

    /// Hands waiting proposals to Raft while there is room.
    fn feed(&mut self) {
        while self.in_flight.len() < IN_FLIGHT_MAX
            && let Some((place, proposal)) = self.waiting.pop_front()
        {
            let raft = self.raft.clone();
            self.in_flight.push(async move { (place, raft.propose(proposal).await) }.boxed());
        }
    }

    /// Notes an outcome; an error says that what was committed is not known.
    fn settle(&mut self, (place, result): Fate) -> Result<(), ()> {
        let seat = &mut self.seats[place];
        let name = seat.control.name();
        seat.outstanding -= 1;
        match result {
            Ok(committed) => {
                seat.settled = seat.settled.max(committed.index);
                for rejection in committed.outcome.groups.iter().filter_map(|group| group.as_ref().err()) {
                    tracing::debug!(control_loop = name, %rejection, "part of a plan was refused");
                    seat.reset();
                }
            }
            Err(ProposeError::Busy) => {
                tracing::debug!(control_loop = name, "a plan found the queue full");
                seat.reset();
                seat.pause(BUSY_DELAY);
            }
            Err(error @ ProposeError::TooLarge { .. }) => {
                tracing::error!(control_loop = name, %error, "a plan cannot be committed");
                seat.reset();
                seat.pause(HOPELESS_DELAY);
            }
            Err(ProposeError::NotLeader | ProposeError::OutcomeUnknown | ProposeError::Stopped) => return Err(()),
        }
        Ok(())
    }

    /// How long until the clock asks for a step.
    fn sleep(&self) -> Option<Duration> {
        let (now, instant) = (self.raft.cluster_time(), Instant::now());
        let until = |seat: &Seat| {
            let woken = seat.wake_at.filter(|_| !seat.needs_reset).map(|at| at.since(now));
            let paused = seat.not_before.filter(|at| *at > instant).map(|at| at - instant);
            match (woken, paused) {
                (Some(woken), Some(paused)) => Some(woken.max(paused)),
                (woken, paused) => woken.or(paused),
            }
        };
        self.seats.iter().filter_map(until).min().map(|sleep| sleep.max(TICK_MIN))
    }
}

/// Cuts a plan into proposals of a size that Raft takes; its groups stay whole and in order.
pub(crate) fn proposals(changes: ChangeSet) -> Vec<Proposal> {
    let mut proposals = Vec::new();
    let (mut current, mut bytes) = (ChangeSet::new(), 0);
    for group in changes {
        let one = Proposal { change_set: vec![group] };
        let size = StoreMachine::proposal_size(&one);
        if !current.is_empty() && (current.len() >= GROUPS_MAX || bytes + size > BYTES_MAX) {
            proposals.push(Proposal { change_set: std::mem::take(&mut current) });
            bytes = 0;
        }
        current.extend(one.change_set);
        bytes += size;
    }
    if !current.is_empty() {
        proposals.push(Proposal { change_set: current });
    }
    proposals
}

#[cfg(test)]
mod tests;
