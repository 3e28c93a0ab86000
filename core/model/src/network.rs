//! A network of the swarm: what a user asked for, and what the allocator gave it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Driver, GroupVersion, Labels, Meta, NetworkId};

/// Label of the networks that stand for each node's own `bridge` and `host` (SwarmKit `api/naming`, moby `cnmallocator`).
pub const PREDEFINED_LABEL: &str = "com.docker.swarm.predefined";
/// Name of the network of the routing mesh.
pub const INGRESS_NAME: &str = "ingress";
/// Driver option with the VXLAN network id (moby `libnetwork/netlabel`).
pub const VXLAN_ID_LIST: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// What a user asks of a network (Docker's `NetworkSpec`). It never changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkSpec {
    /// Unique, case-insensitive.
    pub name: String,
    /// Labels of the network object.
    pub labels: Labels,
    /// Its driver; without a name it is `overlay`.
    pub driver: Driver,
    /// IPv6 too.
    pub ipv6: bool,
    /// No way out of the network.
    pub internal: bool,
    /// Containers made by hand may be attached.
    pub attachable: bool,
    /// It is the network of the routing mesh.
    pub ingress: bool,
    /// Addresses, where the user chose them.
    pub ipam: Option<IpamOptions>,
}

impl NetworkSpec {
    /// The network of the routing mesh, as every new swarm has it.
    #[must_use]
    pub fn ingress() -> Self {
        Self { name: INGRESS_NAME.to_owned(), ingress: true, ipam: Some(IpamOptions::default()), ..Self::default() }
    }

    /// The network that stands for each node's own of this name, which is also the driver's: `bridge` or `host`.
    #[must_use]
    pub fn of_the_node(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: [(PREDEFINED_LABEL.to_owned(), "true".to_owned())].into(),
            driver: Driver { name: name.to_owned(), ..Driver::default() },
            ..Self::default()
        }
    }
}

/// How the addresses of a network are managed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpamOptions {
    /// Who manages them; without a name it is `default`.
    pub driver: Driver,
    /// Subnets.
    pub configs: Vec<IpamConfig>,
}

/// One subnet of a network. Texts as the user wrote them; empty ones are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpamConfig {
    /// CIDR.
    pub subnet: String,
    /// Part of the subnet from which containers get addresses, CIDR.
    pub range: String,
    /// The gateway's address.
    pub gateway: String,
    /// Addresses that others have, by name.
    pub reserved: BTreeMap<String, String>,
}

/// A network.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Edit version and times.
    pub meta: Meta,
    /// What was asked for.
    pub spec: Arc<NetworkSpec>,
    /// What the allocator gave. Written by the allocator.
    pub allocation: NetworkAllocation,
}

impl Network {
    /// True for the networks that stand for each node's own `bridge` and `host`; lists do not show them.
    #[must_use]
    pub fn is_predefined(&self) -> bool {
        self.spec.labels.get(PREDEFINED_LABEL).is_some_and(|value| value == "true")
    }

    /// Name of its driver.
    #[must_use]
    pub fn driver(&self) -> &str {
        if self.spec.driver.name.is_empty() { "overlay" } else { &self.spec.driver.name }
    }

    /// True when addresses in it are unique in the swarm; other networks are each node's own affair.
    #[must_use]
    pub fn has_addresses(&self) -> bool {
        self.driver() == "overlay"
    }

    /// True when it can be used.
    #[must_use]
    pub fn is_allocated(&self) -> bool {
        self.allocation.driver.is_some()
    }
}

/// What the allocator gave a network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkAllocation {
    /// The driver with the options it was given; `None` before the allocation.
    pub driver: Option<Driver>,
    /// The subnets.
    pub ipam: IpamOptions,
    /// Why nothing could be given yet, for people.
    pub reason: Option<String>,
    /// Version of this group.
    pub version: GroupVersion,
}

/// An address with the prefix length of its subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl Cidr {
    /// First and last address of the subnet, as numbers.
    #[must_use]
    pub fn bounds(self) -> (u32, u32) {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
        let first = u32::from(self.address) & mask;
        (first, first | !mask)
    }

    /// The subnet of the address: host bits zero.
    #[must_use]
    pub fn subnet(self) -> Self {
        Self { address: Ipv4Addr::from(self.bounds().0), prefix: self.prefix }
    }

    /// True when the two subnets share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let ((first, last), (other_first, other_last)) = (self.bounds(), other.bounds());
        first <= other_last && other_first <= last
    }

    /// True when the address is within the subnet.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let (first, last) = self.bounds();
        (first..=last).contains(&u32::from(address))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A text that is not `a.b.c.d/len`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct CidrError(pub String);

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let bad = || CidrError(text.chars().take(80).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if prefix > 32 {
            return Err(bad());
        }
        Ok(Self { address: address.parse().map_err(|_| bad())?, prefix })
    }
}

/// A task's place on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskNetwork {
    /// The network.
    pub network: NetworkId,
    /// Its addresses there; none on a node's own network.
    pub addresses: Vec<Cidr>,
}

/// The address of a service on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtualIp {
    /// The network.
    pub network: NetworkId,
    /// The address.
    pub address: Cidr,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_and_addresses() {
        assert_eq!(cidr("10.0.1.7/24").subnet().to_string(), "10.0.1.0/24");
        assert_eq!(cidr("0.0.0.0/0").bounds(), (0, u32::MAX));
        assert!(cidr("10.0.0.0/8").overlaps(cidr("10.200.0.0/24")));
        assert!(!cidr("10.0.0.0/24").overlaps(cidr("10.0.1.0/24")));
        assert!(cidr("10.0.1.0/24").contains(Ipv4Addr::new(10, 0, 1, 255)));
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "bad"] {
            assert_eq!(Cidr::from_str(bad).unwrap_err().to_string(), format!("invalid CIDR address: {bad}"));
        }
    }
}
