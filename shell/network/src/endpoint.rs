//! The kernel's part of one endpoint: its namespace, its pin and its link pairs. Knows no table of endpoints.

use crate::error::{NetworkError, Result, Tried};
use crate::link::{self, DEAD_GROUP, Link, Links, OUR_GROUP, Target};
use crate::namespace;
use crate::probe::open_failed;
use skep_dataplane::{Bridge, Endpoint, Leg};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Settings of a container's namespace that Docker makes too: any port may be bound and ping needs no privilege.
/// Containers have no IPv6 here, so their link gets no IPv6 address; their loopback keeps `::1`.
const SETTINGS: [(&str, &str); 3] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
    ("net.ipv6.conf.default.disable_ipv6", "1"),
];

/// A place on a bridge, with the bridge, and whether it is the way out.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) leg: Leg,
    pub(crate) bridge: Bridge,
    pub(crate) is_way_out: bool,
}

/// Makes the namespace, its pin and the link pairs; [`attach`] comes next. On failure some of it may be left: remove it then.
pub(crate) fn create(netns: &str, wires: &[Wire], home: &OwnedFd) -> Result<()> {
    namespace::within_new(|| {
        namespace::pin_current(Path::new(netns))?;
        for (name, value) in SETTINGS {
            namespace::set_sysctl_if_present(name, value)?;
        }
        let mut links = Links::open().map_err(open_failed)?;
        links.apply(vec![link::set_up(Target::Name("lo"), None, None)])?;
        wires.iter().try_for_each(|wire| connect_here(wire, home, &mut links))
    })
}

/// Makes the link pair of a place in a namespace that exists, whatever is left of an earlier one.
pub(crate) fn connect(endpoint: &Endpoint, wire: &Wire, home: &OwnedFd, links: &mut Links) -> Result<()> {
    let netns = open_pin(endpoint)?;
    namespace::within(&netns, || {
        let mut links = Links::open().map_err(open_failed)?;
        links.remove(Target::Name(&wire.leg.container_link))?;
        connect_here(wire, home, &mut links)
    })?;
    attach(&endpoint.container, wire, links)
}

/// Leads what leaves the container's networks by this place from now on.
pub(crate) fn set_way_out(endpoint: &Endpoint, wire: &Wire) -> Result<()> {
    let netns = open_pin(endpoint)?;
    namespace::within(&netns, || {
        let mut links = Links::open().map_err(open_failed)?;
        let Some(link) = links.find(&wire.leg.container_link)? else { return Ok(()) };
        links.apply(vec![link::add_default_route(link.index, wire.bridge.gateway)])
    })
}

/// Makes the node's end a port of the bridge.
pub(crate) fn attach(container: &str, wire: &Wire, links: &mut Links) -> Result<()> {
    let Some(found) = links.find(&wire.bridge.name)? else {
        return Err(NetworkError::Netlink {
            what: format!("attach to bridge {:?}", wire.bridge.name),
            source: std::io::ErrorKind::NotFound.into(),
        });
    };
    let alias = format!("skep {container}");
    links.apply(link::attach(&wire.leg.host_link, found.index, wire.bridge.isolated, &alias))
}

/// Takes the node's end off the bridge, to be deleted with [`Links::delete_retired`]; says whether there is one.
pub(crate) fn retire(host_link: &str, links: &mut Links) -> Result<bool> {
    match links.find(host_link)? {
        Some(link) if is_ours(&link) => {
            if link.group == OUR_GROUP {
                links.apply(vec![link::retire(host_link)])?;
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Has the node's end been made by skep? The group is set by the request that makes the link.
pub(crate) fn is_ours(link: &Link) -> bool {
    let id = link.name.strip_prefix("sk").unwrap_or_default();
    (link.group == OUR_GROUP || link.group == DEAD_GROUP)
        && link.kind.as_deref() == Some("veth")
        && id.len() == 12
        && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn open_pin(endpoint: &Endpoint) -> Result<OwnedFd> {
    let file = File::open(&endpoint.netns);
    Ok(file.tried(|| format!("open the network namespace of container {:?}", endpoint.container))?.into())
}

fn connect_here(wire: &Wire, home: &OwnedFd, links: &mut Links) -> Result<()> {
    let Wire { leg, bridge, is_way_out } = wire;
    let name = &leg.container_link;
    links.apply(vec![link::make_pair(name, leg.mac, &leg.host_link, home.as_fd(), bridge.mtu)])?;
    let Some(link) = links.find(name)? else {
        return Err(NetworkError::Netlink {
            what: format!("find link {name:?}"),
            source: std::io::ErrorKind::NotFound.into(),
        });
    };
    let subnet = bridge.subnet;
    let mut steps = vec![
        link::add_address(link.index, leg.address, subnet.prefix(), subnet.broadcast()),
        link::set_up(Target::Index(link.index), None, None),
    ];
    if *is_way_out {
        steps.push(link::add_default_route(link.index, bridge.gateway));
    }
    links.apply(steps)
}
