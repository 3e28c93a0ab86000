//! Networks come back from the log, from a snapshot, from a node's database and from the wire as they were.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use skep_model::{
    Cidr, ClusterTime, Driver, GroupVersion, IpamConfig, IpamOptions, Network, NetworkAllocation, NetworkId,
    NetworkSpec, ObjectId as _, TaskId, TaskNetwork, VXLAN_ID_LIST, VirtualIp, WallTime,
};
use skep_store::{AtomicGroup, Change, Entry, NewNetwork, Parts, Precondition, Proposal, State};
use skep_wire::{AssignedNetwork, decode_entry, decode_snapshot, encode_entry, encode_snapshot, network_attachment};

fn network() -> Network {
    let config = IpamConfig {
        subnet: "10.0.1.0/24".to_owned(),
        range: "10.0.1.128/25".to_owned(),
        gateway: "10.0.1.1".to_owned(),
        reserved: [("h".to_owned(), "10.0.1.5".to_owned())].into(),
    };
    let ipam =
        IpamOptions { driver: Driver { name: "default".to_owned(), ..Driver::default() }, configs: vec![config] };
    let options = [(VXLAN_ID_LIST.to_owned(), "4097".to_owned())].into();
    Network {
        id: NetworkId::from_random([1; 17]),
        meta: skep_model::Meta::default(),
        spec: Arc::new(NetworkSpec {
            name: "front".to_owned(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            driver: Driver { name: "overlay".to_owned(), ..Driver::default() },
            internal: true,
            attachable: true,
            ipam: Some(ipam.clone()),
            ..NetworkSpec::default()
        }),
        allocation: NetworkAllocation {
            driver: Some(Driver { name: "overlay".to_owned(), options }),
            ipam,
            reason: Some("why".to_owned()),
            version: GroupVersion(7),
        },
    }
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

#[test]
fn changes_of_networks_come_back_from_the_log() {
    let network = network();
    let (id, task) = (network.id, TaskId::from_random([2; 17]));
    let changes = vec![
        Change::CreateNetwork(Box::new(NewNetwork { id, spec: network.spec.clone() })),
        Change::SetNetworkAllocation {
            network: id,
            expect: GroupVersion(3),
            allocation: Box::new(network.allocation.clone()),
        },
        Change::RemoveNetwork(id),
        Change::Attach {
            task,
            expect: GroupVersion(1),
            done: true,
            ports: Vec::new(),
            networks: vec![TaskNetwork { network: id, addresses: vec![cidr("10.0.1.3/24")] }],
            virtual_ips: vec![VirtualIp { network: id, address: cidr("10.0.1.2/24") }],
            reason: None,
        },
    ];
    let preconditions = vec![Precondition::NetworkExists(id), Precondition::NetworkUnused(id)];
    let change_set = vec![AtomicGroup { preconditions, changes }];
    let entry = Entry { time: ClusterTime(1), wall: WallTime(2), proposals: vec![Proposal { change_set }] };
    assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
}

#[test]
fn networks_come_back_from_a_snapshot() {
    let state = State::restore(Parts { networks: vec![network()], ..Parts::default() }).unwrap();
    let back = decode_snapshot(&encode_snapshot(&state)).unwrap();
    assert_eq!(**back.network_by_name("FRONT").unwrap(), network());
}

#[test]
fn a_node_learns_and_remembers_its_networks() {
    let network = network();
    let place = TaskNetwork { network: network.id, addresses: vec![cidr("10.0.1.3/24")] };
    let told = AssignedNetwork::from(network_attachment(Some(&network), &place, vec!["al".to_owned()]));
    assert_eq!((told.name.as_str(), told.driver.as_str(), told.vni()), ("front", "overlay", 4097));
    assert_eq!((told.subnets.concat(), told.gateways.concat()), ("10.0.1.0/24".to_owned(), "10.0.1.1".to_owned()));
    assert_eq!(
        (told.addresses.concat(), told.aliases.concat(), told.internal),
        ("10.0.1.3/24".into(), "al".into(), true)
    );
    assert_eq!(AssignedNetwork::from(skep_wire::swarmkit::NetworkAttachment::from(&told)), told);
    let gone = AssignedNetwork::from(network_attachment(None, &place, Vec::new()));
    assert_eq!((gone.id, gone.driver), (network.id.to_string(), String::new()));
}
