//! What a leaf certificate says: an identity (client) or a set of names (server), with its key.

use jiff::Timestamp;
use std::net::IpAddr;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

/// What the user of a server's certificate begins with; the server's name follows.
pub const SERVER_USER: &str = "system:rk:server:";
/// Group of a cluster's servers. Only they themselves give it out, never a certificate signing request.
pub const SERVERS: &str = "system:rk:servers";

/// A Kubernetes identity as certificates carry it: user in the common name, groups in organizations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
}

impl Identity {
    pub fn new(user: &str, groups: &[&str]) -> Self {
        Self { user: user.to_owned(), groups: groups.iter().map(|&group| group.to_owned()).collect() }
    }

    /// The identity the Node authorizer knows for a node's agent.
    pub fn node(name: &str) -> Self {
        Self::new(&format!("system:node:{name}"), &["system:nodes"])
    }

    /// The identity by which a cluster's servers know each other.
    pub fn server(name: &str) -> Self {
        Self::new(&format!("{SERVER_USER}{name}"), &[SERVERS])
    }

    /// The name of the server that this is, if it is one.
    pub fn server_name(&self) -> Option<&str> {
        let member = self.groups.iter().any(|group| group == SERVERS);
        self.user.strip_prefix(SERVER_USER).filter(|name| member && !name.is_empty())
    }

    /// Reads the identity out of a client certificate (DER). `None` when it is no certificate or names nobody.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Self::of_subject(certificate.subject())
    }

    /// Reads the identity that a signing request (PEM) asks for.
    pub(crate) fn of_request(pem: &str) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        Self::of_subject(&request.certification_request_info.subject)
    }

    fn of_subject(subject: &X509Name<'_>) -> Option<Self> {
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned)).collect();
        Some(Self { user, groups })
    }
}

/// What to certify.
#[derive(Debug, Clone)]
pub enum Leaf {
    Client(Identity),
    Server {
        common_name: String,
        dns_names: Vec<String>,
        addresses: Vec<IpAddr>,
    },
    /// A server that its peers know by an identity, beyond its names.
    Peer {
        identity: Identity,
        dns_names: Vec<String>,
        addresses: Vec<IpAddr>,
    },
}

/// A private key and the certificate for it, both PEM. `Debug` shows neither.
#[derive(Clone)]
pub struct KeyCert {
    pub key_pem: String,
    pub cert_pem: String,
}

impl std::fmt::Debug for KeyCert {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("KeyCert(…)")
    }
}

/// From when until when a certificate holds. `None` when it cannot be read.
pub fn validity(cert_pem: &str) -> Option<(Timestamp, Timestamp)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let at = |seconds: i64| Timestamp::from_second(seconds).ok();
    let validity = certificate.validity();
    Some((at(validity.not_before.timestamp())?, at(validity.not_after.timestamp())?))
}

/// Whether two thirds of a certificate's life are over at `now`, or it has not begun because the clock has gone back, or it
/// cannot be read: time for a new one.
pub fn due_for_renewal(cert_pem: &str, now: Timestamp) -> bool {
    validity(cert_pem).is_none_or(|(start, end)| {
        let (start, end) = (start.as_second(), end.as_second());
        let now = now.as_second();
        now < start || now >= start + (end - start) / 3 * 2
    })
}

/// Whether a certificate holds no more at `now`, or cannot be read.
pub fn expired(cert_pem: &str, now: Timestamp) -> bool {
    validity(cert_pem).is_none_or(|(_, end)| now >= end)
}
