//! A machine: the real agent over containers that are entries in a table, and its connection to the leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_agent::{
    Actions, Agent, AgentConfig, Assignment, Failure, Finished, Input, Moment, Operation, Payload, StoredTask, Work,
};
use skep_control::Rng;
use skep_dispatcher::{Assigned, AssignmentChange, AssignmentsMessage};
use skep_model::{
    ByteSize, ContainerStatus, Labels, NanoCpus, NodeDescription, NodeId, SecretId, SessionId, TaskId, TaskStatus,
};

use crate::sim::{MILLI, SECOND, Sim, What, wall};

/// From a node to the leader.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Register { previous: Option<SessionId> },
    Heartbeat(SessionId),
    OpenAssignments(SessionId),
    Report(SessionId, Vec<(TaskId, TaskStatus)>),
}

/// From the leader to a node.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    Session(SessionId),
    Beat(Duration),
    Assignments(AssignmentsMessage),
    Refused(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Container {
    Created,
    Running,
    Exited(i32),
}

#[derive(Debug)]
struct InOperation {
    number: u64,
    work: Work,
    is_cancelled: bool,
}

pub(crate) struct SimNode {
    pub(crate) id: NodeId,
    number: u64,
    description: NodeDescription,
    /// `None` while the daemon does not run.
    pub(crate) agent: Option<Agent>,
    database: BTreeMap<TaskId, StoredTask>,
    pub(crate) containers: BTreeMap<TaskId, Container>,
    operations: BTreeMap<TaskId, InOperation>,
    /// Counts starts of the daemon; what an earlier one began is void.
    pub(crate) incarnation: u64,
    /// Counts connections; what travels on an earlier one is lost.
    pub(crate) link: u64,
    pub(crate) session: Option<SessionId>,
    last_session: Option<SessionId>,
    applied: String,
    to_node: u64,
    to_manager: u64,
    /// No packet gets through.
    pub(crate) is_cut: bool,
    /// Removed from the cluster by a user.
    pub(crate) is_removed: bool,
    pub(crate) starts: BTreeMap<TaskId, u32>,
    /// Secrets that the leader sent, in memory only.
    pub(crate) values: BTreeMap<SecretId, Arc<Payload>>,
}

impl SimNode {
    pub(crate) fn new(number: u64, rng: &mut Rng) -> Self {
        let mut description = NodeDescription { hostname: format!("n{number}"), ..NodeDescription::default() };
        description.platform.os = "linux".to_owned();
        description.platform.architecture = if rng.below(4) == 0 { "aarch64" } else { "x86_64" }.to_owned();
        description.resources.cpus = NanoCpus(1_000_000_000 * i64::try_from(1 + rng.below(4)).unwrap_or(1));
        description.resources.memory = ByteSize(4 << 30);
        Self {
            id: rng.id(),
            number,
            description,
            agent: None,
            database: BTreeMap::new(),
            containers: BTreeMap::new(),
            operations: BTreeMap::new(),
            incarnation: 0,
            link: 0,
            session: None,
            last_session: None,
            applied: String::new(),
            to_node: 0,
            to_manager: 0,
            is_cut: false,
            is_removed: false,
            starts: BTreeMap::new(),
            values: BTreeMap::new(),
        }
    }

    /// Gives a task the values that it refers to.
    fn fill(&self, assignment: &mut Assignment) {
        for reference in &assignment.spec.container.secrets {
            if let Some(value) = self.values.get(&reference.secret_id) {
                assignment.secrets.insert(reference.secret_id, value.clone());
            }
        }
    }

    /// What it tells of itself when it registers.
    pub(crate) fn introduction(&self) -> (NodeDescription, String) {
        (self.description.clone(), format!("10.0.0.{}", self.number + 1))
    }
}

// The daemon and its connection.
impl Sim {
    pub(crate) fn node_starts(&mut self, node: usize) {
        let moment = self.moment();
        let machine = &mut self.nodes[node];
        if machine.agent.is_some() || machine.is_removed {
            return;
        }
        machine.incarnation += 1;
        machine.operations.clear();
        let stored = machine.database.values().cloned().collect();
        let found: Vec<TaskId> = machine.containers.keys().copied().collect();
        let (agent, actions) = Agent::restore(AgentConfig::default(), moment, stored, &found);
        machine.agent = Some(agent);
        let incarnation = machine.incarnation;
        self.say(|| format!("n{node} starts"));
        self.take(node, actions);
        self.after(MILLI, What::Connect { node, incarnation });
    }

    /// The daemon dies, or with `is_power` the whole machine; it comes back later.
    pub(crate) fn node_dies(&mut self, node: usize, is_power: bool, back_after: u64) {
        self.say(|| format!("n{node} dies (power: {is_power})"));
        self.break_link(node);
        let machine = &mut self.nodes[node];
        machine.agent = None;
        machine.values.clear();
        machine.operations.clear();
        if is_power {
            for container in machine.containers.values_mut().filter(|container| **container == Container::Running) {
                *container = Container::Exited(137);
            }
        }
        self.after(back_after, What::NodeStarts { node });
    }

    /// The connection to the leader is lost; the node tries again soon.
    pub(crate) fn break_link(&mut self, node: usize) {
        let machine = &mut self.nodes[node];
        machine.link += 1;
        machine.session = None;
        let incarnation = machine.incarnation;
        if machine.agent.is_some() && !machine.is_removed {
            let pause = self.between(100 * MILLI, 2 * SECOND);
            self.after(pause, What::Connect { node, incarnation });
        }
    }

    pub(crate) fn connect(&mut self, node: usize, incarnation: u64) {
        let machine = &mut self.nodes[node];
        if machine.incarnation != incarnation
            || machine.agent.is_none()
            || machine.session.is_some()
            || machine.is_removed
        {
            return;
        }
        if machine.is_cut {
            self.after(SECOND, What::Connect { node, incarnation });
            return;
        }
        machine.link += 1;
        let previous = machine.last_session;
        self.call(node, Call::Register { previous });
    }

    /// Sends a call; calls of one connection keep their order.
    fn call(&mut self, node: usize, call: Call) {
        let delay = self.between(MILLI / 20, 2 * MILLI);
        let machine = &mut self.nodes[node];
        if machine.is_cut {
            return;
        }
        machine.to_manager = (machine.to_manager + 1).max(self.now + delay);
        let (at, link) = (machine.to_manager, machine.link);
        self.at(at, What::AtManager { node, link, call });
    }

    pub(crate) fn send_to_node(&mut self, node: usize, link: u64, message: Message) {
        let delay = self.between(MILLI / 20, 2 * MILLI);
        let machine = &mut self.nodes[node];
        if machine.is_cut || machine.link != link {
            return;
        }
        machine.to_node = (machine.to_node + 1).max(self.now + delay);
        let at = machine.to_node;
        self.at(at, What::AtNode { node, link, message });
    }

    pub(crate) fn at_node(&mut self, node: usize, link: u64, message: Message) {
        if self.nodes[node].link != link || self.nodes[node].agent.is_none() {
            return;
        }
        match message {
            Message::Session(session) => {
                let machine = &mut self.nodes[node];
                machine.session = Some(session);
                machine.last_session = Some(session);
                machine.applied = String::new();
                self.input(node, Input::SessionOpened);
                self.call(node, Call::OpenAssignments(session));
                self.call(node, Call::Heartbeat(session));
            }
            Message::Beat(period) => {
                let nanos = u64::try_from(period.as_nanos()).unwrap_or(SECOND);
                self.after(nanos, What::Beat { node, link });
            }
            Message::Assignments(message) => self.assignments(node, message),
            Message::Refused(why) => {
                self.say(|| format!("n{node} is refused: {why}"));
                self.nodes[node].last_session = None;
                if self.nodes[node].session.is_none() {
                    let incarnation = self.nodes[node].incarnation;
                    self.nodes[node].link += 1;
                    self.after(3 * SECOND, What::Connect { node, incarnation });
                } else {
                    self.break_link(node);
                }
            }
        }
    }

    fn assignments(&mut self, node: usize, message: AssignmentsMessage) {
        let machine = &mut self.nodes[node];
        if !message.is_complete && message.applies_to != machine.applied {
            let text = format!("n{node} has applied {:?} and gets {:?}", machine.applied, message.applies_to);
            self.violations.push(text);
            return;
        }
        machine.applied = message.results_in;
        if message.is_complete {
            machine.values.clear();
        }
        let mut changes = Vec::new();
        let mut forgotten = Vec::new();
        for change in message.changes {
            match change {
                AssignmentChange::Update(assigned) => {
                    let mut assignment = assignment(&assigned);
                    machine.fill(&mut assignment);
                    changes.push(skep_agent::Change::Update(Box::new(assignment)));
                }
                AssignmentChange::Remove(task) => changes.push(skep_agent::Change::Remove(task)),
                AssignmentChange::UpdateSecret(secret) => {
                    let data = secret.spec.data.0.clone();
                    let payload = Payload { name: secret.spec.name.clone(), data, is_template: false };
                    machine.values.insert(secret.id, Arc::new(payload));
                }
                AssignmentChange::RemoveSecret(id) => forgotten.push(id),
                AssignmentChange::UpdateConfig(_) | AssignmentChange::RemoveConfig(_) => {}
            }
        }
        for id in forgotten {
            machine.values.remove(&id);
        }
        let input = if message.is_complete {
            let updates = changes.into_iter().filter_map(|change| match change {
                skep_agent::Change::Update(assignment) => Some(*assignment),
                skep_agent::Change::Remove(_) => None,
            });
            Input::Complete(updates.collect())
        } else {
            Input::Incremental(changes)
        };
        self.input(node, input);
    }

    pub(crate) fn beat(&mut self, node: usize, link: u64) {
        if self.nodes[node].link == link
            && let Some(session) = self.nodes[node].session
        {
            self.call(node, Call::Heartbeat(session));
        }
    }
}

fn assignment(assigned: &Assigned) -> Assignment {
    let task = &assigned.task;
    Assignment {
        task_id: task.id,
        task_name: String::new(),
        task_labels: Labels::new(),
        service_id: Some(task.service_id),
        service_name: assigned.spec.name.clone(),
        service_labels: assigned.spec.labels.clone(),
        slot: task.slot,
        node_id: task.placed.node.expect("an assigned task has a node"),
        spec_version: task.spec_version,
        spec: Arc::new(assigned.spec.task.clone()),
        ports: task.attachment.ports.clone(),
        desired: task.intent.desired,
        known: task.observed.clone(),
        secrets: Default::default(),
        configs: Default::default(),
        registry_auth: None,
        networks: Vec::new(),
    }
}

// The agent and the containers.
impl Sim {
    fn moment(&self) -> Moment {
        Moment { monotonic: Duration::from_nanos(self.now), wall: wall(self.now) }
    }

    fn input(&mut self, node: usize, input: Input) {
        let moment = self.moment();
        let Some(agent) = &mut self.nodes[node].agent else { return };
        let actions = agent.step(moment, input);
        self.take(node, actions);
    }

    pub(crate) fn agent_tick(&mut self, node: usize, incarnation: u64) {
        if self.nodes[node].incarnation == incarnation {
            self.input(node, Input::Tick);
        }
    }

    /// Does what the agent asks for, in its order.
    fn take(&mut self, node: usize, actions: Actions) {
        let machine = &mut self.nodes[node];
        for task in actions.forget {
            machine.database.remove(&task);
        }
        for stored in actions.store {
            machine.database.insert(stored.assignment.task_id, stored);
        }
        let incarnation = machine.incarnation;
        if let Some(at) = machine.agent.as_ref().and_then(Agent::wake_at) {
            let at = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
            self.at(at, What::AgentTick { node, incarnation });
        }
        if let Some(session) = self.nodes[node].session
            && !actions.report.is_empty()
        {
            let updates = actions.report.into_iter().map(|report| (report.task_id, report.status)).collect();
            self.call(node, Call::Report(session, updates));
        }
        for task in actions.cancel {
            self.cancel(node, task);
        }
        for operation in actions.begin {
            self.begin(node, operation);
        }
    }

    fn begin(&mut self, node: usize, operation: Operation) {
        let duration = match &operation.work {
            Work::Prepare(_) => self.between(MILLI, 300 * MILLI),
            Work::Start(_) => self.between(MILLI, 50 * MILLI),
            Work::Wait => 0,
            Work::Shutdown if self.chance(5) => self.between(SECOND, 80 * SECOND),
            Work::Shutdown => self.between(MILLI, 500 * MILLI),
            Work::Remove => self.between(MILLI, 50 * MILLI),
        };
        let number = self.rng.number();
        let machine = &mut self.nodes[node];
        let (task, incarnation) = (operation.task, machine.incarnation);
        let is_wait = matches!(operation.work, Work::Wait);
        let runs = machine.containers.get(&task) == Some(&Container::Running);
        let in_operation = InOperation { number, work: operation.work, is_cancelled: false };
        if machine.operations.insert(task, in_operation).is_some() {
            self.violations.push(format!("n{node} begins a second operation on task {task}"));
        }
        if !(is_wait && runs) {
            self.after(duration, What::OperationEnds { node, incarnation, task, number });
        }
    }

    fn cancel(&mut self, node: usize, task: TaskId) {
        let machine = &mut self.nodes[node];
        let incarnation = machine.incarnation;
        if let Some(operation) = machine.operations.get_mut(&task)
            && matches!(operation.work, Work::Wait | Work::Prepare(_))
        {
            operation.is_cancelled = true;
            let number = operation.number;
            self.after(MILLI / 10, What::OperationEnds { node, incarnation, task, number });
        }
    }

    pub(crate) fn operation_ends(&mut self, node: usize, incarnation: u64, task: TaskId, number: u64) {
        let machine = &mut self.nodes[node];
        if machine.incarnation != incarnation || machine.agent.is_none() {
            return;
        }
        if machine.operations.get(&task).is_none_or(|operation| operation.number != number) {
            return;
        }
        let Some(operation) = machine.operations.remove(&task) else { return };
        let result =
            if operation.is_cancelled { Err(Failure::Cancelled) } else { self.perform(node, task, &operation.work) };
        let container = self.nodes[node].containers.get(&task).map(|container| ContainerStatus {
            container_id: task.to_string(),
            pid: i32::from(*container == Container::Running),
            exit_code: if let Container::Exited(code) = container { *code } else { 0 },
        });
        self.input(node, Input::Finished(task, Finished { result, container, ports: Vec::new(), ended_at: None }));
    }

    fn perform(&mut self, node: usize, task: TaskId, work: &Work) -> Result<(), Failure> {
        let missing = || Failure::Fatal(format!("No such container: {task}"));
        match work {
            Work::Prepare(assignment) => {
                if assignment.spec.container.image.starts_with("missing") {
                    return Err(Failure::Fatal("No such image".to_owned()));
                }
                self.nodes[node].containers.entry(task).or_insert(Container::Created);
            }
            Work::Start(assignment) => {
                let container = self.nodes[node].containers.get_mut(&task).ok_or_else(missing)?;
                if *container == Container::Created {
                    *container = Container::Running;
                    *self.nodes[node].starts.entry(task).or_default() += 1;
                    self.summary.starts += 1;
                    if let Some(code) = assignment.spec.container.image.strip_prefix("exit:") {
                        let code = code.parse().unwrap_or(1);
                        let runtime = self.between(300 * MILLI, 5 * SECOND);
                        self.after(runtime, What::ContainerExits { node, task, code });
                    }
                }
            }
            Work::Wait => {
                self.nodes[node].containers.get(&task).ok_or_else(missing)?;
            }
            Work::Shutdown => {
                if let Some(container) = self.nodes[node].containers.get_mut(&task)
                    && *container == Container::Running
                {
                    *container = Container::Exited(143);
                }
            }
            Work::Remove => {
                self.nodes[node].containers.remove(&task);
            }
        }
        Ok(())
    }

    pub(crate) fn container_exits(&mut self, node: usize, task: TaskId, code: i32) {
        let machine = &mut self.nodes[node];
        let Some(container) = machine.containers.get_mut(&task).filter(|container| **container == Container::Running)
        else {
            return;
        };
        *container = Container::Exited(code);
        let incarnation = machine.incarnation;
        if let Some(operation) = machine.operations.get(&task)
            && matches!(operation.work, Work::Wait)
        {
            let number = operation.number;
            self.after(MILLI / 10, What::OperationEnds { node, incarnation, task, number });
        }
    }
}
