//! A client's certificate that does not hold yet, by this server's clock. A box without a clock of its own begins in 1970 at
//! each boot, or where it was when its power went, and every certificate of before is of the future then; nothing is
//! gained by refusing it. One whose time is over is refused as ever.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

#[derive(Debug)]
pub(crate) struct OrEarly(pub(crate) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for OrEarly {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.0.verify_client_cert(leaf, chain, now) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                self.0.verify_client_cert(leaf, chain, not_before)
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use pki::{Ca, Identity, Leaf};
    use rustls::{RootCertStore, pki_types::pem::PemObject, server::WebPkiClientVerifier};

    use super::*;

    #[test]
    fn a_certificate_of_the_future_is_taken_and_one_of_the_past_is_not() {
        let made: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let ca = Ca::from_pem(&Ca::generate("rk-test", made).unwrap()).unwrap();
        let pair = ca.issue(&Leaf::Client(Identity::node("edge")), made).unwrap();
        let leaf = CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ca.cert_der().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = OrEarly(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap());
        let at = |time: &str| {
            let seconds = time.parse::<Timestamp>().unwrap().as_second();
            let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap()));
            verifier.verify_client_cert(&leaf, &[], now).is_ok()
        };
        assert!(at("1970-01-01T00:00:10Z") && at("2026-06-02T00:00:00Z"));
        assert!(!at("2028-01-01T00:00:00Z"));
    }
}
