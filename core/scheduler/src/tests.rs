//! Tests of the scheduler as a whole: build a state, step, look at where tasks are.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use skep_model::{
    Availability, DesiredState, Driver, GenericResource, Mount, NodeState, Platform, Plugin, PublishMode, TaskState,
    VolumeOptions,
};
use skep_store::{AtomicGroup, Change};
use skep_testkit::{
    AService, Seat, World, a_node, a_service, a_state, a_task, check_state, node_id, seat, service_id, task_id,
};

use crate::Scheduler;

fn settled(world: &mut World) -> Seat<Scheduler> {
    let mut seat = seat(Scheduler::default());
    world.settle(&mut seat);
    assert_eq!(check_state(&world.state), []);
    seat
}

/// Adds pending tasks `t1`, `t2`, … of a service.
fn with_pending(mut world: World, service: &AService, count: u64) -> World {
    world.put(service);
    for number in 1..=count {
        let name = &service.spec.name;
        world.put(a_task(&format!("{name}t{number}"), name, number).pending());
    }
    world
}

/// How many tasks of a service each node has.
fn spread(world: &World, service: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for task in world.state.tasks_of_service(service_id(service)) {
        if let Some(node) = task.placed.node {
            *counts.entry(node.to_string().trim_end_matches('0').trim_end_matches('x').to_owned()).or_default() += 1;
        }
    }
    counts
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect()
}

/// Why the only pending task of `web` waits.
fn check_refusal(world: World, service: &AService, expected: &str) {
    let mut world = with_pending(world, service, 1);
    settled(&mut world);
    let status = world.task(task_id("webt1")).status();
    assert_eq!((status.state, status.err.as_str()), (TaskState::Pending, expected));
}

fn one_node() -> World {
    a_state().with(a_node("one"))
}

#[test]
fn tasks_are_spread_evenly() {
    let world = a_state().with(a_node("one")).with(a_node("two")).with(a_node("three"));
    let mut world = with_pending(world, &a_service("web"), 7);
    settled(&mut world);
    let counts: Vec<usize> = spread(&world, "web").into_values().collect();
    assert_eq!(counts, [3, 2, 2]);
}

#[test]
fn fewer_tasks_of_the_service_come_before_fewer_tasks() {
    let world = a_state()
        .with(a_node("one"))
        .with(a_node("two"))
        .with(a_service("web"))
        .with(a_service("api"))
        .with(a_task("w", "web", 9).on("one", TaskState::Running))
        .with(a_task("a", "api", 1).on("two", TaskState::Running))
        .with(a_task("b", "api", 2).on("two", TaskState::Running))
        .with(a_task("t", "web", 1).pending());
    let mut world = world;
    settled(&mut world);
    assert_eq!(world.task(task_id("t")).placed.node, Some(node_id("two")));
}

#[test]
fn unwanted_tasks_hold_resources_but_do_not_count() {
    let service = a_service("web").reserve(3_000_000_000, 0);
    let world = a_state()
        .with(a_node("one"))
        .with(a_node("two"))
        .with(&service)
        .with(a_task("old", "web", 1).on("one", TaskState::Running).desired(DesiredState::Shutdown))
        .with(a_task("t", "web", 1).pending());
    let mut world = world;
    let mut seat = settled(&mut world);
    assert_eq!(world.task(task_id("t")).placed.node, Some(node_id("two")));
    world.put(a_task("u", "web", 2).pending());
    world.settle(&mut seat);
    assert_eq!(world.task(task_id("u")).status().err, "no suitable node (insufficient resources on 2 nodes)");
    world.report(task_id("old"), TaskState::Shutdown);
    world.settle(&mut seat);
    assert_eq!(world.task(task_id("u")).placed.node, Some(node_id("one")));
}

#[test]
fn refusals_have_dockers_words() {
    let service = || a_service("web");
    check_refusal(a_state(), &service(), "no suitable node");
    let not_ready = a_state().with(a_node("one").state(NodeState::Down));
    check_refusal(not_ready, &service(), "no suitable node (1 node not available for new tasks)");
    let two = a_state()
        .with(a_node("one").availability(Availability::Pause))
        .with(a_node("two").availability(Availability::Drain));
    check_refusal(two, &service(), "no suitable node (2 nodes not available for new tasks)");
    let greedy = service().reserve(5_000_000_000, 0);
    check_refusal(one_node(), &greedy, "no suitable node (insufficient resources on 1 node)");
    let hungry = service().reserve(0, 9 << 30);
    check_refusal(one_node().with(a_node("two")), &hungry, "no suitable node (insufficient resources on 2 nodes)");
    let picky = service().constraint("node.labels.zone==a");
    check_refusal(one_node(), &picky, "no suitable node (scheduling constraints not satisfied on 1 node)");
    let broken = service().constraint("zone");
    check_refusal(one_node(), &broken, "no suitable node (scheduling constraints not satisfied on 1 node)");
    let windows = service().spec(|spec| {
        spec.task.placement.platforms = vec![Platform { architecture: "amd64".into(), os: "windows".into() }];
    });
    check_refusal(one_node(), &windows, "no suitable node (unsupported platform on 1 node)");
}

#[test]
fn the_most_frequent_refusal_comes_first() {
    let world = a_state()
        .with(a_node("one").state(NodeState::Down))
        .with(a_node("two"))
        .with(a_node("three"))
        .with(a_node("four").label("zone", "a").resources(1, 1 << 30));
    let service = a_service("web").constraint("node.labels.zone==a").reserve(2_000_000_000, 0);
    check_refusal(
        world,
        &service,
        "no suitable node (scheduling constraints not satisfied on 2 nodes; 1 node not available for new tasks; \
         insufficient resources on 1 node)",
    );
}

#[test]
fn generic_resources_are_counted() {
    let gpu = |value| GenericResource::Discrete { kind: "GPU".to_owned(), value };
    let service =
        a_service("web").spec(|spec| spec.task.resources.reservations.get_or_insert_default().generic = vec![gpu(2)]);
    let world = a_state().with(a_node("one").generic("GPU", 5)).with(a_node("two"));
    let mut world = with_pending(world, &service, 3);
    settled(&mut world);
    assert_eq!(spread(&world, "web"), counts(&[("one", 2)]));
    assert_eq!(world.task(task_id("webt3")).status().err, "no suitable node (insufficient resources on 2 nodes)");
}

#[test]
fn plugins_are_looked_for() {
    let plugin = |kind: &str, name: &str| Plugin { kind: kind.to_owned(), name: name.to_owned() };
    let world = |plugins: Vec<Plugin>| a_state().with(a_node("one").described(|node| node.engine.plugins = plugins));
    let logging = |name: &str| {
        let driver = Driver { name: name.to_owned(), ..Driver::default() };
        a_service("web").spec(|spec| spec.task.log_driver = Some(driver))
    };
    check_refusal(
        world(vec![plugin("Log", "json-file")]),
        &logging("gelf"),
        "no suitable node (missing plugin on 1 node)",
    );
    for (plugins, driver) in [
        (vec![plugin("Log", "json-file")], "json-file"),
        (vec![plugin("Log", "json-file")], "none"),
        (vec![plugin("Volume", "local")], "gelf"),
        (vec![plugin("Log", "gelf:latest")], "gelf"),
    ] {
        let mut world = with_pending(world(plugins), &logging(driver), 1);
        settled(&mut world);
        assert_eq!(world.task(task_id("webt1")).state(), TaskState::Assigned, "{driver}");
    }
    let driver = Some(Driver { name: "nfs".to_owned(), ..Driver::default() });
    let volume = Some(VolumeOptions { driver, ..VolumeOptions::default() });
    let mounting =
        a_service("web").spec(|spec| spec.task.container.mounts = vec![Mount { volume, ..Mount::default() }]);
    check_refusal(world(vec![plugin("Volume", "local")]), &mounting, "no suitable node (missing plugin on 1 node)");
}

#[test]
fn platforms_are_normalized() {
    let service = a_service("web").spec(|spec| {
        spec.task.placement.platforms = vec![Platform { architecture: "amd64".into(), os: "linux".into() }];
    });
    let world = a_state()
        .with(a_node("one"))
        .with(a_node("two").described(|node| node.platform.architecture = "aarch64".into()));
    let mut world = with_pending(world, &service, 2);
    settled(&mut world);
    assert_eq!(spread(&world, "web"), counts(&[("one", 2)]));
}

#[test]
fn host_ports_are_given_once_per_node() {
    let service = a_service("web").port(9000, PublishMode::Host);
    let world = one_node().with(a_node("two"));
    let mut world = with_pending(world, &service, 3);
    settled(&mut world);
    assert_eq!(spread(&world, "web"), counts(&[("one", 1), ("two", 1)]));
    let err = world.task(task_id("webt3")).status().err;
    assert_eq!(err, "no suitable node (host-mode port already in use on 2 nodes)");
}

#[test]
fn the_limit_per_node_holds() {
    let service = a_service("web").max_replicas(2);
    let mut world = with_pending(one_node(), &service, 3);
    settled(&mut world);
    assert_eq!(spread(&world, "web"), counts(&[("one", 2)]));
    let err = world.task(task_id("webt3")).status().err;
    assert_eq!(err, "no suitable node (max replicas per node limit exceed)");
}

#[test]
fn preferences_deal_over_branches_first() {
    let world = a_state()
        .with(a_node("a1").label("zone", "a").label("rack", "1"))
        .with(a_node("a2").label("zone", "a").label("rack", "1"))
        .with(a_node("a3").label("zone", "a").label("rack", "2"))
        .with(a_node("b1").label("zone", "b"));
    let service = a_service("web").spread("node.labels.zone").spread("node.labels.rack").spread("node.colour");
    let mut world = with_pending(world, &service, 8);
    settled(&mut world);
    assert_eq!(spread(&world, "web"), counts(&[("a1", 1), ("a2", 1), ("a3", 2), ("b1", 4)]));
}

#[test]
fn a_full_branch_leaves_its_share_to_others() {
    let world = a_state()
        .with(a_node("a1").label("zone", "a").resources(1, 1 << 40))
        .with(a_node("b1").label("zone", "b").resources(8, 1 << 40));
    let service = a_service("web").reserve(1_000_000_000, 0).spread("node.labels.zone");
    let mut world = with_pending(world, &service, 5);
    settled(&mut world);
    assert_eq!(spread(&world, "web"), counts(&[("a1", 1), ("b1", 4)]));
}

#[test]
fn a_node_where_tasks_fail_is_avoided_for_a_while() {
    let mut world = one_node().with(a_node("two")).with(a_service("web"));
    for number in 1..=5 {
        let failed = a_task(&format!("f{number}"), "web", number).on("one", TaskState::Failed);
        world.put(failed.desired(DesiredState::Shutdown));
    }
    world.put(a_task("busy", "web", 9).on("two", TaskState::Running));
    world.put(a_task("t", "web", 1).pending());
    let mut seat = settled(&mut world);
    assert_eq!(world.task(task_id("t")).placed.node, Some(node_id("two")));
    world.pass(Duration::from_secs(301));
    world.put(a_task("u", "web", 2).pending());
    world.settle(&mut seat);
    assert_eq!(world.task(task_id("u")).placed.node, Some(node_id("one")));
}

#[test]
fn waiting_tasks_go_when_a_node_comes() {
    let mut world = with_pending(a_state(), &a_service("web"), 2);
    let mut seat = settled(&mut world);
    assert_eq!(world.settle(&mut seat), 0, "nothing is said twice");
    world.put(a_node("one"));
    world.settle(&mut seat);
    assert_eq!(spread(&world, "web"), counts(&[("one", 2)]));
}

#[test]
fn a_plan_on_its_way_is_accounted() {
    let service = a_service("web").reserve(3_000_000_000, 0);
    let mut world = with_pending(one_node(), &service, 1);
    let mut seat = seat(Scheduler::default());
    let first = world.step(&mut seat);
    assert_eq!(first.changes.len(), 1);
    world.put(a_task("late", "web", 2).pending());
    let second = world.step(&mut seat);
    assert!(
        matches!(second.changes[0].changes[0], Change::Place { task, node: None, .. } if task == task_id("late")),
        "{:?}",
        second.changes
    );
    assert_eq!(second.changes.len(), 1);
    world.must_commit(first.changes);
    world.must_commit(second.changes);
    assert_eq!(world.settle(&mut seat), 0);
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn a_stale_plan_loses() {
    let mut world = with_pending(one_node(), &a_service("web"), 2);
    let plan = world.step(&mut seat(Scheduler::default()));
    world.edit_node(node_id("one"), |spec| spec.availability = Availability::Drain);
    let outcome = world.commit(plan.changes).outcomes.remove(0);
    assert!(outcome.groups.iter().all(Result::is_err));
    let mut world = with_pending(one_node(), &a_service("web"), 1);
    let plan = world.step(&mut seat(Scheduler::default()));
    let version = world.task(task_id("webt1")).intent.version;
    let unwanted = Change::SetIntent {
        task: task_id("webt1"),
        expect: version,
        desired: DesiredState::Remove,
        start_at: None,
        start_after: None,
    };
    world.must_commit(vec![AtomicGroup::of(unwanted)]);
    assert!(world.commit(plan.changes).outcomes[0].ok().is_err());
}

#[test]
fn tasks_of_a_removed_service_are_not_placed() {
    let mut world = with_pending(one_node(), &a_service("web"), 1);
    world.must_commit(vec![Change::RemoveService(service_id("web")).into()]);
    assert_eq!(world.settle(&mut seat(Scheduler::default())), 0);
}

#[test]
fn a_large_group_goes_in_bounded_plans() {
    let mut world = with_pending(one_node(), &a_service("web"), 5000);
    let mut seat = seat(Scheduler::default());
    let plan = world.step(&mut seat);
    assert_eq!(plan.changes.len(), crate::scheduler::PLAN_MAX);
    assert_eq!(plan.wake_at, Some(world.now));
    world.must_commit(plan.changes);
    assert_eq!(world.settle(&mut seat), 5000 - crate::scheduler::PLAN_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(120) })]

    /// Capacity is never exceeded whatever is asked for, and a task waits only when no node has room for it.
    #[test]
    fn capacity_is_never_exceeded(
        nodes in prop::collection::vec((1..5i64, any::<bool>()), 1..6),
        services in prop::collection::vec((0..30i64, 0..12u64, 0..3u64, any::<bool>(), any::<bool>()), 1..6),
        ends in prop::collection::vec(0..60usize, 0..10),
    ) {
        let mut world = a_state();
        for (number, (cpus, zone)) in nodes.iter().enumerate() {
            world.put(a_node(&format!("n{number}")).resources(*cpus, 1 << 30).label("zone", if *zone { "a" } else { "b" }));
        }
        let mut seat = seat(Scheduler::default());
        for (number, (tenths, replicas, most, spreads, binds)) in services.iter().enumerate() {
            let mut service = a_service(&format!("s{number}")).reserve(tenths * 100_000_000, 0).max_replicas(*most);
            if *spreads {
                service = service.spread("node.labels.zone");
            }
            if *binds {
                service = service.port(9000, PublishMode::Host);
            }
            world = with_pending(world, &service, *replicas);
            world.settle(&mut seat);
            prop_assert_eq!(check_state(&world.state), []);
        }
        for at in ends {
            let task = world.state.tasks().nth(at).filter(|task| task.placed.node.is_some()).map(|task| task.id);
            if let Some(task) = task {
                world.report(task, TaskState::Failed);
                world.settle(&mut seat);
                prop_assert_eq!(check_state(&world.state), []);
            }
        }
        // A loop without memory places nothing more.
        let plan = world.step(&mut skep_testkit::seat(Scheduler::default()));
        let places = plan.changes.iter().flat_map(|group| &group.changes);
        prop_assert_eq!(places.filter(|change| matches!(change, Change::Place { node: Some(_), .. })).count(), 0);
    }
}
