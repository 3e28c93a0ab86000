//! Secret values: sealed from the moment they come in, opened only when they are sent to the node that needs them.

use skep_model::{Sealed, SecretId};
use skep_trust::{ClusterKey, SealError};

/// Where registry credentials stand, for the seal.
const REGISTRY_AUTH: &[u8] = b"service/registry-auth";

/// Seals and opens secret values.
#[derive(Clone)]
pub(crate) struct Opener {
    key: ClusterKey,
}

/// Why a sealed value cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("registry credentials are not text")]
    NotText,
}

impl Opener {
    pub(crate) fn new(key: ClusterKey) -> Self {
        Self { key }
    }

    /// Seals an `X-Registry-Auth` value.
    pub(crate) fn seal(&self, auth: &str) -> Sealed {
        Sealed(self.key.seal(REGISTRY_AUTH, auth.as_bytes()).into_bytes())
    }

    pub(crate) fn open(&self, sealed: &Sealed) -> Result<String, OpenError> {
        let sealed = skep_trust::Sealed::from_bytes(sealed.0.clone());
        let bytes = self.key.open(REGISTRY_AUTH, &sealed)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| OpenError::NotText)
    }

    /// Seals the data of a secret, for this secret alone.
    pub(crate) fn seal_secret(&self, id: SecretId, data: &[u8]) -> Sealed {
        Sealed(self.key.seal(&place(id), data).into_bytes())
    }

    pub(crate) fn open_secret(&self, id: SecretId, sealed: &Sealed) -> Result<Vec<u8>, OpenError> {
        let sealed = skep_trust::Sealed::from_bytes(sealed.0.clone());
        Ok(self.key.open(&place(id), &sealed)?.to_vec())
    }
}

fn place(id: SecretId) -> Vec<u8> {
    format!("secret/{id}").into_bytes()
}

#[cfg(test)]
mod tests {
    use skep_model::ObjectId as _;

    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_only() {
        let opener = Opener::new(ClusterKey::generate());
        let sealed = opener.seal("e30=");
        assert_eq!(opener.open(&sealed).unwrap(), "e30=");
        assert!(Opener::new(ClusterKey::generate()).open(&sealed).is_err());
    }

    #[test]
    fn a_secret_opens_in_its_own_place_only() {
        let opener = Opener::new(ClusterKey::generate());
        let (one, two) = (SecretId::from_random([1; 17]), SecretId::from_random([2; 17]));
        let sealed = opener.seal_secret(one, b"data");
        assert_eq!(opener.open_secret(one, &sealed).unwrap(), b"data");
        assert!(opener.open_secret(two, &sealed).is_err());
    }
}
