//! A server's certificate that does not hold yet, by this machine's clock. Boxes without a clock of their own begin in 1970
//! at each boot, or where they were when their power went, and then any certificate is of the future; nothing is gained by
//! refusing it. One whose time is over is refused as ever.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

#[derive(Debug)]
pub(super) struct OrEarly(pub(super) Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for OrEarly {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(leaf, chain, name, ocsp, now) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                self.0.verify_server_cert(leaf, chain, name, ocsp, not_before)
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

    use super::*;
    use crate::tls::verifier;

    const YEAR: u64 = 365 * 24 * 3600;

    #[test]
    fn a_certificate_of_the_future_is_taken_and_one_of_the_past_is_not() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = authority.self_signed(&key).unwrap().pem();
        let mut leaf = rcgen::CertificateParams::new(vec!["server".to_owned()]).unwrap();
        (leaf.not_before, leaf.not_after) = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2027, 1, 1));
        let issuer = rcgen::Issuer::new(authority, key);
        let leaf = leaf.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap();
        let verifier = verifier(pem.as_bytes()).unwrap();
        let at = |years: u64, name: &'static str| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(years * YEAR));
            verifier.verify_server_cert(leaf.der(), &[], &name.try_into().unwrap(), &[], now)
        };
        assert!(at(0, "server").is_ok(), "a clock that begins in 1970");
        assert!(at(0, "another").is_err());
        assert!(at(56, "server").is_ok(), "within its time");
        assert!(at(60, "server").is_err(), "its time is over");
    }
}
