//! Certificates for other people's requests: what a request asks for, and the certificate that grants it. Used by the
//! signers of `CertificateSigningRequest` objects, which decide what is granted.

use crate::authority::CaError;
use crate::leaf::Identity;
use jiff::SignedDuration;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use std::net::IpAddr;

/// Names and identity in a request whose signature is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub subject: Identity,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// E-mail addresses, URIs and whatever else.
    pub other_names: usize,
}

/// What a certificate may be used for, by the names `CertificateSigningRequest` has.
#[derive(Debug, Clone, Default)]
pub struct Usages {
    pub(crate) keys: Vec<KeyUsagePurpose>,
    pub(crate) extended: Vec<ExtendedKeyUsagePurpose>,
}

/// How a request is granted.
#[derive(Debug, Clone)]
pub struct Grant {
    pub usages: Usages,
    pub lifetime: SignedDuration,
}

impl Usages {
    /// Reads the names. `Err` is one that is not known.
    pub fn named<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Self, String> {
        let mut usages = Self::default();
        for name in names {
            match (key(name), extended(name)) {
                (Some(key), _) => usages.keys.push(key),
                (_, Some(purpose)) => usages.extended.push(purpose),
                (None, None) => return Err(name.to_owned()),
            }
        }
        Ok(usages)
    }
}

fn key(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    let other = |last: u64| ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, last]);
    Some(match name {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "ipsec end system" => other(5),
        "ipsec tunnel" => other(6),
        "ipsec user" => other(7),
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        "microsoft sgc" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => ExtendedKeyUsagePurpose::Other(vec![2, 16, 840, 1, 113_730, 4, 1]),
        _ => return None,
    })
}

impl Request {
    /// Reads a request in PEM.
    pub fn parse(pem: &str) -> Result<Self, CaError> {
        Self::of(pem, &rcgen::CertificateSigningRequestParams::from_pem(pem)?.params)
    }

    pub(crate) fn of(pem: &str, params: &CertificateParams) -> Result<Self, CaError> {
        let subject = Identity::of_request(pem).ok_or(CaError::Pem("the request"))?;
        let mut request = Self { subject, dns_names: Vec::new(), addresses: Vec::new(), other_names: 0 };
        for name in &params.subject_alt_names {
            match name {
                SanType::DnsName(name) => request.dns_names.push(name.to_string()),
                SanType::IpAddress(address) => request.addresses.push(*address),
                _ => request.other_names += 1,
            }
        }
        Ok(request)
    }
}
