//! The world: a clock, a queue of what will happen, the log, and everybody who takes part.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_admission::{Principal, Request};
use skep_control::{Env, Rng};
use skep_model::{
    ClusterId, ClusterSpec, ClusterTime, NodeCertificate, NodeRole, ObjectId, RootCa, ServiceId, SessionId, TaskId,
    WallTime,
};
use skep_store::{Change, ChangeSet, Entry, NewCluster, NewNetwork, NewNode, Proposal, State, apply};

use crate::invariants::{self, Commit, History};
use crate::manager::Leader;
use crate::node::{Call, Message, SimNode};
use crate::{Config, Failure, Summary};

/// Who proposed something, and what hangs on it.
#[derive(Debug, Clone)]
pub(crate) enum From {
    Loop(usize),
    Dispatcher,
    User(Box<Request>, Option<ServiceId>),
    Registration { node: usize, link: u64, session: SessionId },
    Report,
}

/// What will happen.
#[derive(Debug)]
pub(crate) enum What {
    StepLoop { term: u64, which: usize },
    StepDispatcher { term: u64 },
    Commit { term: u64, from: From, change_set: ChangeSet },
    AtManager { node: usize, link: u64, call: Call },
    AtNode { node: usize, link: u64, message: Message },
    Connect { node: usize, incarnation: u64 },
    Beat { node: usize, link: u64 },
    AgentTick { node: usize, incarnation: u64 },
    OperationEnds { node: usize, incarnation: u64, task: TaskId, number: u64 },
    ContainerExits { node: usize, task: TaskId, code: i32 },
    NodeStarts { node: usize },
    Reconnectable { node: usize },
    Chaos,
}

pub(crate) struct Sim {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), What>,
    pub(crate) state: State,
    pub(crate) leader: Leader,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) history: History,
    pub(crate) summary: Summary,
    pub(crate) violations: Vec<String>,
    pub(crate) services_made: u64,
    /// When the last proposal of each proposer reaches the log: they keep their order.
    tails: BTreeMap<u8, u64>,
    pub(crate) is_healing: bool,
    trace: Option<Vec<String>>,
}

pub(crate) const MILLI: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLI;

impl Sim {
    pub(crate) fn new(config: Config, is_traced: bool) -> Self {
        let mut sim = Self {
            config,
            rng: Rng::seeded(config.seed),
            now: SECOND,
            sequence: 0,
            queue: BTreeMap::new(),
            state: State::default(),
            leader: Leader::new(1),
            nodes: Vec::new(),
            history: History::default(),
            summary: Summary::default(),
            violations: Vec::new(),
            services_made: 0,
            tails: BTreeMap::new(),
            is_healing: false,
            trace: is_traced.then(Vec::new),
        };
        sim.found_cluster();
        sim
    }

    fn found_cluster(&mut self) {
        let cluster = NewCluster {
            id: ClusterId::from_random([3; 17]),
            spec: ClusterSpec::default(),
            root_ca: RootCa::default(),
            address_pools: Vec::new(),
            subnet_size: 24,
            data_path_port: 4789,
        };
        self.commit(From::Report, vec![Change::CreateCluster(Box::new(cluster)).into()]);
        let ingress = NewNetwork {
            id: skep_model::NetworkId::from_random([3; 17]),
            spec: skep_model::NetworkSpec::ingress().into(),
        };
        self.commit(From::Report, vec![Change::CreateNetwork(Box::new(ingress)).into()]);
        let count = 1 + self.rng.below(5);
        for number in 0..count {
            let node = SimNode::new(number, &mut self.rng);
            let new = NewNode {
                id: node.id,
                role: if number == 0 { NodeRole::Manager } else { NodeRole::Worker },
                availability: skep_model::Availability::Active,
                certificate: NodeCertificate::default(),
                manager: (number == 0)
                    .then(|| skep_model::ManagerAddress { raft_id: 1, address: "10.0.0.1:2377".to_owned() }),
            };
            self.commit(From::Report, vec![Change::CreateNode(Box::new(new)).into()]);
            let id = node.id;
            self.nodes.push(node);
            let labels = [("zone".to_owned(), if number % 2 == 0 { "a" } else { "b" }.to_owned())];
            let stored = self.state.node(id).expect("it was just created").clone();
            let spec = skep_model::NodeSpec { labels: labels.into(), ..stored.spec.clone() };
            let change = Change::SetNodeSpec { node: id, expect: stored.meta.version, spec };
            self.commit(From::Report, vec![change.into()]);
            self.at(self.now + 1, What::NodeStarts { node: usize::try_from(number).expect("few nodes") });
        }
        self.start_leader();
        self.after(SECOND, What::Chaos);
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Result<Summary, Failure> {
        let mut steps_left = self.config.steps;
        while self.violations.is_empty() && steps_left > 0 {
            if matches!(self.advance(), Some(What::Chaos)) {
                steps_left -= 1;
                self.chaos();
                let pause = self.between(10 * MILLI, 4 * SECOND);
                self.after(pause, What::Chaos);
            }
        }
        if self.violations.is_empty() {
            self.converge();
        }
        if self.violations.is_empty() {
            return Ok(self.summary);
        }
        Err(Failure { seed: self.config.seed, violations: self.violations, trace: self.trace.unwrap_or_default() })
    }

    fn chaos(&mut self) {
        if self.rng.below(100) < 60 {
            self.user_acts();
        } else {
            self.fault_strikes();
        }
    }

    /// Lets the next thing happen; returns what others must do.
    pub(crate) fn advance(&mut self) -> Option<What> {
        let ((at, _), what) = self.queue.pop_first()?;
        self.now = self.now.max(at);
        match what {
            What::StepLoop { term, which } => self.step_loop(term, which, at),
            What::StepDispatcher { term } => self.step_dispatcher(term, at),
            What::Commit { term, from, change_set } => {
                if term == self.leader.term {
                    self.commit(from, change_set);
                }
            }
            What::AtManager { node, link, call } => self.at_manager(node, link, call),
            What::AtNode { node, link, message } => self.at_node(node, link, message),
            What::Connect { node, incarnation } => self.connect(node, incarnation),
            What::Beat { node, link } => self.beat(node, link),
            What::AgentTick { node, incarnation } => self.agent_tick(node, incarnation),
            What::OperationEnds { node, incarnation, task, number } => {
                self.operation_ends(node, incarnation, task, number);
            }
            What::ContainerExits { node, task, code } => self.container_exits(node, task, code),
            What::NodeStarts { node } => self.node_starts(node),
            What::Reconnectable { node } => self.nodes[node].is_cut = false,
            What::Chaos => return Some(What::Chaos),
        }
        None
    }

    pub(crate) fn next_at(&self) -> Option<u64> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    pub(crate) fn at(&mut self, at: u64, what: What) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), what);
    }

    pub(crate) fn after(&mut self, delay: u64, what: What) {
        self.at(self.now + delay, what);
    }

    /// A number from `low` to `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.rng.below(high - low + 1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.rng.below(100) < percent
    }

    pub(crate) fn env(&mut self) -> Env {
        Env { now: ClusterTime(self.now), wall: wall(self.now), rng: Rng::seeded(self.rng.number()) }
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let millis = self.now / MILLI;
            trace.push(format!("{:>6}.{:03} {}", millis / 1000, millis % 1000, line()));
        }
    }

    /// Sends something to the log; it arrives later, behind what the same proposer sent before.
    pub(crate) fn propose(&mut self, from: From, change_set: ChangeSet) {
        let proposer = match &from {
            From::Loop(which) => u8::try_from(*which).expect("few loops"),
            From::Dispatcher => 10,
            From::User(..) => 11,
            From::Registration { .. } => 12,
            From::Report => 13,
        };
        let is_slow = !self.is_healing && self.chance(5);
        let delay = if is_slow { self.between(100 * MILLI, 5 * SECOND) } else { self.between(MILLI / 10, 2 * MILLI) };
        let tail = self.tails.entry(proposer).or_default();
        let at = (*tail + 1).max(self.now + delay);
        *tail = at;
        self.at(at, What::Commit { term: self.leader.term, from, change_set });
    }

    /// What is on its way to the log, taken out, in the order it would arrive.
    pub(crate) fn take_proposals(&mut self) -> Vec<(From, ChangeSet)> {
        let term = self.leader.term;
        let keys: Vec<_> = self
            .queue
            .iter()
            .filter(|(_, what)| matches!(what, What::Commit { term: of, .. } if *of == term))
            .map(|(key, _)| *key)
            .collect();
        let taken = keys.into_iter().filter_map(|key| self.queue.remove(&key));
        let proposals = taken.filter_map(|what| match what {
            What::Commit { from, change_set, .. } => Some((from, change_set)),
            _ => None,
        });
        self.tails.clear();
        proposals.collect()
    }

    /// Commits an entry, checks everything, and tells everybody.
    pub(crate) fn commit(&mut self, from: From, change_set: ChangeSet) {
        self.now = self.now.max(self.state.time().0 + 1);
        let entry = Entry {
            time: ClusterTime(self.now),
            wall: wall(self.now),
            proposals: vec![Proposal { change_set: change_set.clone() }],
        };
        let before = self.state.clone();
        let applied = apply(&mut self.state, before.index() + 1, &entry);
        let outcome = applied.outcomes.first().cloned().unwrap_or_default();
        self.summary.entries += 1;
        self.trace_commit(&from, &change_set, &outcome);
        let refusals = outcome.groups.iter().filter(|group| group.is_err()).count();
        self.summary.refused += u64::try_from(refusals).unwrap_or(0);
        if let From::User(request, service) = &from {
            self.history.acknowledge(request, *service, outcome.ok().is_ok(), &self.state);
        }
        let commit = Commit { before: &before, after: &self.state, events: &applied.events };
        invariants::check(&commit, &mut self.history, &mut self.violations);
        self.tell_leader(&applied.events);
        match from {
            From::Loop(which) => self.loop_was_answered(which, refusals > 0),
            From::Registration { node, link, session } => {
                if refusals > 0 {
                    self.at_manager(node, link, Call::Register { previous: Some(session) });
                } else {
                    self.send_to_node(node, link, Message::Session(session));
                }
            }
            From::Dispatcher | From::User(..) | From::Report => {}
        }
    }

    fn trace_commit(&mut self, from: &From, change_set: &ChangeSet, outcome: &skep_store::Outcome) {
        if self.trace.is_none() {
            return;
        }
        let index = self.state.index();
        let who = match from {
            From::Loop(which) => self.leader.name_of(*which).to_owned(),
            From::User(..) => "user".to_owned(),
            From::Dispatcher => "dispatcher".to_owned(),
            From::Registration { node, .. } => format!("registration of n{node}"),
            From::Report => "report".to_owned(),
        };
        for (group, result) in change_set.iter().zip(&outcome.groups) {
            let changes: Vec<_> = group.changes.iter().map(brief).collect();
            let verdict = result.as_ref().err().map_or(String::new(), |refusal| format!("  REFUSED: {refusal}"));
            self.say(|| format!("#{index} {who}: {}{verdict}", changes.join(" + ")));
        }
    }

    /// Judges a user's request and sends it to the log.
    pub(crate) fn request(&mut self, request: Request) {
        let mut env = self.env();
        match skep_admission::admit(&self.state, Principal::LocalSocket, request.clone(), &mut env) {
            Ok(admitted) => self.propose(From::User(Box::new(request), admitted.service), admitted.changes),
            Err(refusal) => self.say(|| format!("user is refused: {refusal}")),
        }
    }
}

pub(crate) fn wall(now: u64) -> WallTime {
    WallTime(i64::try_from(now).unwrap_or(i64::MAX))
}

pub(crate) fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn brief(change: &Change) -> String {
    let text = match change {
        Change::CreateService { service, definition } => {
            format!("create service {service} x{} {:?}", definition.replicas, definition.spec.name)
        }
        Change::UpdateService { service, definition, .. } => {
            format!("update service {service} x{}", definition.replicas)
        }
        Change::ObserveTask { task, status } => format!("task {task} is {} {}", status.state.name(), status.err),
        Change::ObserveNode { node, status, .. } => format!("node {node} is {}", status.state.name()),
        Change::CreateTask(new) => format!(
            "create task {} slot {} of {} {:?} start_at {:?} after {:?} history {:?}",
            new.id, new.slot, new.service_id, new.desired, new.start_at, new.start_after, new.history
        ),
        Change::CreateNode(new) => format!("create node {}", new.id),
        other => format!("{other:?}"),
    };
    text.chars().take(260).collect()
}
