//! Keys, certificates, join tokens and sealing: everything that makes a peer or a file trustworthy.
//!
//! What a Docker worker sees (certificates, join tokens, unlock keys) is as a stock Docker manager makes it; what only
//! skep reads (sealed values, key files) is versioned. This crate decides nothing: who may join and which role a node
//! gets is `skep-ca`'s business; here it is carried out. Called by `skep-raft` (sealing), `skep-manager` (signing,
//! tokens) and `skep-node` (a machine's own key and certificate).

mod ca;
mod certificate;
mod files;
mod key_file;
mod private_key;
mod seal;
mod text;
mod token;

pub use ca::{
    CERTIFICATE_EXPIRY_DEFAULT, CERTIFICATE_EXPIRY_MIN, CaError, LeafSubject, ROOT_COMMON_NAME, ROOT_VALIDITY, Role,
    RootCa,
};
pub use certificate::{CertificateError, CertificateInfo, parse_bundle, parse_leaf, public_key_of};
pub use files::{CertificatePaths, read_if_present, write_atomic};
pub use key_file::{KeyFileError, load_cluster_key, load_manager_key, save_cluster_key, save_manager_key};
pub use private_key::{NodeKey, PrivateKeyError};
pub use seal::{ClusterKey, SEAL_OVERHEAD, SealError, SealKey, Sealed};
pub use token::{JoinToken, TokenError, UnlockKey, same_token};

/// Random bytes from the kernel.
///
/// Panics when the kernel has none to give, which Linux does not do after boot: going on with guessable keys would be
/// worse than stopping.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source works after boot");
    bytes
}
