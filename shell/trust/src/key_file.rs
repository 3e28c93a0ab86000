//! The files that hold a manager's keys.
//!
//! The *manager key* is one machine's own: it seals that manager's log and snapshots. Without autolock it lies in the
//! clear in a file only root can read, as in Docker; with autolock it is sealed by the unlock key. The *cluster key* is
//! shared by all managers and always sealed by the manager key. Both files are small texts:
//!
//! ```text
//! skep-manager-key 1
//! form plain | unlock-key | manager-key
//! key <base64>
//! sha256 <hex of the lines above>
//! ```

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::files::write_atomic;
use crate::seal::{ClusterKey, SealError, SealKey, Sealed};
use crate::text::hex;
use crate::token::UnlockKey;

const VERSION: u32 = 1;
const MANAGER_KIND: &str = "skep-manager-key";
const CLUSTER_KIND: &str = "skep-cluster-key";

/// Why a key file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error("cannot read key file {path:?}: it does not exist")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("cannot read key file {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write key file {path:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The content is not what skep wrote.
    #[error("key file {path:?} is damaged: {detail}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// A newer skep wrote it.
    #[error("key file {path:?} has version {found}, this skep reads up to {VERSION}: run the newer skep that wrote it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// Autolock is on and no unlock key was given. Docker's text.
    #[error(
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it."
    )]
    Locked,
    /// The unlock key given is not the right one. Docker's text.
    #[error("swarm could not be unlocked: invalid key provided")]
    WrongUnlockKey,
    /// The cluster key is sealed by another manager key.
    #[error("key file {path:?} belongs to another manager key: restore both from the same backup")]
    WrongManagerKey {
        /// The file.
        path: PathBuf,
    },
}

/// Writes the manager key: sealed by the unlock key if there is one, else in the clear; mode 0600 either way.
pub fn save_manager_key(path: &Path, key: &SealKey, unlock: Option<&UnlockKey>) -> Result<(), KeyFileError> {
    match unlock {
        None => write(path, MANAGER_KIND, "plain", key.as_bytes()),
        Some(unlock) => {
            let sealed = unlock.seal_key().seal(MANAGER_KIND.as_bytes(), key.as_bytes());
            write(path, MANAGER_KIND, "unlock-key", sealed.as_bytes())
        }
    }
}

/// Reads the manager key. An unlock key that is not needed is not an error.
pub fn load_manager_key(path: &Path, unlock: Option<&UnlockKey>) -> Result<SealKey, KeyFileError> {
    let content = read(path, MANAGER_KIND)?;
    let bytes = match content.form.as_str() {
        "plain" => content.key,
        "unlock-key" => {
            let unlock = unlock.ok_or(KeyFileError::Locked)?;
            let sealed = Sealed::from_bytes(content.key.to_vec());
            unlock.seal_key().open(MANAGER_KIND.as_bytes(), &sealed).map_err(|error| match error {
                SealError::WrongKey => KeyFileError::WrongUnlockKey,
                _ => damaged(path, "the sealed key does not open"),
            })?
        }
        _ => return Err(damaged(path, "unknown form")),
    };
    Ok(SealKey::from_bytes(key_bytes(path, &bytes)?))
}

/// Writes the cluster key, sealed by the manager key.
pub fn save_cluster_key(path: &Path, key: &ClusterKey, manager_key: &SealKey) -> Result<(), KeyFileError> {
    let sealed = manager_key.seal(CLUSTER_KIND.as_bytes(), key.as_bytes());
    write(path, CLUSTER_KIND, "manager-key", sealed.as_bytes())
}

/// Reads the cluster key with the manager key that sealed it.
pub fn load_cluster_key(path: &Path, manager_key: &SealKey) -> Result<ClusterKey, KeyFileError> {
    let content = read(path, CLUSTER_KIND)?;
    if content.form != "manager-key" {
        return Err(damaged(path, "unknown form"));
    }
    let sealed = Sealed::from_bytes(content.key.to_vec());
    let bytes = manager_key.open(CLUSTER_KIND.as_bytes(), &sealed).map_err(|error| match error {
        SealError::WrongKey => KeyFileError::WrongManagerKey { path: path.to_owned() },
        _ => damaged(path, "the sealed key does not open"),
    })?;
    Ok(ClusterKey::from_bytes(key_bytes(path, &bytes)?))
}

struct Content {
    form: String,
    key: Zeroizing<Vec<u8>>,
}

fn write(path: &Path, kind: &str, form: &str, key: &[u8]) -> Result<(), KeyFileError> {
    let encoded = Zeroizing::new(STANDARD.encode(key));
    let mut text = Zeroizing::new(format!("{kind} {VERSION}\nform {form}\nkey {}\n", encoded.as_str()));
    let sum = hex(digest(&SHA256, text.as_bytes()).as_ref());
    text.push_str(&format!("sha256 {sum}\n"));
    write_atomic(path, text.as_bytes(), 0o600).map_err(|source| KeyFileError::Write { path: path.to_owned(), source })
}

fn read(path: &Path, kind: &str) -> Result<Content, KeyFileError> {
    let bytes = Zeroizing::new(std::fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing { path: path.to_owned() },
        _ => KeyFileError::Read { path: path.to_owned(), source },
    })?);
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged(path, "not text"))?;
    // The version comes first: a newer file may look different from here on.
    let version = text.lines().next().and_then(|line| line.strip_prefix(kind)?.strip_prefix(' '));
    let version: u32 =
        version.and_then(|version| version.parse().ok()).ok_or_else(|| damaged(path, "not a key file of this kind"))?;
    if version > VERSION {
        return Err(KeyFileError::Newer { path: path.to_owned(), found: version });
    }
    let (body, sum) = text
        .strip_suffix('\n')
        .and_then(|text| text.rsplit_once("\nsha256 "))
        .ok_or_else(|| damaged(path, "its end is missing"))?;
    if hex(digest(&SHA256, format!("{body}\n").as_bytes()).as_ref()) != sum {
        return Err(damaged(path, "its checksum does not match"));
    }
    let field = |name: &str| {
        body.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .ok_or_else(|| damaged(path, "a line is missing"))
    };
    let key = STANDARD.decode(field("key")?).map_err(|_| damaged(path, "the key is not base64"))?;
    Ok(Content { form: field("form")?.to_owned(), key: Zeroizing::new(key) })
}

fn key_bytes(path: &Path, bytes: &[u8]) -> Result<[u8; 32], KeyFileError> {
    bytes.try_into().map_err(|_| damaged(path, "the key has the wrong length"))
}

fn damaged(path: &Path, detail: &'static str) -> KeyFileError {
    KeyFileError::Damaged { path: path.to_owned(), detail }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_plain_key_survives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager.key");
        let key = SealKey::generate();
        assert!(matches!(load_manager_key(&path, None), Err(KeyFileError::Missing { .. })));
        save_manager_key(&path, &key, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_manager_key(&path, None).unwrap().as_bytes(), key.as_bytes());
        assert_eq!(load_manager_key(&path, Some(&UnlockKey::generate())).unwrap().as_bytes(), key.as_bytes());
    }

    #[test]
    fn a_locked_key_needs_its_unlock_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager.key");
        let (key, unlock) = (SealKey::generate(), UnlockKey::generate());
        save_manager_key(&path, &key, Some(&unlock)).unwrap();
        assert!(matches!(load_manager_key(&path, None), Err(KeyFileError::Locked)));
        let wrong = UnlockKey::generate();
        assert!(matches!(load_manager_key(&path, Some(&wrong)), Err(KeyFileError::WrongUnlockKey)));
        assert_eq!(load_manager_key(&path, Some(&unlock)).unwrap().as_bytes(), key.as_bytes());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&STANDARD.encode(key.as_bytes())));
    }

    #[test]
    fn the_cluster_key_belongs_to_its_manager_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.key");
        let (key, manager) = (ClusterKey::generate(), SealKey::generate());
        save_cluster_key(&path, &key, &manager).unwrap();
        assert_eq!(load_cluster_key(&path, &manager).unwrap().as_bytes(), key.as_bytes());
        let other = load_cluster_key(&path, &SealKey::generate());
        assert!(matches!(other, Err(KeyFileError::WrongManagerKey { .. })));
        assert!(matches!(load_manager_key(&path, None), Err(KeyFileError::Damaged { .. })));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager.key");
        save_manager_key(&path, &SealKey::generate(), None).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(matches!(load_manager_key(&path, None), Err(KeyFileError::Damaged { .. })), "cut at {at}");
            let mut changed = good.clone();
            changed[at] ^= 0x01;
            std::fs::write(&path, &changed).unwrap();
            assert!(load_manager_key(&path, None).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager.key");
        std::fs::write(&path, "skep-manager-key 7\nsomething else\n").unwrap();
        assert!(matches!(load_manager_key(&path, None), Err(KeyFileError::Newer { found: 7, .. })));
    }
}
