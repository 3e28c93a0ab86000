//! Restarts, repairs, conflicts and leaks.

use crate::world::*;
use skep_network::{NetworkError, NftBackend, NftError, Protocol, PublishMode};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

#[test]
fn a_restarted_daemon_finds_everything_again() {
    let mut world = World::new();
    let network = world.open();
    let web = network.create_endpoint("web").unwrap();
    let old = network.create_endpoint("old").unwrap();
    world.serve(&web, "web", 80);
    let mut wanted = ports(8080, PublishMode::Ingress, &[("web", &web, 80), ("old", &old, 80)]);
    wanted.extend(ports(9090, PublishMode::Host, &[("web", &web, 80)]));
    publish(&network, wanted);
    assert_eq!(network.create_endpoint("web").unwrap(), web, "asking again changes nothing");
    drop(network);
    let expected = format!("web {CLIENT}");
    assert_eq!(ask_tcp(&world.client, NODE, 9090).as_deref(), Ok(expected.as_str()), "served while no daemon runs");

    let network = world.open();
    assert_eq!(network.endpoint("web"), Some(web.clone()));
    assert_eq!(ask_tcp(&world.client, NODE, 9090).as_deref(), Ok(expected.as_str()), "served before anything is said");
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).is_err(), "reserved again");
    let report = network.adopt(&["web".to_owned(), "unheard-of".to_owned()]).unwrap();
    assert_eq!((report.adopted, report.lost), (vec!["web".to_owned()], vec!["unheard-of".to_owned()]));
    assert_eq!(report.removed, ["old"]);
    assert!(!old.netns_path.exists());
    assert_eq!(ip("-o link").matches(": sk").count(), 2, "the bridge and one port");
    for _ in 0..4 {
        assert_eq!(ask_tcp(&world.client, NODE, 8080).as_deref(), Ok(expected.as_str()), "only to the kept one");
    }
    let next = network.create_endpoint("next").unwrap();
    assert_ne!(next.address, web.address);
    assert_eq!(network.reconcile().unwrap(), Vec::<String>::new());
}

#[test]
fn a_connection_outlives_a_restart_and_the_removal_of_its_backend() {
    let world = World::new();
    let network = world.open();
    let web = network.create_endpoint("web").unwrap();
    publish(&network, ports(8080, PublishMode::Ingress, &[("web", &web, 80)]));
    let netns = File::open(&web.netns_path).unwrap();
    let listener = within(&netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap());
    let mut near = within(&world.client, || TcpStream::connect((NODE, 8080)).unwrap());
    let mut far = listener.accept().unwrap().0;
    let mut talk = |when: &str| {
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        let mut byte = [0];
        near.write_all(b"?").unwrap();
        far.read_exact(&mut byte).expect(when);
        far.write_all(b"!").unwrap();
        near.read_exact(&mut byte).expect(when);
    };
    talk("at first");
    drop(network);
    talk("without a daemon");
    let network = world.open();
    network.adopt(&["web".to_owned()]).unwrap();
    talk("after the restart");
    publish(&network, vec![]);
    talk("while draining");
    network.remove_endpoint("web").unwrap();
}

#[test]
fn what_a_crash_left_half_made_is_removed() {
    let world = World::new();
    let network = world.open();
    let half = network.create_endpoint("half").unwrap();
    let rebooted = network.create_endpoint("rebooted").unwrap();
    drop(network);
    let data = world.directory.path().join("data/network/endpoints");
    fs::remove_file(data.join("half.json")).unwrap();
    nix::mount::umount(&rebooted.netns_path).unwrap();
    let pins = half.netns_path.parent().unwrap();
    fs::write(pins.join("file"), "").unwrap();
    ip("link add sk00000000abcd type veth peer name other0");

    let network = world.open();
    assert_eq!((network.endpoint("half"), network.endpoint("rebooted")), (None, None));
    assert_eq!(fs::read_dir(pins).unwrap().count(), 0);
    let links = ip("-o link");
    assert!(links.contains("sk00000000abcd"), "a link that skep has not made is left alone");
    assert_eq!(links.matches(": sk").count(), 2);
    assert_eq!(network.adopt(&["rebooted".to_owned()]).unwrap().lost, ["rebooted"]);
    let again = network.create_endpoint("rebooted").unwrap();
    assert!(File::open(again.netns_path).is_ok());
}

#[test]
fn nothing_is_left_after_all_is_removed() {
    let world = World::new();
    let before = ip("-o link").lines().count();
    let network = world.open();
    let names: Vec<String> = (0..20).map(|number| format!("task-{number}")).collect();
    let tasks: Vec<_> = names.iter().map(|name| network.create_endpoint(name).unwrap()).collect();
    publish(&network, ports(8080, PublishMode::Ingress, &[("task-0", &tasks[0], 80), ("task-1", &tasks[1], 80)]));
    assert!(network.reserve_host_port("task-2", Protocol::Tcp, 0).is_ok());
    network.remove_endpoint("task-0").unwrap();
    network.remove_endpoint("task-0").unwrap();
    assert!(!traces(world.directory.path()).is_empty());
    network.remove_all().unwrap();
    assert_eq!(traces(world.directory.path()), Vec::<String>::new());
    assert_eq!(ip("-o link").lines().count(), before);
    drop(network);
    assert!(world.open().create_endpoint("fresh").is_ok(), "and it can begin anew");
}

#[test]
fn repairs_are_made_and_told() {
    let mut world = World::new();
    let network = world.open();
    let web = network.create_endpoint("web").unwrap();
    world.serve(&web, "web", 80);
    publish(&network, ports(8080, PublishMode::Ingress, &[("web", &web, 80)]));
    assert_eq!(network.reconcile().unwrap(), Vec::<String>::new());
    let expected = format!("web {CLIENT}");
    let link = ip("-o link").lines().find_map(|l| Some(l.split_once(": sk")?.1.split('@').next()?.to_owned()));
    let links: Vec<String> = ip("-o link show type veth")
        .lines()
        .filter_map(|line| Some(format!("sk{}", line.split_once(": sk")?.1.split('@').next()?)))
        .collect();
    assert!(link.is_some());
    let port = &links[0];
    let breakages: Vec<(String, &str)> = vec![
        ("ip addr flush dev skep0".into(), "bridge skep0 had lost address 172.18.0.1/16"),
        ("ip link set skep0 down".into(), "bridge skep0 was down or changed"),
        ("nft delete table ip skep".into(), "nft rules were missing"),
        ("nft flush chain ip skep tcp-8080".into(), "nft rules had been changed"),
        ("nft add rule ip skep guard drop".into(), "nft rules had been changed"),
        (format!("ip link set {port} nomaster"), "container web was not an isolated port of the bridge"),
        (
            format!("ip link set {port} type bridge_slave isolated off"),
            "container web was not an isolated port of the bridge",
        ),
        (format!("ip link set {port} down"), "container web was not an isolated port of the bridge"),
        (format!("ip link del {port}"), "container web had lost its link"),
        ("sysctl -w net.ipv4.ip_forward=0".into(), "setting net.ipv4.ip_forward had another value"),
    ];
    for (breakage, told) in breakages {
        let (program, arguments) = breakage.split_once(' ').unwrap();
        run(program, arguments);
        let repaired = network.reconcile().unwrap();
        assert!(repaired.iter().any(|what| what == told), "{breakage}: {repaired:?}");
        assert_eq!(network.reconcile().unwrap(), Vec::<String>::new(), "{breakage}");
        assert_eq!(ask_tcp(&world.client, NODE, 8080).as_deref(), Ok(expected.as_str()), "{breakage}");
    }
    ip("link del skep0");
    let repaired = network.reconcile().unwrap();
    assert!(repaired[0].contains("bridge skep0 was missing"), "{repaired:?}");
    assert_eq!(ask_tcp(&world.client, NODE, 8080).as_deref(), Ok(expected.as_str()));
    let others = run("nft", "list tables");
    assert_eq!(others.trim(), "table ip skep");
}

#[test]
fn other_tables_are_left_alone() {
    let world = World::new();
    run("nft", "add table inet theirs");
    run("nft", "add chain inet theirs c");
    let network = world.open();
    network.reconcile().unwrap();
    network.remove_all().unwrap();
    assert_eq!(run("nft", "list tables").trim(), "table inet theirs");
}

#[test]
fn taken_ports_are_refused_with_dockers_words_and_the_others_published() {
    let mut world = World::new();
    let network = world.open();
    let web = network.create_endpoint("web").unwrap();
    world.serve(&web, "web", 80);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).unwrap();
    let mut wanted = ports(8080, PublishMode::Ingress, &[("web", &web, 80)]);
    wanted.extend(ports(8081, PublishMode::Ingress, &[("web", &web, 80)]));
    let report = network.set_published(wanted.clone()).unwrap();
    let refused: Vec<_> = report.refused.iter().map(|r| format!("{} {}", r.port, r.error)).collect();
    assert_eq!(refused, ["8080/tcp Bind for 0.0.0.0:8080 failed: port is already allocated"]);
    assert!(ask_tcp(&world.client, NODE, 8081).is_ok());
    assert!(ask_udp(&world.client, NODE, 8080).is_ok());
    drop(taken);
    publish(&network, wanted);
    assert!(ask_tcp(&world.client, NODE, 8080).is_ok());
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).is_err());
    assert!(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8080)).is_err());
    publish(&network, vec![]);
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).is_ok(), "given back");

    let mut twice = ports(70, PublishMode::Ingress, &[("web", &web, 80)]);
    twice.extend(ports(70, PublishMode::Host, &[("web", &web, 81)]));
    twice.extend(ports(71, PublishMode::Ingress, &[("web", &web, 0)]));
    let refused: Vec<_> = network.set_published(twice).unwrap().refused.iter().map(|r| r.error.to_string()).collect();
    assert_eq!(refused.len(), 4);
    assert_eq!(refused[0], "port 70/tcp is published twice");
    assert_eq!(refused[2], "port 71/tcp leads to port 0 of container \"web\"");
}

#[test]
fn a_host_port_belongs_to_one_container() {
    let mut world = World::new();
    let network = world.open();
    let a = network.create_endpoint("a").unwrap();
    let b = network.create_endpoint("b").unwrap();
    world.serve(&a, "a", 80);
    let tcp = Protocol::Tcp;
    assert_eq!(network.reserve_host_port("a", tcp, 5000).unwrap(), 5000);
    assert_eq!(network.reserve_host_port("a", tcp, 5000).unwrap(), 5000);
    let error = network.reserve_host_port("b", tcp, 5000).unwrap_err();
    assert_eq!(error.to_string(), "Bind for 0.0.0.0:5000 failed: port is already allocated");
    let refused = network.set_published(ports(5000, PublishMode::Host, &[("b", &b, 80)])).unwrap().refused;
    assert_eq!(refused.len(), 1, "udp was free");
    let dynamic = network.reserve_host_port("a", tcp, 0).unwrap();
    assert!((32768..=60999).contains(&dynamic));
    assert_ne!(network.reserve_host_port("b", tcp, 0).unwrap(), dynamic);
    let mut wanted = ports(dynamic, PublishMode::Host, &[("a", &a, 80)]);
    wanted.truncate(1);
    publish(&network, wanted);
    assert!(ask_tcp(&world.client, NODE, dynamic).is_ok());
    network.remove_endpoint("a").unwrap();
    assert_eq!(network.reserve_host_port("b", tcp, 5000).unwrap(), 5000, "given back with the container");
}

#[test]
fn the_subnet_avoids_what_is_there_and_is_kept() {
    let world = World::new();
    ip("addr add 172.18.5.1/24 dev up0");
    ip(&format!("route add 172.19.0.0/16 via {CLIENT}"));
    let network = world.open();
    assert_eq!(network.bridge().subnet.to_string(), "172.20.0.0/16");
    drop(network);
    ip("addr del 172.18.5.1/24 dev up0");
    assert_eq!(world.open().bridge().subnet.to_string(), "172.20.0.0/16", "an earlier choice wins");

    let other = World::new();
    let config = skep_network::NetworkConfig { subnet: "198.51.100.0/25".parse().ok(), ..other.config() };
    let error = skep_network::Network::open(config).unwrap_err();
    assert!(matches!(error, NetworkError::SubnetInUse { .. }), "{error}");
    let config = skep_network::NetworkConfig { bridge_name: "up0".into(), ..other.config() };
    assert_eq!(
        skep_network::Network::open(config).unwrap_err().to_string(),
        "link \"up0\" exists and was not made by skep: rename it or choose another bridge name"
    );
}

#[test]
fn a_bad_state_file_is_refused_and_nothing_done() {
    let world = World::new();
    let data = world.directory.path().join("data/network");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("network.json"), "{").unwrap();
    let error = skep_network::Network::open(world.config()).unwrap_err();
    assert!(error.to_string().contains("network.json"), "{error}");
    assert!(!ip("-o link").contains("skep0"));
    assert_eq!(run("nft", "list tables"), "");
    fs::remove_file(data.join("network.json")).unwrap();
    let network = world.open();
    let web = network.create_endpoint("web").unwrap();
    drop(network);
    fs::write(data.join("published.json"), "garbage").unwrap();
    fs::write(data.join("endpoints/web.json"), "garbage").unwrap();
    let network = world.open();
    assert_eq!(network.endpoint("web"), None, "a container whose address is unknown has no network");
    assert!(!web.netns_path.exists());
}

#[test]
fn bad_requests_are_refused() {
    let world = World::new();
    let config = skep_network::NetworkConfig { subnet: "10.9.8.0/30".parse().ok(), ..world.config() };
    let network = skep_network::Network::open(config).unwrap();
    for id in ["", "../up", ".", "a/b", "a b"] {
        assert!(network.create_endpoint(id).is_err(), "{id:?}");
        assert!(network.remove_endpoint(id).is_err(), "{id:?}");
    }
    network.create_endpoint("only").unwrap();
    let error = network.create_endpoint("more").unwrap_err();
    assert_eq!(error.to_string(), "no free address in subnet 10.9.8.0/30: 1 in use, 0 in quarantine");
    network.remove_endpoint("only").unwrap();
    network.create_endpoint("more").unwrap();
}

#[test]
fn containers_come_and_go_from_many_threads() {
    let world = World::new();
    let network = world.open();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let network = &network;
            scope.spawn(move || {
                for round in 0..5 {
                    let name = format!("t{thread}-{round}");
                    let endpoint = network.create_endpoint(&name).unwrap();
                    let published = ports(1000 + thread, PublishMode::Ingress, &[(&name, &endpoint, 80)]);
                    network.set_published(published).unwrap();
                    network.remove_endpoint(&name).unwrap();
                }
            });
        }
    });
    assert_eq!(network.set_published(vec![]).unwrap().refused.len(), 0);
    assert_eq!(network.reconcile().unwrap(), Vec::<String>::new());
    assert_eq!(ip("-o link").matches(": sk").count(), 1, "only the bridge");
}

#[test]
fn what_the_machine_lacks_is_listed() {
    struct NoNft;
    impl NftBackend for NoNft {
        fn apply(&self, _: &str) -> Result<(), NftError> {
            Err(NftError::Refused("no such thing".into()))
        }
        fn list(&self) -> Result<Option<String>, NftError> {
            Ok(None)
        }
    }
    let world = World::new();
    let error = skep_network::Network::open_with(world.config(), Box::new(NoNft)).unwrap_err();
    assert!(matches!(&error, NetworkError::MissingFeatures(missing) if missing.len() == 1), "{error}");
    assert!(error.to_string().contains("nftables"), "{error}");
    assert!(!ip("-o link").contains("skep0"), "nothing done");
}

#[test]
#[ignore = "a measurement, to be read by people: run with --run-ignored all --no-capture"]
fn how_long_things_take() {
    let world = World::new();
    let network = world.open();
    let time = |what: &str, work: &dyn Fn(usize)| {
        let start = std::time::Instant::now();
        (0..50).for_each(work);
        println!("{what}: {:?} each", start.elapsed() / 50);
    };
    let name = |number: usize| format!("task-{number}");
    time("create", &|number| drop(network.create_endpoint(&name(number)).unwrap()));
    let endpoint = network.endpoint("task-0").unwrap();
    time("publish", &|number| {
        let port = 1000 + u16::try_from(number).unwrap();
        publish(&network, ports(port, PublishMode::Ingress, &[("task-0", &endpoint, 80)]));
    });
    time("reconcile", &|_| drop(network.reconcile().unwrap()));
    time("remove", &|number| network.remove_endpoint(&name(number)).unwrap());
}
