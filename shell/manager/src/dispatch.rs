//! The shell around the dispatcher: nodes' calls come in one after another, streams and proposals go out.
//!
//! [`Dispatcher`] decides; this task owns it while the manager leads, moves its messages and proposes what it asks for. A
//! status is acknowledged only after its commit, and what many nodes report while a proposal is on its way becomes the next
//! one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use skep_dispatcher::{Assigned, AssignmentChange, AssignmentsMessage, Dispatcher, Output, Refusal};
use skep_model::{ClusterTime, Node, NodeDescription, NodeId, ObjectId as _, Secret, SessionId, TaskId, TaskStatus};
use skep_raft::{Committed, Next, ProposeError, Raft, Subscription};
use skep_store::{ChangeSet, Event, Outcome, Proposal, Rejection, State};
use skep_wire::{Sending, swarmkit};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use crate::StoreMachine;
use crate::driver::proposals;
use crate::leading::{Envs, Term};
use crate::sealing::Opener;

/// Calls of nodes that may wait; at the bound the callers wait with them.
const CALLS_MAX: usize = 1024;
/// Calls taken before what they ask for is proposed.
const CALLS_AT_ONCE: usize = 256;
/// Messages that may wait on a stream; a node that is further behind loses the stream and opens it anew.
const STREAM_BUFFER: usize = 64;
/// Statuses in one proposal at most.
const STATUSES_MAX: usize = 512;
/// How often a registration that lost against another write of the node is tried.
const REGISTER_TRIES: u32 = 8;
/// Proposals of the dispatcher itself that may be on their way; more wait.
const PROPOSALS_MAX: usize = 16;

/// A stream of messages to a node.
pub(crate) type Messages<T> = mpsc::Receiver<Result<T, Status>>;
type Sender<T> = mpsc::Sender<Result<T, Status>>;
type Answer<T> = oneshot::Sender<Result<T, Status>>;

/// What a node asks.
pub(crate) enum Call {
    /// Opens a session.
    Session {
        node: NodeId,
        description: Box<NodeDescription>,
        addr: String,
        previous: Option<SessionId>,
        answer: Answer<Messages<swarmkit::SessionMessage>>,
    },
    /// Is alive; answered with the time until the next one.
    Heartbeat { node: NodeId, session: SessionId, answer: Answer<Duration> },
    /// Opens a stream of assignments.
    Assignments { node: NodeId, session: SessionId, answer: Answer<Messages<swarmkit::AssignmentsMessage>> },
    /// Reports statuses; answered when they are committed.
    Report { node: NodeId, session: SessionId, updates: Vec<(TaskId, TaskStatus)>, answer: Answer<()> },
}

/// Where calls go while this manager leads.
pub(crate) type Calls = watch::Sender<Option<mpsc::Sender<Call>>>;

/// Serves nodes until the leadership ends.
pub(crate) async fn serve(raft: Raft<StoreMachine>, calls: Arc<Calls>, opener: Opener, term: Term) {
    let (sender, receiver) = mpsc::channel(CALLS_MAX);
    let (published, subscription) = raft.subscribe();
    let mut desk = Desk {
        raft,
        opener,
        envs: Envs::new(),
        dispatcher: Dispatcher::new(),
        view: published.state.clone(),
        subscription,
        events: vec![Event::Reset],
        wake_at: None,
        sessions: BTreeMap::new(),
        reports: Reports::default(),
        waiting: VecDeque::new(),
        own_in_flight: 0,
        in_flight: FuturesUnordered::new(),
    };
    calls.send_replace(Some(sender));
    desk.run(receiver, term).await;
    calls.send_replace(None);
    desk.end_all();
}

/// A refusal in gRPC's words.
fn status(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::UnknownNode | Refusal::NotRegistered => Status::not_found(text),
        Refusal::SessionInvalid => Status::invalid_argument(text),
        Refusal::RateLimited(_) => Status::unavailable(text),
        Refusal::ForeignTask(_) => Status::permission_denied(text),
    }
}

/// A node must come again: this manager cannot answer for the cluster now.
pub(crate) fn stopped() -> Status {
    Status::aborted("dispatcher is stopped")
}

fn propose_status(error: &ProposeError) -> Status {
    match error {
        ProposeError::Busy => Status::unavailable(error.to_string()),
        ProposeError::TooLarge { .. } => Status::resource_exhausted(error.to_string()),
        ProposeError::NotLeader | ProposeError::OutcomeUnknown | ProposeError::Stopped => stopped(),
    }
}

/// The open streams of a session.
struct Session {
    node: NodeId,
    messages: Sender<swarmkit::SessionMessage>,
    assignments: Option<Sender<swarmkit::AssignmentsMessage>>,
}

/// Statuses that wait for the proposal before them.
#[derive(Default)]
struct Reports {
    waiting: VecDeque<(ChangeSet, Answer<()>)>,
    is_in_flight: bool,
}

/// A session that waits until its node is known to be ready.
struct Registering {
    node: NodeId,
    description: Box<NodeDescription>,
    addr: String,
    previous: Option<SessionId>,
    tries: u32,
    answer: Answer<Messages<swarmkit::SessionMessage>>,
}

/// What a proposal was for.
enum Purpose {
    Register(SessionId, Registering),
    Report(Vec<Answer<()>>),
    Own,
}

type Fate = (Purpose, Result<Committed<Outcome>, ProposeError>);

struct Desk {
    raft: Raft<StoreMachine>,
    opener: Opener,
    envs: Envs,
    dispatcher: Dispatcher,
    view: State,
    subscription: Subscription<StoreMachine>,
    /// What was committed since the dispatcher's last step.
    events: Vec<Event>,
    wake_at: Option<ClusterTime>,
    sessions: BTreeMap<SessionId, Session>,
    reports: Reports,
    /// Proposals of the dispatcher that wait for room.
    waiting: VecDeque<Proposal>,
    own_in_flight: usize,
    in_flight: FuturesUnordered<BoxFuture<'static, Fate>>,
}

impl Desk {
    async fn run(&mut self, mut calls: mpsc::Receiver<Call>, mut term: Term) {
        loop {
            self.step();
            self.propose_reports();
            self.propose_waiting();
            let sleep = self.wake_at.map(|at| at.since(self.raft.cluster_time()).max(Duration::from_millis(1)));
            // In no fixed order: a steady stream of commits must not keep nodes waiting.
            tokio::select! {
                () = term.ended() => return,
                next = self.subscription.next() => self.take_in(next),
                Some(fate) = self.in_flight.next(), if !self.in_flight.is_empty() => self.settle(fate),
                Some(call) = calls.recv() => {
                    self.answer(call);
                    for _ in 1..CALLS_AT_ONCE {
                        let Ok(call) = calls.try_recv() else { break };
                        self.answer(call);
                    }
                }
                () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
            }
            while let Some(next) = self.subscription.try_next() {
                self.take_in(next);
            }
            while let Some(Some(fate)) = self.in_flight.next().now_or_never() {
                self.settle(fate);
            }
        }
    }

    fn take_in(&mut self, next: Next<StoreMachine>) {
        match next {
            Next::Commit(commit) => {
                self.view = commit.state.clone();
                self.events.extend_from_slice(&commit.events);
            }
            Next::Reset(published) => {
                self.view = published.state.clone();
                self.events = vec![Event::Reset];
            }
        }
    }

    fn step(&mut self) {
        let mut env = self.envs.now(&self.raft);
        let is_woken = self.wake_at.is_some_and(|at| at <= env.now);
        if self.events.is_empty() && !is_woken {
            return;
        }
        let events = std::mem::take(&mut self.events);
        let (outputs, wake_at) = self.dispatcher.step(&self.view, &events, &mut env);
        self.wake_at = wake_at;
        for output in outputs {
            self.put_out(output);
        }
    }

    fn put_out(&mut self, output: Output) {
        match output {
            Output::Propose(changes) => self.waiting.extend(proposals(changes)),
            Output::SessionMessage(id, node) => {
                let message = self.session_message(id, &node);
                self.tell(id, message);
            }
            Output::Assignments(id, message) => {
                let message = self.assignments_message(message);
                let Some(session) = self.sessions.get_mut(&id) else { return };
                if let Some(stream) = &session.assignments
                    && stream.try_send(Ok(message)).is_err()
                {
                    // Too slow, or gone: without the stream the node asks for a complete set.
                    session.assignments = None;
                }
            }
            Output::End(id) => self.end(id, &Status::aborted("node must disconnect")),
        }
    }

    fn tell(&mut self, id: SessionId, message: swarmkit::SessionMessage) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.messages.try_send(Ok(message)).is_err() {
            self.sessions.remove(&id);
        }
    }

    fn end(&mut self, id: SessionId, why: &Status) {
        let Some(session) = self.sessions.remove(&id) else { return };
        // A full stream ends without the reason.
        let _ = session.messages.try_send(Err(why.clone()));
        if let Some(stream) = session.assignments {
            let _ = stream.try_send(Err(why.clone()));
        }
    }

    fn end_all(&mut self) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in sessions {
            self.end(id, &stopped());
        }
    }

    fn answer(&mut self, call: Call) {
        match call {
            Call::Session { node, description, addr, previous, answer } => {
                self.register(Registering { node, description, addr, previous, tries: 0, answer });
            }
            Call::Heartbeat { node, session, answer } => {
                let mut env = self.envs.now(&self.raft);
                let result = self.dispatcher.heartbeat(&self.view, &mut env, node, session);
                let _ = answer.send(result.map_err(|refusal| status(&refusal)));
            }
            Call::Assignments { node, session, answer } => {
                let _ = answer.send(self.open_assignments(node, session));
            }
            Call::Report { node, session, updates, answer } => {
                match self.dispatcher.report(&self.view, node, session, updates) {
                    Ok(changes) if changes.is_empty() => {
                        let _ = answer.send(Ok(()));
                    }
                    Ok(changes) => self.reports.waiting.push_back((changes, answer)),
                    Err(refusal) => {
                        let _ = answer.send(Err(status(&refusal)));
                    }
                }
            }
        }
    }

    fn register(&mut self, mut registering: Registering) {
        let mut env = self.envs.now(&self.raft);
        // The newest state, not the view: a stale one would lose again.
        let newest = self.raft.state();
        let registration = self.dispatcher.register(
            &newest.state,
            &mut env,
            registering.node,
            (*registering.description).clone(),
            registering.addr.clone(),
            registering.previous,
        );
        match registration {
            Err(refusal) => {
                let _ = registering.answer.send(Err(status(&refusal)));
            }
            Ok(registration) => {
                let session = registration.session;
                // A second try is the same session.
                registering.previous = Some(session);
                if registration.changes.is_empty() {
                    self.registered(session, registering);
                } else {
                    let proposal = Proposal { change_set: registration.changes };
                    self.propose(Purpose::Register(session, registering), proposal);
                }
            }
        }
    }

    /// The node is known to be ready: its session begins.
    fn registered(&mut self, session: SessionId, registering: Registering) {
        let Registering { node, answer, .. } = registering;
        if self.dispatcher.session_of(node) != Some(session) {
            let _ = answer.send(Err(Status::aborted("node must disconnect")));
            return;
        }
        let newest = self.raft.state();
        let Some(object) = newest.state.node(node).cloned() else {
            let _ = answer.send(Err(status(&Refusal::UnknownNode)));
            return;
        };
        let others: Vec<SessionId> =
            self.sessions.iter().filter(|(_, known)| known.node == node).map(|(id, _)| *id).collect();
        for other in others {
            self.end(other, &Status::aborted("node must disconnect"));
        }
        let (messages, stream) = mpsc::channel(STREAM_BUFFER);
        let first = self.session_message(session, &object);
        messages.try_send(Ok(first)).expect("a new channel has room");
        self.sessions.insert(session, Session { node, messages, assignments: None });
        let _ = answer.send(Ok(stream));
    }

    fn open_assignments(
        &mut self,
        node: NodeId,
        id: SessionId,
    ) -> Result<Messages<swarmkit::AssignmentsMessage>, Status> {
        let complete = self.dispatcher.open_assignments(&self.view, node, id).map_err(|refusal| status(&refusal))?;
        let complete = self.assignments_message(complete);
        let session = self.sessions.get_mut(&id).ok_or_else(|| status(&Refusal::SessionInvalid))?;
        let (messages, stream) = mpsc::channel(STREAM_BUFFER);
        messages.try_send(Ok(complete)).expect("a new channel has room");
        session.assignments = Some(messages);
        Ok(stream)
    }

    fn propose(&mut self, purpose: Purpose, proposal: Proposal) {
        let raft = self.raft.clone();
        self.in_flight.push(async move { (purpose, raft.propose(proposal).await) }.boxed());
    }

    fn propose_reports(&mut self) {
        if self.reports.is_in_flight || self.reports.waiting.is_empty() {
            return;
        }
        let (mut change_set, mut answers) = (ChangeSet::new(), Vec::new());
        while let Some((changes, answer)) = self.reports.waiting.pop_front() {
            change_set.extend(changes);
            answers.push(answer);
            if change_set.len() >= STATUSES_MAX {
                break;
            }
        }
        self.reports.is_in_flight = true;
        self.propose(Purpose::Report(answers), Proposal { change_set });
    }

    fn propose_waiting(&mut self) {
        while self.own_in_flight < PROPOSALS_MAX
            && let Some(proposal) = self.waiting.pop_front()
        {
            self.own_in_flight += 1;
            self.propose(Purpose::Own, proposal);
        }
    }

    fn settle(&mut self, (purpose, result): Fate) {
        match purpose {
            Purpose::Register(session, registering) => self.settle_registration(session, registering, result),
            Purpose::Report(answers) => {
                self.reports.is_in_flight = false;
                // A refused group is a task that is gone meanwhile: nothing that the node must know.
                let result = result.map(|_| ()).map_err(|error| propose_status(&error));
                for answer in answers {
                    let _ = answer.send(result.clone());
                }
            }
            Purpose::Own => {
                self.own_in_flight -= 1;
                let is_refused = match &result {
                    Ok(committed) => committed.outcome.ok().is_err(),
                    Err(error) => {
                        tracing::debug!(%error, "a proposal of the dispatcher was not committed");
                        true
                    }
                };
                if is_refused && self.own_in_flight == 0 && self.waiting.is_empty() {
                    self.events = vec![Event::Reset];
                }
            }
        }
    }

    fn settle_registration(
        &mut self,
        session: SessionId,
        registering: Registering,
        result: Result<Committed<Outcome>, ProposeError>,
    ) {
        match result.map(|committed| committed.outcome.ok()) {
            Ok(Ok(())) => self.registered(session, registering),
            Ok(Err(Rejection::Stale { .. })) if registering.tries < REGISTER_TRIES => {
                self.register(Registering { tries: registering.tries + 1, ..registering });
            }
            Ok(Err(rejection)) => {
                let _ = registering.answer.send(Err(Status::not_found(rejection.to_string())));
            }
            Err(error) => {
                let _ = registering.answer.send(Err(propose_status(&error)));
            }
        }
    }

    fn session_message(&self, session: SessionId, node: &Node) -> swarmkit::SessionMessage {
        let peer = |node: &Arc<Node>| {
            let manager = node.manager.as_ref()?;
            let peer = swarmkit::Peer { node_id: node.id.to_string(), addr: manager.address.clone() };
            Some(swarmkit::WeightedPeer { peer: Some(peer), weight: 10 })
        };
        swarmkit::SessionMessage {
            session_id: session.to_string(),
            node: Some(skep_wire::node(node, true)),
            managers: self.view.nodes().filter_map(peer).collect(),
            network_bootstrap_keys: Vec::new(),
            root_ca: self.view.cluster().map(|cluster| cluster.root_ca.certificate.clone()).unwrap_or_default(),
        }
    }

    fn assignments_message(&self, message: AssignmentsMessage) -> swarmkit::AssignmentsMessage {
        use swarmkit::assignments_message::Type;
        swarmkit::AssignmentsMessage {
            r#type: if message.is_complete { Type::Complete } else { Type::Incremental }.into(),
            applies_to: message.applies_to,
            results_in: message.results_in,
            changes: message.changes.into_iter().filter_map(|change| self.assignment_change(change)).collect(),
        }
    }

    fn assignment_change(&self, change: AssignmentChange) -> Option<swarmkit::AssignmentChange> {
        use swarmkit::assignment::Item;
        use swarmkit::assignment_change::AssignmentAction;
        let (item, action) = match change {
            AssignmentChange::Update(assigned) => {
                (Item::Task(Box::new(self.task(&assigned)?)), AssignmentAction::Update)
            }
            AssignmentChange::Remove(id) => {
                let task = swarmkit::Task { id: id.to_string(), ..swarmkit::Task::default() };
                (Item::Task(Box::new(task)), AssignmentAction::Remove)
            }
            AssignmentChange::UpdateSecret(secret) => (Item::Secret(self.secret(&secret)?), AssignmentAction::Update),
            AssignmentChange::RemoveSecret(id) => {
                let secret = swarmkit::Secret { id: id.to_string(), ..swarmkit::Secret::default() };
                (Item::Secret(secret), AssignmentAction::Remove)
            }
            AssignmentChange::UpdateConfig(config) => {
                (Item::Config(skep_wire::config(&config)), AssignmentAction::Update)
            }
            AssignmentChange::RemoveConfig(id) => {
                let config = swarmkit::Config { id: id.to_string(), ..swarmkit::Config::default() };
                (Item::Config(config), AssignmentAction::Remove)
            }
        };
        let assignment = swarmkit::Assignment { item: Some(item) };
        Some(swarmkit::AssignmentChange { assignment: Some(assignment), action: action.into() })
    }

    /// The one place where a secret is opened: on its way to a node whose tasks need it. One that cannot be opened is not
    /// sent, and its tasks say that it is missing.
    fn secret(&self, secret: &Secret) -> Option<swarmkit::Secret> {
        match self.opener.open_secret(secret.id, &secret.spec.data) {
            Ok(data) => Some(skep_wire::secret(secret, data)),
            Err(error) => {
                tracing::error!(secret.id = %secret.id, %error, "a secret cannot be opened");
                None
            }
        }
    }

    /// The task's places on its networks. One that was removed while the task is being stopped is named by its id alone.
    fn networks(&self, assigned: &Assigned) -> Vec<swarmkit::NetworkAttachment> {
        let attachment = |place: &skep_model::TaskNetwork| {
            let mut named = assigned.spec.networks().iter();
            let named = named.find(|attachment| attachment.target == place.network.as_str());
            let aliases = named.map(|attachment| attachment.aliases.clone()).unwrap_or_default();
            skep_wire::network_attachment(self.view.network(place.network).map(|network| &**network), place, aliases)
        };
        assigned.task.attachment.networks.iter().map(attachment).collect()
    }

    fn task(&self, assigned: &Assigned) -> Option<swarmkit::Task> {
        let node = assigned.task.placed.node?;
        let auth = assigned.spec.task.container.registry_auth.as_ref().and_then(|sealed| {
            let opened = self.opener.open(sealed);
            if let Err(error) = &opened {
                tracing::warn!(task.id = %assigned.task.id, %error, "registry credentials cannot be opened");
            }
            opened.ok()
        });
        let log_driver = self.view.cluster().and_then(|cluster| cluster.spec.log_driver.as_ref());
        let networks = self.networks(assigned);
        let sending = Sending { networks, log_driver, registry_auth: auth.as_deref() };
        Some(skep_wire::task(&assigned.task, node, &assigned.spec, sending))
    }
}
