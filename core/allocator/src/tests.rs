//! Tests of the allocator as a whole: build a state, step, look at endpoints and attachments.

use proptest::prelude::*;
use skep_model::{DesiredState, PublishMode, TaskState};
use skep_store::Change;
use skep_testkit::{AService, World, a_node, a_service, a_state, a_task, check_state, seat, service_id, task_id};

use crate::{Allocator, DYNAMIC_FIRST, DYNAMIC_LAST};

fn published(world: &World, service: &str) -> Vec<u16> {
    let service = world.state.service(service_id(service)).expect("the service exists");
    service.endpoint.ports.iter().map(|port| port.published_port).collect()
}

fn reason(world: &World, service: &str) -> Option<String> {
    world.state.service(service_id(service)).expect("the service exists").endpoint.reason.clone()
}

fn settled(world: &mut World) -> skep_testkit::Seat<Allocator> {
    let mut seat = seat(Allocator::default());
    world.settle(&mut seat);
    assert_eq!(check_state(&world.state), []);
    seat
}

fn remove(world: &mut World, service: &str) {
    world.must_commit(vec![Change::RemoveService(service_id(service)).into()]);
}

fn with_port(name: &str, port: u16) -> AService {
    a_service(name).port(port, PublishMode::Ingress)
}

#[test]
fn tasks_without_ports_pass_at_once() {
    let mut world = a_state().with(a_service("web")).with(a_task("a", "web", 1));
    let mut seat = seat(Allocator::default());
    assert_eq!(world.settle(&mut seat), 1, "the service itself needs nothing");
    assert_eq!(world.task(task_id("a")).state(), TaskState::Pending);
}

#[test]
fn tasks_get_a_copy_of_the_services_ports() {
    let service = with_port("web", 8080).port(0, PublishMode::Ingress).port(9000, PublishMode::Host);
    let mut world = a_state().with(service).with(a_task("a", "web", 1));
    settled(&mut world);
    assert_eq!(published(&world, "web"), [8080, DYNAMIC_FIRST, 9000]);
    let task = world.task(task_id("a"));
    assert_eq!(task.state(), TaskState::Pending);
    assert_eq!(task.attachment.ports, world.state.service(service_id("web")).unwrap().endpoint.ports);
}

#[test]
fn chosen_ports_go_round_the_range() {
    let mut world = a_state().with(with_port("a", 0));
    let mut seat = settled(&mut world);
    world.put(with_port("b", 0));
    world.settle(&mut seat);
    assert_eq!((published(&world, "a"), published(&world, "b")), (vec![DYNAMIC_FIRST], vec![DYNAMIC_FIRST + 1]));
    remove(&mut world, "a");
    world.settle(&mut seat);
    world.put(with_port("c", 0));
    world.settle(&mut seat);
    assert_eq!(published(&world, "c"), [DYNAMIC_FIRST + 2], "a port that was just freed is not used at once");
    world.put(with_port("d", DYNAMIC_LAST));
    settled(&mut world);
    world.put(with_port("e", 0));
    let mut fresh = settled(&mut world);
    assert_eq!(published(&world, "e"), [DYNAMIC_FIRST], "behind the last comes the first");
    world.put(with_port("f", 0));
    world.settle(&mut fresh);
    assert_eq!(published(&world, "f"), [DYNAMIC_FIRST + 3]);
}

#[test]
fn protocols_have_spaces_of_their_own() {
    let udp = with_port("b", 8080).spec(|spec| {
        spec.endpoint.as_mut().unwrap().ports[0].protocol = skep_model::Protocol::Udp;
    });
    let mut world = a_state().with(with_port("a", 8080)).with(udp);
    settled(&mut world);
    assert_eq!((published(&world, "a"), published(&world, "b")), (vec![8080], vec![8080]));
}

#[test]
fn a_chosen_port_survives_updates() {
    let mut world = a_state().with(with_port("web", 0));
    let mut seat = settled(&mut world);
    world.update(&with_port("web", 0).port(0, PublishMode::Ingress).spec(|spec| spec.task.force_update = 1));
    world.settle(&mut seat);
    assert_eq!(published(&world, "web"), [DYNAMIC_FIRST, DYNAMIC_FIRST + 1]);
    world.update(&a_service("web"));
    world.settle(&mut seat);
    assert_eq!(published(&world, "web"), [0; 0]);
}

#[test]
fn a_conflict_names_the_other_service_and_ends_with_it() {
    let mut world = a_state().with(with_port("api", 8080));
    let mut seat = settled(&mut world);
    world.put(with_port("web", 8080));
    world.put(a_task("a", "web", 1));
    world.settle(&mut seat);
    let text = "cannot publish port 8080/tcp for service \"web\": already published by service \"api\"";
    assert_eq!(reason(&world, "web").as_deref(), Some(text));
    assert_eq!(world.task(task_id("a")).status().err, text);
    assert_eq!(world.task(task_id("a")).state(), TaskState::New);
    settled(&mut world);
    remove(&mut world, "api");
    world.settle(&mut seat);
    assert_eq!((published(&world, "web"), reason(&world, "web")), (vec![8080], None));
    assert_eq!(world.task(task_id("a")).state(), TaskState::Pending);
}

#[test]
fn a_removed_services_port_is_held_until_its_tasks_have_ended() {
    let mut world = a_state().with(a_node("one")).with(with_port("api", 8080));
    let mut seat = settled(&mut world);
    world.put(a_task("a", "api", 1).on("one", TaskState::Running));
    remove(&mut world, "api");
    world.put(with_port("web", 8080));
    world.settle(&mut seat);
    let text = "cannot publish port 8080/tcp for service \"web\": \
                a task of the removed service \"api\" still has it until it has stopped";
    assert_eq!(reason(&world, "web").as_deref(), Some(text));
    settled(&mut world);
    assert_eq!(published(&world, "web"), [0; 0]);
    world.report(task_id("a"), TaskState::Shutdown);
    world.settle(&mut seat);
    assert_eq!((published(&world, "web"), reason(&world, "web")), (vec![8080], None));
}

#[test]
fn a_port_given_up_by_an_update_is_held_by_older_tasks() {
    let mut world = a_state().with(a_node("one")).with(with_port("api", 8080));
    let mut seat = settled(&mut world);
    world.put(a_task("a", "api", 1).on("one", TaskState::Running));
    world.update(&with_port("api", 8081));
    world.put(with_port("web", 8080));
    world.settle(&mut seat);
    assert_eq!(published(&world, "api"), [8081]);
    let text = "cannot publish port 8080/tcp for service \"web\": \
                a task of service \"api\" still has it until it has stopped";
    assert_eq!(reason(&world, "web").as_deref(), Some(text));
    // The service itself may have its port back.
    world.update(&with_port("api", 8080));
    world.settle(&mut seat);
    assert_eq!(published(&world, "api"), [8080]);
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn a_plan_on_its_way_is_not_repeated_and_holds_its_ports() {
    let mut world = a_state().with(with_port("api", 8080));
    let mut seat = seat(Allocator::default());
    let first = world.step(&mut seat);
    assert_eq!(first.changes.len(), 1);
    world.put(with_port("web", 8080));
    let second = world.step(&mut seat);
    assert_eq!(second.changes.len(), 1);
    world.must_commit(second.changes);
    world.must_commit(first.changes);
    world.settle(&mut seat);
    assert_eq!((published(&world, "api"), published(&world, "web")), (vec![8080], vec![]));
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn unwanted_tasks_are_given_nothing() {
    let mut world = a_state().with(a_service("web")).with(a_task("a", "web", 1).desired(DesiredState::Remove));
    assert_eq!(world.settle(&mut seat(Allocator::default())), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    /// No port is given twice whatever comes and goes, and a loop without memory agrees.
    #[test]
    fn no_port_twice(steps in prop::collection::vec((0..5usize, 0..4u16, 0..5u8), 1..30)) {
        let names = ["a", "b", "c", "d", "e"];
        let mut world = a_state().with(a_node("one"));
        let mut seat = seat(Allocator::default());
        for (step, (which, port, what)) in steps.into_iter().enumerate() {
            let name = names[which];
            let number = if port == 0 { 0 } else { 8080 + port };
            let stored = world.state.service_by_name(name).cloned();
            match (what, stored) {
                // Ids are never used again, so a service that comes back has another.
                (0 | 1, None) => {
                    let mut service = with_port(name, number).port(0, PublishMode::Ingress);
                    service.id = service_id(&format!("{name}{step}"));
                    world.put(service);
                }
                (1, Some(service)) => {
                    let mut update = with_port(name, number);
                    update.id = service.id;
                    world.update(&update);
                }
                (2, Some(service)) => {
                    world.must_commit(vec![Change::RemoveService(service.id).into()]);
                }
                (3, Some(service)) => {
                    let id = format!("t{step}");
                    let new = skep_store::NewTask {
                        id: task_id(&id),
                        service_id: service.id,
                        slot: skep_model::Slot::Number(step as u64),
                        spec_version: service.spec_version,
                        history: skep_model::RestartHistory::default(),
                        desired: DesiredState::Running,
                        start_at: None,
                        start_after: None,
                        by_update: false,
                    };
                    world.must_commit(vec![Change::CreateTask(Box::new(new)).into()]);
                }
                (4, _) => {
                    let ended = world.state.tasks().find(|task| task.intent.desired == DesiredState::Running).cloned();
                    if let Some(task) = ended {
                        let change = Change::SetIntent {
                            task: task.id,
                            expect: task.intent.version,
                            desired: DesiredState::Shutdown,
                            start_at: None,
                            start_after: None,
                        };
                        world.must_commit(vec![change.into()]);
                    }
                }
                _ => {}
            }
            world.settle(&mut seat);
            prop_assert_eq!(check_state(&world.state), []);
            let mut fresh = skep_testkit::seat(Allocator::default());
            let plan = world.step(&mut fresh);
            prop_assert!(plan.changes.is_empty(), "{:?}", plan.changes);
        }
    }
}
