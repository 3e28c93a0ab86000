//! A state that grows by commits, and loops that sit at it.

use std::time::Duration;

use skep_control::{ControlLoop, Env, Plan, Rng};
use skep_model::{
    ClusterId, ClusterSpec, ClusterTime, DesiredState, NodeCertificate, NodeId, NodeSpec, NodeState, NodeStatus,
    ObjectId, RootCa, Slot, Task, TaskId, TaskState, TaskStatus, WallTime,
};
use skep_store::{Applied, AtomicGroup, Change, Entry, Event, NewCluster, NewNode, NewTask, Proposal, State, apply};

use crate::builders::{ANode, AService, ATask};

/// A fresh cluster without nodes.
#[must_use]
pub fn a_state() -> World {
    let mut world =
        World { state: State::default(), events: Vec::new(), now: ClusterTime::default(), rng: Rng::seeded(1) };
    world.commit(vec![
        Change::CreateCluster(Box::new(NewCluster {
            id: ClusterId::from_random([7; 17]),
            spec: ClusterSpec::default(),
            root_ca: RootCa::default(),
            address_pools: Vec::new(),
            subnet_size: 24,
            data_path_port: 4789,
        }))
        .into(),
    ]);
    world
}

/// A loop together with the place in the history of events that it has reached.
#[derive(Debug)]
pub struct Seat<L> {
    /// The loop.
    pub control_loop: L,
    seen: Option<usize>,
}

/// Seats a fresh loop.
pub fn seat<L: ControlLoop>(control_loop: L) -> Seat<L> {
    Seat { control_loop, seen: None }
}

impl<L> Seat<L> {
    /// Loses events, as after a refused group.
    pub fn lose_events(&mut self) {
        self.seen = None;
    }
}

/// A state that grows by commits.
#[derive(Debug)]
pub struct World {
    /// The state now.
    pub state: State,
    /// Everything that happened.
    pub events: Vec<Event>,
    /// Cluster time now.
    pub now: ClusterTime,
    rng: Rng,
}

/// What can be put into a world.
pub trait Put {
    /// Commits what makes it.
    fn put(self, world: &mut World);
}

impl World {
    /// Puts something in.
    #[must_use]
    pub fn with(mut self, thing: impl Put) -> Self {
        self.put(thing);
        self
    }

    /// Puts something in.
    pub fn put(&mut self, thing: impl Put) {
        thing.put(self);
    }

    /// Commits groups, each judged by itself.
    pub fn commit(&mut self, change_set: Vec<AtomicGroup>) -> Applied {
        self.now = self.now.after(Duration::from_millis(1));
        let wall = WallTime(i64::try_from(self.now.0).unwrap_or(i64::MAX));
        let entry = Entry { time: self.now, wall, proposals: vec![Proposal { change_set }] };
        let index = self.state.index() + 1;
        let applied = apply(&mut self.state, index, &entry);
        self.events.extend(applied.events.iter().cloned());
        applied
    }

    /// Commits groups and demands that none is refused.
    pub fn must_commit(&mut self, change_set: Vec<AtomicGroup>) {
        let applied = self.commit(change_set);
        for outcome in applied.outcomes {
            outcome.ok().expect("the groups of this test commit");
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// Steps a loop once and returns its plan, uncommitted.
    pub fn step<L: ControlLoop>(&mut self, seat: &mut Seat<L>) -> Plan {
        let wall = WallTime(i64::try_from(self.now.0).unwrap_or(i64::MAX));
        let mut env = Env { now: self.now, wall, rng: self.rng.clone() };
        let events = match seat.seen {
            None => vec![Event::Reset],
            Some(seen) => self.events[seen..].to_vec(),
        };
        seat.seen = Some(self.events.len());
        let plan = seat.control_loop.step(&self.state, &events, &mut env);
        self.rng = env.rng;
        plan
    }

    /// Steps a loop and commits its plans until it wants nothing more at this time. Returns how many groups committed.
    ///
    /// # Panics
    /// When a plan of the only writer is refused, or the loop does not come to rest.
    pub fn settle<L: ControlLoop>(&mut self, seat: &mut Seat<L>) -> usize {
        let mut committed = 0;
        for _ in 0..10_000 {
            let plan = self.step(seat);
            if plan.changes.is_empty() && plan.wake_at.is_none_or(|at| at > self.now) {
                return committed;
            }
            committed += plan.changes.len();
            if !plan.changes.is_empty() {
                self.must_commit(plan.changes);
            }
        }
        panic!("the {} does not come to rest", seat.control_loop.name());
    }

    /// One task.
    ///
    /// # Panics
    /// When there is none of this id.
    #[must_use]
    pub fn task(&self, id: TaskId) -> &Task {
        self.state.task(id).expect("the task exists")
    }

    /// Its node reports a state of a task.
    pub fn report(&mut self, task: TaskId, state: TaskState) {
        self.report_since(task, state, self.now);
    }

    /// A task's node reports a state that it has had since then, by a clock that goes as the cluster's does.
    pub fn report_since(&mut self, task: TaskId, state: TaskState, since: ClusterTime) {
        let timestamp = WallTime(i64::try_from(since.0).unwrap_or(i64::MAX));
        let status = TaskStatus { timestamp, ..a_status(state) };
        self.must_commit(vec![Change::ObserveTask { task, status: Box::new(status) }.into()]);
    }

    /// Changes a node's spec.
    pub fn edit_node(&mut self, id: NodeId, edit: impl FnOnce(&mut NodeSpec)) {
        let node = self.state.node(id).expect("the node exists").clone();
        let mut spec = node.spec.clone();
        edit(&mut spec);
        self.must_commit(vec![Change::SetNodeSpec { node: id, expect: node.meta.version, spec }.into()]);
    }

    /// Changes whether a node is reached.
    pub fn set_node_state(&mut self, id: NodeId, state: NodeState) {
        let observed = self.state.node(id).expect("the node exists").observed.clone();
        let status = NodeStatus { state, ..observed.status };
        let change = Change::ObserveNode { node: id, expect: observed.version, status, description: None };
        self.must_commit(vec![change.into()]);
    }

    /// Updates a service to another definition.
    pub fn update(&mut self, service: &AService) {
        let expect = self.state.service(service.id).expect("the service exists").meta.version;
        let definition = service.definition();
        self.must_commit(vec![Change::UpdateService { service: service.id, expect, definition }.into()]);
    }
}

/// A report of a state.
#[must_use]
pub(crate) fn a_status(state: TaskState) -> TaskStatus {
    TaskStatus {
        state,
        timestamp: WallTime(0),
        applied_at: ClusterTime(0),
        message: state.name().to_owned(),
        err: String::new(),
        container: None,
        ports: Vec::new(),
    }
}

impl Put for ANode {
    fn put(self, world: &mut World) {
        let new = NewNode {
            id: self.id,
            role: self.role,
            availability: self.availability,
            certificate: NodeCertificate::default(),
            manager: None,
        };
        world.must_commit(vec![Change::CreateNode(Box::new(new)).into()]);
        let expect = world.state.node(self.id).expect("it was just created").observed.version;
        let status = NodeStatus { state: self.state, message: String::new(), addr: self.address };
        let description = self.description.map(Box::new);
        world.must_commit(vec![Change::ObserveNode { node: self.id, expect, status, description }.into()]);
        if !self.labels.is_empty() {
            world.edit_node(self.id, |spec| spec.labels.extend(self.labels));
        }
    }
}

impl Put for AService {
    fn put(self, world: &mut World) {
        let definition = self.definition();
        world.must_commit(vec![Change::CreateService { service: self.id, definition }.into()]);
    }
}

impl Put for &AService {
    fn put(self, world: &mut World) {
        self.clone().put(world);
    }
}

impl Put for ATask {
    fn put(self, world: &mut World) {
        let service = world.state.service(self.service_id).expect("the task's service exists").clone();
        let is_alive = self.desired.wants_alive();
        let new = NewTask {
            id: self.id,
            service_id: self.service_id,
            slot: Slot::Number(self.slot),
            spec_version: service.spec_version,
            history: self.history,
            desired: if is_alive { self.desired } else { DesiredState::Running },
            start_at: None,
            start_after: None,
            by_update: false,
        };
        world.must_commit(vec![Change::CreateTask(Box::new(new)).into()]);
        if self.is_attached {
            let expect = world.task(self.id).attachment.version;
            let ports = service.endpoint.ports.clone();
            world.must_commit(vec![
                Change::Attach {
                    task: self.id,
                    expect,
                    done: true,
                    ports,
                    networks: Vec::new(),
                    virtual_ips: Vec::new(),
                    reason: None,
                }
                .into(),
            ]);
        }
        if let Some(node) = self.node {
            let expect = world.task(self.id).placed.version;
            world.must_commit(vec![Change::Place { task: self.id, expect, node: Some(node), reason: None }.into()]);
        }
        if let Some(state) = self.observed {
            world.report(self.id, state);
        }
        if !is_alive {
            let expect = world.task(self.id).intent.version;
            let change =
                Change::SetIntent { task: self.id, expect, desired: self.desired, start_at: None, start_after: None };
            world.must_commit(vec![change.into()]);
        }
    }
}
