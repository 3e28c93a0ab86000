//! Who reaches whom, and under which address.

use crate::world::*;
use skep_network::{Endpoint, Network, PublishMode};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

fn inside(endpoint: &Endpoint) -> File {
    File::open(&endpoint.netns_path).unwrap()
}

/// Containers with these names, each serving on 80.
fn served(world: &mut World, network: &Network, names: &[&str]) -> Vec<Endpoint> {
    let serve = |name: &&str| {
        let endpoint = network.create_endpoint(name).unwrap();
        world.serve(&endpoint, name, 80);
        endpoint
    };
    names.iter().map(serve).collect()
}

#[test]
fn a_container_reaches_the_world_under_the_nodes_address() {
    let mut world = World::new();
    let network = world.open();
    let task = network.create_endpoint("task").unwrap();
    let client = world.client.try_clone().unwrap();
    world.serve_in(&client, "far", 53);
    let expected = format!("far {NODE}");
    assert_eq!(ask_tcp(&inside(&task), FAR, 53).as_deref(), Ok(expected.as_str()));
    // A server on the wildcard address answers datagrams from the address its own route chooses.
    assert_eq!(ask_udp(&inside(&task), CLIENT, 53).as_deref(), Ok(expected.as_str()));
    let settings = within(&inside(&task), || {
        assert!(ip("-4 -o addr show dev lo").contains("127.0.0.1"));
        let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        (read("ip_unprivileged_port_start"), read("ping_group_range"))
    });
    assert_eq!(settings, ("0\n".to_owned(), "0\t2147483647\n".to_owned()));
}

#[test]
fn a_host_mode_port_keeps_the_clients_address() {
    let mut world = World::new();
    let network = world.open();
    let web = served(&mut world, &network, &["web"]).remove(0);
    publish(&network, ports(9090, PublishMode::Host, &[("web", &web, 80)]));
    let expected = format!("web {CLIENT}");
    assert_eq!(ask_tcp(&world.client, NODE, 9090).as_deref(), Ok(expected.as_str()));
    assert_eq!(ask_udp(&world.client, NODE, 9090).as_deref(), Ok(expected.as_str()));
    publish(&network, vec![]);
    assert_eq!(ask_tcp(&world.client, NODE, 9090), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn an_ingress_port_spreads_over_all_backends_and_forgets_a_removed_one() {
    let mut world = World::new();
    let network = world.open();
    let names = ["a", "b", "c"];
    let tasks = served(&mut world, &network, &names);
    let all: Vec<_> = names.iter().zip(&tasks).map(|(name, task)| (*name, task, 80)).collect();
    publish(&network, ports(8080, PublishMode::Ingress, &all));
    let count = |ask: fn(&File, Ipv4Addr, u16) -> Result<String, ErrorKind>, from: &File, address| {
        let mut hits = BTreeMap::new();
        for _ in 0..12 {
            *hits.entry(ask(from, address, 8080).unwrap()).or_insert(0) += 1;
        }
        hits
    };
    let even: BTreeMap<_, _> = names.iter().map(|name| (format!("{name} {CLIENT}"), 4)).collect();
    assert_eq!(count(ask_tcp, &world.client, NODE), even);
    assert_eq!(count(ask_udp, &world.client, NODE), even);

    let socket = within(&world.client, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    let first = ask_from(&socket, NODE, 8080, Duration::from_secs(5)).unwrap();
    assert_eq!(ask_from(&socket, NODE, 8080, Duration::from_secs(5)).unwrap(), first, "a flow stays where it is");
    let gone = first.split(' ').next().unwrap().to_owned();
    let rest: Vec<_> = all.into_iter().filter(|(name, ..)| *name != gone).collect();
    publish(&network, ports(8080, PublishMode::Ingress, &rest));
    let moved = ask_from(&socket, NODE, 8080, Duration::from_secs(5)).unwrap();
    assert_ne!(moved, first, "a flow to a removed backend finds another");
    for ask in [ask_tcp, ask_udp] {
        let hits = count(ask, &world.client, NODE);
        assert_eq!(hits.len(), 2);
        assert!(!hits.contains_key(&first), "{hits:?}");
    }
    network.remove_endpoint(rest[0].0).unwrap();
    assert_eq!(count(ask_tcp, &world.client, NODE).len(), 1, "removing a container takes it out of its ports");
}

#[test]
fn the_node_itself_reaches_a_published_port() {
    let mut world = World::new();
    let network = world.open();
    let web = served(&mut world, &network, &["web"]).remove(0);
    publish(&network, ports(8080, PublishMode::Ingress, &[("web", &web, 80)]));
    let gateway = format!("web {}", web.gateway);
    for (address, seen) in
        [(Ipv4Addr::LOCALHOST, gateway.clone()), (NODE, format!("web {NODE}")), (web.gateway, gateway)]
    {
        assert_eq!(ask_tcp(&world.node, address, 8080).as_deref(), Ok(seen.as_str()), "tcp {address}");
        assert_eq!(ask_udp(&world.node, address, 8080).as_deref(), Ok(seen.as_str()), "udp {address}");
    }
}

#[test]
fn a_container_reaches_published_ports_even_its_own() {
    let mut world = World::new();
    let network = world.open();
    let tasks = served(&mut world, &network, &["own", "other"]);
    let mut wanted = ports(8080, PublishMode::Ingress, &[("own", &tasks[0], 80)]);
    wanted.extend(ports(8081, PublishMode::Host, &[("other", &tasks[1], 80)]));
    publish(&network, wanted);
    let own = inside(&tasks[0]);
    for address in [NODE, tasks[0].gateway] {
        for (port, name) in [(8080, "own"), (8081, "other")] {
            let expected = format!("{name} {}", tasks[0].gateway);
            assert_eq!(ask_tcp(&own, address, port).as_deref(), Ok(expected.as_str()), "tcp {address}:{port}");
            assert_eq!(ask_udp(&own, address, port).as_deref(), Ok(expected.as_str()), "udp {address}:{port}");
        }
    }
}

#[test]
fn containers_are_closed_to_each_other_and_to_the_outside() {
    let mut world = World::new();
    let network = world.open();
    let tasks = served(&mut world, &network, &["a", "b"]);
    let a = inside(&tasks[0]);
    assert!(unreachable(&a, tasks[1].address, 80), "by the bridge");
    within(&a, || ip(&format!("route add {}/32 via {}", tasks[1].address, tasks[1].gateway)));
    assert!(unreachable(&a, tasks[1].address, 80), "by the gateway");
    within(&world.client, || ip(&format!("route add 172.18.0.0/16 via {NODE}")));
    assert!(unreachable(&world.client, tasks[0].address, 80), "from outside, past the published ports");
    assert!(ask_tcp(&world.node, tasks[0].address, 80).is_ok(), "the node itself may");
}

#[test]
fn nobody_outside_uses_the_nodes_loopback() {
    let mut world = World::new();
    let network = world.open();
    let task = network.create_endpoint("task").unwrap();
    let node = world.node.try_clone().unwrap();
    world.serve_in(&node, "secret", 6000);
    assert!(ask_tcp(&world.node, Ipv4Addr::LOCALHOST, 6000).is_ok());
    within(&inside(&task), || {
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
        ip("addr del 127.0.0.1/8 dev lo");
        ip(&format!("route add 127.0.0.1/32 via {} table main", task.gateway));
        ip("route flush table local 127.0.0.0/8");
    });
    assert!(unreachable(&inside(&task), Ipv4Addr::LOCALHOST, 6000));
}
