//! The requests about links, addresses and routes that a node needs, and the answers read into plain structs.

use crate::error::{NetworkError, Result};
use crate::netlink::{Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Socket, Subsystem, attributes, number, text};
use skep_dataplane::{Bridge, MacAddress};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_UNSPEC: u8 = 0;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u32 = 255;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;

/// Link group of every link that skep makes ("skep" as a number), set by the very request that makes it: with the
/// name it proves whose link that is.
pub(crate) const OUR_GROUP: u32 = 0x736b_6570;

/// Link group of ours that are being removed: leaving the bridge is quick, being deleted takes the kernel some 20 ms, and
/// for a whole group no longer than for one.
pub(crate) const DEAD_GROUP: u32 = OUR_GROUP + 1;

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    pub(crate) group: u32,
    pub(crate) master: Option<u32>,
    pub(crate) kind: Option<String>,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) isolated: bool,
}

/// An IPv4 address on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkAddress {
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
}

/// Which link a request is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    Index(u32),
    Name(&'a str),
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "number {index}"),
            Self::Name(name) => write!(f, "{name:?}"),
        }
    }
}

/// A netlink socket for links, in the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Links(Socket);

impl Links {
    pub(crate) fn open() -> io::Result<Self> {
        Socket::open(Subsystem::Route).map(Self)
    }

    /// Carries out all requests in order; the first failure names its step.
    pub(crate) fn apply(&mut self, steps: Vec<(String, Message)>) -> Result<()> {
        let (names, messages): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        self.0.transact(messages).map_err(|(place, source)| failed(names.into_iter().nth(place), source))
    }

    /// All links, or with `name` that one.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Link>> {
        match self.0.get(link_message(RTM_GETLINK, 0, Target::Name(name), None)) {
            Ok(objects) => Ok(objects.iter().find_map(|object| parse_link(object))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(source) => Err(failed(Some(format!("look up link {name:?}")), source)),
        }
    }

    pub(crate) fn all(&mut self) -> Result<Vec<Link>> {
        let message = Message::new(RTM_GETLINK, 0, &ifinfo(AF_UNSPEC, 0, None));
        let objects = self.0.dump(message).map_err(|source| failed(Some("list the links".into()), source))?;
        Ok(objects.iter().filter_map(|object| parse_link(object)).collect())
    }

    pub(crate) fn addresses(&mut self) -> Result<Vec<LinkAddress>> {
        let message = Message::new(RTM_GETADDR, 0, &[AF_INET, 0, 0, 0, 0, 0, 0, 0]);
        let objects = self.0.dump(message).map_err(|source| failed(Some("list the addresses".into()), source))?;
        Ok(objects.iter().filter_map(|object| parse_address(object)).collect())
    }

    /// The destinations of all IPv4 routes outside the local table, each with the link it leaves by.
    pub(crate) fn routes(&mut self) -> Result<Vec<(Ipv4Addr, u8, Option<u32>)>> {
        let message = Message::new(RTM_GETROUTE, 0, &[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let objects = self.0.dump(message).map_err(|source| failed(Some("list the routes".into()), source))?;
        Ok(objects.iter().filter_map(|object| parse_route(object)).collect())
    }

    /// Deletes every retired link; none is fine.
    pub(crate) fn delete_retired(&mut self) -> Result<()> {
        let message = Message::new(RTM_DELLINK, 0, &ifinfo(AF_UNSPEC, 0, None)).number(IFLA_GROUP, DEAD_GROUP);
        match self.0.request(message) {
            Err(source) if !is_missing(&source) => Err(failed(Some("delete the retired links".into()), source)),
            _ => Ok(()),
        }
    }

    /// Removes the link; one that is not there is fine. Says whether it was.
    pub(crate) fn remove(&mut self, target: Target<'_>) -> Result<bool> {
        match self.0.request(link_message(RTM_DELLINK, 0, target, None)) {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(source) => Err(failed(Some(format!("remove link {target}")), source)),
        }
    }
}

/// Takes the link down and off the bridge, and marks it as to be deleted.
pub(crate) fn retire(name: &str) -> (String, Message) {
    let mut fixed = ifinfo(AF_UNSPEC, 0, None);
    // The flags stay 0, the mask says which of them is meant.
    fixed[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    let message = Message::new(RTM_SETLINK, 0, &fixed)
        .text(IFLA_IFNAME, name)
        .number(IFLA_MASTER, 0)
        .number(IFLA_GROUP, DEAD_GROUP);
    (format!("take down link {name:?}"), message)
}

fn failed(what: Option<String>, source: io::Error) -> NetworkError {
    NetworkError::Netlink { what: what.unwrap_or_else(|| "reach the kernel by netlink".into()), source }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::ENODEV)
}

/// Makes a bridge; none of that name may exist.
pub(crate) fn make_bridge(bridge: &Bridge) -> (String, Message) {
    let message = link_message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, Target::Name(&bridge.name), None)
        .attribute(IFLA_ADDRESS, &MacAddress::of(bridge.gateway).0)
        .number(IFLA_MTU, bridge.mtu)
        .number(IFLA_GROUP, OUR_GROUP)
        .nested(IFLA_LINKINFO, &[], |info| info.text(IFLA_INFO_KIND, "bridge"));
    (format!("make bridge {:?}", bridge.name), message)
}

/// Brings the link up with this MTU and, when given, hardware address.
pub(crate) fn set_up(target: Target<'_>, mtu: Option<u32>, mac: Option<MacAddress>) -> (String, Message) {
    let mut message = link_message(RTM_SETLINK, 0, target, Some(IFF_UP));
    if let Some(mtu) = mtu {
        message = message.number(IFLA_MTU, mtu);
    }
    if let Some(mac) = mac {
        message = message.attribute(IFLA_ADDRESS, &mac.0);
    }
    (format!("bring up link {target}"), message)
}

/// Gives the link an address; having it already is fine.
pub(crate) fn add_address(index: u32, address: Ipv4Addr, prefix: u8, broadcast: Ipv4Addr) -> (String, Message) {
    let [i, j, k, l] = index.to_ne_bytes();
    let message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &[AF_INET, prefix, 0, 0, i, j, k, l])
        .attribute(IFA_LOCAL, &address.octets())
        .attribute(IFA_ADDRESS, &address.octets())
        .attribute(IFA_BROADCAST, &broadcast.octets());
    (format!("add address {address}/{prefix} to link {index}"), message)
}

/// The default route by this gateway.
pub(crate) fn add_default_route(index: u32, gateway: Ipv4Addr) -> (String, Message) {
    let fixed = [AF_INET, 0, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, 0, TYPE_UNICAST, 0, 0, 0, 0];
    let message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
        .attribute(RTA_GATEWAY, &gateway.octets())
        .number(RTA_OIF, index);
    (format!("add the default route by {gateway}"), message)
}

/// A pair of links: `here` in the socket's namespace, `there` in the one of `peer_netns`.
pub(crate) fn make_pair(
    here: &str,
    mac: MacAddress,
    there: &str,
    peer_netns: BorrowedFd<'_>,
    mtu: u32,
) -> (String, Message) {
    let namespace = peer_netns.as_raw_fd().cast_unsigned();
    let message = link_message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, Target::Name(here), None)
        .attribute(IFLA_ADDRESS, &mac.0)
        .number(IFLA_MTU, mtu)
        .nested(IFLA_LINKINFO, &[], |info| {
            info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, &[], |data| {
                data.nested(VETH_INFO_PEER, &ifinfo(AF_UNSPEC, 0, None), |peer| {
                    peer.text(IFLA_IFNAME, there)
                        .number(IFLA_MTU, mtu)
                        .number(IFLA_GROUP, OUR_GROUP)
                        .number(IFLA_NET_NS_FD, namespace)
                })
            })
        });
    (format!("make the link pair {here:?} and {there:?}"), message)
}

/// Makes the link a port of the bridge, isolated or not, and brings it up.
pub(crate) fn attach(name: &str, bridge: u32, isolated: bool, alias: &str) -> Vec<(String, Message)> {
    let target = Target::Name(name);
    let attach = link_message(RTM_SETLINK, 0, target, None).number(IFLA_MASTER, bridge).text(IFLA_IFALIAS, alias);
    let isolate = link_message(RTM_NEWLINK, 0, target, None).nested(IFLA_LINKINFO, &[], |info| {
        info.text(IFLA_INFO_SLAVE_KIND, "bridge")
            .nested(IFLA_INFO_SLAVE_DATA, &[], |data| data.attribute(IFLA_BRPORT_ISOLATED, &[u8::from(isolated)]))
    });
    vec![
        (format!("attach link {name:?} to its bridge"), attach),
        (format!("set the isolation of link {name:?}"), isolate),
        set_up(target, None, None),
    ]
}

fn link_message(kind: u16, flags: u16, target: Target<'_>, up: Option<u32>) -> Message {
    match target {
        Target::Index(index) => Message::new(kind, flags, &ifinfo(AF_UNSPEC, index, up)),
        Target::Name(name) => Message::new(kind, flags, &ifinfo(AF_UNSPEC, 0, up)).text(IFLA_IFNAME, name),
    }
}

/// `struct ifinfomsg`; `set` are the flags to switch on.
fn ifinfo(family: u8, index: u32, set: Option<u32>) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&set.unwrap_or(0).to_ne_bytes());
    bytes[12..16].copy_from_slice(&set.unwrap_or(0).to_ne_bytes());
    bytes
}

fn parse_link(object: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: number(object.get(4..8)?)?,
        name: String::new(),
        up: number(object.get(8..12)?)? & IFF_UP != 0,
        mtu: 0,
        group: 0,
        master: None,
        kind: None,
        mac: None,
        isolated: false,
    };
    for (kind, value) in attributes(object.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_GROUP => link.group = number(value)?,
            IFLA_MASTER => link.master = number(value),
            IFLA_ADDRESS => link.mac = value.try_into().ok().map(MacAddress),
            IFLA_LINKINFO => parse_link_info(value, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn parse_link_info(info: &[u8], link: &mut Link) {
    for (kind, value) in attributes(info) {
        match kind {
            IFLA_INFO_KIND => link.kind = Some(text(value)),
            IFLA_INFO_SLAVE_DATA => {
                link.isolated = attributes(value).any(|(kind, flag)| kind == IFLA_BRPORT_ISOLATED && flag == [1]);
            }
            _ => {}
        }
    }
}

fn parse_address(object: &[u8]) -> Option<LinkAddress> {
    let local = attributes(object.get(8..)?).find(|(kind, _)| *kind == IFA_LOCAL)?.1;
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(local).ok()?);
    Some(LinkAddress { index: number(object.get(4..8)?)?, address, prefix: *object.get(1)? })
}

fn parse_route(object: &[u8]) -> Option<(Ipv4Addr, u8, Option<u32>)> {
    let prefix = *object.get(1)?;
    let mut table = u32::from(*object.get(4)?);
    let (mut destination, mut link) = (Ipv4Addr::UNSPECIFIED, None);
    for (kind, value) in attributes(object.get(12..)?) {
        match kind {
            RTA_DST => destination = Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?),
            RTA_OIF => link = number(value),
            RTA_TABLE => table = number(value)?,
            _ => {}
        }
    }
    (table != TABLE_LOCAL).then_some((destination, prefix, link))
}
