//! Scenarios: a node registers, beats, is assigned tasks, falls silent.

use std::sync::Arc;
use std::time::Duration;

use skep_control::{Env, Rng};
use skep_model::{
    Availability, ClusterTime, ContainerSpec, DesiredState, GroupVersion, NodeCertificate, NodeDescription, NodeId,
    NodeRole, NodeState, ObjectId, RestartHistory, ServiceDefinition, ServiceId, ServiceSpec, Slot, TaskId, TaskSpec,
    TaskState, TaskStatus, WallTime,
};
use skep_store::{AtomicGroup, Change, ChangeSet, Entry, Event, NewNode, NewTask, Proposal, State, apply};

use crate::{AssignmentChange, Dispatcher, Output, Refusal};

struct World {
    state: State,
    env: Env,
    events: Vec<Event>,
    dispatcher: Dispatcher,
}

fn node() -> NodeId {
    NodeId::from_random([1; 17])
}

fn service() -> ServiceId {
    ServiceId::from_random([2; 17])
}

fn task(number: u8) -> TaskId {
    TaskId::from_random([number; 17])
}

impl World {
    fn new() -> Self {
        let env = Env { now: ClusterTime(1), wall: WallTime(0), rng: Rng::seeded(7) };
        let mut world = Self { state: State::default(), env, events: Vec::new(), dispatcher: Dispatcher::new() };
        let spec = ServiceSpec {
            name: "web".into(),
            task: TaskSpec {
                container: ContainerSpec { image: "x".into(), ..Default::default() },
                ..Default::default()
            },
            ..ServiceSpec::default()
        };
        world.commit(vec![
            Change::CreateNode(Box::new(NewNode {
                id: node(),
                role: NodeRole::Manager,
                availability: Availability::Active,
                certificate: NodeCertificate::default(),
                manager: None,
            }))
            .into(),
            Change::CreateService {
                service: service(),
                definition: ServiceDefinition { spec: Arc::new(spec), replicas: 1 },
            }
            .into(),
        ]);
        world.step();
        world
    }

    fn commit(&mut self, change_set: ChangeSet) {
        let entry = Entry { time: self.env.now, wall: self.env.wall, proposals: vec![Proposal { change_set }] };
        let index = self.state.index() + 1;
        let applied = apply(&mut self.state, index, &entry);
        assert!(applied.outcomes[0].ok().is_ok(), "{:?}", applied.outcomes);
        self.events.extend(applied.events);
    }

    fn step(&mut self) -> Vec<Output> {
        let events = std::mem::take(&mut self.events);
        self.dispatcher.step(&self.state, &events, &mut self.env).0
    }

    fn register(&mut self) -> skep_model::SessionId {
        let registration = self
            .dispatcher
            .register(&self.state, &mut self.env, node(), NodeDescription::default(), "10.0.0.1".into(), None)
            .unwrap();
        self.commit(registration.changes);
        registration.session
    }

    fn place_task(&mut self, number: u8) {
        let spec_version = self.state.service(service()).unwrap().spec_version;
        let new = NewTask {
            id: task(number),
            service_id: service(),
            slot: Slot::Number(u64::from(number)),
            spec_version,
            history: RestartHistory::default(),
            desired: DesiredState::Running,
            start_at: None,
            start_after: None,
            by_update: false,
        };
        let expect = GroupVersion(0);
        self.commit(vec![
            AtomicGroup::of(Change::CreateTask(Box::new(new)))
                .and(Change::Attach {
                    task: task(number),
                    expect,
                    done: true,
                    ports: vec![],
                    networks: vec![],
                    virtual_ips: vec![],
                    reason: None,
                })
                .and(Change::Place { task: task(number), expect, node: Some(node()), reason: None }),
        ]);
    }

    fn pass(&mut self, duration: Duration) {
        self.env.now = self.env.now.after(duration);
    }

    fn node_state(&self) -> NodeState {
        self.state.node(node()).unwrap().observed.status.state
    }
}

fn status(state: TaskState) -> TaskStatus {
    TaskStatus {
        state,
        timestamp: WallTime(5),
        applied_at: ClusterTime(0),
        message: "started".into(),
        err: String::new(),
        container: None,
        ports: Vec::new(),
    }
}

#[test]
fn a_registered_node_is_ready_and_gets_its_tasks_then_changes() {
    let mut world = World::new();
    let session = world.register();
    assert_eq!(world.node_state(), NodeState::Ready);
    world.place_task(3);
    world.step();
    let complete = world.dispatcher.open_assignments(&world.state, node(), session).unwrap();
    assert!(complete.is_complete);
    assert_eq!(complete.changes.len(), 1);

    world.place_task(4);
    let outputs = world.step();
    let [Output::Assignments(to, message)] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!((*to, message.applies_to.as_str(), message.results_in.as_str()), (session, "1", "2"));
    assert!(matches!(&message.changes[..], [AssignmentChange::Update(update)] if update.task.id == task(4)));
}

#[test]
fn a_nodes_own_reports_do_not_echo_and_a_deleted_task_is_removed() {
    let mut world = World::new();
    let session = world.register();
    world.place_task(3);
    world.dispatcher.open_assignments(&world.state, node(), session).unwrap();
    world.step();
    let report = vec![(task(3), status(TaskState::Failed)), (task(9), status(TaskState::Running))];
    let changes = world.dispatcher.report(&world.state, node(), session, report).unwrap();
    assert_eq!(changes.len(), 1, "the unknown task is ignored");
    world.commit(changes);
    assert!(world.step().is_empty());
    world.commit(vec![Change::DeleteTask(task(3)).into()]);
    let outputs = world.step();
    assert!(
        matches!(&outputs[..], [Output::Assignments(_, message)] if message.changes == [AssignmentChange::Remove(task(3))]),
        "{outputs:?}"
    );
}

#[test]
fn a_silent_node_goes_down_and_its_session_ends() {
    let mut world = World::new();
    let session = world.register();
    world.step();
    for _ in 0..20 {
        world.pass(Duration::from_secs(1));
        world.dispatcher.heartbeat(&world.state, &mut world.env, node(), session).unwrap();
        assert!(world.step().is_empty());
    }
    for _ in 0..20 {
        world.pass(Duration::from_secs(1));
        for output in world.step() {
            if let Output::Propose(changes) = output {
                world.commit(changes);
            }
        }
    }
    assert_eq!(world.node_state(), NodeState::Down);
    assert_eq!(world.dispatcher.heartbeat(&world.state, &mut world.env, node(), session), Err(Refusal::NotRegistered));
}

#[test]
fn a_stalled_leader_blames_no_node() {
    let mut world = World::new();
    world.register();
    world.step();
    world.pass(Duration::from_secs(3600));
    assert!(world.step().is_empty());
    assert_eq!(world.node_state(), NodeState::Ready);
}

#[test]
fn tasks_of_a_lost_node_are_given_up_after_a_day_whoever_leads() {
    let mut world = World::new();
    world.register();
    world.place_task(3);
    let stored = world.state.node(node()).unwrap().clone();
    world.commit(vec![super::observe(&stored, NodeState::Down, String::new())]);
    world.pass(Duration::from_secs(23 * 3600));
    world.dispatcher = Dispatcher::new();
    world.step();
    world.pass(Duration::from_secs(3601));
    let outputs = world.step();
    let Some(Output::Propose(changes)) = outputs.into_iter().next() else { panic!("nothing proposed") };
    world.commit(changes);
    assert_eq!(world.state.task(task(3)).unwrap().state(), TaskState::Orphaned);
}

#[test]
fn a_new_leader_does_not_know_nodes_until_they_register() {
    let mut world = World::new();
    world.register();
    world.dispatcher = Dispatcher::new();
    let outputs = world.step();
    let Some(Output::Propose(changes)) = outputs.into_iter().next() else { panic!("nothing proposed") };
    world.commit(changes);
    assert_eq!(world.node_state(), NodeState::Unknown);
    world.register();
    assert_eq!(world.node_state(), NodeState::Ready);
}

#[test]
fn a_node_that_registers_while_it_is_being_declared_unknown_ends_up_ready() {
    let mut world = World::new();
    world.register();
    world.dispatcher = Dispatcher::new();
    let outputs = world.step();
    let Some(Output::Propose(unknown)) = outputs.into_iter().next() else { panic!("nothing proposed") };
    world.register();
    world.commit(unknown);
    assert_eq!(world.node_state(), NodeState::Unknown);
    let outputs = world.step();
    let Some(Output::Propose(ready)) = outputs.into_iter().next() else { panic!("nothing proposed") };
    world.commit(ready);
    assert_eq!(world.node_state(), NodeState::Ready);
}

#[test]
fn registering_too_often_is_refused() {
    let mut world = World::new();
    for _ in 0..3 {
        world.register();
    }
    let refused = world.dispatcher.register(
        &world.state,
        &mut world.env,
        node(),
        NodeDescription::default(),
        String::new(),
        None,
    );
    assert_eq!(refused.unwrap_err(), Refusal::RateLimited(node()));
}

#[test]
fn a_foreign_session_is_refused() {
    let mut world = World::new();
    world.register();
    let other = skep_model::SessionId::from_random([9; 17]);
    assert_eq!(world.dispatcher.open_assignments(&world.state, node(), other).unwrap_err(), Refusal::SessionInvalid);
}

#[test]
fn a_value_comes_before_its_first_task_and_is_taken_back_after_the_last() {
    use skep_model::{Lineage, Sealed, SecretId, SecretReference, SecretSpec};
    let mut world = World::new();
    let id = SecretId::from_random([5; 17]);
    let spec = SecretSpec { name: "tls".into(), data: Sealed(vec![1]), ..SecretSpec::default() };
    let lineage = Lineage::default();
    world.commit(vec![Change::CreateSecret { secret: id, spec: Arc::new(spec), lineage }.into()]);
    let stored = world.state.service(service()).unwrap().clone();
    let mut spec = (*stored.spec).clone();
    let reference = SecretReference { secret_id: id, secret_name: "tls".into(), file: None };
    spec.task.container.secrets.push(reference);
    let definition = ServiceDefinition { spec: Arc::new(spec), replicas: 1 };
    let update = Change::UpdateService { service: service(), expect: stored.meta.version, definition };
    world.commit(vec![update.into()]);
    let session = world.register();
    world.step();
    let complete = world.dispatcher.open_assignments(&world.state, node(), session).unwrap();
    assert!(complete.changes.is_empty(), "a node without tasks gets no secret");

    let kinds = |outputs: &[Output]| -> Vec<&'static str> {
        let [Output::Assignments(_, message)] = outputs else { panic!("{outputs:?}") };
        let name = |change: &AssignmentChange| match change {
            AssignmentChange::UpdateSecret(secret) if secret.id == id => "secret",
            AssignmentChange::RemoveSecret(gone) if *gone == id => "no secret",
            AssignmentChange::Update(_) => "task",
            _ => "other",
        };
        message.changes.iter().map(name).collect()
    };
    for number in [3, 4] {
        world.place_task(number);
    }
    assert_eq!(kinds(&world.step()), ["secret", "task", "task"]);
    let complete = world.dispatcher.open_assignments(&world.state, node(), session).unwrap();
    assert!(matches!(complete.changes[0], AssignmentChange::UpdateSecret(_)) && complete.changes.len() == 3);

    let ended =
        |number, state| AtomicGroup::of(Change::ObserveTask { task: task(number), status: Box::new(status(state)) });
    world.commit(vec![ended(3, TaskState::Failed), ended(4, TaskState::Running)]);
    assert!(world.step().is_empty());
    world.commit(vec![ended(4, TaskState::Complete)]);
    assert_eq!(kinds(&world.step()), ["no secret"]);
    let complete = world.dispatcher.open_assignments(&world.state, node(), session).unwrap();
    assert_eq!(complete.changes.len(), 2, "ended tasks need no secret");
}
