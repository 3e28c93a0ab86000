//! The kernel's part of one endpoint: its namespace, its pin and its link pair. Knows no table of endpoints.

use crate::error::{NetworkError, Result, Tried};
use crate::link::{self, DEAD_GROUP, Link, Links, OUR_GROUP, Target};
use crate::namespace;
use crate::probe::open_failed;
use skep_dataplane::{Endpoint, GatewayBridge};
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

/// Makes the namespace, its pin and the link pair; [`attach`] comes next. On failure some of it may be left: remove it then.
pub(crate) fn create(endpoint: &Endpoint, bridge: &GatewayBridge, home: &OwnedFd) -> Result<()> {
    namespace::within_new(|| {
        namespace::pin_current(Path::new(&endpoint.netns))?;
        for (name, value) in SETTINGS {
            namespace::set_sysctl_if_present(name, value)?;
        }
        connect_here(endpoint, bridge, home)
    })
}

/// Makes the link pair of an endpoint whose namespace exists.
pub(crate) fn reconnect(endpoint: &Endpoint, bridge: &GatewayBridge, home: &OwnedFd, links: &mut Links) -> Result<()> {
    let netns = open_pin(endpoint)?;
    namespace::within(&netns, || {
        Links::open().map_err(open_failed)?.remove(Target::Name(&endpoint.container_link))?;
        connect_here(endpoint, bridge, home)
    })?;
    attach(endpoint, bridge, links)
}

/// Makes the node's end an isolated port of the bridge.
pub(crate) fn attach(endpoint: &Endpoint, bridge: &GatewayBridge, links: &mut Links) -> Result<()> {
    let Some(found) = links.find(&bridge.name)? else {
        return Err(NetworkError::Netlink {
            what: format!("attach to bridge {:?}", bridge.name),
            source: std::io::ErrorKind::NotFound.into(),
        });
    };
    let alias = format!("skep {}", endpoint.container);
    links.apply(link::attach_isolated(&endpoint.host_link, found.index, &alias))
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

fn connect_here(endpoint: &Endpoint, bridge: &GatewayBridge, home: &OwnedFd) -> Result<()> {
    let mut links = Links::open().map_err(open_failed)?;
    let name = &endpoint.container_link;
    let pair = link::make_pair(name, endpoint.mac, &endpoint.host_link, home.as_fd(), bridge.mtu);
    links.apply(vec![link::set_up(Target::Name("lo"), None, None), pair])?;
    let Some(link) = links.find(name)? else {
        return Err(NetworkError::Netlink {
            what: format!("find link {name:?}"),
            source: std::io::ErrorKind::NotFound.into(),
        });
    };
    let subnet = bridge.subnet;
    links.apply(vec![
        link::add_address(link.index, endpoint.address, subnet.prefix(), subnet.broadcast()),
        link::set_up(Target::Index(link.index), None, None),
        link::add_default_route(link.index, bridge.gateway),
    ])
}
