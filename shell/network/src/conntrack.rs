//! Forgetting tracked flows whose backend is gone: otherwise a client that keeps sending from one UDP port would be
//! led to the old address for as long as it sends. Dump, match here, delete by tuple.

use crate::error::{NetworkError, Result};
use crate::netlink::{Message, Socket, Subsystem, attributes};
use std::io;
use std::net::Ipv4Addr;

const CTNETLINK: u16 = 1 << 8;
const CT_GET: u16 = CTNETLINK | 1;
const CT_DELETE: u16 = CTNETLINK | 2;
const NFT_GETGEN: u16 = (10 << 8) | 16;
const NFTA_GEN_ID: u16 = 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// `struct nfgenmsg`: family IPv4, version 0, resource 0.
const GENERIC: [u8; 4] = [2, 0, 0, 0];
/// Deletions sent at once.
const BATCH: usize = 256;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
}

/// A tracked flow: as the client sent it, and as the answers come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) original: Tuple,
    pub(crate) reply: Tuple,
}

/// A netlink socket for tracked flows (and the one question about rules), in the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Conntrack(Socket);

impl Conntrack {
    pub(crate) fn open() -> io::Result<Self> {
        Socket::open(Subsystem::Netfilter).map(Self)
    }

    /// A number that changes with every change of any nft rule in the namespace; `None` when it cannot be had.
    pub(crate) fn rule_generation(&mut self) -> Option<u32> {
        let objects = self.0.get(Message::new(NFT_GETGEN, 0, &GENERIC)).ok()?;
        let attribute = attributes(objects.first()?.get(GENERIC.len()..)?).find(|(kind, _)| *kind == NFTA_GEN_ID)?.1;
        Some(u32::from_be_bytes(attribute.try_into().ok()?))
    }

    /// Deletes every IPv4 flow that `doomed` picks; says how many.
    pub(crate) fn forget(&mut self, doomed: impl Fn(&Flow) -> bool) -> Result<usize> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| NetworkError::Netlink { what, source }
        };
        let objects = self.0.dump(Message::new(CT_GET, 0, &GENERIC)).map_err(failed("list the tracked connections"))?;
        let requests: Vec<_> = objects
            .iter()
            .filter_map(|object| object.get(GENERIC.len()..))
            .filter(|object| parse(object).as_ref().is_some_and(&doomed))
            .map(deletion)
            .collect();
        let count = requests.len();
        let mut requests = requests.into_iter();
        loop {
            let batch: Vec<_> = requests.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(count);
            }
            match self.0.transact(batch) {
                // It ended by itself meanwhile.
                Err((_, error)) if error.raw_os_error() != Some(nix::libc::ENOENT) => {
                    return Err(failed("delete a tracked connection")(error));
                }
                _ => {}
            }
        }
    }
}

/// The deletion of exactly this flow: the kernel compares the id too.
fn deletion(object: &[u8]) -> Message {
    attributes(object).fold(Message::new(CT_DELETE, 0, &GENERIC), |message, (kind, value)| match kind {
        CTA_TUPLE_ORIG => message.attribute(kind | 0x8000, value),
        CTA_ID | CTA_ZONE => message.attribute(kind, value),
        _ => message,
    })
}

fn parse(object: &[u8]) -> Option<Flow> {
    let tuple = |wanted| attributes(object).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| parse_tuple(value));
    Some(Flow { original: tuple(CTA_TUPLE_ORIG)?, reply: tuple(CTA_TUPLE_REPLY)? })
}

fn parse_tuple(bytes: &[u8]) -> Option<Tuple> {
    let part = |wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let (addresses, protocol) = (part(CTA_TUPLE_IP)?, part(CTA_TUPLE_PROTO)?);
    let address = |wanted| {
        let value = attributes(addresses).find(|(kind, _)| *kind == wanted)?.1;
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?))
    };
    let port = |wanted| {
        let value = attributes(protocol).find(|(kind, _)| *kind == wanted)?.1;
        Some(u16::from_be_bytes(value.try_into().ok()?))
    };
    let number = attributes(protocol).find(|(kind, _)| *kind == CTA_PROTO_NUM)?.1;
    Some(Tuple {
        source: address(CTA_IP_V4_SRC)?,
        destination: address(CTA_IP_V4_DST)?,
        protocol: *number.first()?,
        source_port: port(CTA_PROTO_SRC_PORT).unwrap_or(0),
        destination_port: port(CTA_PROTO_DST_PORT).unwrap_or(0),
    })
}
