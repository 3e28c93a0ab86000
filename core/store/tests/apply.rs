//! What `apply` does with each kind of change, and what it refuses.

use skep_model::{
    DesiredState, GroupVersion, NodeState, Sealed, ServiceSpec, SpecVersion, TaskState, TaskStatus, UpdateConfig,
    UpdateState, Version, WallTime,
};
use skep_store::{AtomicGroup, Change, Event, Precondition, Rejection};
use skep_testkit::{AService, World, a_node, a_service, a_state, a_task, check_state, node_id, service_id, task_id};

fn set_intent(world: &World, task: &str, desired: DesiredState) -> Change {
    let expect = world.task(task_id(task)).intent.version;
    Change::SetIntent { task: task_id(task), expect, desired, start_at: None, start_after: None }
}

/// Commits groups and returns what became of each, after checking the whole state.
fn check(world: &mut World, groups: Vec<AtomicGroup>) -> Vec<Result<(), Rejection>> {
    let mut applied = world.commit(groups);
    assert_eq!(check_state(&world.state), []);
    applied.outcomes.remove(0).groups
}

fn refusal(world: &mut World, group: impl Into<AtomicGroup>) -> Rejection {
    let before = world.state.clone();
    let seen = world.events.len();
    let refused = check(world, vec![group.into()]).remove(0).expect_err("the group is refused");
    assert_eq!(world.events.len(), seen, "a refused group is no event");
    assert!(before.tasks().eq(world.state.tasks()) && before.services().eq(world.state.services()));
    refused
}

fn update(world: &World, service: &AService) -> Change {
    let expect = world.state.service(service.id).expect("the service exists").meta.version;
    Change::UpdateService { service: service.id, expect, definition: service.definition() }
}

fn running() -> World {
    a_state().with(a_node("one")).with(a_service("web")).with(a_task("a", "web", 1).on("one", TaskState::Running))
}

#[test]
fn a_stale_group_is_dropped_alone() {
    let mut world = running().with(a_task("b", "web", 2));
    let stale = Change::SetIntent {
        task: task_id("a"),
        expect: GroupVersion(1),
        desired: DesiredState::Shutdown,
        start_at: None,
        start_after: None,
    };
    let fresh = set_intent(&world, "b", DesiredState::Shutdown);
    let results = check(&mut world, vec![stale.into(), fresh.into()]);
    assert!(matches!(results[0], Err(Rejection::Stale { group: "intent", .. })), "{results:?}");
    assert_eq!(results[1], Ok(()));
    assert_eq!(world.task(task_id("a")).intent.desired, DesiredState::Running);
    assert_eq!(world.task(task_id("b")).intent.desired, DesiredState::Shutdown);
}

#[test]
fn a_group_commits_as_a_whole_or_not_at_all() {
    let mut world = running();
    let group =
        AtomicGroup::of(set_intent(&world, "a", DesiredState::Shutdown)).and(Change::DeleteTask(task_id("none")));
    assert!(matches!(refusal(&mut world, group), Rejection::NotFound { kind: "task", .. }));
    assert_eq!(world.task(task_id("a")).intent.desired, DesiredState::Running);
}

#[test]
fn two_writers_of_one_group_in_one_entry_do_not_both_win() {
    let mut world = running();
    let change = set_intent(&world, "a", DesiredState::Shutdown);
    let results = check(&mut world, vec![change.clone().into(), change.into()]);
    assert_eq!(results[0], Ok(()));
    assert!(matches!(results[1], Err(Rejection::Stale { .. })));
}

#[test]
fn every_precondition_is_judged() {
    let mut world = running();
    let service = service_id("web");
    let (spec_version, endpoint) = {
        let stored = world.state.service(service).unwrap();
        (stored.spec_version, stored.endpoint.version)
    };
    let intent = world.task(task_id("a")).intent.version;
    let held = vec![
        Precondition::ServiceExists(service),
        Precondition::ServiceRevision { service, spec_version },
        Precondition::ServiceReplicas { service, replicas: 1 },
        Precondition::EndpointIs(service, endpoint),
        Precondition::NodeTakesTasks(node_id("one")),
        Precondition::IntentIs(task_id("a"), intent),
    ];
    let changes = vec![set_intent(&world, "a", DesiredState::Running)];
    let results = check(&mut world, vec![AtomicGroup { preconditions: held, changes }]);
    assert_eq!(results, [Ok(())]);
    world.set_node_state(node_id("one"), NodeState::Down);
    for precondition in [
        Precondition::ServiceExists(service_id("none")),
        Precondition::ServiceRevision { service, spec_version: SpecVersion(999) },
        Precondition::ServiceReplicas { service, replicas: 2 },
        Precondition::EndpointIs(service, GroupVersion(999)),
        Precondition::NodeTakesTasks(node_id("one")),
        Precondition::NodeTakesTasks(node_id("none")),
        Precondition::IntentIs(task_id("a"), intent),
        Precondition::IntentIs(task_id("none"), intent),
        Precondition::TaskRuns(task_id("none")),
    ] {
        let group = AtomicGroup::of(set_intent(&world, "a", DesiredState::Shutdown)).when(precondition);
        refusal(&mut world, group);
    }
}

#[test]
fn names_are_unique_without_regard_to_case_and_free_after_removal() {
    let mut world = running();
    let create = |name: &str, id: &str| Change::CreateService {
        service: service_id(id),
        definition: a_service(name).definition(),
    };
    assert!(matches!(refusal(&mut world, create("WEB", "other")), Rejection::NameConflict { .. }));
    assert!(matches!(refusal(&mut world, create("other", "web")), Rejection::Exists { kind: "service", .. }));
    assert!(world.state.service_by_name("wEb").is_some());
    world.must_commit(vec![Change::RemoveService(service_id("web")).into()]);
    assert!(world.state.service_by_name("web").is_none());
    world.must_commit(vec![create("web", "other").into()]);
    assert_eq!(world.state.service_by_name("web").unwrap().id, service_id("other"));
}

#[test]
fn an_edit_of_another_version_is_out_of_sequence() {
    let mut world = running();
    let change = update(&world, &a_service("web").replicas(2));
    world.must_commit(vec![change.clone().into()]);
    assert_eq!(refusal(&mut world, change).to_string(), "update out of sequence");
    let node = world.state.node(node_id("one")).unwrap().clone();
    let change = Change::SetNodeSpec { node: node.id, expect: Version(1), spec: node.spec.clone() };
    assert_eq!(refusal(&mut world, change), Rejection::OutOfSequence);
}

#[test]
fn renaming_is_refused() {
    let mut world = running();
    let renamed = a_service("web").spec(|spec| "api".clone_into(&mut spec.name));
    let change = update(&world, &renamed);
    assert_eq!(refusal(&mut world, change).to_string(), "renaming services is not supported");
}

#[test]
fn only_what_tasks_see_makes_a_revision_and_it_lives_as_long_as_it_is_used() {
    let mut world = running();
    let service = service_id("web");
    let version = |world: &World| world.state.service(service).unwrap().spec_version;
    let versions = |world: &World| world.state.revisions().map(|(_, version, _)| version).collect::<Vec<_>>();
    let first = version(&world);
    let labelled = a_service("web").replicas(4).spec(|spec| {
        spec.labels.insert("a".to_owned(), "b".to_owned());
    });
    world.update(&labelled);
    assert_eq!(version(&world), first);
    let other = |force| a_service("web").spec(move |spec| spec.task.force_update = force);
    world.update(&other(1));
    let second = version(&world);
    world.update(&other(2));
    let third = version(&world);
    // The task runs the first, the second is the previous spec, the third is current.
    assert_eq!(versions(&world), [first, second, third]);
    world.report(task_id("a"), TaskState::Failed);
    world.must_commit(vec![Change::DeleteTask(task_id("a")).into()]);
    assert_eq!(versions(&world), [second, third]);
    world.must_commit(vec![Change::RemoveService(service).into()]);
    assert_eq!(versions(&world), []);
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn a_removed_services_tasks_keep_their_revision() {
    let mut world = running();
    world.must_commit(vec![Change::RemoveService(service_id("web")).into()]);
    assert_eq!(world.state.spec_of(world.task(task_id("a"))).name, "web");
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn a_rollback_swaps_the_two_specs() {
    let mut world = running();
    let service = service_id("web");
    let stored = |world: &World| world.state.service(service).unwrap().clone();
    let rollback =
        |world: &World| Change::RollbackService { service, expect: stored(world).meta.version, reason: None };
    let change = rollback(&world);
    assert!(refusal(&mut world, change).to_string().contains("does not have a previous spec"));
    let first = stored(&world);
    world.update(&a_service("web").replicas(5).spec(|spec| spec.task.force_update = 1));
    let second = stored(&world);
    let change = rollback(&world);
    world.must_commit(vec![change.into()]);
    let back = stored(&world);
    assert_eq!((back.spec_version, back.replicas), (first.spec_version, 1));
    assert_eq!(back.previous.as_ref().unwrap().spec_version, second.spec_version);
    let change = rollback(&world);
    world.must_commit(vec![change.into()]);
    assert_eq!((stored(&world).spec_version, stored(&world).replicas), (second.spec_version, 5));
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn an_automatic_rollback_forgets_what_failed() {
    let mut world = running();
    let service = service_id("web");
    let first = world.state.service(service).unwrap().spec_version;
    world.update(&a_service("web").spec(|spec| spec.task.force_update = 1));
    let expect = world.state.service(service).unwrap().meta.version;
    let reason = Some("update rolled back due to failure or early termination of task a".to_owned());
    world.must_commit(vec![Change::RollbackService { service, expect, reason: reason.clone() }.into()]);
    let back = world.state.service(service).unwrap().clone();
    assert_eq!((back.spec_version, &back.previous), (first, &None));
    let update = back.update.as_ref().unwrap();
    assert_eq!((update.state, Some(&update.message)), (UpdateState::RollbackStarted, reason.as_ref()));
    assert_eq!(back.update_since, world.state.time());
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn a_task_keeps_when_it_first_ran() {
    let mut world = running();
    let started = world.task(task_id("a")).started;
    assert!(started.is_some());
    world.pass(std::time::Duration::from_secs(1));
    world.report(task_id("a"), TaskState::Failed);
    assert_eq!(world.task(task_id("a")).started, started);
}

#[test]
fn an_end_that_is_heard_of_late_was_after_as_long_as_the_node_says() {
    let second = std::time::Duration::from_secs(1);
    // How long it ran, by the node's clock, which also goes back; and by what is stored. Heard of after 60 seconds.
    for (state, ran, stored) in [
        (TaskState::Failed, 2, 2),
        (TaskState::Complete, 0, 0),
        (TaskState::Failed, 3600, 60),
        (TaskState::Failed, -10, 0),
        (TaskState::Shutdown, 2, 60),
    ] {
        let mut world = running();
        let task = task_id("a");
        let reported = world.task(task).observed.as_ref().unwrap().timestamp.0;
        world.pass(60 * second);
        let ended = reported + ran * 1_000_000_000;
        let status = TaskStatus { state, timestamp: WallTime(ended), ..world.task(task).status() };
        world.must_commit(vec![Change::ObserveTask { task, status: Box::new(status) }.into()]);
        let (started, ended) = (world.task(task).started.unwrap(), world.task(task).status().applied_at);
        assert_eq!(ended.since(started).as_secs(), stored, "{state:?} after {ran} s");
    }
}

#[test]
fn a_task_is_outdated_only_when_it_would_be_made_otherwise() {
    let mut world = running();
    let is_up_to_date = |world: &World| world.state.is_up_to_date(world.task(task_id("a")));
    world.update(&a_service("web").replicas(3).spec(|spec| {
        spec.labels.insert("a".to_owned(), "b".to_owned());
        spec.update = Some(UpdateConfig::default());
    }));
    assert!(is_up_to_date(&world), "labels, scale and update configuration touch no task");
    world.update(&a_service("web").spec(|spec| spec.task.force_update = 1));
    assert!(!is_up_to_date(&world));
    world.update(&a_service("web"));
    assert!(is_up_to_date(&world), "an equal spec again, though a new revision");
    world.update(&a_service("web").constraint("node.role==worker"));
    assert!(is_up_to_date(&world), "its node fulfils the new constraint");
    world.update(&a_service("web").constraint("node.role==manager"));
    assert!(!is_up_to_date(&world));
    let auth = |spec: &mut ServiceSpec| spec.task.container.registry_auth = Some(Sealed(vec![1]));
    world.update(&a_service("web").spec(auth));
    assert!(is_up_to_date(&world), "it has its image already");
}

#[test]
fn reports_only_move_a_task_forward_and_echo_nothing() {
    let mut world = running();
    let seen = world.events.len();
    let status = Box::new(world.task(task_id("a")).status());
    world.must_commit(vec![Change::ObserveTask { task: task_id("a"), status }.into()]);
    world.report(task_id("a"), TaskState::Preparing);
    assert_eq!(world.events.len(), seen);
    assert_eq!(world.task(task_id("a")).state(), TaskState::Running);
    let version = world.task(task_id("a")).intent.version;
    world.report(task_id("a"), TaskState::Failed);
    assert_eq!(world.task(task_id("a")).state(), TaskState::Failed);
    assert_eq!(world.task(task_id("a")).intent.version, version, "a report makes no plan stale");
}

#[test]
fn a_task_without_node_cannot_be_reported() {
    let mut world = running().with(a_task("b", "web", 2));
    let status = world.task(task_id("a")).status();
    refusal(&mut world, Change::ObserveTask { task: task_id("b"), status: Box::new(status) });
}

#[test]
fn a_node_is_written_once() {
    let mut world = running().with(a_node("two"));
    let expect = world.task(task_id("a")).placed.version;
    let change = Change::Place { task: task_id("a"), expect, node: Some(node_id("two")), reason: None };
    assert!(matches!(refusal(&mut world, change), Rejection::Invalid(_)));
}

#[test]
fn what_is_wanted_only_grows() {
    let mut world = running();
    let change = set_intent(&world, "a", DesiredState::Shutdown);
    world.must_commit(vec![change.into()]);
    let change = set_intent(&world, "a", DesiredState::Running);
    assert!(matches!(refusal(&mut world, change), Rejection::Invalid(_)));
}

#[test]
fn a_task_that_may_run_is_not_deleted() {
    let mut world = running().with(a_task("b", "web", 2));
    assert!(matches!(refusal(&mut world, Change::DeleteTask(task_id("a"))), Rejection::Invalid(_)));
    world.must_commit(vec![Change::DeleteTask(task_id("b")).into()]);
    world.report(task_id("a"), TaskState::Shutdown);
    world.must_commit(vec![Change::DeleteTask(task_id("a")).into()]);
    assert_eq!(world.state.task_count(), 0);
}

#[test]
fn a_removed_nodes_tasks_are_orphaned() {
    let mut world = running();
    world.must_commit(vec![Change::RemoveNode(node_id("one")).into()]);
    let task = world.task(task_id("a"));
    assert_eq!(task.state(), TaskState::Orphaned);
    assert_eq!(task.status().message, "Task belonged to a node that has been deleted");
    let last = world.events.last().expect("something happened");
    assert!(matches!(last, Event::Node(Some(_), None)), "the node goes after its tasks");
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn a_task_needs_its_service_and_revision() {
    let mut world = running();
    let task = world.task(task_id("a")).clone();
    let new = |service, spec_version| {
        Change::CreateTask(Box::new(skep_store::NewTask {
            id: task_id("new"),
            service_id: service,
            slot: task.slot,
            spec_version,
            history: task.history.clone(),
            desired: DesiredState::Running,
            start_at: None,
            start_after: None,
            by_update: false,
        }))
    };
    refusal(&mut world, new(service_id("none"), task.spec_version));
    refusal(&mut world, new(task.service_id, SpecVersion(999)));
}

#[test]
fn a_task_that_was_never_placed_and_is_not_wanted_has_ended() {
    let mut world = running().with(a_task("b", "web", 2).pending());
    let change = set_intent(&world, "b", DesiredState::Remove);
    world.must_commit(vec![change.into()]);
    assert_eq!(world.task(task_id("b")).state(), TaskState::Shutdown);
}
