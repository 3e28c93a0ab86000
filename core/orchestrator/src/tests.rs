//! Tests of the orchestrator as a whole: build a state, step, look at the tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use skep_model::{
    Availability, ClusterTime, DesiredState, NodeState, RestartCondition, RestartHistory, ServiceMode, Slot, Task,
    TaskState,
};
use skep_store::Change;
use skep_testkit::{
    AService, Seat, World, a_node, a_service, a_state, a_task, check_state, node_id, seat, service_id, task_id,
};

use crate::{Orchestrator, restart};

const NEVER: Duration = Duration::ZERO;

fn settled(world: &mut World) -> Seat<Orchestrator> {
    let mut seat = seat(Orchestrator::default());
    world.settle(&mut seat);
    seat
}

/// The tasks of `web`, as `slot:desired` in the order of slots and creation.
fn check(world: &World, expected: &[&str]) {
    let mut tasks: Vec<&Task> = world.state.tasks_of_service(service_id("web")).map(AsRef::as_ref).collect();
    tasks.sort_by_key(|task| (task.slot, task.created.cluster, task.intent.version));
    let seen: Vec<String> = tasks.iter().map(|task| format!("{}:{:?}", task.slot, task.intent.desired)).collect();
    assert_eq!(seen, expected);
    assert_eq!(check_state(&world.state), []);
}

/// The only wanted task of `web`.
fn live(world: &World) -> Task {
    let mut live = world.state.tasks_of_service(service_id("web")).filter(|task| task.intent.desired.wants_alive());
    let task = live.next().expect("a wanted task").as_ref().clone();
    assert!(live.next().is_none(), "only one wanted task");
    task
}

fn one_running(service: AService) -> World {
    a_state()
        .with(a_node("one"))
        .with(a_node("two"))
        .with(service)
        .with(a_task("a", "web", 1).on("one", TaskState::Running))
}

#[test]
fn a_new_service_gets_its_slots_from_one() {
    let mut world = a_state().with(a_service("web").replicas(3));
    settled(&mut world);
    check(&world, &["1:Running", "2:Running", "3:Running"]);
}

#[test]
fn growing_fills_the_lowest_free_slots() {
    let mut world =
        a_state().with(a_service("web").replicas(4)).with(a_task("a", "web", 2)).with(a_task("b", "web", 5));
    settled(&mut world);
    check(&world, &["1:Running", "2:Running", "3:Running", "5:Running"]);
}

#[test]
fn shrinking_takes_unplaced_slots_then_the_most_crowded_nodes() {
    let mut world = a_state()
        .with(a_node("one"))
        .with(a_node("two"))
        .with(a_service("web").replicas(5))
        .with(a_task("a", "web", 1).on("one", TaskState::Running))
        .with(a_task("b", "web", 2).on("one", TaskState::Running))
        .with(a_task("c", "web", 3).on("one", TaskState::Running))
        .with(a_task("d", "web", 4).on("two", TaskState::Starting))
        .with(a_task("e", "web", 5));
    let mut seat = settled(&mut world);
    world.update(&a_service("web").replicas(2));
    world.settle(&mut seat);
    // Slot 5 has no node, 3 and 2 are the third and second on their node; the unplaced task is forgotten at once.
    check(&world, &["1:Running", "2:Remove", "3:Remove", "4:Running"]);
    world.update(&a_service("web").replicas(0));
    world.settle(&mut seat);
    for task in ["a", "b", "c", "d"] {
        world.report(task_id(task), TaskState::Shutdown);
    }
    world.settle(&mut seat);
    check(&world, &[]);
}

#[test]
fn a_removed_service_takes_its_tasks_along() {
    let mut world = one_running(a_service("web").replicas(2));
    let mut seat = settled(&mut world);
    world.must_commit(vec![Change::RemoveService(service_id("web")).into()]);
    world.settle(&mut seat);
    check(&world, &["1:Remove"]);
    world.report(task_id("a"), TaskState::Shutdown);
    world.settle(&mut seat);
    check(&world, &[]);
}

#[test]
fn an_ended_task_is_replaced_at_once_without_delay() {
    let mut world = one_running(a_service("web"));
    let mut seat = settled(&mut world);
    world.report(task_id("a"), TaskState::Failed);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Running"]);
    assert_eq!(live(&world).history.count, 1);
}

#[test]
fn a_rejected_task_is_not_replaced_in_a_tight_loop() {
    let mut world = one_running(a_service("web"));
    let mut seat = settled(&mut world);
    world.report(task_id("a"), TaskState::Rejected);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Ready"]);
    world.pass(restart::REJECTED_DELAY_MIN);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Running"]);
}

#[test]
fn a_replacement_is_held_for_the_delay() {
    let mut world = one_running(a_service("web").restart(RestartCondition::Any, Duration::from_secs(5)));
    let mut seat = settled(&mut world);
    world.report(task_id("a"), TaskState::Failed);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Ready"]);
    let start_at = live(&world).intent.start_at.expect("it is held");
    assert_eq!(world.step(&mut seat).wake_at, Some(start_at));
    world.pass(Duration::from_secs(4));
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Ready"]);
    world.pass(Duration::from_secs(1));
    // A loop without memory promotes it as well.
    let mut fresh = settled(&mut world);
    check(&world, &["1:Shutdown", "1:Running"]);
    assert_eq!(world.settle(&mut fresh), 0);
}

#[test]
fn a_held_task_that_fails_waits_for_its_turn() {
    let mut world = one_running(a_service("web").restart(RestartCondition::Any, Duration::from_secs(5)));
    let mut seat = settled(&mut world);
    world.report(task_id("a"), TaskState::Failed);
    world.settle(&mut seat);
    let held = live(&world);
    attach_and_place(&mut world, &held, "one");
    world.report(held.id, TaskState::Rejected);
    world.settle(&mut seat);
    assert_eq!(live(&world).id, held.id);
    world.pass(Duration::from_secs(6));
    world.settle(&mut seat);
    assert_ne!(live(&world).id, held.id);
    assert_eq!(live(&world).intent.desired, DesiredState::Ready);
}

fn attach_and_place(world: &mut World, task: &Task, node: &str) {
    world.must_commit(vec![
        Change::Attach {
            task: task.id,
            expect: task.attachment.version,
            done: true,
            ports: Vec::new(),
            networks: Vec::new(),
            virtual_ips: Vec::new(),
            reason: None,
        }
        .into(),
        Change::Place { task: task.id, expect: task.placed.version, node: Some(node_id(node)), reason: None }.into(),
    ]);
}

#[test]
fn a_drained_node_is_left_without_delay_and_in_order() {
    let mut world = one_running(a_service("web").restart(RestartCondition::Any, Duration::from_secs(5)));
    let mut seat = settled(&mut world);
    world.edit_node(node_id("one"), |spec| spec.availability = Availability::Drain);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Ready"]);
    assert_eq!(live(&world).intent.start_after, Some(task_id("a")));
    world.report(task_id("a"), TaskState::Shutdown);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Running"]);
}

#[test]
fn the_wait_for_an_old_task_is_bounded() {
    let mut world = one_running(a_service("web"));
    let mut seat = settled(&mut world);
    world.edit_node(node_id("one"), |spec| spec.availability = Availability::Drain);
    world.settle(&mut seat);
    world.pass(Duration::from_secs(59));
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Ready"]);
    world.pass(Duration::from_secs(2));
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Running"]);
}

#[test]
fn tasks_of_a_node_that_is_down_are_replaced_after_the_delay() {
    let mut world = one_running(a_service("web").restart(RestartCondition::Any, Duration::from_secs(5)));
    let mut seat = settled(&mut world);
    world.set_node_state(node_id("one"), NodeState::Unknown);
    world.settle(&mut seat);
    check(&world, &["1:Running"]);
    world.set_node_state(node_id("one"), NodeState::Down);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Ready"]);
    assert_eq!(live(&world).intent.start_after, None);
    world.pass(Duration::from_secs(5));
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Running"]);
}

#[test]
fn a_removed_nodes_tasks_are_replaced() {
    let mut world = one_running(a_service("web"));
    let mut seat = settled(&mut world);
    world.must_commit(vec![Change::RemoveNode(node_id("one")).into()]);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Running"]);
}

#[test]
fn a_policy_that_forbids_restarts_holds_the_slot() {
    for (condition, end) in [
        (RestartCondition::None, TaskState::Failed),
        (RestartCondition::None, TaskState::Complete),
        (RestartCondition::OnFailure, TaskState::Complete),
    ] {
        let mut world = one_running(a_service("web").restart(condition, NEVER));
        let mut seat = settled(&mut world);
        world.report(task_id("a"), end);
        world.settle(&mut seat);
        check(&world, &["1:Shutdown"]);
        settled(&mut world);
        check(&world, &["1:Shutdown"]);
        // The second slot is free, the first is held.
        world.update(&a_service("web").restart(condition, NEVER).replicas(2));
        world.settle(&mut seat);
        check(&world, &["1:Shutdown", "2:Running"]);
    }
}

#[test]
fn attempts_are_counted_per_slot() {
    let mut world = one_running(a_service("web").attempts(2, NEVER));
    let mut seat = settled(&mut world);
    world.report(task_id("a"), TaskState::Failed);
    world.settle(&mut seat);
    for _ in 0..2 {
        let task = live(&world);
        attach_and_place(&mut world, &task, "one");
        world.report(task.id, TaskState::Failed);
        world.settle(&mut seat);
    }
    check(&world, &["1:Shutdown", "1:Shutdown", "1:Shutdown"]);
}

#[test]
fn only_restarts_within_the_window_count() {
    let window = Duration::from_secs(10);
    let mut world = one_running(a_service("web").attempts(1, window));
    let mut seat = settled(&mut world);
    world.report(task_id("a"), TaskState::Failed);
    world.settle(&mut seat);
    let second = live(&world);
    attach_and_place(&mut world, &second, "one");
    world.pass(Duration::from_secs(11));
    world.report(second.id, TaskState::Failed);
    world.settle(&mut seat);
    let third = live(&world);
    attach_and_place(&mut world, &third, "one");
    world.pass(Duration::from_secs(1));
    world.report(third.id, TaskState::Failed);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Shutdown"]);
    assert_eq!(third.history.recent.len(), 1);
}

#[test]
fn history_is_trimmed_oldest_first() {
    let mut world = one_running(a_service("web"));
    let mut seat = settled(&mut world);
    world.report(task_id("a"), TaskState::Failed);
    world.settle(&mut seat);
    for _ in 0..7 {
        let task = live(&world);
        attach_and_place(&mut world, &task, "one");
        world.report(task.id, TaskState::Failed);
        world.settle(&mut seat);
    }
    check(&world, &["1:Shutdown", "1:Shutdown", "1:Shutdown", "1:Shutdown", "1:Running"]);
    assert!(world.state.task(task_id("a")).is_none());
    set_history_limit(&mut world, 2);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Running"]);
    set_history_limit(&mut world, 0);
    world.settle(&mut seat);
    check(&world, &["1:Running"]);
}

fn set_history_limit(world: &mut World, limit: i64) {
    let cluster = world.state.cluster().expect("the world has a cluster").clone();
    let mut spec = cluster.spec.clone();
    spec.orchestration.task_history_retention_limit = limit;
    let change = Change::SetClusterSpec { expect: cluster.meta.version, spec: Box::new(spec) };
    world.must_commit(vec![change.into()]);
}

#[test]
fn the_last_task_of_a_held_slot_survives_any_limit() {
    let mut world = one_running(a_service("web").restart(RestartCondition::None, NEVER));
    set_history_limit(&mut world, 0);
    let mut seat = settled(&mut world);
    world.report(task_id("a"), TaskState::Complete);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown"]);
}

#[test]
fn a_second_wanted_task_in_a_slot_is_stopped() {
    let mut world = one_running(a_service("web")).with(a_task("b", "web", 1));
    settled(&mut world);
    check(&world, &["1:Running", "1:Shutdown"]);
    assert_eq!(live(&world).id, task_id("a"));
}

#[test]
fn a_plan_on_its_way_is_not_repeated() {
    let mut world = one_running(a_service("web").replicas(3));
    let mut seat = seat(Orchestrator::default());
    let first = world.step(&mut seat);
    assert_eq!(first.changes.len(), 2);
    world.report(task_id("a"), TaskState::Failed);
    let second = world.step(&mut seat);
    assert_eq!(second.changes.len(), 1, "the restart alone: {:?}", second.changes);
    assert!(world.step(&mut seat).changes.is_empty());
    world.must_commit(first.changes);
    world.must_commit(second.changes);
    world.settle(&mut seat);
    check(&world, &["1:Shutdown", "1:Running", "2:Running", "3:Running"]);
}

#[test]
fn a_label_update_leaves_tasks_alone() {
    let mut world = one_running(a_service("web"));
    let mut seat = settled(&mut world);
    world.update(&a_service("web").spec(|spec| {
        spec.labels.insert("a".to_owned(), "b".to_owned());
    }));
    assert_eq!(world.settle(&mut seat), 0);
}

#[test]
fn other_modes_are_left_alone_with_a_note() {
    let mut world = a_state().with(a_node("one")).with(a_service("web").mode(ServiceMode::GlobalJob));
    let mut seat = seat(Orchestrator::default());
    let plan = world.step(&mut seat);
    assert!(plan.changes.is_empty());
    assert_eq!(plan.notes.len(), 1);
}

#[test]
fn a_history_without_window_keeps_no_times() {
    let history = RestartHistory { count: 4, recent: vec![ClusterTime(1)] };
    let mut world = a_state()
        .with(a_node("one"))
        .with(a_service("web"))
        .with(a_task("a", "web", 1).history(history).on("one", TaskState::Failed));
    settled(&mut world);
    assert_eq!(live(&world).history, RestartHistory { count: 5, recent: Vec::new() });
}

/// What can happen between two steps of a loop.
#[derive(Debug, Clone)]
enum Happening {
    Scale(u64),
    Report(usize, TaskState),
    Place(usize, bool),
    Node(bool, NodeState),
    Drain(bool, bool),
    Pass(u64),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let state =
        prop::sample::select(vec![TaskState::Running, TaskState::Complete, TaskState::Failed, TaskState::Shutdown]);
    let node = prop::sample::select(vec![NodeState::Ready, NodeState::Down, NodeState::Unknown]);
    let one = prop_oneof![
        1 => (0..6u64).prop_map(Happening::Scale),
        4 => (0..20usize, state).prop_map(|(task, state)| Happening::Report(task, state)),
        4 => (0..20usize, any::<bool>()).prop_map(|(task, node)| Happening::Place(task, node)),
        1 => (any::<bool>(), node).prop_map(|(which, state)| Happening::Node(which, state)),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(which, drain)| Happening::Drain(which, drain)),
        2 => (0..90u64).prop_map(Happening::Pass),
    ];
    prop::collection::vec(one, 1..25)
}

impl Happening {
    fn apply(&self, world: &mut World, service: &AService) {
        let name = |is_one: bool| node_id(if is_one { "one" } else { "two" });
        let count = world.state.task_count().max(1);
        let nth = |world: &World, at: usize| world.state.tasks().nth(at % count).map(|task| task.as_ref().clone());
        match self {
            Self::Scale(replicas) => world.update(&service.clone().replicas(*replicas)),
            Self::Report(at, state) => {
                if let Some(task) = nth(world, *at).filter(|task| task.placed.node.is_some()) {
                    world.report(task.id, *state);
                }
            }
            Self::Place(at, is_one) => {
                if let Some(task) = nth(world, *at).filter(|task| task.state() == TaskState::New) {
                    attach_and_place(world, &task, if *is_one { "one" } else { "two" });
                }
            }
            Self::Node(is_one, state) => world.set_node_state(name(*is_one), *state),
            Self::Drain(is_one, drain) => world.edit_node(name(*is_one), |spec| {
                spec.availability = if *drain { Availability::Drain } else { Availability::Active };
            }),
            Self::Pass(seconds) => world.pass(Duration::from_secs(*seconds)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Slots are filled whatever happens, and a loop without memory agrees with one that saw everything.
    #[test]
    fn slots_are_filled_and_memory_does_not_matter(
        happenings in happenings(),
        condition in prop::sample::select(vec![RestartCondition::Any, RestartCondition::OnFailure, RestartCondition::None]),
        delay in 0..8u64,
    ) {
        let service = a_service("web").restart(condition, Duration::from_secs(delay));
        let mut world = a_state().with(a_node("one")).with(a_node("two")).with(service.clone().replicas(3));
        let mut seat = seat(Orchestrator::default());
        world.settle(&mut seat);
        for happening in happenings {
            happening.apply(&mut world, &service);
            world.settle(&mut seat);
            prop_assert_eq!(check_state(&world.state), []);
            let mut fresh = skep_testkit::seat(Orchestrator::default());
            let plan = world.step(&mut fresh);
            prop_assert!(plan.changes.is_empty(), "{:?}", plan.changes);
        }
        let mut live: BTreeMap<Slot, u64> = BTreeMap::new();
        for task in world.state.tasks().filter(|task| task.intent.desired.wants_alive()) {
            *live.entry(task.slot).or_default() += 1;
        }
        prop_assert!(live.values().all(|count| *count == 1));
        let replicas = world.state.service(service.id).expect("the service stays").replicas;
        prop_assert!(live.len() as u64 <= replicas);
        if condition == RestartCondition::Any {
            prop_assert_eq!(live.len() as u64, replicas);
        }
    }
}
