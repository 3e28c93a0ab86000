//! The leader: drives the loops and the dispatcher as the manager crate does, and dies when told to.
//!
//! A loop that had a group refused is stepped with `Reset`, but not before everything it has proposed is answered: a loop that
//! has forgotten what is on its way would propose it twice.

use std::collections::BTreeMap;

use skep_allocator::Allocator;
use skep_control::ControlLoop;
use skep_dispatcher::{AssignmentsMessage, Dispatcher, Output};
use skep_model::SessionId;
use skep_orchestrator::Orchestrator;
use skep_scheduler::Scheduler;
use skep_store::{Change, Event, State};

use crate::node::{Call, Message};
use crate::parts::parts_of;
use crate::sim::{From, MILLI, SECOND, Sim, What};

struct Seat {
    control_loop: Box<dyn ControlLoop>,
    events: Vec<Event>,
    in_flight: u32,
    needs_reset: bool,
    next_step: Option<u64>,
}

/// One manager's time as leader.
pub(crate) struct Leader {
    pub(crate) term: u64,
    seats: Vec<Seat>,
    dispatcher: Dispatcher,
    dispatcher_events: Vec<Event>,
    dispatcher_next: Option<u64>,
    /// The connection that a session's session stream goes by.
    sessions: BTreeMap<SessionId, (usize, u64)>,
    /// The connection that a session's assignments stream goes by.
    streams: BTreeMap<SessionId, (usize, u64)>,
}

fn fresh_loop(which: usize) -> Box<dyn ControlLoop> {
    match which {
        0 => Box::new(Orchestrator::default()),
        1 => Box::new(Allocator::default()),
        _ => Box::new(Scheduler::default()),
    }
}

/// How many loops there are.
pub(crate) const LOOPS: usize = 3;

impl Leader {
    pub(crate) fn new(term: u64) -> Self {
        let seat = |which| Seat {
            control_loop: fresh_loop(which),
            events: Vec::new(),
            in_flight: 0,
            needs_reset: true,
            next_step: None,
        };
        Self {
            term,
            seats: (0..LOOPS).map(seat).collect(),
            dispatcher: Dispatcher::new(),
            dispatcher_events: vec![Event::Reset],
            dispatcher_next: None,
            sessions: BTreeMap::new(),
            streams: BTreeMap::new(),
        }
    }

    pub(crate) fn name_of(&self, which: usize) -> &'static str {
        self.seats[which].control_loop.name()
    }

    /// True when a loop waits for an answer.
    pub(crate) fn is_busy(&self) -> bool {
        self.seats.iter().any(|seat| seat.in_flight > 0)
    }
}

impl Sim {
    pub(crate) fn start_leader(&mut self) {
        for which in 0..LOOPS {
            self.request_step(which, self.now + 1);
        }
        self.request_dispatcher_step(self.now + 1);
    }

    fn request_step(&mut self, which: usize, at: u64) {
        let at = at.max(self.now);
        let term = self.leader.term;
        let seat = &mut self.leader.seats[which];
        if seat.next_step.is_none_or(|next| at < next) {
            seat.next_step = Some(at);
            self.at(at, What::StepLoop { term, which });
        }
    }

    fn request_dispatcher_step(&mut self, at: u64) {
        let at = at.max(self.now);
        let term = self.leader.term;
        if self.leader.dispatcher_next.is_none_or(|next| at < next) {
            self.leader.dispatcher_next = Some(at);
            self.at(at, What::StepDispatcher { term });
        }
    }

    pub(crate) fn tell_leader(&mut self, events: &[Event]) {
        if self.nodes.is_empty() || events.is_empty() {
            return;
        }
        for which in 0..LOOPS {
            self.leader.seats[which].events.extend(events.iter().cloned());
            let pause = self.between(0, MILLI);
            self.request_step(which, self.now + pause);
        }
        self.leader.dispatcher_events.extend(events.iter().cloned());
        let pause = self.between(0, MILLI);
        self.request_dispatcher_step(self.now + pause);
    }

    pub(crate) fn step_loop(&mut self, term: u64, which: usize, at: u64) {
        if term != self.leader.term || self.leader.seats[which].next_step != Some(at) {
            return;
        }
        self.leader.seats[which].next_step = None;
        let waits = self.leader.seats[which].in_flight > 0;
        if waits && (self.leader.seats[which].needs_reset || self.chance(70)) {
            return; // the answer brings the next step
        }
        let mut env = self.env();
        let seat = &mut self.leader.seats[which];
        let mut events = std::mem::take(&mut seat.events);
        if std::mem::take(&mut seat.needs_reset) {
            events = vec![Event::Reset];
        }
        let plan = seat.control_loop.step(&self.state, &events, &mut env);
        if !plan.changes.is_empty() {
            seat.in_flight += 1;
            self.propose(From::Loop(which), plan.changes);
        }
        if let Some(at) = plan.wake_at {
            self.request_step(which, at.0.max(self.now + 1));
        }
    }

    pub(crate) fn loop_was_answered(&mut self, which: usize, was_refused: bool) {
        let seat = &mut self.leader.seats[which];
        seat.in_flight = seat.in_flight.saturating_sub(1);
        seat.needs_reset |= was_refused;
        self.request_step(which, self.now + MILLI / 10);
    }

    pub(crate) fn step_dispatcher(&mut self, term: u64, at: u64) {
        if term != self.leader.term || self.leader.dispatcher_next != Some(at) {
            return;
        }
        self.leader.dispatcher_next = None;
        let mut env = self.env();
        let events = std::mem::take(&mut self.leader.dispatcher_events);
        let (outputs, wake_at) = self.leader.dispatcher.step(&self.state, &events, &mut env);
        for output in outputs {
            match output {
                Output::Propose(change_set) => self.propose(From::Dispatcher, change_set),
                Output::SessionMessage(..) => {}
                Output::Assignments(session, message) => self.send_assignments(session, message),
                Output::End(session) => self.send_to_session(session, Message::Refused("session ended".to_owned())),
            }
        }
        if let Some(at) = wake_at {
            self.request_dispatcher_step(at.0.max(self.now + 1));
        }
    }

    fn send_assignments(&mut self, session: SessionId, message: AssignmentsMessage) {
        if let Some((node, link)) = self.leader.streams.get(&session).copied() {
            self.send_to_node(node, link, Message::Assignments(message));
        }
    }

    fn send_to_session(&mut self, session: SessionId, message: Message) {
        if let Some((node, link)) = self.leader.sessions.get(&session).copied() {
            self.send_to_node(node, link, message);
        }
    }

    /// A node's call arrives.
    pub(crate) fn at_manager(&mut self, node: usize, link: u64, call: Call) {
        if self.nodes[node].link != link {
            return; // the connection it came by is gone
        }
        let mut env = self.env();
        let id = self.nodes[node].id;
        let answer = match call {
            Call::Register { previous } => {
                let (description, address) = self.nodes[node].introduction();
                let dispatcher = &mut self.leader.dispatcher;
                match dispatcher.register(&self.state, &mut env, id, description, address, previous) {
                    Err(refusal) => Err(refusal),
                    Ok(registration) => {
                        self.leader.sessions.insert(registration.session, (node, link));
                        if registration.changes.is_empty() {
                            Ok(Some(Message::Session(registration.session)))
                        } else {
                            let from = From::Registration { node, link, session: registration.session };
                            self.propose(from, registration.changes);
                            Ok(None)
                        }
                    }
                }
            }
            Call::Heartbeat(session) => self
                .leader
                .dispatcher
                .heartbeat(&self.state, &mut env, id, session)
                .map(|period| Some(Message::Beat(period))),
            Call::OpenAssignments(session) => {
                self.leader.streams.insert(session, (node, link));
                let opened = self.leader.dispatcher.open_assignments(&self.state, id, session);
                opened.map(|complete| Some(Message::Assignments(complete)))
            }
            Call::Report(session, updates) => {
                self.leader.dispatcher.report(&self.state, id, session, updates).map(|changes| {
                    if !changes.is_empty() {
                        self.propose(From::Report, changes);
                    }
                    None
                })
            }
        };
        match answer {
            Ok(Some(message)) => self.send_to_node(node, link, message),
            Ok(None) => {}
            Err(refusal) => self.send_to_node(node, link, Message::Refused(refusal.to_string())),
        }
        // A session may have a nearer deadline than the dispatcher has asked for.
        self.request_dispatcher_step(self.now + SECOND);
    }

    /// One loop loses its memory, once nothing of it is on its way.
    pub(crate) fn forget_loop(&mut self, which: usize) {
        if self.leader.seats[which].in_flight == 0 {
            self.say(|| format!("loop {which} loses its memory"));
            let seat = &mut self.leader.seats[which];
            seat.control_loop = fresh_loop(which);
            seat.needs_reset = true;
            self.request_step(which, self.now + 1);
        }
    }

    /// The leader dies: some of what was on its way commits, the rest is lost. The next one starts from a snapshot.
    pub(crate) fn change_leader(&mut self) {
        let proposals = self.take_proposals();
        let survivors = usize::try_from(self.rng.below(proposals.len() as u64 + 1)).unwrap_or(0);
        self.say(|| format!("leader dies, {survivors} of {} proposals survive", proposals.len()));
        for (from, change_set) in proposals.into_iter().take(survivors) {
            self.commit(from, change_set);
        }
        match State::restore(parts_of(&self.state)) {
            Ok(restored) => self.state = restored,
            Err(error) => self.violations.push(format!("a snapshot does not restore: {error}")),
        }
        self.leader = Leader::new(self.leader.term + 1);
        self.start_leader();
        for node in 0..self.nodes.len() {
            self.break_link(node);
        }
    }

    /// What a loop without memory would do now. Why a task waits may be put in other words: nobody is told again just
    /// because a node that did not fit is now full, too.
    pub(crate) fn fresh_plans(&mut self) -> Vec<String> {
        let mut plans = Vec::new();
        for which in 0..LOOPS {
            let mut env = self.env();
            let mut plan = fresh_loop(which).step(&self.state, &[Event::Reset], &mut env);
            plan.changes.retain(|group| !matches!(group.changes[..], [Change::Place { node: None, .. }]));
            if !plan.changes.is_empty() {
                plans.push(format!("a fresh {} still wants {:?}", self.leader.name_of(which), plan.changes));
            }
        }
        plans
    }
}
