//! Knows which nodes are alive and what each should run.
//!
//! Nodes open a session, send heartbeats, ask for their assignments and report what became of them. The gRPC shell calls one
//! method of [`Dispatcher`] for each message and sends what comes back; commits and the passing of time come in by
//! [`Dispatcher::step`]. Sessions and heartbeat deadlines are soft state of the leader; what lasts (a node is ready or down, a
//! task's status) is proposed. Never two complete sets for one stream, and never a complete set before the leader has
//! applied an entry of its own term: a task that is missing in one is a removal.
//!
//! Source of behaviour and constants: SwarmKit `manager/dispatcher` (see `docs/`), with one difference: a closed stream does
//! not matter, only missed heartbeats do, and the time after which tasks of a lost node are given up survives a change
//! of leader.

mod assignments;
mod needs;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_control::Env;
use skep_model::{
    ClusterTime, Node, NodeDescription, NodeId, NodeState, NodeStatus, ServiceSpec, SessionId, Task, TaskId, TaskState,
    TaskStatus,
};
use skep_store::{AtomicGroup, Change, ChangeSet, Event, State};

use assignments::Stream;
pub use assignments::{AssignmentChange, AssignmentsMessage};
use session::Session;

/// Heartbeats that may be missed until a node is down.
const GRACE_PERIODS: u32 = 3;
/// The same for a node that a new leader has not heard of yet.
const GRACE_PERIODS_UNKNOWN: u32 = 6;
/// Time in `Down` after which a node's tasks are given up.
const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Most that a heartbeat period is varied by, so that nodes do not beat together.
const JITTER_MAX: Duration = Duration::from_millis(500);

/// Why a node's call was refused. The text goes on the wire as SwarmKit's does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The node is not in the cluster (NOT_FOUND).
    #[error("node not found")]
    UnknownNode,
    /// The node has no session (NOT_FOUND).
    #[error("node not registered")]
    NotRegistered,
    /// The session is not the node's (INVALID_ARGUMENT).
    #[error("session invalid")]
    SessionInvalid,
    /// Too many sessions in a short time (UNAVAILABLE).
    #[error("node {0} exceeded rate limit count of registrations")]
    RateLimited(NodeId),
    /// A task of another node (PERMISSION_DENIED).
    #[error("cannot update a task not assigned this node")]
    ForeignTask(TaskId),
}

/// What a new session needs: propose `changes`, and when they are committed answer with `session`. A stale rejection means
/// the node object was written meanwhile: call [`Dispatcher::register`] again.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The id of the new session.
    pub session: SessionId,
    /// Ready, with this description; empty when the state says so already.
    pub changes: ChangeSet,
}

/// What [`Dispatcher::step`] asks the shell to do.
#[derive(Debug, Clone)]
pub enum Output {
    /// Propose these.
    Propose(ChangeSet),
    /// Send a session message with this node object on the node's session stream.
    SessionMessage(SessionId, Arc<Node>),
    /// Send this on the assignments stream of the session.
    Assignments(SessionId, AssignmentsMessage),
    /// Close all streams of the session: the node must register anew.
    End(SessionId),
}

/// The dispatcher of one leader.
#[derive(Debug, Default)]
pub struct Dispatcher {
    sessions: BTreeMap<NodeId, Session>,
    registrations: BTreeMap<NodeId, session::Registrations>,
    streams: BTreeMap<NodeId, Stream>,
    /// Deadlines of nodes that this leader has not heard of yet.
    unheard: BTreeMap<NodeId, ClusterTime>,
    /// Nodes that are down, for giving up their tasks.
    down: BTreeMap<NodeId, ClusterTime>,
    last_step: Option<ClusterTime>,
}

impl Dispatcher {
    /// A dispatcher without sessions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A node opens a session. `addr` is the address the manager sees.
    ///
    /// # Errors
    /// When the node is not in the cluster, or registers too often.
    pub fn register(
        &mut self,
        view: &State,
        env: &mut Env,
        node: NodeId,
        description: NodeDescription,
        addr: String,
        previous: Option<SessionId>,
    ) -> Result<Registration, Refusal> {
        let stored = view.node(node).ok_or(Refusal::UnknownNode)?;
        let resumed = self.sessions.get(&node).filter(|known| Some(known.id) == previous).map(|known| known.id);
        if resumed.is_none() && !self.registrations.entry(node).or_default().allow(env.now) {
            return Err(Refusal::RateLimited(node));
        }
        let period = self.period(view, env);
        let session = resumed.unwrap_or_else(|| env.rng.id());
        if resumed.is_none() {
            self.streams.remove(&node);
        }
        self.sessions.insert(node, Session { id: session, deadline: env.now.after(period * GRACE_PERIODS) });
        self.unheard.remove(&node);
        let status = NodeStatus { state: NodeState::Ready, message: String::new(), addr };
        let is_known = stored.observed.status == status && stored.observed.description.as_ref() == Some(&description);
        let changes = if is_known {
            Vec::new()
        } else {
            let expect = stored.observed.version;
            vec![Change::ObserveNode { node, expect, status, description: Some(Box::new(description)) }.into()]
        };
        Ok(Registration { session, changes })
    }

    /// A node is alive. Answers with the time until its next heartbeat at the latest.
    ///
    /// # Errors
    /// When the session is not the node's.
    pub fn heartbeat(
        &mut self,
        view: &State,
        env: &mut Env,
        node: NodeId,
        session: SessionId,
    ) -> Result<Duration, Refusal> {
        let period = self.period(view, env);
        let known = self.session_mut(node, session)?;
        known.deadline = env.now.after(period * GRACE_PERIODS);
        Ok(period)
    }

    /// A node asks what it should run. Answers with the complete set; changes follow by [`Self::step`]. A second call for one
    /// session starts a new stream.
    ///
    /// # Errors
    /// When the session is not the node's.
    pub fn open_assignments(
        &mut self,
        view: &State,
        node: NodeId,
        session: SessionId,
    ) -> Result<AssignmentsMessage, Refusal> {
        self.session_mut(node, session)?;
        let (stream, complete) = Stream::open(view, node, session);
        self.streams.insert(node, stream);
        Ok(complete)
    }

    /// A node reports statuses. Answers with what to propose; acknowledge when it is committed. Unknown tasks are ignored.
    ///
    /// # Errors
    /// When the session is not the node's or a task is another node's.
    pub fn report(
        &mut self,
        view: &State,
        node: NodeId,
        session: SessionId,
        updates: Vec<(TaskId, TaskStatus)>,
    ) -> Result<ChangeSet, Refusal> {
        self.session_mut(node, session)?;
        let mut changes = ChangeSet::new();
        for (id, status) in updates {
            let Some(task) = view.task(id) else { continue };
            if task.placed.node != Some(node) {
                return Err(Refusal::ForeignTask(id));
            }
            if status.state > TaskState::Assigned && status.state != TaskState::Remove {
                changes.push(Change::ObserveTask { task: id, status: Box::new(status) }.into());
            }
        }
        Ok(changes)
    }

    /// The session of a node, if it has one.
    #[must_use]
    pub fn session_of(&self, node: NodeId) -> Option<SessionId> {
        self.sessions.get(&node).map(|session| session.id)
    }

    /// Something was committed, or time has passed. Answers with what to do and when to call again at the latest.
    pub fn step(&mut self, view: &State, events: &[Event], env: &mut Env) -> (Vec<Output>, Option<ClusterTime>) {
        let mut outputs = Vec::new();
        self.forgive_stall(view, env.now);
        if self.last_step.is_none() || events.iter().any(|event| matches!(event, Event::Reset)) {
            self.reset(view, env, &mut outputs);
        } else {
            self.follow(view, events, &mut outputs);
        }
        self.last_step = Some(env.now);
        let changes = self.expire(view, env.now);
        if !changes.is_empty() {
            outputs.push(Output::Propose(changes));
        }
        (outputs, self.next_step(view, env.now))
    }

    fn session_mut(&mut self, node: NodeId, session: SessionId) -> Result<&mut Session, Refusal> {
        let known = self.sessions.get_mut(&node).ok_or(Refusal::NotRegistered)?;
        if known.id == session { Ok(known) } else { Err(Refusal::SessionInvalid) }
    }

    fn period(&self, view: &State, env: &mut Env) -> Duration {
        let period = view.cluster().map_or(Duration::from_secs(5), |cluster| cluster.spec.heartbeat_period);
        let jitter = JITTER_MAX.min(period / 10);
        let nanos = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
        period.saturating_sub(jitter) + Duration::from_nanos(env.rng.below(nanos.saturating_mul(2)))
    }

    /// A leader that stalled could not hear heartbeats: every deadline moves by the stall (`design` rule 6).
    fn forgive_stall(&mut self, view: &State, now: ClusterTime) {
        let period = view.cluster().map_or(Duration::from_secs(5), |cluster| cluster.spec.heartbeat_period);
        let stall = self.last_step.map_or(Duration::ZERO, |last| now.since(last));
        if stall > period * 2 {
            for session in self.sessions.values_mut() {
                session.deadline = session.deadline.after(stall);
            }
            for deadline in self.unheard.values_mut() {
                *deadline = deadline.after(stall);
            }
        }
    }

    /// Looks at everything: nodes without a session become unknown and get a long grace; every open stream starts again.
    fn reset(&mut self, view: &State, env: &mut Env, outputs: &mut Vec<Output>) {
        self.down.clear();
        let grace = self.period(view, env) * GRACE_PERIODS_UNKNOWN;
        let mut changes = ChangeSet::new();
        let is_first = self.last_step.is_none();
        for node in view.nodes() {
            self.watch_node(node);
            let is_heard = self.sessions.contains_key(&node.id);
            if is_first && !is_heard && node.observed.status.state != NodeState::Down {
                self.unheard.entry(node.id).or_insert_with(|| env.now.after(grace));
                if node.observed.status.state == NodeState::Ready {
                    let message = "Node moved to \"unknown\" state due to leadership change in cluster".to_owned();
                    changes.push(observe(node, NodeState::Unknown, message));
                }
            }
        }
        let gone: Vec<_> = self.sessions.keys().filter(|node| view.node(**node).is_none()).copied().collect();
        for node in gone {
            self.end(node, outputs);
        }
        if !changes.is_empty() {
            outputs.push(Output::Propose(changes));
        }
        for (node, stream) in &mut self.streams {
            outputs.extend(stream.resync(view, *node).map(|message| Output::Assignments(stream.session, message)));
        }
        for (node, session) in &self.sessions {
            if let Some(node) = view.node(*node) {
                outputs.push(Output::SessionMessage(session.id, node.clone()));
            }
        }
    }

    fn follow(&mut self, view: &State, events: &[Event], outputs: &mut Vec<Output>) {
        // A node that registered while "unknown" or "down" was on its way to the log is not what the log says.
        let mut revived = ChangeSet::new();
        for event in events {
            match event {
                Event::Task(before, after) => {
                    let task = after.as_ref().or(before.as_ref());
                    if let Some(node) = task.and_then(|task| task.placed.node)
                        && let Some(stream) = self.streams.get_mut(&node)
                    {
                        stream.note(view, before.as_deref(), after.as_ref());
                    }
                }
                Event::Node(before, Some(after)) => {
                    self.watch_node(after);
                    if self.sessions.contains_key(&after.id) && after.observed.status.state != NodeState::Ready {
                        revived.push(observe(after, NodeState::Ready, String::new()));
                    }
                    if let Some(session) = self.sessions.get(&after.id)
                        && before.as_deref().is_none_or(|before| concerns_node(before, after))
                    {
                        outputs.push(Output::SessionMessage(session.id, after.clone()));
                    }
                }
                Event::Node(Some(before), None) => {
                    self.unheard.remove(&before.id);
                    self.down.remove(&before.id);
                    self.end(before.id, outputs);
                }
                Event::Cluster(_, Some(_)) => {
                    for (node, session) in &self.sessions {
                        if let Some(node) = view.node(*node) {
                            outputs.push(Output::SessionMessage(session.id, node.clone()));
                        }
                    }
                }
                Event::Reset
                | Event::Service(..)
                | Event::Network(..)
                | Event::Node(None, None)
                | Event::Cluster(_, None)
                // They never change but for their labels, and tasks say which are needed.
                | Event::Secret(..)
                | Event::Config(..) => {}
            }
        }
        if !revived.is_empty() {
            outputs.push(Output::Propose(revived));
        }
        for stream in self.streams.values_mut() {
            outputs.extend(stream.flush(view).map(|message| Output::Assignments(stream.session, message)));
        }
    }

    fn watch_node(&mut self, node: &Node) {
        if node.observed.status.state == NodeState::Down {
            self.down.insert(node.id, node.observed.since.cluster.after(ORPHAN_AFTER));
        } else {
            self.down.remove(&node.id);
        }
    }

    fn end(&mut self, node: NodeId, outputs: &mut Vec<Output>) {
        self.streams.remove(&node);
        if let Some(session) = self.sessions.remove(&node) {
            outputs.push(Output::End(session.id));
        }
    }

    fn expire(&mut self, view: &State, now: ClusterTime) -> ChangeSet {
        let mut changes = ChangeSet::new();
        let silent: Vec<_> =
            self.sessions.iter().filter(|(_, session)| session.deadline <= now).map(|(node, _)| *node).collect();
        let unheard: Vec<_> = self.unheard.iter().filter(|(_, at)| **at <= now).map(|(node, _)| *node).collect();
        for (nodes, message) in
            [(silent, "heartbeat failure"), (unheard, "heartbeat failure for node in \"unknown\" state")]
        {
            for node in nodes {
                self.sessions.remove(&node);
                self.streams.remove(&node);
                self.unheard.remove(&node);
                if let Some(node) = view.node(node) {
                    changes.push(observe(node, NodeState::Down, message.to_owned()));
                    // If this is refused as stale, the node is unheard still and falls due again.
                    self.unheard.insert(node.id, now.after(Duration::from_secs(1)));
                }
            }
        }
        self.unheard
            .retain(|node, _| view.node(*node).is_some_and(|node| node.observed.status.state != NodeState::Down));
        let lost: Vec<_> = self.down.iter().filter(|(_, at)| **at <= now).map(|(node, _)| *node).collect();
        for node in lost {
            self.down.remove(&node);
            changes
                .extend(view.tasks_on_node(node).filter(|task| !task.state().is_terminal()).map(|task| orphan(task)));
        }
        changes
    }

    /// The next deadline, but never later than one heartbeat period from now: a longer silence between two steps is how a
    /// stall of the leader itself is noticed.
    fn next_step(&self, view: &State, now: ClusterTime) -> Option<ClusterTime> {
        let sessions = self.sessions.values().map(|session| session.deadline);
        let deadline = sessions.chain(self.unheard.values().copied()).chain(self.down.values().copied()).min()?;
        let period = view.cluster().map_or(Duration::from_secs(5), |cluster| cluster.spec.heartbeat_period);
        Some(deadline.min(now.after(period)))
    }
}

/// True when a change of the node object is news for the node itself.
fn concerns_node(before: &Node, after: &Node) -> bool {
    before.spec != after.spec || before.certificate != after.certificate || before.role != after.role
}

fn observe(node: &Node, state: NodeState, message: String) -> AtomicGroup {
    let status = NodeStatus { state, message, addr: node.observed.status.addr.clone() };
    Change::ObserveNode { node: node.id, expect: node.observed.version, status, description: None }.into()
}

fn orphan(task: &Task) -> AtomicGroup {
    let status = TaskStatus { state: TaskState::Orphaned, ..task.status() };
    Change::ObserveTask { task: task.id, status: Box::new(status) }.into()
}

/// A task with what it runs: all that a node must know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Assigned {
    /// The task.
    pub task: Arc<Task>,
    /// The revision of the service that it runs.
    pub spec: Arc<ServiceSpec>,
}

#[cfg(test)]
mod tests;
