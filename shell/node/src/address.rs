//! Addresses that a user gives when a swarm is founded, and the one that is chosen when none is given (moby
//! `daemon/cluster/listen_addr.go`; the texts are Docker's).

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::NodeError;

/// Port of managers.
pub(crate) const PORT_DEFAULT: u16 = 2377;
/// Interfaces whose addresses are no use to other machines.
const OWN_INTERFACES: [&str; 5] = ["docker", "br-", "veth", "skep", "sk-"];

/// An interface's address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    address: IpAddr,
}

/// Where to listen, and what to tell others: each `host:port`.
pub(crate) fn resolve(listen: &str, advertise: &str) -> Result<(String, String), NodeError> {
    let interfaces = interfaces()?;
    let (host, port) = split(if listen.is_empty() { "0.0.0.0:2377" } else { listen }, PORT_DEFAULT)
        .ok_or_else(|| invalid(BAD_LISTEN))?;
    let host = host_address(&host, &interfaces, BAD_LISTEN)?;
    let told = advertised(advertise, port, host, &interfaces)?;
    Ok((join(host, port), told))
}

const BAD_LISTEN: &str = "listen address must be an IP address or network interface (with optional port number)";
const BAD_ADVERTISE: &str =
    "advertise address must be a non-zero IP address or network interface (with optional port number)";

fn invalid(text: &str) -> NodeError {
    NodeError::Invalid(text.to_owned())
}

fn advertised(given: &str, port: u16, listen: IpAddr, interfaces: &[Interface]) -> Result<String, NodeError> {
    if !given.is_empty() {
        let (host, port) = split(given, port).ok_or_else(|| invalid(BAD_ADVERTISE))?;
        let host = host_address(&host, interfaces, BAD_ADVERTISE)?;
        if host.is_unspecified() {
            return Err(invalid(BAD_ADVERTISE));
        }
        return Ok(join(host, port));
    }
    if !listen.is_unspecified() {
        return Ok(join(listen, port));
    }
    Ok(join(system_address(interfaces)?, port))
}

/// The one address that this machine has towards others; IPv6 only when there is no IPv4.
fn system_address(interfaces: &[Interface]) -> Result<IpAddr, NodeError> {
    let outside: Vec<&Interface> = interfaces
        .iter()
        .filter(|interface| !OWN_INTERFACES.iter().any(|own| interface.name.starts_with(own)))
        .filter(|interface| !interface.address.is_loopback() && !is_link_local(interface.address))
        .collect();
    let v4: Vec<_> = outside.iter().filter(|interface| interface.address.is_ipv4()).copied().collect();
    let candidates = if v4.is_empty() { outside } else { v4 };
    match candidates.as_slice() {
        [] => Err(invalid("could not find the system's IP address")),
        [only] => Ok(only.address),
        [one, other, ..] if one.name == other.name => Err(NodeError::Invalid(format!(
            "could not choose an IP address to advertise since this system has multiple addresses on interface {} ({} and {})",
            one.name, one.address, other.address
        ))),
        [one, other, ..] => Err(NodeError::Invalid(format!(
            "could not choose an IP address to advertise since this system has multiple addresses on different interfaces \
             ({} on {} and {} on {})",
            one.address, one.name, other.address, other.name
        ))),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn host_address(host: &str, interfaces: &[Interface], bad: &str) -> Result<IpAddr, NodeError> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let of_name: Vec<&Interface> =
        interfaces.iter().filter(|interface| interface.name == host && !is_link_local(interface.address)).collect();
    let v4: Vec<_> = of_name.iter().filter(|interface| interface.address.is_ipv4()).copied().collect();
    match (v4.as_slice(), of_name.as_slice()) {
        ([only], _) | ([], [only]) => Ok(only.address),
        ([one, other, ..], _) | ([], [one, other, ..]) => {
            let (family, one, other) =
                (if one.address.is_ipv4() { "IPv4" } else { "IPv6" }, one.address, other.address);
            Err(NodeError::Invalid(format!("interface {host} has more than one {family} address ({one} and {other})")))
        }
        ([], []) => Err(invalid(bad)),
    }
}

/// Splits `host[:port]`, also `[v6]:port`.
fn split(text: &str, port_default: u16) -> Option<(String, u16)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address.to_string(), port_default));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        None => (text, port_default),
    };
    let host = host.strip_prefix('[').map_or(Some(host), |inner| inner.strip_suffix(']'))?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

fn join(host: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(host, port).to_string()
}

fn interfaces() -> Result<Vec<Interface>, NodeError> {
    let all = getifaddrs().map_err(|error| NodeError::Internal(format!("cannot read the interfaces: {error}")))?;
    let usable = all.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP)).filter_map(|interface| {
        let storage = interface.address?;
        let address = match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => return None,
        };
        Some(Interface { name: interface.interface_name, address })
    });
    Ok(usable.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(list: &[(&str, &str)]) -> Vec<Interface> {
        let interface =
            |(name, address): &(&str, &str)| Interface { name: (*name).to_owned(), address: address.parse().unwrap() };
        list.iter().map(interface).collect()
    }

    fn any() -> IpAddr {
        "0.0.0.0".parse().unwrap()
    }

    #[test]
    fn the_only_outside_address_is_chosen() {
        let one = machine(&[("lo", "127.0.0.1"), ("eth0", "10.1.2.3"), ("eth0", "fe80::1"), ("docker0", "172.17.0.1")]);
        assert_eq!(advertised("", 2377, any(), &one).unwrap(), "10.1.2.3:2377");
        assert_eq!(advertised("eth0", 2377, any(), &one).unwrap(), "10.1.2.3:2377");
        assert_eq!(advertised("eth0:2400", 2377, any(), &one).unwrap(), "10.1.2.3:2400");
        assert_eq!(advertised("", 2377, "10.9.9.9".parse().unwrap(), &one).unwrap(), "10.9.9.9:2377");
        let v6 = machine(&[("lo", "::1"), ("eth0", "fd00::5")]);
        assert_eq!(advertised("", 2377, any(), &v6).unwrap(), "[fd00::5]:2377");
    }

    #[test]
    fn doubts_are_dockers() {
        let text = |given: &str, list: &[(&str, &str)]| {
            advertised(given, 2377, any(), &machine(list)).unwrap_err().to_string()
        };
        let two = [("eth0", "10.0.0.1"), ("eth1", "10.0.0.2")];
        assert!(
            text("", &two)
                .contains("multiple addresses on different interfaces (10.0.0.1 on eth0 and 10.0.0.2 on eth1)")
        );
        let same = [("eth0", "10.0.0.1"), ("eth0", "10.0.0.2")];
        assert!(text("", &same).contains("multiple addresses on interface eth0 (10.0.0.1 and 10.0.0.2)"));
        assert_eq!(text("", &[("lo", "127.0.0.1")]), "could not find the system's IP address");
        for bad in ["0.0.0.0", "nosuch", "1.2.3.4:x", "1.2.3.4:0", ":2377"] {
            assert_eq!(text(bad, &two), BAD_ADVERTISE, "{bad}");
        }
    }
}
