//! TLS for all who call a server: rustls with ring, TLS 1.3 among our own. Whoever speaks a protocol that is
//! negotiated (HTTP/2) sets `alpn_protocols` on what it gets here.

mod early;

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// A client certificate chain and its key, both PEM.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    pub cert_pem: &'a [u8],
    pub key_pem: &'a [u8],
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("CA certificate cannot be read")]
    Ca(#[source] PemError),
    #[error("no usable CA certificate")]
    NoCa,
    #[error("no use can be made of the CA certificate")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    #[error("client certificate or key cannot be read")]
    Identity(#[source] PemError),
    #[error("TLS configuration")]
    Rustls(#[from] rustls::Error),
}

/// Trusts the certificates in `ca_pem` and nobody else; shows `identity` when there is one. This machine's clock may be
/// behind.
pub fn trusting(ca_pem: &[u8], identity: Option<Identity<'_>>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier(ca_pem)?));
    match identity {
        Some(identity) => show(builder, identity),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn verifier(ca_pem: &[u8]) -> Result<early::OrEarly, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.map_err(TlsError::Ca)?)?;
    }
    if roots.is_empty() {
        return Err(TlsError::NoCa);
    }
    let provider = Arc::new(ring::default_provider());
    Ok(early::OrEarly(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?))
}

fn show(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    Identity { cert_pem, key_pem }: Identity<'_>,
) -> Result<ClientConfig, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert_pem).collect();
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(TlsError::Identity)?;
    Ok(builder.with_client_auth_cert(chain.map_err(TlsError::Identity)?, key)?)
}

/// Where distributions keep all certificate authorities in one file.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// For services that are not ours: trusts the machine's authorities, and those in `own`.
pub fn public(own: Option<&[u8]>) -> Result<ClientConfig, TlsError> {
    let machine = AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok());
    let mut roots = RootCertStore::empty();
    for (pem, all) in machine.iter().map(|pem| (pem.as_slice(), false)).chain(own.map(|pem| (pem, true))) {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            // A machine's bundle may hold some that rustls does not take; the others count.
            match certificate.map_err(TlsError::Ca).and_then(|certificate| Ok(roots.add(certificate)?)) {
                Err(error) if all => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoCa);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut tls = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// Takes any server for whom it says it is: for those who check the answer by other means, and for probes, which ask
/// whether a server lives and not who it is.
pub fn unverified() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyServer(provider.clone()));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
