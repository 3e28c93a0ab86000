//! A private key and the certificate request made from it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use zeroize::Zeroizing;

/// Why a private key could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateKeyError {
    /// The key could not be made.
    #[error("cannot make a private key")]
    Generate(#[source] rcgen::Error),
    /// The PEM text holds no PKCS#8 key of a kind skep can use.
    #[error("cannot read the private key: not a PKCS#8 PEM key of a supported kind")]
    Parse(#[source] rcgen::Error),
    /// The certificate request could not be made.
    #[error("cannot make a certificate request")]
    Request(#[source] rcgen::Error),
}

/// A private key: ECDSA P-256 when made here, anything `ring` can sign with when read. Its text form is PKCS#8 PEM.
pub struct NodeKey {
    pair: KeyPair,
}

impl NodeKey {
    /// A fresh P-256 key.
    pub fn generate() -> Result<NodeKey, PrivateKeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PrivateKeyError::Generate)?;
        Ok(NodeKey { pair })
    }

    /// Reads a PKCS#8 PEM key.
    pub fn from_pem(pem: &str) -> Result<NodeKey, PrivateKeyError> {
        Ok(NodeKey { pair: KeyPair::from_pem(pem).map_err(PrivateKeyError::Parse)? })
    }

    /// The key as PKCS#8 PEM: secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.pair.serialize_pem())
    }

    /// The key as PKCS#8 DER: secret.
    pub fn to_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.pair.serialize_der())
    }

    /// The public half as SubjectPublicKeyInfo DER, for comparison with a certificate's.
    pub fn public_key_der(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// A certificate request in PEM: empty subject, no extensions, as a stock worker sends.
    pub fn certificate_request(&self) -> Result<String, PrivateKeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair).map_err(PrivateKeyError::Request)?;
        request.pem().map_err(PrivateKeyError::Request)
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::public_key_of;

    #[test]
    fn a_key_survives_its_text() {
        let key = NodeKey::generate().unwrap();
        let pem = key.to_pem();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "PKCS#8");
        let again = NodeKey::from_pem(&pem).unwrap();
        assert_eq!(key.public_key_der(), again.public_key_der());
    }

    #[test]
    fn a_request_carries_the_public_key_alone() {
        let key = NodeKey::generate().unwrap();
        let request = key.certificate_request().unwrap();
        assert!(request.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
        assert_eq!(public_key_of(&request).unwrap(), key.public_key_der());
    }

    #[test]
    fn damaged_text_is_refused() {
        assert!(NodeKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err());
        assert!(NodeKey::from_pem("").is_err());
    }
}
