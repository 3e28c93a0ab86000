//! What can go wrong towards the kernel, in the words that the user sees.

use crate::nft::NftError;
use skep_dataplane::PortKey;
use std::io;
use std::path::PathBuf;

/// A request to the network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel or the machine lacks something without which no container gets a network.
    #[error("this machine cannot run containers' networks, missing: {}", .0.join("; "))]
    MissingFeatures(Vec<String>),
    /// A netlink request was refused.
    #[error("cannot {what}")]
    Netlink {
        /// What was tried, on what.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file, mount or system call failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The state file is there and cannot be used.
    #[error(
        "cannot use network state {path:?}: {reason}; stop all containers of this node and remove the file to start afresh"
    )]
    BadState {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Every default subnet is used on this machine.
    #[error("no free subnet for the gateway bridge: name one that nothing on this machine uses")]
    NoFreeSubnet,
    /// The subnet asked for is used by another link of this machine.
    #[error("subnet {subnet} of the gateway bridge overlaps {other}, which this machine already routes")]
    SubnetInUse {
        /// The subnet asked for.
        subnet: String,
        /// The network it overlaps.
        other: String,
    },
    /// A link has the bridge's name and is no bridge of ours.
    #[error("link {0:?} exists and was not made by skep: rename it or choose another bridge name")]
    ForeignLink(String),
    /// The request contradicts the rules of the picture.
    #[error(transparent)]
    Invalid(#[from] skep_dataplane::NetworkError),
    /// No address is left.
    #[error(transparent)]
    Address(#[from] skep_dataplane::AddressError),
    /// The bridge that is to be removed has containers on it.
    #[error("bridge {0:?} has containers on it")]
    BridgeInUse(String),
    /// A bridge of this key is not there.
    #[error("bridge {0:?} is not there")]
    NoBridge(String),
    /// The container has no network.
    #[error("container {0:?} has no network")]
    NoEndpoint(String),
    /// Another call works on the same container.
    #[error("the network of container {0:?} is being changed by another request")]
    Busy(String),
    /// Docker's text for a taken port.
    #[error("Bind for 0.0.0.0:{} failed: port is already allocated", .0.port)]
    PortAllocated(PortKey),
    /// No dynamic port is left.
    #[error("no free port between 32768 and 60999")]
    NoFreePort,
    /// nft refused or could not run.
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// Shorthand of this crate.
pub(crate) type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// Turns a system error into a [`NetworkError::Io`] that says what was tried.
pub(crate) trait Tried<T> {
    /// `cannot {what()}`.
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| NetworkError::Io { what: what(), source: error.into() })
    }
}
