//! Whatever an entry holds, the state stays whole, and its parts make the same state again.

use std::sync::Arc;

use proptest::prelude::*;
use skep_model::{
    ClusterTime, DesiredState, GroupVersion, Lineage, NodeState, NodeStatus, RestartHistory, Slot, SpecVersion,
    TaskState, TaskStatus, Version, WallTime,
};
use skep_store::{AtomicGroup, Change, Entry, NewTask, Parts, Precondition, Proposal, State, apply};
use skep_testkit::{
    AService, a_node, a_secret, a_service, a_state, check_state, node_id, secret_id, service_id, task_id,
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(NAMES.to_vec())
}

/// Half of the changes carry the version that is stored, the others any.
#[derive(Debug, Clone)]
struct Blueprint {
    kind: u8,
    first: &'static str,
    second: &'static str,
    number: u64,
    is_current: bool,
    state: TaskState,
    desired: DesiredState,
}

fn blueprint() -> impl Strategy<Value = Blueprint> {
    let states: Vec<TaskState> = TaskState::ALL.into_iter().filter(|state| *state != TaskState::Remove).collect();
    let desired = [
        DesiredState::Ready,
        DesiredState::Running,
        DesiredState::Complete,
        DesiredState::Shutdown,
        DesiredState::Remove,
    ];
    (
        0..17u8,
        name(),
        name(),
        0..6u64,
        prop::bool::weighted(0.8),
        prop::sample::select(states),
        prop::sample::select(desired.to_vec()),
    )
        .prop_map(|(kind, first, second, number, is_current, state, desired)| Blueprint {
            kind,
            first,
            second,
            number,
            is_current,
            state,
            desired,
        })
}

impl Blueprint {
    /// What a service is updated to: half of them use a secret.
    fn next(&self) -> AService {
        let next = a_service(self.second).spec(|spec| spec.task.force_update = self.number);
        if self.number.is_multiple_of(2) { next } else { next.secret(self.first) }
    }

    fn group(&self, state: &State) -> AtomicGroup {
        let task = state.task(task_id(self.first));
        let service = state.service(service_id(self.first));
        let group_version = |stored: Option<GroupVersion>| {
            if self.is_current { stored.unwrap_or_default() } else { GroupVersion(self.number) }
        };
        let edit_version =
            |stored: Option<Version>| if self.is_current { stored.unwrap_or_default() } else { Version(self.number) };
        let node = state.node(node_id(self.first));
        let id = task_id(self.first);
        let change = match self.kind {
            0 | 1 => Change::CreateService {
                service: service_id(self.first),
                definition: a_service(self.second).replicas(self.number).definition(),
            },
            2 | 3 => Change::UpdateService {
                service: service_id(self.first),
                expect: edit_version(service.map(|service| service.meta.version)),
                definition: self.next().definition(),
            },
            4 => Change::RollbackService {
                service: service_id(self.first),
                expect: edit_version(service.map(|service| service.meta.version)),
                reason: self.number.is_multiple_of(2).then(String::new),
            },
            5 => Change::RemoveService(service_id(self.first)),
            6 | 7 => Change::CreateTask(Box::new(NewTask {
                id,
                service_id: service_id(self.second),
                // Whose slots are unique is for the orchestrator; here every task has its own.
                slot: Slot::Number(NAMES.iter().position(|name| *name == self.first).unwrap_or(0) as u64),
                spec_version: state
                    .service(service_id(self.second))
                    .map_or(SpecVersion(self.number), |service| service.spec_version),
                history: RestartHistory::default(),
                desired: DesiredState::Running,
                start_at: None,
                start_after: None,
                by_update: false,
            })),
            8 => Change::SetIntent {
                task: id,
                expect: group_version(task.map(|task| task.intent.version)),
                desired: self.desired,
                start_at: None,
                start_after: None,
            },
            9 => Change::Attach {
                task: id,
                expect: group_version(task.map(|task| task.attachment.version)),
                done: true,
                ports: Vec::new(),
                networks: Vec::new(),
                virtual_ips: Vec::new(),
                reason: None,
            },
            10 => Change::Place {
                task: id,
                expect: group_version(task.map(|task| task.placed.version)),
                node: Some(node_id(self.second)),
                reason: None,
            },
            11 => Change::ObserveTask { task: id, status: Box::new(status(self.state)) },
            12 => Change::DeleteTask(id),
            13 | 14 => Change::CreateSecret {
                secret: secret_id(self.first),
                spec: Arc::new(a_secret(self.first).spec),
                lineage: Lineage::default(),
            },
            15 => Change::RemoveSecret(secret_id(self.first)),
            _ => Change::ObserveNode {
                node: node_id(self.first),
                expect: group_version(node.map(|node| node.observed.version)),
                status: NodeStatus { state: NodeState::Down, ..NodeStatus::default() },
                description: None,
            },
        };
        let group = AtomicGroup::of(change);
        // What the scheduler says when it places: the task was given everything, its node is there.
        let is_place = self.kind == 10;
        let is_ready = task.is_some_and(|task| task.state() == TaskState::Pending);
        if is_place && !is_ready {
            return group.when(Precondition::ServiceExists(service_id("none")));
        }
        if is_place { group.when(Precondition::NodeTakesTasks(node_id(self.second))) } else { group }
    }
}

fn status(state: TaskState) -> TaskStatus {
    TaskStatus {
        state,
        timestamp: WallTime(0),
        applied_at: ClusterTime(0),
        message: String::new(),
        err: String::new(),
        container: None,
        ports: Vec::new(),
    }
}

fn parts_of(state: &State) -> Parts {
    Parts {
        index: state.index(),
        time: state.time(),
        wall: state.wall(),
        cluster: state.cluster().map(|cluster| (**cluster).clone()),
        nodes: state.nodes().map(|node| (**node).clone()).collect(),
        revisions: state.revisions().map(|(service, version, spec)| (service, version, spec.clone())).collect(),
        services: state.services().map(|service| (**service).clone()).collect(),
        tasks: state.tasks().map(|task| (**task).clone()).collect(),
        secrets: state.secrets().map(|secret| (**secret).clone()).collect(),
        configs: state.configs().map(|config| (**config).clone()).collect(),
        networks: state.networks().map(|network| (**network).clone()).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_entries_keep_the_state_whole(
        entries in prop::collection::vec(prop::collection::vec(prop::collection::vec(blueprint(), 1..4), 1..4), 1..25),
    ) {
        let mut state = a_state().with(a_node("a")).with(a_node("b")).with(a_service("a")).state;
        for proposals in entries {
            let groups_of = |blueprints: &Vec<Blueprint>| blueprints.iter().map(|one| one.group(&state)).collect();
            let proposals: Vec<Proposal> =
                proposals.iter().map(|blueprints| Proposal { change_set: groups_of(blueprints) }).collect();
            let counts: Vec<usize> = proposals.iter().map(|proposal| proposal.change_set.len()).collect();
            let index = state.index() + 1;
            let entry = Entry { time: ClusterTime(state.time().0 + 1), wall: WallTime(0), proposals };
            let mut twin = state.clone();
            let applied = apply(&mut state, index, &entry);
            let again = apply(&mut twin, index, &entry);
            prop_assert_eq!(&applied.outcomes, &again.outcomes);
            let answered: Vec<usize> = applied.outcomes.iter().map(|outcome| outcome.groups.len()).collect();
            prop_assert_eq!(answered, counts);
            prop_assert_eq!(check_state(&state), []);
            let restored = State::restore(parts_of(&state)).expect("its own parts fit together");
            prop_assert_eq!(format!("{restored:?}"), format!("{state:?}"));
            prop_assert_eq!(check_state(&restored), []);
        }
    }
}

#[test]
fn damaged_parts_are_refused() {
    let world = a_state().with(a_node("a")).with(a_service("a"));
    let parts = || parts_of(&world.state);
    let mut lacking = parts();
    lacking.revisions.clear();
    assert!(State::restore(lacking).is_err());
    let mut double = parts();
    double.nodes.push(double.nodes[0].clone());
    assert!(State::restore(double).is_err());
    let mut double = parts();
    double.services.push(double.services[0].clone());
    assert!(State::restore(double).is_err());
}
