//! What a server shows to the others: a client certificate that it issues to itself with the cluster's CA, and renews
//! when a connection is made and it is due.

use crate::join::client::verified_tls;
use crate::join::identity::Presented;
use jiff::Timestamp;
use pki::{Ca, Identity, Leaf};
use rustls::ClientConfig;
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) struct Credentials {
    ca: Ca,
    leaf: Leaf,
    presented: Arc<Presented>,
    /// The certificate that is presented, PEM.
    certificate: Mutex<String>,
}

impl Credentials {
    pub(crate) fn issue(ca: &Ca, name: &str) -> anyhow::Result<Arc<Self>> {
        let leaf = Leaf::Client(Identity::server(name));
        let pair = ca.issue(&leaf, Timestamp::now())?;
        let presented = Presented::new(&pair)?;
        Ok(Arc::new(Self { ca: ca.clone(), leaf, presented, certificate: Mutex::new(pair.cert_pem) }))
    }

    /// To be called before a connection is made.
    pub(crate) fn refresh(&self) -> anyhow::Result<()> {
        self.refresh_at(Timestamp::now())
    }

    fn refresh_at(&self, now: Timestamp) -> anyhow::Result<()> {
        let mut certificate = self.certificate.lock().unwrap_or_else(PoisonError::into_inner);
        if pki::leaf::due_for_renewal(&certificate, now) {
            let pair = self.ca.issue(&self.leaf, now)?;
            self.presented.set(&pair)?;
            *certificate = pair.cert_pem;
        }
        Ok(())
    }

    /// TLS that trusts the cluster's CA alone and shows this certificate.
    pub(crate) fn client_tls(&self) -> anyhow::Result<ClientConfig> {
        verified_tls(self.ca.cert_pem(), Some(&self.presented))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use rustls::client::ResolvesClientCert;

    #[test]
    fn a_connection_shows_a_certificate_that_holds_when_it_is_made() {
        let now = Timestamp::now();
        let ca = Ca::from_pem(&Ca::generate("rk-test", now).unwrap()).unwrap();
        let credentials = Credentials::issue(&ca, "a").unwrap();
        let shown = || credentials.presented.resolve(&[], &[]).unwrap().cert[0].clone();
        let first = shown();
        credentials.refresh_at(now + SignedDuration::from_hours(24 * 200)).unwrap();
        assert_eq!(first, shown());
        let later = now + SignedDuration::from_hours(24 * 300);
        credentials.refresh_at(later).unwrap();
        assert_ne!(first, shown());
        assert!(!pki::leaf::due_for_renewal(&credentials.certificate.lock().unwrap(), later));
    }
}
