//! The cluster's root certificate authority, and the node certificates it signs.
//!
//! Certificates are as a stock Docker manager makes them (swarmkit `ca/certificates.go`): a stock worker checks them.
//! Which node gets which role is decided elsewhere; this is the pen, not the hand.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::certificate::{CertificateError, CertificateInfo, parse_bundle, public_key_of};
use crate::private_key::{NodeKey, PrivateKeyError};
use crate::random_bytes;

/// The common name of every root certificate, and the server name a joiner asks for.
pub const ROOT_COMMON_NAME: &str = "swarm-ca";
/// How long a root certificate is valid: 20 years.
pub const ROOT_VALIDITY: Duration = Duration::from_secs(630_720_000);
/// How long a node certificate is valid unless the cluster says otherwise: 90 days.
pub const CERTIFICATE_EXPIRY_DEFAULT: Duration = Duration::from_secs(2160 * 3600);
/// The shortest validity of a node certificate; anything below means the default.
pub const CERTIFICATE_EXPIRY_MIN: Duration = Duration::from_secs(3600);
/// How far back a certificate's validity starts, against clocks that differ.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Why the certificate authority could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The root's certificate could not be read, or the request of a node is bad.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The root's key could not be made or read.
    #[error(transparent)]
    Key(#[from] PrivateKeyError),
    /// A root certificate is needed alone.
    #[error("cannot use the CA certificate: it holds {count} certificates, exactly one is wanted")]
    NotOne {
        /// How many there are.
        count: usize,
    },
    /// The certificate may not sign others.
    #[error("cannot use certificate \"{common_name}\" as CA: it is not a CA certificate")]
    NotCa {
        /// Its common name.
        common_name: String,
    },
    /// Certificate and key are not a pair.
    #[error("cannot use the CA certificate: its public key does not belong to the private key")]
    KeyMismatch,
    /// A part of the subject is empty or cannot be in a certificate.
    #[error("cannot issue a certificate: bad {field} {value:?}")]
    Subject {
        /// Which part.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// The signature could not be made.
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
}

/// What a node may do, as its certificate says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs tasks.
    Worker,
    /// Also holds the cluster state.
    Manager,
}

impl Role {
    /// The organizational unit that stands for the role; for a manager also the name its server answers to.
    pub fn organizational_unit(self) -> &'static str {
        match self {
            Role::Worker => "swarm-worker",
            Role::Manager => "swarm-manager",
        }
    }

    /// The role an organizational unit stands for, if any.
    pub fn from_organizational_unit(unit: &str) -> Option<Role> {
        [Role::Worker, Role::Manager].into_iter().find(|role| role.organizational_unit() == unit)
    }
}

/// Whom a node certificate names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafSubject<'a> {
    /// The cluster's id.
    pub cluster_id: &'a str,
    /// The node's id.
    pub node_id: &'a str,
    /// What the node may do.
    pub role: Role,
}

/// The root: a self-signed certificate and its private key.
pub struct RootCa {
    certificate_pem: String,
    certificate: CertificateInfo,
    key: NodeKey,
    issuer: Issuer<'static, KeyPair>,
}

impl RootCa {
    /// Makes a new root: P-256, `CN=swarm-ca`, 20 years from (almost) now.
    pub fn generate(now: SystemTime) -> Result<RootCa, CaError> {
        let key = NodeKey::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&[(DnType::CommonName, "common name", ROOT_COMMON_NAME)])?;
        // A stock manager backdates its root by five minutes and counts the validity from there.
        params.not_before = OffsetDateTime::from(now - Duration::from_secs(300));
        params.not_after = params.not_before + ROOT_VALIDITY;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = key_identifier(key.pair());
        params.serial_number = Some(random_serial());
        let certificate = params.self_signed(key.pair()).map_err(CaError::Sign)?;
        RootCa::from_pem(&certificate.pem(), &key.to_pem())
    }

    /// Reads a root from its PEM texts, and checks that they belong together and may sign.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<RootCa, CaError> {
        let mut certificates = parse_bundle(certificate_pem)?;
        if certificates.len() != 1 {
            return Err(CaError::NotOne { count: certificates.len() });
        }
        let certificate = certificates.remove(0);
        if !certificate.is_ca {
            return Err(CaError::NotCa { common_name: certificate.common_name });
        }
        let key = NodeKey::from_pem(key_pem)?;
        if key.public_key_der() != certificate.public_key_der {
            return Err(CaError::KeyMismatch);
        }
        let pair = KeyPair::from_pem(key_pem).map_err(PrivateKeyError::Parse)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, pair).map_err(CaError::Sign)?;
        Ok(RootCa { certificate_pem: certificate_pem.to_owned(), certificate, key, issuer })
    }

    /// The root certificate, byte for byte as it was made or read: join tokens carry its digest.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// What the root certificate says.
    pub fn certificate(&self) -> &CertificateInfo {
        &self.certificate
    }

    /// The private key in PKCS#8 PEM: secret, to be sealed before it goes anywhere.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// Signs a certificate for a node. Of the request only the public key is used. The certificate starts an hour ago
    /// and ends `expiry` from now; an `expiry` below [`CERTIFICATE_EXPIRY_MIN`] means the default.
    pub fn issue(
        &self,
        request_pem: &str,
        subject: &LeafSubject<'_>,
        expiry: Duration,
        now: SystemTime,
    ) -> Result<String, CaError> {
        let public_key = SubjectPublicKeyInfo::from_der(&public_key_of(request_pem)?).map_err(CaError::Sign)?;
        let expiry = if expiry < CERTIFICATE_EXPIRY_MIN { CERTIFICATE_EXPIRY_DEFAULT } else { expiry };
        let unit = subject.role.organizational_unit();

        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&[
            (DnType::OrganizationName, "cluster id", subject.cluster_id),
            (DnType::OrganizationalUnitName, "role", unit),
            (DnType::CommonName, "node id", subject.node_id),
        ])?;
        let mut names = vec![unit, subject.node_id];
        if subject.role == Role::Manager {
            names.push(ROOT_COMMON_NAME);
        }
        params.subject_alt_names = names.into_iter().map(dns_name).collect::<Result<_, _>>()?;
        params.not_before = OffsetDateTime::from(now - BACKDATE);
        params.not_after = OffsetDateTime::from(now + expiry);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = key_identifier(&public_key);
        params.serial_number = Some(random_serial());
        Ok(params.signed_by(&public_key, &self.issuer).map_err(CaError::Sign)?.pem())
    }
}

impl std::fmt::Debug for RootCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootCa").field("common_name", &self.certificate.common_name).finish_non_exhaustive()
    }
}

/// A name in the order given, each part as `PrintableString` where that is possible, as Go writes it.
fn distinguished_name(parts: &[(DnType, &'static str, &str)]) -> Result<DistinguishedName, CaError> {
    let mut name = DistinguishedName::new();
    for (kind, field, value) in parts {
        if value.is_empty() || value.len() > 64 || value.chars().any(char::is_control) {
            return Err(CaError::Subject { field, value: (*value).to_owned() });
        }
        let text = match (*value).try_into() {
            Ok(printable) => DnValue::PrintableString(printable),
            Err(_) => DnValue::Utf8String((*value).to_owned()),
        };
        name.push(kind.clone(), text);
    }
    Ok(name)
}

fn dns_name(name: &str) -> Result<SanType, CaError> {
    let refuse = |_| CaError::Subject { field: "DNS name", value: name.to_owned() };
    Ok(SanType::DnsName(name.try_into().map_err(refuse)?))
}

/// RFC 5280 §4.2.1.2 method 1 (SHA-1 of the public key's bits), as a stock manager does it.
fn key_identifier(key: &impl PublicKeyData) -> KeyIdMethod {
    KeyIdMethod::PreSpecified(digest(&SHA1_FOR_LEGACY_USE_ONLY, key.der_bytes()).as_ref().to_vec())
}

/// 20 random bytes, positive and not zero.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 20] = random_bytes();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;
    use crate::parse_leaf;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn subject(role: Role) -> LeafSubject<'static> {
        LeafSubject { cluster_id: "cluster1", node_id: "node1", role }
    }

    fn issued(root: &RootCa, role: Role, expiry: Duration) -> (NodeKey, String) {
        let key = NodeKey::generate().unwrap();
        let pem = root.issue(&key.certificate_request().unwrap(), &subject(role), expiry, now()).unwrap();
        (key, pem)
    }

    #[test]
    fn the_root_is_as_a_stock_manager_makes_it() {
        let root = RootCa::generate(now()).unwrap();
        let info = root.certificate();
        assert_eq!(info.common_name, "swarm-ca");
        assert!(info.is_ca);
        assert_eq!(info.subject_der, info.issuer_subject_der);
        assert_eq!(info.not_after.duration_since(info.not_before).unwrap(), ROOT_VALIDITY);
        // SEQUENCE { SET { SEQUENCE { OID commonName, PrintableString "swarm-ca" } } }
        assert_eq!(info.subject_der, b"\x30\x13\x31\x11\x30\x0f\x06\x03\x55\x04\x03\x13\x08swarm-ca");

        let (_, x509) = X509Certificate::from_der(&info.der).unwrap();
        let usage = x509.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert!(!usage.value.digital_signature());
        let constraints = x509.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.path_len_constraint.is_none());
        let mut extensions: Vec<String> = x509.extensions().iter().map(|e| e.oid.to_id_string()).collect();
        extensions.sort();
        assert_eq!(extensions, ["2.5.29.14", "2.5.29.15", "2.5.29.19"]);
        x509.verify_signature(None).unwrap();
    }

    #[test]
    fn a_leaf_is_as_a_stock_manager_makes_it() {
        let root = RootCa::generate(now()).unwrap();
        for role in [Role::Worker, Role::Manager] {
            let expiry = Duration::from_secs(7200);
            let (key, pem) = issued(&root, role, expiry);
            let info = parse_leaf(&pem).unwrap();
            assert_eq!(info.public_key_der, key.public_key_der());
            assert_eq!(info.common_name, "node1");
            assert_eq!(info.organization, "cluster1");
            assert_eq!(Role::from_organizational_unit(&info.organizational_unit), Some(role));
            let mut names = vec![role.organizational_unit(), "node1"];
            names.extend((role == Role::Manager).then_some("swarm-ca"));
            assert_eq!(info.dns_names, names);
            assert_eq!(info.not_before, now() - BACKDATE);
            assert_eq!(info.not_after, now() + expiry);
            assert_eq!(info.issuer_subject_der, root.certificate().subject_der);
            assert!(!info.is_ca);

            let (_, root_x509) = X509Certificate::from_der(&root.certificate().der).unwrap();
            let (_, x509) = X509Certificate::from_der(&info.der).unwrap();
            x509.verify_signature(Some(root_x509.public_key())).unwrap();
            let usage = x509.key_usage().unwrap().unwrap();
            assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
            let extended = x509.extended_key_usage().unwrap().unwrap();
            assert!(!extended.critical && extended.value.server_auth && extended.value.client_auth);
            let constraints = x509.basic_constraints().unwrap().unwrap();
            assert!(constraints.critical && !constraints.value.ca);
            let mut extensions: Vec<String> = x509.extensions().iter().map(|e| e.oid.to_id_string()).collect();
            extensions.sort();
            assert_eq!(extensions, ["2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.35", "2.5.29.37"]);
        }
    }

    #[test]
    fn too_short_an_expiry_means_the_default() {
        let root = RootCa::generate(now()).unwrap();
        let (_, pem) = issued(&root, Role::Worker, Duration::from_secs(3599));
        assert_eq!(parse_leaf(&pem).unwrap().not_after, now() + CERTIFICATE_EXPIRY_DEFAULT);
    }

    #[test]
    fn a_request_cannot_ask_for_more_than_a_key() {
        let root = RootCa::generate(now()).unwrap();
        let key = NodeKey::generate().unwrap();
        let mut params = CertificateParams::new(vec!["swarm-manager".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "someone else");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = params.serialize_request(key.pair()).unwrap().pem().unwrap();
        let pem = root.issue(&request, &subject(Role::Worker), CERTIFICATE_EXPIRY_DEFAULT, now()).unwrap();
        let info = parse_leaf(&pem).unwrap();
        assert_eq!((info.common_name.as_str(), info.is_ca), ("node1", false));
        assert_eq!(info.dns_names, ["swarm-worker", "node1"]);
    }

    #[test]
    fn a_forged_request_is_refused() {
        let root = RootCa::generate(now()).unwrap();
        let request = NodeKey::generate().unwrap().certificate_request().unwrap();
        let mut blocks = x509_parser::pem::Pem::iter_from_buffer(request.as_bytes());
        let mut der = blocks.next().unwrap().unwrap().contents;
        let last = der.len() - 1;
        der[last] ^= 1;
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(&der);
        let forged = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        let error = root.issue(&forged, &subject(Role::Worker), CERTIFICATE_EXPIRY_DEFAULT, now()).unwrap_err();
        assert!(matches!(error, CaError::Certificate(CertificateError::Request { .. })), "{error}");
    }

    #[test]
    fn a_root_survives_its_text_byte_for_byte() {
        let root = RootCa::generate(now()).unwrap();
        let again = RootCa::from_pem(root.certificate_pem(), &root.key_pem()).unwrap();
        assert_eq!(root.certificate_pem(), again.certificate_pem());
        let (_, pem) = issued(&again, Role::Worker, CERTIFICATE_EXPIRY_DEFAULT);
        assert_eq!(parse_leaf(&pem).unwrap().issuer_subject_der, root.certificate().subject_der);
    }

    #[test]
    fn a_root_that_cannot_sign_is_refused() {
        let root = RootCa::generate(now()).unwrap();
        let other = RootCa::generate(now()).unwrap();
        let mismatch = RootCa::from_pem(root.certificate_pem(), &other.key_pem()).unwrap_err();
        assert!(matches!(mismatch, CaError::KeyMismatch));
        let two = format!("{}{}", root.certificate_pem(), other.certificate_pem());
        assert!(matches!(RootCa::from_pem(&two, &root.key_pem()).unwrap_err(), CaError::NotOne { count: 2 }));
        let (key, leaf) = issued(&root, Role::Manager, CERTIFICATE_EXPIRY_DEFAULT);
        assert!(matches!(RootCa::from_pem(&leaf, &key.to_pem()).unwrap_err(), CaError::NotCa { .. }));
    }

    #[test]
    fn an_empty_subject_is_refused() {
        let root = RootCa::generate(now()).unwrap();
        let request = NodeKey::generate().unwrap().certificate_request().unwrap();
        let nobody = LeafSubject { cluster_id: "c", node_id: "", role: Role::Worker };
        let error = root.issue(&request, &nobody, CERTIFICATE_EXPIRY_DEFAULT, now()).unwrap_err();
        assert!(matches!(error, CaError::Subject { field: "node id", .. }), "{error}");
    }
}
