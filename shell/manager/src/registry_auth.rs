//! Registry credentials: sealed from the moment they come in, opened only when they are sent to the node that pulls.

use skep_model::Sealed;
use skep_trust::{ClusterKey, SealError};

/// Where these values stand, for the seal.
const CONTEXT: &[u8] = b"service/registry-auth";

/// Seals and opens registry credentials.
#[derive(Clone)]
pub(crate) struct Opener {
    key: ClusterKey,
}

/// Why sealed credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenAuthError {
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
        Sealed(self.key.seal(CONTEXT, auth.as_bytes()).into_bytes())
    }

    pub(crate) fn open(&self, sealed: &Sealed) -> Result<String, OpenAuthError> {
        let sealed = skep_trust::Sealed::from_bytes(sealed.0.clone());
        let bytes = self.key.open(CONTEXT, &sealed)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| OpenAuthError::NotText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_only() {
        let opener = Opener::new(ClusterKey::generate());
        let sealed = opener.seal("e30=");
        assert_eq!(opener.open(&sealed).unwrap(), "e30=");
        assert!(Opener::new(ClusterKey::generate()).open(&sealed).is_err());
    }
}
