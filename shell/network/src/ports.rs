//! Reserved ports. A published port is answered by rules, not by a socket; so that no other program of the node takes
//! it, a socket is bound to it that never listens. A restarted daemon binds again.

use crate::error::{NetworkError, Result, Tried};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use skep_dataplane::{PortKey, Protocol};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

/// First and last port that is chosen when the user names none, as Linux and Docker do.
const DYNAMIC: std::ops::RangeInclusive<u16> = 32768..=60999;

/// Who holds a reserved port.
#[derive(Debug)]
struct Reservation {
    /// The container whose own port it is (host mode); `None` for a port of the routing mesh.
    owner: Option<String>,
    /// The bound socket; none for SCTP, whose kernel module would have to be there.
    _socket: Option<OwnedFd>,
}

/// The ports that this node holds. Its methods that bind are to be called in the node's namespace.
#[derive(Debug)]
pub(crate) struct ReservedPorts {
    held: BTreeMap<PortKey, Reservation>,
    next_dynamic: u16,
}

impl Default for ReservedPorts {
    fn default() -> Self {
        Self { held: BTreeMap::new(), next_dynamic: *DYNAMIC.start() }
    }
}

impl ReservedPorts {
    /// Holds the port for the owner. Holding it already for the same owner is fine.
    pub(crate) fn reserve(&mut self, key: PortKey, owner: Option<&str>) -> Result<()> {
        if let Some(held) = self.held.get(&key) {
            return if held.owner.as_deref() == owner { Ok(()) } else { Err(NetworkError::PortAllocated(key)) };
        }
        let socket = bind_port(key)?;
        self.held.insert(key, Reservation { owner: owner.map(str::to_owned), _socket: socket });
        Ok(())
    }

    /// Holds some port that nobody has.
    pub(crate) fn reserve_any(&mut self, protocol: Protocol, owner: &str) -> Result<u16> {
        for _ in DYNAMIC {
            let port = self.next_dynamic;
            self.next_dynamic = if port == *DYNAMIC.end() { *DYNAMIC.start() } else { port + 1 };
            let key = PortKey { protocol, port };
            if self.held.contains_key(&key) {
                continue;
            }
            match self.reserve(key, Some(owner)) {
                Ok(()) => return Ok(port),
                Err(NetworkError::PortAllocated(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(NetworkError::NoFreePort)
    }

    /// Lets go of the port.
    pub(crate) fn release(&mut self, key: PortKey) {
        self.held.remove(&key);
    }

    /// Lets go of every port of the container.
    pub(crate) fn release_owner(&mut self, owner: &str) {
        self.held.retain(|_, held| held.owner.as_deref() != Some(owner));
    }

    /// The ports of the routing mesh that are held.
    pub(crate) fn unowned(&self) -> impl Iterator<Item = PortKey> + '_ {
        self.held.iter().filter(|(_, held)| held.owner.is_none()).map(|(key, _)| *key)
    }

    pub(crate) fn clear(&mut self) {
        self.held.clear();
    }
}

fn bind_port(key: PortKey) -> Result<Option<OwnedFd>> {
    let kind = match key.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
        Protocol::Sctp => return Ok(None),
    };
    match try_bind(key, kind, false) {
        // Connections of an earlier owner in TIME_WAIT keep a port from being bound, but only without this option;
        // a listening owner keeps it in both cases.
        Err(Errno::EADDRINUSE) if key.protocol == Protocol::Tcp => try_bind(key, kind, true),
        other => other,
    }
    .map(Some)
    .or_else(|error| match error {
        Errno::EADDRINUSE => Err(NetworkError::PortAllocated(key)),
        error => Err(error).tried(|| format!("reserve port {key}")),
    })
}

fn try_bind(key: PortKey, kind: SockType, reuse: bool) -> Result<OwnedFd, Errno> {
    let fd = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &reuse)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, key.port)))?;
    Ok(fd)
}
