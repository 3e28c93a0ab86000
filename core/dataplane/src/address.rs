//! IPv4 subnets, hardware addresses and the choice of the next address. Pure: the pool is told what is in use, it does
//! not look.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Why an address or subnet was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is not `a.b.c.d/len` with no host bits set.
    #[error("invalid subnet {0:?}: expected an IPv4 network such as 172.18.0.0/16, prefix length 8 to 30")]
    InvalidSubnet(String),
    /// Every address is taken or quarantined.
    #[error("no free address in subnet {subnet}: {in_use} in use, {quarantined} in quarantine")]
    Exhausted {
        /// The pool's subnet.
        subnet: Subnet,
        /// Addresses handed out.
        in_use: usize,
        /// Addresses held back.
        quarantined: usize,
    },
    /// The address is not one that a container may have there.
    #[error("address {address} cannot be used in subnet {subnet}")]
    NotInSubnet {
        /// The address asked for.
        address: Ipv4Addr,
        /// The pool's subnet.
        subnet: Subnet,
    },
    /// Somebody has it already.
    #[error("address {0} is already in use")]
    InUse(Ipv4Addr),
}

/// An IPv4 network, its host bits zero, its prefix length between 8 and 30.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The network `network/prefix`; refused when host bits are set or the length is not usable for a bridge.
    pub fn new(network: Ipv4Addr, prefix: u8) -> Result<Self, AddressError> {
        let subnet = Self { network, prefix };
        if !(8..=30).contains(&prefix) || u32::from(network) & !subnet.mask() != 0 {
            return Err(AddressError::InvalidSubnet(subnet.to_string()));
        }
        Ok(subnet)
    }

    /// The first address: the network itself.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Prefix length in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Where the gateway bridge sits: the first host address, as Docker chooses it.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// The last address, never given to anyone.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | !self.mask())
    }

    /// Is the address within the network (its first and last address included)?
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network)
    }

    /// Is it an address that a host may have: inside, neither the network nor the broadcast address?
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.network && address != self.broadcast()
    }

    /// Do the two share an address?
    #[must_use]
    pub fn overlaps(self, other: (Ipv4Addr, u8)) -> bool {
        let shorter = self.prefix.min(other.1);
        let mask = mask_of(shorter);
        u32::from(self.network) & mask == u32::from(other.0) & mask
    }

    fn mask(self) -> u32 {
        mask_of(self.prefix)
    }
}

fn mask_of(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let invalid = || AddressError::InvalidSubnet(text.to_owned());
        let (network, prefix) = text.split_once('/').ok_or_else(invalid)?;
        Self::new(network.parse().map_err(|_| invalid())?, prefix.parse().map_err(|_| invalid())?)
            .map_err(|_| invalid())
    }
}

/// The first default subnet that overlaps none of `used` (networks as address and prefix length; a default route is
/// not a use): 172.18.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 onwards, the pools of Docker without the one of
/// its own default bridge.
#[must_use]
pub fn first_free_subnet(used: &[(Ipv4Addr, u8)]) -> Option<Subnet> {
    let large = (18..=31).map(|second| Subnet { network: Ipv4Addr::new(172, second, 0, 0), prefix: 16 });
    let small = (0..16).map(|step| Subnet { network: Ipv4Addr::new(192, 168, step * 16, 0), prefix: 20 });
    large.chain(small).find(|candidate| !used.iter().any(|other| other.1 > 0 && candidate.overlaps(*other)))
}

/// A 48 bit hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// `02:42:` and the four bytes of the address, as Docker does: a reused address keeps its hardware address, so no
    /// neighbour entry goes stale.
    #[must_use]
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Hands out the addresses of one subnet, next-fit: a freed address is the last to come back, so that whoever still
/// talks to its former owner does not reach a stranger. The gateway is never handed out.
#[derive(Debug, Clone)]
pub struct AddressPool {
    subnet: Subnet,
    gateway: Ipv4Addr,
    /// First and last address that is handed out unasked.
    range: (u32, u32),
    last: Ipv4Addr,
    in_use: BTreeSet<Ipv4Addr>,
    quarantined: BTreeSet<Ipv4Addr>,
}

impl AddressPool {
    /// A pool of which only the gateway is taken.
    #[must_use]
    pub fn new(subnet: Subnet, gateway: Ipv4Addr) -> Self {
        let range = (u32::from(subnet.network) + 1, u32::from(subnet.broadcast()) - 1);
        let (in_use, quarantined) = (BTreeSet::new(), BTreeSet::new());
        Self { subnet, gateway, range, last: subnet.network, in_use, quarantined }
    }

    /// Hands out only addresses of this part of the subnet unasked.
    #[must_use]
    pub fn within(mut self, range: Subnet) -> Self {
        let (first, last) = self.range;
        self.range = (first.max(range.network.into()), last.min(range.broadcast().into()));
        self
    }

    /// Does nobody have an address?
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.in_use.is_empty()
    }

    /// The next free address after the one handed out last.
    pub fn allocate(&mut self) -> Result<Ipv4Addr, AddressError> {
        let (first, last) = self.range;
        let start = (u32::from(self.last) + 1).clamp(first, last.max(first));
        let free =
            (start..=last).chain(first..start).map(Ipv4Addr::from).find(|address| self.is_free(*address)).ok_or(
                AddressError::Exhausted {
                    subnet: self.subnet,
                    in_use: self.in_use.len(),
                    quarantined: self.quarantined.len(),
                },
            )?;
        self.in_use.insert(free);
        self.last = free;
        Ok(free)
    }

    /// Takes this very address: one that a container already has.
    pub fn claim(&mut self, address: Ipv4Addr) -> Result<(), AddressError> {
        if !self.subnet.is_host(address) || address == self.gateway {
            return Err(AddressError::NotInSubnet { address, subnet: self.subnet });
        }
        if self.quarantined.contains(&address) || !self.in_use.insert(address) {
            return Err(AddressError::InUse(address));
        }
        self.last = self.last.max(address);
        Ok(())
    }

    /// Gives the address back; nothing happens when nobody had it.
    pub fn release(&mut self, address: Ipv4Addr) {
        self.in_use.remove(&address);
    }

    /// Holds the address back although nobody has it: its last owner may still be alive somewhere.
    pub fn quarantine(&mut self, address: Ipv4Addr) {
        self.quarantined.insert(address);
    }

    /// Ends a quarantine.
    pub fn end_quarantine(&mut self, address: Ipv4Addr) {
        self.quarantined.remove(&address);
    }

    fn is_free(&self, address: Ipv4Addr) -> bool {
        address != self.gateway && !self.in_use.contains(&address) && !self.quarantined.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> AddressPool {
        let subnet: Subnet = text.parse().unwrap();
        AddressPool::new(subnet, subnet.gateway())
    }

    #[test]
    fn subnets_are_parsed_strictly() {
        assert_eq!("172.18.0.0/16".parse::<Subnet>().unwrap().to_string(), "172.18.0.0/16");
        for bad in ["", "172.18.0.0", "172.18.0.1/16", "10.0.0.0/7", "10.0.0.0/31", "10.0.0.0/33", "a/8", "10.0.0.0/x"]
        {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn overlap_is_symmetric_in_length() {
        let subnet: Subnet = "172.18.0.0/16".parse().unwrap();
        assert!(subnet.overlaps((Ipv4Addr::new(172, 16, 0, 0), 12)));
        assert!(subnet.overlaps((Ipv4Addr::new(172, 18, 5, 0), 24)));
        assert!(subnet.overlaps((Ipv4Addr::UNSPECIFIED, 0)));
        assert!(!subnet.overlaps((Ipv4Addr::new(172, 19, 0, 0), 16)));
    }

    #[test]
    fn default_subnets_avoid_what_is_used_but_not_the_default_route() {
        let default_route = (Ipv4Addr::UNSPECIFIED, 0);
        assert_eq!(first_free_subnet(&[default_route]).unwrap().to_string(), "172.18.0.0/16");
        let used = [(Ipv4Addr::new(172, 18, 3, 0), 24), (Ipv4Addr::new(172, 19, 0, 0), 16)];
        assert_eq!(first_free_subnet(&used).unwrap().to_string(), "172.20.0.0/16");
        let private = [(Ipv4Addr::new(172, 16, 0, 0), 12), (Ipv4Addr::new(192, 168, 1, 0), 24)];
        assert_eq!(first_free_subnet(&private).unwrap().to_string(), "192.168.16.0/20");
        assert_eq!(first_free_subnet(&[(Ipv4Addr::new(172, 0, 0, 0), 8), (Ipv4Addr::new(192, 0, 0, 0), 8)]), None);
    }

    #[test]
    fn freed_addresses_come_back_last() {
        let mut pool = pool("10.0.0.0/29");
        let first = pool.allocate().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 0, 0, 2));
        pool.release(first);
        let rest: Vec<_> = (0..4).map(|_| pool.allocate().unwrap().octets()[3]).collect();
        assert_eq!(rest, [3, 4, 5, 6]);
        assert_eq!(pool.allocate().unwrap(), first);
        assert_eq!(
            pool.allocate().unwrap_err().to_string(),
            "no free address in subnet 10.0.0.0/29: 5 in use, 0 in quarantine"
        );
    }

    #[test]
    fn quarantined_and_claimed_addresses_are_not_handed_out() {
        let mut pool = pool("10.0.0.0/29");
        pool.claim(Ipv4Addr::new(10, 0, 0, 4)).unwrap();
        assert!(pool.claim(Ipv4Addr::new(10, 0, 0, 4)).is_err());
        assert!(pool.claim(Ipv4Addr::new(10, 0, 0, 1)).is_err(), "the gateway");
        assert!(pool.claim(Ipv4Addr::new(10, 0, 0, 7)).is_err(), "the broadcast address");
        pool.quarantine(Ipv4Addr::new(10, 0, 0, 5));
        let got: Vec<_> = (0..3).map(|_| pool.allocate().unwrap().octets()[3]).collect();
        assert_eq!(got, [6, 2, 3]);
        assert!(pool.allocate().is_err());
        pool.end_quarantine(Ipv4Addr::new(10, 0, 0, 5));
        assert_eq!(pool.allocate().unwrap().octets()[3], 5);
    }

    #[test]
    fn hardware_address_follows_the_address() {
        assert_eq!(MacAddress::of(Ipv4Addr::new(172, 18, 0, 3)).to_string(), "02:42:ac:12:00:03");
    }

    proptest::proptest! {
        /// Whatever is taken, freed, held back and claimed: nobody gets the gateway, a quarantined address, or one that
        /// somebody has; and exhaustion is told only when it is true.
        #[test]
        fn no_address_twice(steps in proptest::collection::vec((0_u8..5, 0_u8..16), 1..200)) {
            let mut pool = pool("10.0.0.0/28");
            let (mut held, mut quarantined) = (BTreeSet::new(), BTreeSet::new());
            for (step, last) in steps {
                let address = Ipv4Addr::new(10, 0, 0, last);
                match step {
                    0 => match pool.allocate() {
                        Ok(got) => {
                            assert!(got.octets()[3] > 1 && got.octets()[3] < 15);
                            assert!(!quarantined.contains(&got) && held.insert(got));
                        }
                        Err(_) => assert!((2..15).all(|n| {
                            let address = Ipv4Addr::new(10, 0, 0, n);
                            held.contains(&address) || quarantined.contains(&address)
                        })),
                    },
                    1 => { pool.release(address); held.remove(&address); }
                    2 => { pool.quarantine(address); quarantined.insert(address); }
                    3 => { pool.end_quarantine(address); quarantined.remove(&address); }
                    _ => if pool.claim(address).is_ok() { assert!(held.insert(address)); }
                }
            }
        }
    }
}
