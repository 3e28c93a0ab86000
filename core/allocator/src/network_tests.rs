//! Tests of what networks, services and tasks get: subnets, ids, addresses.

use proptest::prelude::*;
use skep_model::{
    EndpointMode, EndpointSpec, IpamConfig, IpamOptions, NetworkAttachmentConfig, NetworkId, NetworkSpec,
    ObjectId as _, PublishMode, TaskState, VXLAN_ID_LIST,
};
use skep_store::{Change, NewNetwork};
use skep_testkit::{AService, Seat, World, a_node, a_service, a_state, a_task, check_state, seat, service_id, task_id};

use crate::Allocator;

fn network_id(name: &str) -> NetworkId {
    NetworkId::parse(service_id(name).as_str()).unwrap()
}

fn add(world: &mut World, name: &str, edit: impl FnOnce(&mut NetworkSpec)) {
    let mut spec = NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() };
    edit(&mut spec);
    world.must_commit(vec![
        Change::CreateNetwork(Box::new(NewNetwork { id: network_id(name), spec: spec.into() })).into(),
    ]);
}

fn with_subnet(subnet: &'static str) -> impl FnOnce(&mut NetworkSpec) {
    move |spec| {
        let config = IpamConfig { subnet: subnet.to_owned(), ..IpamConfig::default() };
        spec.ipam = Some(IpamOptions { configs: vec![config], ..IpamOptions::default() });
    }
}

fn on(name: &str, networks: &[&str]) -> AService {
    let networks: Vec<_> = networks
        .iter()
        .map(|name| NetworkAttachmentConfig { target: network_id(name).to_string(), ..Default::default() })
        .collect();
    a_service(name).spec(|spec| spec.task.networks = networks)
}

fn subnet(world: &World, name: &str) -> (String, String, String) {
    let allocation = &world.state.network(network_id(name)).unwrap().allocation;
    let Some(driver) = &allocation.driver else {
        return (allocation.reason.clone().unwrap_or_default(), String::new(), String::new());
    };
    let config = allocation.ipam.configs.first().cloned().unwrap_or_default();
    (config.subnet, config.gateway, driver.options.get(VXLAN_ID_LIST).cloned().unwrap_or_default())
}

fn vips(world: &World, service: &str) -> Vec<String> {
    let service = world.state.service(service_id(service)).unwrap();
    service.endpoint.virtual_ips.iter().map(|ip| ip.address.to_string()).collect()
}

fn addresses(world: &World, task: &str) -> Vec<String> {
    let places = &world.task(task_id(task)).attachment.networks;
    places.iter().flat_map(|place| &place.addresses).map(ToString::to_string).collect()
}

fn world() -> (World, Seat<Allocator>) {
    let mut world = a_state().with(a_node("one"));
    add(&mut world, "ingress", |spec| *spec = NetworkSpec::ingress());
    (world, seat(Allocator::default()))
}

fn settle(world: &mut World, seat: &mut Seat<Allocator>) {
    world.settle(seat);
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn networks_get_the_next_subnet_and_id() {
    let (mut world, mut seat) = world();
    add(&mut world, "a", |_| ());
    add(&mut world, "host", |spec| *spec = NetworkSpec::of_the_node("host"));
    settle(&mut world, &mut seat);
    let texts = |subnet: &str, gateway: &str, vni: &str| (subnet.to_owned(), gateway.to_owned(), vni.to_owned());
    assert_eq!(subnet(&world, "ingress"), texts("10.0.0.0/24", "10.0.0.1", "4096"));
    assert_eq!(subnet(&world, "a"), texts("10.0.1.0/24", "10.0.1.1", "4097"));
    assert_eq!(subnet(&world, "host"), texts("", "", ""));
    add(&mut world, "b", with_subnet("10.0.2.0/23"));
    settle(&mut world, &mut seat);
    add(&mut world, "c", |_| ());
    settle(&mut world, &mut seat);
    assert_eq!(subnet(&world, "c").0, "10.0.4.0/24", "behind what is in the way");
    world.must_commit(vec![Change::RemoveNetwork(network_id("a")).into()]);
    settle(&mut world, &mut seat);
    add(&mut world, "d", |_| ());
    settle(&mut world, &mut seat);
    assert_eq!(subnet(&world, "d"), texts("10.0.1.0/24", "10.0.1.1", "4100"));
    add(&mut world, "e", with_subnet("10.0.4.128/25"));
    settle(&mut world, &mut seat);
    assert_eq!(subnet(&world, "e").0, "Pool overlaps with other one on this address space");
    world.must_commit(vec![Change::RemoveNetwork(network_id("c")).into()]);
    settle(&mut world, &mut seat);
    assert_eq!(subnet(&world, "e").0, "10.0.4.128/25");
}

#[test]
fn services_and_tasks_get_addresses_on_each_network() {
    let (mut world, mut seat) = world();
    add(&mut world, "a", |_| ());
    add(&mut world, "b", |_| ());
    world.put(on("web", &["a", "b"]).port(8080, PublishMode::Ingress));
    world.put(a_task("t", "web", 1));
    settle(&mut world, &mut seat);
    assert_eq!(vips(&world, "web"), ["10.0.0.2/24", "10.0.1.2/24", "10.0.2.2/24"]);
    assert_eq!(addresses(&world, "t"), ["10.0.0.3/24", "10.0.1.3/24", "10.0.2.3/24"]);
    assert_eq!(world.task(task_id("t")).attachment.virtual_ips.len(), 3);
    world.update(&on("web", &["b"]));
    settle(&mut world, &mut seat);
    assert_eq!(vips(&world, "web"), ["10.0.2.2/24"], "kept as long as the network stays");
    world.update(&on("web", &["b"]).spec(|spec| {
        spec.endpoint = Some(EndpointSpec { mode: EndpointMode::DnsRr, ..EndpointSpec::default() });
    }));
    world.put(a_task("u", "web", 2));
    settle(&mut world, &mut seat);
    assert_eq!((vips(&world, "web"), addresses(&world, "u")), (vec![], vec!["10.0.2.4/24".to_owned()]));
}

#[test]
fn an_address_is_free_when_its_task_has_ended_and_exhaustion_is_told() {
    let (mut world, mut seat) = world();
    add(&mut world, "a", with_subnet("10.9.0.0/29"));
    world.put(on("web", &["a"]));
    for number in 1..=5 {
        world.put(a_task(&format!("t{number}"), "web", number));
    }
    settle(&mut world, &mut seat);
    assert_eq!(vips(&world, "web"), ["10.9.0.2/29"]);
    assert_eq!(addresses(&world, "t4"), ["10.9.0.6/29"]);
    let waiting = world.task(task_id("t5"));
    assert_eq!(waiting.state(), TaskState::New);
    assert_eq!(waiting.status().err, "no address is left on network \"a\": 5 of subnet 10.9.0.0/29 are in use");
    let expect = world.task(task_id("t1")).placed.version;
    let node = Some(skep_testkit::node_id("one"));
    world.must_commit(vec![Change::Place { task: task_id("t1"), expect, node, reason: None }.into()]);
    world.must_commit(vec![Change::RemoveService(service_id("web")).into()]);
    world.put(on("api", &["a"]));
    settle(&mut world, &mut seat);
    assert_eq!(vips(&world, "api"), [""; 0], "its tasks still hold the address of the removed service");
    world.report(task_id("t1"), TaskState::Failed);
    settle(&mut world, &mut seat);
    assert_eq!(vips(&world, "api"), ["10.9.0.3/29"], "the one that is free");
}

#[test]
fn the_subnet_of_a_removed_network_outlives_it_with_its_tasks() {
    let (mut world, mut seat) = world();
    add(&mut world, "a", |_| ());
    world.put(on("web", &["a"]));
    settle(&mut world, &mut seat);
    world.put(a_task("t", "web", 1));
    settle(&mut world, &mut seat);
    let expect = world.task(task_id("t")).placed.version;
    let node = Some(skep_testkit::node_id("one"));
    world.must_commit(vec![Change::Place { task: task_id("t"), expect, node, reason: None }.into()]);
    world.must_commit(vec![
        Change::RemoveService(service_id("web")).into(),
        Change::RemoveNetwork(network_id("a")).into(),
    ]);
    // Also for a loop that remembers nothing.
    let mut fresh = skep_testkit::seat(Allocator::default());
    add(&mut world, "b", |_| ());
    world.settle(&mut fresh);
    assert_eq!(subnet(&world, "b").0, "10.0.2.0/24");
    settle(&mut world, &mut seat);
    world.report(task_id("t"), TaskState::Shutdown);
    add(&mut world, "c", |_| ());
    settle(&mut world, &mut seat);
    assert_eq!(subnet(&world, "c").0, "10.0.1.0/24");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    /// Whatever comes and goes, no address is given twice and a loop without memory has nothing to add.
    #[test]
    fn no_address_twice(steps in prop::collection::vec((0..4usize, 0..7u8), 1..40)) {
        let (mut world, mut seat) = world();
        let names = ["a", "b", "c", "d"];
        for (step, (which, what)) in steps.into_iter().enumerate() {
            let name = names[which];
            let network = world.state.network_by_name(name).map(|network| network.id);
            let service = world.state.service_by_name(name).cloned();
            match what {
                0 if network.is_none() => {
                    let spec = NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() };
                    let mut spec = spec;
                    if which == 0 {
                        with_subnet("10.0.1.0/29")(&mut spec);
                    }
                    let id = network_id(&format!("{name}{step}"));
                    world.must_commit(vec![Change::CreateNetwork(Box::new(NewNetwork { id, spec: spec.into() })).into()]);
                }
                1 | 2 if service.is_none() => {
                    let id = network.map(|id| id.to_string());
                    let mut service = a_service(name).port(0, PublishMode::Ingress).spec(|spec| {
                        spec.task.networks =
                            id.map(|target| NetworkAttachmentConfig { target, ..Default::default() }).into_iter().collect();
                    });
                    service.id = service_id(&format!("{name}{step}"));
                    world.put(service);
                }
                3 | 4 => if let Some(service) = service {
                    let new = skep_store::NewTask {
                        id: task_id(&format!("t{step}")),
                        service_id: service.id,
                        slot: skep_model::Slot::Number(step as u64),
                        spec_version: service.spec_version,
                        history: skep_model::RestartHistory::default(),
                        desired: skep_model::DesiredState::Running,
                        start_at: None,
                        start_after: None,
                        by_update: false,
                    };
                    world.must_commit(vec![Change::CreateTask(Box::new(new)).into()]);
                },
                5 => {
                    let live = world.state.tasks().find(|task| !task.state().is_terminal()).cloned();
                    if let Some(task) = live {
                        let expect = task.intent.version;
                        let desired = skep_model::DesiredState::Shutdown;
                        let (start_at, start_after) = (None, None);
                        let change = Change::SetIntent { task: task.id, expect, desired, start_at, start_after };
                        world.must_commit(vec![change.into()]);
                    }
                }
                6 => {
                    if let Some(service) = service {
                        world.must_commit(vec![Change::RemoveService(service.id).into()]);
                    }
                    if let Some(network) = network {
                        world.must_commit(vec![Change::RemoveNetwork(network).into()]);
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
