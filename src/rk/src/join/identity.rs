//! The agent's client certificate as its connections show it: it is renewed while they go on, and a new connection
//! shows the newest. Used by the tunnel and by the agent's API client.

use anyhow::Context;
use pki::KeyCert;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::{Arc, PoisonError, RwLock};

#[derive(Debug)]
pub(crate) struct Presented {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Presented {
    pub(crate) fn new(pair: &KeyCert) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self { current: RwLock::new(Arc::new(certified_key(pair)?)) }))
    }

    pub(crate) fn set(&self, pair: &KeyCert) -> anyhow::Result<()> {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified_key(pair)?);
        Ok(())
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A key and its certificate chain in rustls' form.
pub(crate) fn certified_key(pair: &KeyCert) -> anyhow::Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).context("the private key is damaged")?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    Ok(CertifiedKey::new(chain.context("the certificate is damaged")?, key))
}
