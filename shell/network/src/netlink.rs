//! A small blocking netlink socket: messages are built by hand, sent in batches, and every acknowledgement is read. It
//! belongs to the network namespace of the thread that opened it, for ever, whichever thread uses it later.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Refuse when the object exists.
pub(crate) const NLM_F_EXCL: u16 = 0x200;
/// Create the object when it does not exist.
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// Overwrite the object when it exists.
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// How long the kernel may take for one answer.
const ANSWER_SECONDS: i64 = 10;
/// The kernel's dumps come in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;

/// A request in the making.
#[derive(Debug)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// A request of this type with the family's own fixed header.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Self(bytes);
        message.pad();
        message
    }

    /// Appends an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("attributes are built here and short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a text with its closing zero byte.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends a number in the machine's byte order.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute whose value starts with `fixed` and goes on with what `fill` appends.
    pub(crate) fn nested(mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        self.0.extend_from_slice(fixed);
        self.pad();
        let mut filled = fill(self);
        let length = u16::try_from(filled.0.len() - start).expect("attributes are built here and short");
        filled.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(&mut self, sequence: u32, flags: u16) {
        let length = u32::try_from(self.0.len()).expect("messages are built here and short");
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flags;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// The attributes in a piece of an answer: type without flags, and value. Stops at the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Four bytes in the machine's order.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?))
}

/// A text up to its closing zero byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Which part of the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subsystem {
    /// Links, addresses, routes.
    Route,
    /// Connection tracking.
    Netfilter,
}

/// An open socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens one in the namespace of this thread.
    pub(crate) fn open(subsystem: Subsystem) -> io::Result<Self> {
        let protocol = match subsystem {
            Subsystem::Route => SockProtocol::NetlinkRoute,
            Subsystem::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends all messages at once, in order, and reads the answer to each. The error is that of the first message that
    /// failed, with its place; the others were carried out all the same.
    pub(crate) fn transact(&mut self, messages: Vec<Message>) -> Result<(), (usize, io::Error)> {
        let first = self.sequence.wrapping_add(1);
        let count = messages.len();
        let mut bytes = Vec::new();
        for mut message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.finish(self.sequence, NLM_F_ACK);
            bytes.extend_from_slice(&message.0);
        }
        let mut failed: Option<(usize, io::Error)> = None;
        let mut open = count;
        self.exchange(&bytes, |kind, sequence, payload| {
            let place = sequence.wrapping_sub(first) as usize;
            if place >= count || kind != NLMSG_ERROR {
                return Ok(open > 0);
            }
            open -= 1;
            if let Err(error) = answer(payload)
                && failed.as_ref().is_none_or(|(earlier, _)| place < *earlier)
            {
                failed = Some((place, error));
            }
            Ok(open > 0)
        })
        .map_err(|error| (0, error))?;
        failed.map_or(Ok(()), Err)
    }

    /// One request whose failure needs no place.
    pub(crate) fn request(&mut self, message: Message) -> io::Result<()> {
        self.transact(vec![message]).map_err(|(_, error)| error)
    }

    /// One request that is answered by an object.
    pub(crate) fn get(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.collect(message, NLM_F_ACK)
    }

    /// All objects of a kind: the part of each behind the netlink header.
    pub(crate) fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.collect(message, NLM_F_DUMP)
    }

    fn collect(&mut self, mut message: Message, flags: u16) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let expected = self.sequence;
        message.finish(expected, flags);
        let mut objects = Vec::new();
        self.exchange(&message.0, |kind, sequence, payload| {
            if sequence != expected {
                return Ok(true);
            }
            match kind {
                NLMSG_DONE => Ok(false),
                NLMSG_ERROR => answer(payload).map(|()| false),
                _ => {
                    objects.push(payload.to_vec());
                    Ok(true)
                }
            }
        })?;
        Ok(objects)
    }

    /// Sends, then feeds every message that comes back to `take` until it says that it has all.
    fn exchange(&mut self, bytes: &[u8], mut take: impl FnMut(u16, u32, &[u8]) -> io::Result<bool>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let received = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(nix::errno::Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                other => other?,
            };
            let mut rest = &buffer[..received];
            while rest.len() >= HEADER {
                let length = number(rest).map_or(0, |length| length as usize);
                let Some(message) = rest.get(HEADER..length) else { return Err(io::ErrorKind::InvalidData.into()) };
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let sequence = number(&rest[8..]).unwrap_or_default();
                if !take(kind, sequence, message)? {
                    return Ok(());
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn answer(payload: &[u8]) -> io::Result<()> {
    match number(payload).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_read_back() {
        let mut message = Message::new(16, NLM_F_CREATE, &[7; 16])
            .text(3, "eth0")
            .nested(18, &[], |inner| inner.text(1, "veth").number(2, 99));
        message.finish(5, NLM_F_ACK);
        assert_eq!(number(&message.0), u32::try_from(message.0.len()).ok());
        let all: Vec<_> = attributes(&message.0[HEADER + 16..]).collect();
        assert_eq!(all[0], (3, &b"eth0\0"[..]));
        assert_eq!(all[1].0, 18);
        let inner: Vec<_> = attributes(all[1].1).collect();
        assert_eq!(text(inner[0].1), "veth");
        assert_eq!(number(inner[1].1), Some(99));
    }

    #[test]
    fn malformed_attributes_end_the_list() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 1, 2]).count(), 0);
        assert_eq!(attributes(&[1]).count(), 0);
    }
}
