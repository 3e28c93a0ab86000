//! The picture itself: what the node's network should be, and the rules it must obey before anybody acts on it.

use crate::address::{MacAddress, Subnet};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

/// Longest name that the kernel takes for a link.
pub const LINK_NAME_MAX: usize = 15;

/// What is wrong with a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not 1 to 15 characters of `[A-Za-z0-9_.-]`.
    #[error("invalid link name {0:?}: expected 1 to 15 letters, digits, '_', '.' or '-'")]
    InvalidLinkName(String),
    /// The id becomes a file name and must be a plain one.
    #[error("invalid container id {0:?}: expected 1 to 128 letters, digits, '_', '.' or '-', not starting with '.'")]
    InvalidContainerId(String),
    /// The gateway must be a host address of the subnet.
    #[error("gateway {gateway} is not an address of subnet {subnet}")]
    GatewayOutside {
        /// The gateway given.
        gateway: Ipv4Addr,
        /// The bridge's subnet.
        subnet: Subnet,
    },
    /// IPv4 needs 68, Ethernet frames end at 65535.
    #[error("invalid mtu {0}: expected 68 to 65535")]
    InvalidMtu(u32),
    /// The endpoint cannot have that address.
    #[error("address {address} of container {container:?} is not free in subnet {subnet}")]
    AddressOutside {
        /// Whose address.
        container: String,
        /// The address given.
        address: Ipv4Addr,
        /// The bridge's subnet.
        subnet: Subnet,
    },
    /// A place on a bridge that is not there.
    #[error("container {container:?} is on bridge {bridge:?}, which is not there")]
    UnknownBridge {
        /// Whose place.
        container: String,
        /// Key of the bridge.
        bridge: String,
    },
    /// Two endpoints share an address, a hardware address, a link or a container.
    #[error("container {container:?} shares its {what} with another container")]
    Duplicate {
        /// The second of the two.
        container: String,
        /// What is shared.
        what: &'static str,
    },
    /// Port 0 cannot be published.
    #[error("invalid published port 0/{0}")]
    PortZero(Protocol),
    /// Two entries for one port.
    #[error("port {0} is published twice")]
    PortTwice(PortKey),
    /// A host-mode port leads to one container.
    #[error("host-mode port {0} has more than one backend")]
    HostPortShared(PortKey),
    /// A target port is 0.
    #[error("port {port} leads to port 0 of container {container:?}")]
    TargetPortZero {
        /// The published port.
        port: PortKey,
        /// The backend.
        container: String,
    },
    /// A backend that has no endpoint here, or not with that address.
    #[error("port {port} leads to container {container:?} at {address}, which has no such endpoint")]
    UnknownBackend {
        /// The published port.
        port: PortKey,
        /// The backend.
        container: String,
        /// The address given for it.
        address: Ipv4Addr,
    },
}

/// The key of the main bridge, which is always there.
pub const MAIN: &str = "main";

/// How far the packets of a bridge get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Everywhere: the bridge has the gateway's address, and who leaves by it gets the node's.
    Outward,
    /// The node and no further: the bridge has the gateway's address, and nothing is forwarded.
    Node,
    /// Who is on it: the bridge has no address, so the node and its networks know nothing of the subnet.
    Members,
}

/// A bridge of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Link name.
    pub name: String,
    /// Where the containers' addresses come from.
    pub subnet: Subnet,
    /// The bridge's own address; of one that reaches its members alone, the address that nobody gets.
    pub gateway: Ipv4Addr,
    /// Bytes.
    pub mtu: u32,
    /// How far packets get.
    pub reach: Reach,
    /// Its members do not reach each other, except by published ports.
    pub isolated: bool,
}

impl Bridge {
    /// Does the node have an address on it?
    #[must_use]
    pub fn has_address(&self) -> bool {
        self.reach != Reach::Members
    }
}

/// A container's network: its namespace, and its place on each bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whose it is.
    pub container: String,
    /// Path at which the network namespace is pinned.
    pub netns: String,
    /// Its places; none but a loopback is fine.
    pub legs: Vec<Leg>,
}

/// A container's place on one bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// Key of the bridge.
    pub bridge: String,
    /// Address inside the bridge's subnet.
    pub address: Ipv4Addr,
    /// Hardware address of the container's end.
    pub mac: MacAddress,
    /// The end that is a port of the bridge.
    pub host_link: String,
    /// The end inside the namespace.
    pub container_link: String,
}

impl Leg {
    /// A place with all names derived: a later run finds the same ones again.
    #[must_use]
    pub fn derived(container: &str, bridge: &str, address: Ipv4Addr, container_link: String) -> Self {
        let host_link =
            if bridge == MAIN { host_link_name(container) } else { host_link_name(&format!("{container}/{bridge}")) };
        Self { bridge: bridge.to_owned(), address, mac: MacAddress::of(address), host_link, container_link }
    }
}

impl Endpoint {
    /// An endpoint on the main bridge.
    #[must_use]
    pub fn derived(container: &str, netns: String, address: Ipv4Addr) -> Self {
        let legs = vec![Leg::derived(container, MAIN, address, "eth0".to_owned())];
        Self { container: container.to_owned(), netns, legs }
    }

    /// The place on a bridge.
    #[must_use]
    pub fn leg(&self, bridge: &str) -> Option<&Leg> {
        self.legs.iter().find(|leg| leg.bridge == bridge)
    }

    /// A name for one more link inside.
    #[must_use]
    pub fn free_link_name(&self) -> String {
        let is_free = |name: &String| self.legs.iter().all(|leg| leg.container_link != *name);
        (0..).map(|number: u32| format!("eth{number}")).find(is_free).unwrap_or_default()
    }
}

/// `sk` and 48 bits of the id's FNV-1a hash: short enough for the kernel, the same on every run.
#[must_use]
pub fn host_link_name(container: &str) -> String {
    let hash = container
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("sk{:012x}", (hash ^ (hash >> 48)) & 0xffff_ffff_ffff)
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As Docker and nft spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a port is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PublishMode {
    /// The port of one container on the node that runs it.
    Host,
    /// One port for all tasks of a service, spread over them.
    Ingress,
}

/// Protocol and port: what can be published once per node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the node.
    pub port: u16,
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// Where a published port may lead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The container that answers.
    pub container: String,
    /// Its address on one of its bridges.
    pub address: Ipv4Addr,
    /// The port it listens on.
    pub target_port: u16,
}

/// A port of the node and who answers on it. Without a backend the port refuses, but stays taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the node; never 0 (a free port is chosen before it is published).
    pub port: u16,
    /// How it is published.
    pub mode: PublishMode,
    /// Who answers; at most one in host mode.
    pub backends: Vec<Backend>,
}

impl PublishedPort {
    /// What it is known by.
    #[must_use]
    pub fn key(&self) -> PortKey {
        PortKey { protocol: self.protocol, port: self.port }
    }

    /// The same port with its backends in a fixed order, each once.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        self.backends.sort();
        self.backends.dedup();
        self
    }

    /// Is the port fit to be published on a node with these endpoints?
    pub fn validate(&self, endpoints: &BTreeMap<String, Endpoint>) -> Result<(), NetworkError> {
        let port = self.key();
        if self.port == 0 {
            return Err(NetworkError::PortZero(self.protocol));
        }
        if self.mode == PublishMode::Host && self.backends.len() > 1 {
            return Err(NetworkError::HostPortShared(port));
        }
        for backend in &self.backends {
            let container = backend.container.clone();
            if backend.target_port == 0 {
                return Err(NetworkError::TargetPortZero { port, container });
            }
            if endpoints
                .get(&container)
                .is_none_or(|endpoint| endpoint.legs.iter().all(|leg| leg.address != backend.address))
            {
                return Err(NetworkError::UnknownBackend { port, container, address: backend.address });
            }
        }
        Ok(())
    }
}

/// All that a node's network should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNetwork {
    /// The main bridge.
    pub bridge: Bridge,
    /// Further bridges, by key.
    pub bridges: BTreeMap<String, Bridge>,
    /// By container id.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// By protocol and port; each with its backends [normalized](PublishedPort::normalized).
    pub published: BTreeMap<PortKey, PublishedPort>,
}

impl NodeNetwork {
    /// A bridge with nobody on it.
    #[must_use]
    pub fn new(bridge: Bridge) -> Self {
        Self { bridge, bridges: BTreeMap::new(), endpoints: BTreeMap::new(), published: BTreeMap::new() }
    }

    /// Builds the picture from lists, refusing double entries and everything that [`Self::validate`] refuses.
    pub fn from_parts(
        bridge: Bridge,
        endpoints: Vec<Endpoint>,
        published: Vec<PublishedPort>,
    ) -> Result<Self, NetworkError> {
        let mut network = Self::new(bridge);
        for endpoint in endpoints {
            let container = endpoint.container.clone();
            if network.endpoints.insert(container.clone(), endpoint).is_some() {
                return Err(NetworkError::Duplicate { container, what: "id" });
            }
        }
        for port in published {
            let key = port.key();
            if network.published.insert(key, port.normalized()).is_some() {
                return Err(NetworkError::PortTwice(key));
            }
        }
        network.validate()?;
        Ok(network)
    }

    /// Checks every rule: names, addresses, nothing shared, every backend an endpoint.
    pub fn validate(&self) -> Result<(), NetworkError> {
        self.all_bridges().try_for_each(|(_, bridge)| bridge.validate())?;
        let (mut addresses, mut macs) = (BTreeSet::new(), BTreeSet::new());
        let mut links: BTreeSet<&str> = self.all_bridges().map(|(_, bridge)| bridge.name.as_str()).collect();
        for endpoint in self.endpoints.values() {
            let container = endpoint.container.clone();
            check_container_id(&container)?;
            for leg in &endpoint.legs {
                check_link_name(&leg.host_link)?;
                check_link_name(&leg.container_link)?;
                let Some(bridge) = self.find_bridge(&leg.bridge) else {
                    return Err(NetworkError::UnknownBridge { container, bridge: leg.bridge.clone() });
                };
                let (key, subnet) = (leg.bridge.as_str(), bridge.subnet);
                if !subnet.is_host(leg.address) || leg.address == bridge.gateway {
                    return Err(NetworkError::AddressOutside { container, address: leg.address, subnet });
                }
                let what = if !addresses.insert((key, leg.address)) {
                    Some("address")
                } else if !macs.insert((key, leg.mac)) {
                    Some("hardware address")
                } else if !links.insert(leg.host_link.as_str()) {
                    Some("link")
                } else {
                    None
                };
                if let Some(what) = what {
                    return Err(NetworkError::Duplicate { container, what });
                }
            }
        }
        self.published.values().try_for_each(|port| port.validate(&self.endpoints))
    }

    /// All bridges with their keys, the main one first.
    pub fn all_bridges(&self) -> impl Iterator<Item = (&str, &Bridge)> {
        std::iter::once((MAIN, &self.bridge)).chain(self.bridges.iter().map(|(key, bridge)| (key.as_str(), bridge)))
    }

    /// One bridge.
    #[must_use]
    pub fn find_bridge(&self, key: &str) -> Option<&Bridge> {
        if key == MAIN { Some(&self.bridge) } else { self.bridges.get(key) }
    }

    /// The place by which a container reaches the world: its first on a bridge that leads there.
    #[must_use]
    pub fn way_out<'a>(&self, endpoint: &'a Endpoint) -> Option<&'a Leg> {
        let leads_out = |leg: &&Leg| self.find_bridge(&leg.bridge).is_some_and(|bridge| bridge.reach == Reach::Outward);
        endpoint.legs.iter().find(leads_out)
    }

    /// Takes the container out of every published port; the ports themselves stay.
    pub fn withdraw(&mut self, container: &str) {
        for port in self.published.values_mut() {
            port.backends.retain(|backend| backend.container != container);
        }
    }
}

impl Bridge {
    /// Checks name, gateway and MTU.
    pub fn validate(&self) -> Result<(), NetworkError> {
        check_link_name(&self.name)?;
        if !self.subnet.is_host(self.gateway) {
            return Err(NetworkError::GatewayOutside { gateway: self.gateway, subnet: self.subnet });
        }
        if !(68..=65535).contains(&self.mtu) {
            return Err(NetworkError::InvalidMtu(self.mtu));
        }
        Ok(())
    }
}

/// Is the id fit to be a file name?
pub fn check_container_id(id: &str) -> Result<(), NetworkError> {
    if (1..=128).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(is_plain) {
        Ok(())
    } else {
        Err(NetworkError::InvalidContainerId(id.to_owned()))
    }
}

fn check_link_name(name: &str) -> Result<(), NetworkError> {
    if (1..=LINK_NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(is_plain) {
        Ok(())
    } else {
        Err(NetworkError::InvalidLinkName(name.to_owned()))
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn bridge() -> Bridge {
        let subnet: Subnet = "172.18.0.0/16".parse().unwrap();
        let (gateway, reach) = (subnet.gateway(), Reach::Outward);
        Bridge { name: "skep0".into(), subnet, gateway, mtu: 1500, reach, isolated: true }
    }

    pub(crate) fn endpoint(container: &str, last: u8) -> Endpoint {
        Endpoint::derived(container, format!("/run/skep/netns/{container}"), Ipv4Addr::new(172, 18, 0, last))
    }

    pub(crate) fn port(
        protocol: Protocol,
        port: u16,
        mode: PublishMode,
        backends: &[(&str, u8, u16)],
    ) -> PublishedPort {
        let backends = backends
            .iter()
            .map(|(container, last, target_port)| Backend {
                container: (*container).to_owned(),
                address: Ipv4Addr::new(172, 18, 0, *last),
                target_port: *target_port,
            })
            .collect();
        PublishedPort { protocol, port, mode, backends }
    }

    fn refused(endpoints: Vec<Endpoint>, published: Vec<PublishedPort>) -> String {
        NodeNetwork::from_parts(bridge(), endpoints, published).unwrap_err().to_string()
    }

    #[test]
    fn link_names_fit_and_differ() {
        let name = host_link_name("0123456789abcdef");
        assert_eq!(name.len(), 14);
        assert_ne!(name, host_link_name("0123456789abcdee"));
        assert_eq!(name, host_link_name("0123456789abcdef"));
    }

    #[test]
    fn bridges_are_checked() {
        let check = |change: fn(&mut Bridge)| {
            let mut bridge = bridge();
            change(&mut bridge);
            bridge.validate().is_err()
        };
        assert!(check(|bridge| bridge.name = "a-name-that-is-too-long".into()));
        assert!(check(|bridge| bridge.name = "a\" drop".into()));
        assert!(check(|bridge| bridge.gateway = Ipv4Addr::new(172, 19, 0, 1)));
        assert!(check(|bridge| bridge.gateway = Ipv4Addr::new(172, 18, 255, 255)));
        assert!(check(|bridge| bridge.mtu = 10));
        assert!(!check(|_| ()));
    }

    #[test]
    fn endpoints_are_checked() {
        let other = Endpoint { container: "b".into(), ..endpoint("a", 2) };
        assert_eq!(
            refused(vec![endpoint("a", 2), other], vec![]),
            "container \"b\" shares its address with another container"
        );
        let mut outside = endpoint("a", 2);
        outside.legs[0].address = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(
            refused(vec![outside], vec![]),
            "address 10.0.0.1 of container \"a\" is not free in subnet 172.18.0.0/16"
        );
        assert!(refused(vec![endpoint("a", 1)], vec![]).contains("is not free"), "the gateway");
        assert!(refused(vec![endpoint("a", 2), endpoint("a", 3)], vec![]).contains("shares its id"));
        assert!(refused(vec![endpoint("../a", 2)], vec![]).contains("invalid container id"));
        let mut link = endpoint("b", 3);
        link.legs[0].host_link = host_link_name("a");
        assert!(refused(vec![endpoint("a", 2), link], vec![]).contains("shares its link"));
    }

    #[test]
    fn ports_are_checked() {
        use Protocol::{Tcp, Udp};
        let check = |published| refused(vec![endpoint("a", 2), endpoint("b", 3)], published);
        assert_eq!(check(vec![port(Tcp, 0, PublishMode::Ingress, &[])]), "invalid published port 0/tcp");
        let twice = vec![port(Udp, 53, PublishMode::Ingress, &[]), port(Udp, 53, PublishMode::Host, &[])];
        assert_eq!(check(twice), "port 53/udp is published twice");
        let shared = port(Tcp, 80, PublishMode::Host, &[("a", 2, 80), ("b", 3, 80)]);
        assert_eq!(check(vec![shared]), "host-mode port 80/tcp has more than one backend");
        assert!(check(vec![port(Tcp, 80, PublishMode::Ingress, &[("a", 2, 0)])]).contains("port 0 of container"));
        assert!(check(vec![port(Tcp, 80, PublishMode::Ingress, &[("a", 3, 80)])]).contains("no such endpoint"));
        assert!(check(vec![port(Tcp, 80, PublishMode::Ingress, &[("c", 4, 80)])]).contains("no such endpoint"));
    }

    #[test]
    fn one_port_may_be_published_for_two_protocols() {
        let published = vec![
            port(Protocol::Tcp, 53, PublishMode::Ingress, &[("a", 2, 53), ("a", 2, 53)]),
            port(Protocol::Udp, 53, PublishMode::Host, &[("a", 2, 53)]),
        ];
        let mut network = NodeNetwork::from_parts(bridge(), vec![endpoint("a", 2)], published).unwrap();
        assert_eq!(network.published.values().map(|port| port.backends.len()).collect::<Vec<_>>(), [1, 1]);
        network.withdraw("a");
        assert!(network.published.values().all(|port| port.backends.is_empty()));
    }
}
