//! Sealing: XChaCha20-Poly1305 with a random nonce, in an envelope that says its version and which key it needs.
//!
//! Every seal is bound to a *context*, a short text that says what is sealed and where it stands
//! (`b"secret/<id>"`, `b"raft-log/<cluster>/<index>"`): a sealed value that is moved to another place does not open.
//!
//! ```text
//! version (1) | key id (4) | nonce (24) | ciphertext (as long as the plain text) | tag (16)
//! ```

use chacha20poly1305::aead::{AeadInPlace as _, KeyInit as _};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ring::digest::{Context, SHA256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::random_bytes;

const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;
/// How many bytes a sealed value is longer than its plain text.
pub const SEAL_OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// Why a sealed value could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too short to be a sealed value.
    #[error("sealed value is damaged: {length} bytes are too few")]
    TooShort {
        /// Its length.
        length: usize,
    },
    /// A newer skep sealed it.
    #[error("sealed value has version {found}, this skep reads up to {VERSION}: run the newer skep that wrote it")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Another key sealed it.
    #[error("sealed value needs another key")]
    WrongKey,
    /// Content, place or tag is not what was sealed.
    #[error("sealed value is damaged or was moved from another place")]
    Damaged,
}

/// A sealed value: safe to store and to send.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Takes bytes that were stored; they are checked when opened.
    pub fn from_bytes(bytes: Vec<u8>) -> Sealed {
        Sealed(bytes)
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes to store.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A key that seals: 32 bytes, wiped from memory when dropped.
#[derive(Clone)]
pub struct SealKey {
    bytes: SecretBytes,
    id: [u8; KEY_ID_LEN],
    cipher: XChaCha20Poly1305,
}

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct SecretBytes([u8; 32]);

impl SealKey {
    /// A fresh random key.
    pub fn generate() -> SealKey {
        SealKey::from_bytes(random_bytes())
    }

    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> SealKey {
        let cipher = XChaCha20Poly1305::new((&bytes).into());
        let mut hash = Context::new(&SHA256);
        hash.update(b"skep seal key id");
        hash.update(&bytes);
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&hash.finish().as_ref()[..KEY_ID_LEN]);
        SealKey { bytes: SecretBytes(bytes), id, cipher }
    }

    /// The key itself: secret.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes.0
    }

    /// Seals `plain` for the place named by `context`.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Sealed {
        let mut out = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
        self.seal_into(context, plain, &mut out);
        Sealed(out)
    }

    /// Seals `plain` and appends the envelope to `out`, without another allocation when `out` has room.
    pub fn seal_into(&self, context: &[u8], plain: &[u8], out: &mut Vec<u8>) {
        let nonce: [u8; NONCE_LEN] = random_bytes();
        out.reserve(plain.len() + SEAL_OVERHEAD);
        out.push(VERSION);
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(plain);
        let tag = self
            .cipher
            .encrypt_in_place_detached(XNonce::from_slice(&nonce), context, &mut out[start..])
            .expect("a value is shorter than the cipher's limit of 256 GiB");
        out.extend_from_slice(&tag);
    }

    /// Opens a sealed value at the place named by `context`.
    pub fn open(&self, context: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.open_bytes(context, sealed.as_bytes())
    }

    /// Opens the bytes of a sealed value at the place named by `context`.
    pub fn open_bytes(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if let Some(found) = sealed.first().copied().filter(|version| *version != VERSION) {
            return Err(SealError::Version { found });
        }
        if sealed.len() < SEAL_OVERHEAD {
            return Err(SealError::TooShort { length: sealed.len() });
        }
        let (header, rest) = sealed.split_at(HEADER_LEN);
        let (content, tag) = rest.split_at(rest.len() - TAG_LEN);
        if header[1..=KEY_ID_LEN] != self.id {
            return Err(SealError::WrongKey);
        }
        let mut plain = Zeroizing::new(content.to_vec());
        self.cipher
            .decrypt_in_place_detached(XNonce::from_slice(&header[1 + KEY_ID_LEN..]), context, &mut plain, tag.into())
            .map_err(|_| SealError::Damaged)?;
        Ok(plain)
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// The key all managers of a cluster share: it seals secrets, the CA key and credentials inside the replicated state.
/// A type of its own so that it cannot be taken for a manager's own key.
#[derive(Debug, Clone)]
pub struct ClusterKey(SealKey);

impl ClusterKey {
    /// A fresh random key, for a new cluster.
    pub fn generate() -> ClusterKey {
        ClusterKey(SealKey::generate())
    }

    /// The key with these bytes, as received from another manager.
    pub fn from_bytes(bytes: [u8; 32]) -> ClusterKey {
        ClusterKey(SealKey::from_bytes(bytes))
    }

    /// The key itself: secret.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Seals `plain` for the place named by `context`.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Sealed {
        self.0.seal(context, plain)
    }

    /// Opens a sealed value at the place named by `context`.
    pub fn open(&self, context: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.0.open(context, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let key = SealKey::generate();
        let sealed = key.seal(b"secret/1", b"hush");
        assert_eq!(sealed.as_bytes().len(), 4 + SEAL_OVERHEAD);
        assert_eq!(key.open(b"secret/1", &sealed).unwrap().as_slice(), b"hush");
        assert_eq!(key.open(b"secret/2", &sealed), Err(SealError::Damaged));
        assert_eq!(SealKey::generate().open(b"secret/1", &sealed), Err(SealError::WrongKey));
        assert_ne!(sealed, key.seal(b"secret/1", b"hush"), "nonces differ");
    }

    #[test]
    fn empty_values_and_contexts_work() {
        let key = SealKey::generate();
        let sealed = key.seal(b"", b"");
        assert!(key.open(b"", &sealed).unwrap().is_empty());
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let key = SealKey::generate();
        let sealed = key.seal(b"here", b"content").into_bytes();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                assert!(key.open_bytes(b"here", &changed).is_err(), "byte {at} bit {bit}");
            }
            assert!(key.open_bytes(b"here", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let key = SealKey::generate();
        let mut sealed = key.seal(b"here", b"content").into_bytes();
        sealed[0] = 2;
        assert_eq!(key.open_bytes(b"here", &sealed), Err(SealError::Version { found: 2 }));
    }

    #[test]
    fn sealing_appends() {
        let key = SealKey::generate();
        let mut out = b"head".to_vec();
        key.seal_into(b"here", b"content", &mut out);
        assert_eq!(&out[..4], b"head");
        assert_eq!(key.open_bytes(b"here", &out[4..]).unwrap().as_slice(), b"content");
    }

    #[test]
    fn keys_do_not_show_in_logs() {
        let key = SealKey::from_bytes([7; 32]);
        assert_eq!(format!("{key:?}"), "SealKey(..)");
        assert_eq!(format!("{:?}", ClusterKey::from_bytes([7; 32])), "ClusterKey(SealKey(..))");
    }
}
