//! Reading certificates and certificate requests: who is named, by whom, until when.
//!
//! Reading is not trusting: chains are verified by TLS. The issuer's subject and public key are what the Docker API
//! shows as `TLSInfo` and what root rotation compares.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

/// Why a certificate or a request could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The text is not PEM.
    #[error("cannot read the certificate: not PEM text")]
    Pem,
    /// There is no certificate in it.
    #[error("cannot read the certificate: no CERTIFICATE block in the text")]
    Empty,
    /// A block is not an X.509 certificate.
    #[error("cannot read the certificate: not X.509: {detail}")]
    Malformed {
        /// What the parser said.
        detail: String,
    },
    /// The certificate request is not PKCS#10 or its signature does not fit its key.
    #[error("cannot use the certificate request: {detail}")]
    Request {
        /// What is wrong.
        detail: String,
    },
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The subject's first common name: the node id in a node certificate, `swarm-ca` in a root.
    pub common_name: String,
    /// The subject's first organization: the cluster id in a node certificate.
    pub organization: String,
    /// The subject's first organizational unit: the role in a node certificate.
    pub organizational_unit: String,
    /// The subject alternative names of kind DNS.
    pub dns_names: Vec<String>,
    /// The subject as DER.
    pub subject_der: Vec<u8>,
    /// The issuer's subject as DER.
    pub issuer_subject_der: Vec<u8>,
    /// The certificate's own public key as SubjectPublicKeyInfo DER.
    pub public_key_der: Vec<u8>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// Whether it may sign other certificates.
    pub is_ca: bool,
    /// The whole certificate as DER.
    pub der: Vec<u8>,
}

/// Reads every certificate of a PEM text in order; at least one.
pub fn parse_bundle(pem: &str) -> Result<Vec<CertificateInfo>, CertificateError> {
    let mut certificates = Vec::new();
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|_| CertificateError::Pem)?;
        if block.label == "CERTIFICATE" {
            certificates.push(from_der(&block.contents)?);
        }
    }
    if certificates.is_empty() {
        return Err(CertificateError::Empty);
    }
    Ok(certificates)
}

/// Reads the first certificate of a PEM text: the leaf, where intermediates follow it.
pub fn parse_leaf(pem: &str) -> Result<CertificateInfo, CertificateError> {
    Ok(parse_bundle(pem)?.swap_remove(0))
}

/// The public key of a certificate request in PEM, as SubjectPublicKeyInfo DER. The request's signature is checked (the
/// requester holds the key); everything else in it is ignored.
pub fn public_key_of(request_pem: &str) -> Result<Vec<u8>, CertificateError> {
    let refuse = |detail: String| CertificateError::Request { detail };
    let block = Pem::iter_from_buffer(request_pem.as_bytes())
        .next()
        .and_then(Result::ok)
        .filter(|block| block.label == "CERTIFICATE REQUEST")
        .ok_or_else(|| refuse("not a PEM CERTIFICATE REQUEST".into()))?;
    let (_, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|error| refuse(error.to_string()))?;
    request.verify_signature().map_err(|error| refuse(error.to_string()))?;
    Ok(request.certification_request_info.subject_pki.raw.to_vec())
}

fn from_der(der: &[u8]) -> Result<CertificateInfo, CertificateError> {
    let malformed = |error: &dyn std::fmt::Display| CertificateError::Malformed { detail: error.to_string() };
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(&error))?;
    let names = certificate.subject_alternative_name().map_err(|error| malformed(&error))?;
    let dns_names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    let subject = certificate.subject();
    Ok(CertificateInfo {
        common_name: first(subject.iter_common_name()),
        organization: first(subject.iter_organization()),
        organizational_unit: first(subject.iter_organizational_unit()),
        dns_names: dns_names.collect(),
        subject_der: name_der(subject),
        issuer_subject_der: name_der(certificate.issuer()),
        public_key_der: certificate.public_key().raw.to_vec(),
        not_before: time_of(certificate.validity().not_before.timestamp()),
        not_after: time_of(certificate.validity().not_after.timestamp()),
        is_ca: certificate.is_ca(),
        der: der.to_vec(),
    })
}

fn first<'a>(mut values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> String {
    values.next().and_then(|value| value.as_str().ok()).unwrap_or_default().to_owned()
}

fn name_der(name: &X509Name<'_>) -> Vec<u8> {
    name.as_raw().to_vec()
}

fn time_of(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds),
        Err(_) => UNIX_EPOCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_certificates_is_refused() {
        assert!(matches!(parse_bundle(""), Err(CertificateError::Empty)));
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(parse_bundle(key), Err(CertificateError::Empty)));
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(parse_bundle(junk), Err(CertificateError::Malformed { .. })));
        assert!(public_key_of(junk).is_err());
        assert!(public_key_of("").is_err());
    }
}
