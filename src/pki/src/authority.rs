//! The certificate authority: made once, kept in two files, signs every leaf.

use crate::files::{self, FileError};
use crate::leaf::{self, Identity, KeyCert, Leaf};
use crate::request::{Grant, Request};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use time::OffsetDateTime;

/// The CA outlives the boxes it certifies, since there is no other one to go over to; leaves are renewed by themselves at
/// two thirds of their life.
const CA_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 30);
/// Nothing was ever certified before: a clock that says so is one that begins in 1970 at each boot.
const EARLIEST: Timestamp = Timestamp::constant(1_767_225_600, 0);
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Certificates start this much in the past: the clocks of joining machines differ.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(2);
/// The object identifier of an organization's name.
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];

/// What can go wrong with the CA or what it signs.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("certificate generation failed")]
    Generate(#[from] rcgen::Error),
    #[error("{0} is not a PEM certificate")]
    Pem(&'static str),
    #[error("{present} exists without {missing}: restore it from a backup, or remove both to make a new cluster CA")]
    HalfPair { present: String, missing: String },
    #[error("a name in the certificate is not ASCII: {0:?}")]
    Name(String),
    #[error("{0} is in more than two groups: a certificate carries two organizations here")]
    Groups(String),
    #[error("the time {0} does not fit a certificate")]
    Time(Timestamp),
}

/// The cluster's certificate authority. Cheap to clone.
#[derive(Clone)]
pub struct Ca {
    inner: Arc<Inner>,
}

struct Inner {
    cert_pem: String,
    cert_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// Not before this.
    made: Timestamp,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ca").field("hash", &crate::token::ca_hash(&self.inner.cert_der)).finish()
    }
}

impl Ca {
    /// A new CA, as key and certificate.
    pub fn generate(common_name: &str, now: Timestamp) -> Result<KeyCert, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(common_name, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        // Whatever clocks say later, they are not before this.
        set_validity(&mut params, Timestamp::UNIX_EPOCH, now.max(EARLIEST), CA_LIFE)?;
        let certificate = params.self_signed(&key)?;
        Ok(KeyCert { key_pem: key.serialize_pem(), cert_pem: certificate.pem() })
    }

    pub fn from_pem(pair: &KeyCert) -> Result<Self, CaError> {
        let cert_der =
            CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).map_err(|_| CaError::Pem("the CA certificate"))?;
        let issuer = Issuer::from_ca_cert_pem(&pair.cert_pem, KeyPair::from_pem(&pair.key_pem)?)?;
        let (start, end) = leaf::validity(&pair.cert_pem).ok_or(CaError::Pem("the CA certificate"))?;
        let made = end.saturating_sub(CA_LIFE).map_err(|_| CaError::Time(end))?.max(start);
        Ok(Self { inner: Arc::new(Inner { cert_pem: pair.cert_pem.clone(), cert_der, issuer, made }) })
    }

    /// The CA kept as `<name>.crt` and `<name>.key` in `folder`; made there when neither exists.
    pub fn load_or_create(folder: &Path, name: &str, common_name: &str, now: Timestamp) -> Result<Self, CaError> {
        let (key_path, cert_path) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.crt")));
        let half = |present: &Path, missing: &Path| CaError::HalfPair {
            present: present.display().to_string(),
            missing: missing.display().to_string(),
        };
        match (files::read_if_present(&key_path)?, files::read_if_present(&cert_path)?) {
            (Some(key_pem), Some(cert_pem)) => Self::from_pem(&KeyCert { key_pem, cert_pem }),
            // The key is written first: a key alone is a creation that power cut short, nothing was signed yet.
            (_, None) => {
                let pair = Self::generate(common_name, now)?;
                files::write_private(&key_path, pair.key_pem.as_bytes())?;
                files::write_private(&cert_path, pair.cert_pem.as_bytes())?;
                Self::from_pem(&pair)
            }
            (None, Some(_)) => Err(half(&cert_path, &key_path)),
        }
    }

    pub fn cert_pem(&self) -> &str {
        &self.inner.cert_pem
    }

    pub fn cert_der(&self) -> &[u8] {
        &self.inner.cert_der
    }

    /// A leaf begins a little in the past. By a clock that is certainly wrong, it holds until its time after the CA was made:
    /// others, whose clocks are right, may take it, and it is due as soon as the clock is right.
    fn set_validity(
        &self,
        params: &mut CertificateParams,
        now: Timestamp,
        lifetime: SignedDuration,
    ) -> Result<(), CaError> {
        let start = now.saturating_sub(CLOCK_SKEW).map_err(|_| CaError::Time(now))?;
        set_validity(params, start, now.max(self.inner.made), lifetime)
    }

    /// Makes a key and certifies it.
    pub fn issue(&self, leaf: &Leaf, now: Timestamp) -> Result<KeyCert, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        describe(&mut params, leaf)?;
        self.set_validity(&mut params, now, LEAF_LIFE)?;
        let certificate = params.signed_by(&key, &self.inner.issuer)?;
        Ok(KeyCert { key_pem: key.serialize_pem(), cert_pem: certificate.pem() })
    }

    /// Certifies the key of a signing request for `life`. Only the key is taken from the request: subject and names are
    /// `leaf`'s.
    pub fn sign_request(
        &self,
        request_pem: &str,
        leaf: &Leaf,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<String, CaError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let mut params = CertificateParams::default();
        describe(&mut params, leaf)?;
        self.set_validity(&mut params, now, life)?;
        request.params = params;
        Ok(request.signed_by(&self.inner.issuer)?.pem())
    }

    /// Certifies a request as it is: its subject, its names and its key, for what `grant` says.
    pub fn grant_request(&self, request_pem: &str, grant: &Grant, now: Timestamp) -> Result<String, CaError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let asked = Request::of(request_pem, &request.params)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name = subject(&asked.subject.user, &asked.subject.groups)?;
        params.subject_alt_names = std::mem::take(&mut request.params.subject_alt_names);
        params.key_usages = grant.usages.keys.clone();
        params.extended_key_usages = grant.usages.extended.clone();
        self.set_validity(&mut params, now, grant.lifetime)?;
        request.params = params;
        Ok(request.signed_by(&self.inner.issuer)?.pem())
    }
}

/// A key and a signing request for it; the signer decides subject and names (see [`Ca::sign_request`]).
pub fn signing_request() -> Result<(String, String), CaError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
}

/// A PKCS#8 P-256 key for signing service-account tokens, kept in `path`; made there when absent.
pub fn load_or_create_signing_key(path: &Path) -> Result<String, CaError> {
    if let Some(pem) = files::read_if_present(path)? {
        return Ok(pem);
    }
    let pem = KeyPair::generate()?.serialize_pem();
    files::write_private(path, pem.as_bytes())?;
    Ok(pem)
}

fn describe(params: &mut CertificateParams, leaf: &Leaf) -> Result<(), CaError> {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    match leaf {
        Leaf::Client(Identity { user, groups }) => {
            params.distinguished_name = subject(user, groups)?;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        Leaf::Server { common_name, dns_names, addresses } => {
            params.distinguished_name = subject(common_name, &[])?;
            serve(params, dns_names, addresses)?;
        }
        Leaf::Peer { identity: Identity { user, groups }, dns_names, addresses } => {
            params.distinguished_name = subject(user, groups)?;
            serve(params, dns_names, addresses)?;
        }
    }
    Ok(())
}

fn serve(params: &mut CertificateParams, dns_names: &[String], addresses: &[IpAddr]) -> Result<(), CaError> {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in dns_names {
        let name = name.as_str().try_into().map_err(|_| CaError::Name(name.clone()))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    Ok(())
}

/// A second organization goes by its object identifier, because a name of rcgen's has each type once.
fn subject(common_name: &str, organizations: &[String]) -> Result<DistinguishedName, CaError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    let types = [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION.to_vec())];
    if organizations.len() > types.len() {
        return Err(CaError::Groups(common_name.to_owned()));
    }
    for (kind, group) in types.into_iter().zip(organizations) {
        name.push(kind, group.as_str());
    }
    Ok(name)
}

/// From `start`, for `lifetime` from `now` on.
fn set_validity(
    params: &mut CertificateParams,
    start: Timestamp,
    now: Timestamp,
    lifetime: SignedDuration,
) -> Result<(), CaError> {
    let at = |time: Timestamp| OffsetDateTime::from_unix_timestamp(time.as_second()).map_err(|_| CaError::Time(time));
    params.not_before = at(start)?;
    params.not_after = at(now.saturating_add(lifetime).map_err(|_| CaError::Time(now))?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::{due_for_renewal, expired, validity};
    use crate::request::Usages;
    use x509_parser::prelude::*;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn ca() -> Ca {
        Ca::from_pem(&Ca::generate("rk-test", now()).unwrap()).unwrap()
    }

    fn der(pem: &str) -> Vec<u8> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn client_certificates_carry_user_and_group_and_verify_against_the_ca() {
        let ca = ca();
        let leaf = ca.issue(&Leaf::Client(Identity::node("edge-1")), now()).unwrap();
        let der = der(&leaf.cert_pem);
        assert_eq!(Identity::of_certificate(&der), Some(Identity::node("edge-1")));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let (_, authority) = X509Certificate::from_der(ca.cert_der()).unwrap();
        certificate.verify_signature(Some(authority.public_key())).unwrap();
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.client_auth);
        assert!(!certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
    }

    #[test]
    fn a_servers_certificate_says_which_server_it_is_and_is_of_no_use_to_a_client() {
        let identity = Identity::server("one");
        let leaf =
            Leaf::Peer { identity: identity.clone(), dns_names: vec!["localhost".into()], addresses: Vec::new() };
        let der = der(&ca().issue(&leaf, now()).unwrap().cert_pem);
        let read = Identity::of_certificate(&der).unwrap();
        assert_eq!(read.server_name(), Some("one"));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth);
        assert_eq!(Identity::node("one").server_name(), None);
        assert_eq!(Identity::new("system:rk:server:one", &["system:nodes"]).server_name(), None, "the group counts");
        assert_eq!(Identity::new("system:rk:server:", &["system:rk:servers"]).server_name(), None);
    }

    #[test]
    fn a_signed_request_gets_the_signers_subject_not_its_own() {
        let (_key, request) = signing_request().unwrap();
        let pem = ca().sign_request(&request, &Leaf::Client(Identity::node("edge-2")), now(), LEAF_LIFE).unwrap();
        assert_eq!(Identity::of_certificate(&der(&pem)), Some(Identity::node("edge-2")));
    }

    #[test]
    fn a_granted_request_keeps_its_subject_and_gets_the_usages_and_time_it_was_given() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["web.example.com".to_owned()]).unwrap();
        params.distinguished_name = subject("jane", &["dev".to_owned(), "ops".to_owned()]).unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let asked = Request::parse(&pem).unwrap();
        assert_eq!(asked.subject, Identity::new("jane", &["dev", "ops"]));
        assert_eq!(asked.dns_names, ["web.example.com"]);
        let usages = Usages::named(["client auth", "digital signature"]).unwrap();
        let grant = Grant { usages, lifetime: SignedDuration::from_hours(2) };
        let der = der(&ca().grant_request(&pem, &grant, now()).unwrap());
        assert_eq!(Identity::of_certificate(&der), Some(asked.subject));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.validity().not_after.timestamp(), now().as_second() + 7200);
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.client_auth);
        assert!(!certificate.is_ca());
        assert_eq!(Usages::named(["flying"]).unwrap_err(), "flying");
    }

    #[test]
    fn renewal_is_due_after_two_thirds_of_the_life() {
        let leaf = ca().issue(&Leaf::Client(Identity::new("admin", &["system:masters"])), now()).unwrap();
        assert!(!due_for_renewal(&leaf.cert_pem, now() + SignedDuration::from_hours(24 * 240)));
        assert!(due_for_renewal(&leaf.cert_pem, now() + SignedDuration::from_hours(24 * 245)));
        assert!(due_for_renewal("garbage", now()));
    }

    #[test]
    fn certificates_hold_for_clocks_that_are_an_hour_off() {
        let (ca, hour) = (ca(), SignedDuration::from_hours(1));
        let leaf = ca.issue(&Leaf::Client(Identity::node("edge")), now()).unwrap();
        for pem in [ca.cert_pem(), leaf.cert_pem.as_str()] {
            let (start, end) = validity(pem).unwrap();
            assert!(start <= now() - hour && end >= now() + hour);
        }
        assert!(!due_for_renewal(&leaf.cert_pem, now() - hour) && !due_for_renewal(&leaf.cert_pem, now() + hour));
        assert!(!expired(&leaf.cert_pem, now()) && expired(&leaf.cert_pem, now() + LEAF_LIFE + hour));
    }

    #[test]
    fn a_cluster_that_begins_in_1970_goes_on_when_the_clock_is_right() {
        let first = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(20);
        let ca = Ca::from_pem(&Ca::generate("rk-test", first).unwrap()).unwrap();
        assert!(!expired(ca.cert_pem(), now() + SignedDuration::from_hours(24 * 365 * 20)));
        let leaf = Leaf::Client(Identity::node("edge"));
        let early = ca.issue(&leaf, first).unwrap().cert_pem;
        assert!(!due_for_renewal(&early, first) && !expired(&early, EARLIEST + SignedDuration::from_hours(24 * 300)));
        assert!(due_for_renewal(&early, now()), "the clock has been set");
    }

    #[test]
    fn a_clock_that_falls_back_to_1970_makes_certificates_due_once() {
        let ca = ca();
        let leaf = Leaf::Client(Identity::node("edge"));
        let before = ca.issue(&leaf, now() + SignedDuration::from_hours(24 * 30)).unwrap().cert_pem;
        let boot = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(20);
        assert!(due_for_renewal(&before, boot), "whoever checks it here would say that it does not hold yet");
        assert!(validity(ca.cert_pem()).unwrap().0 <= boot);
        let renewed = ca.issue(&leaf, boot).unwrap().cert_pem;
        assert!(!due_for_renewal(&renewed, boot));
        assert!(!expired(&renewed, now() + SignedDuration::from_hours(24 * 300)) && due_for_renewal(&renewed, now()));
    }

    #[test]
    fn the_ca_survives_a_restart_and_half_a_pair_is_refused() {
        let folder = std::env::temp_dir().join(format!("rk-pki-ca-{}", std::process::id()));
        let made = Ca::load_or_create(&folder, "ca", "rk", now()).unwrap();
        let read = Ca::load_or_create(&folder, "ca", "rk", now()).unwrap();
        assert_eq!(made.cert_der(), read.cert_der());
        std::fs::remove_file(folder.join("ca.key")).unwrap();
        let error = Ca::load_or_create(&folder, "ca", "rk", now()).unwrap_err();
        assert!(error.to_string().contains("ca.crt exists without"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
