//! What the machine must be able to do, tried out for real in a throw-away namespace, so that a missing part is named
//! at the start and not at the first container.

use crate::error::{NetworkError, Result};
use crate::link::{self, Links, Target};
use crate::namespace;
use crate::nft::NftBackend;
use skep_dataplane::{
    Backend, Bridge, Endpoint, Leg, NodeNetwork, Protocol, PublishMode, PublishedPort, Reach, Subnet, ruleset,
};
use std::error::Error;
use std::net::Ipv4Addr;

/// Tries bridge, veth pair, isolated port and the whole ruleset; the error lists everything that is missing.
pub fn probe(nft: &dyn NftBackend) -> Result<()> {
    let missing = namespace::within_new(|| {
        let mut missing = Vec::new();
        note(&mut missing, "bridge links (kernel module bridge)", try_bridge());
        note(&mut missing, "veth links as isolated bridge ports (kernel module veth, Linux 4.18)", try_pair());
        let rules = nft.apply(&ruleset::full(&sample())).map_err(NetworkError::from);
        note(&mut missing, "nftables with nat, fib, numgen and ct (nft program, kernel modules nft_*)", rules);
        Ok(missing)
    })?;
    if missing.is_empty() { Ok(()) } else { Err(NetworkError::MissingFeatures(missing)) }
}

fn note(missing: &mut Vec<String>, what: &str, result: Result<()>) {
    if let Err(error) = result {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        missing.push(format!("{what} ({error}{cause})"));
    }
}

fn try_bridge() -> Result<()> {
    let bridge = sample().bridge;
    Links::open().map_err(open_failed)?.apply(vec![link::make_bridge(&bridge)])
}

fn try_pair() -> Result<()> {
    let mut links = Links::open().map_err(open_failed)?;
    let own = namespace::current()?;
    let sample = sample();
    let Some(leg) = sample.endpoints.values().find_map(|endpoint| endpoint.legs.first()) else { return Ok(()) };
    let (here, there) = (&leg.container_link, &leg.host_link);
    links.apply(vec![link::make_pair(here, leg.mac, there, std::os::fd::AsFd::as_fd(&own), 1500)])?;
    let Some(bridge) = links.find(&sample.bridge.name)? else { return Ok(()) };
    links.apply(link::attach(there, bridge.index, true, "skep"))?;
    links.remove(Target::Name(here)).map(drop)
}

pub(crate) fn open_failed(source: std::io::Error) -> NetworkError {
    NetworkError::Netlink { what: "open a netlink socket".into(), source }
}

/// A picture that uses every kind of rule.
fn sample() -> NodeNetwork {
    let subnet = Subnet::new(Ipv4Addr::new(172, 18, 0, 0), 16).expect("a valid network");
    let bridge = Bridge {
        name: "skep0".into(),
        subnet,
        gateway: subnet.gateway(),
        mtu: 1500,
        reach: Reach::Outward,
        isolated: true,
    };
    let endpoint = |name: &str, last| Endpoint::derived(name, String::new(), Ipv4Addr::new(172, 18, 0, last));
    let endpoints = vec![endpoint("a", 2), endpoint("b", 3)];
    let backends = endpoints.iter().flat_map(|endpoint| {
        let backend =
            |leg: &Leg| Backend { container: endpoint.container.clone(), address: leg.address, target_port: 80 };
        endpoint.legs.iter().map(backend)
    });
    let port = PublishedPort {
        protocol: Protocol::Tcp,
        port: 8080,
        mode: PublishMode::Ingress,
        backends: backends.clone().collect(),
    };
    let single = PublishedPort {
        protocol: Protocol::Udp,
        port: 53,
        mode: PublishMode::Host,
        backends: backends.take(1).collect(),
    };
    NodeNetwork::from_parts(bridge, endpoints, vec![port, single]).expect("the sample obeys the rules")
}
