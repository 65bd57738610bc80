//! The certificate of the API port: for every name and address that this server is reached by, and with the identity by
//! which the other servers know it. It is renewed at the handshake that finds it due.

use crate::config::{ServerConfig, nth_address};
use crate::join::identity::certified_key;
use jiff::Timestamp;
use pki::{Ca, Identity, Leaf};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError, RwLock};

#[derive(Debug)]
pub(super) struct Serving {
    ca: Ca,
    leaf: Leaf,
    current: RwLock<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    key: Arc<CertifiedKey>,
    pem: Arc<str>,
}

impl Serving {
    pub(super) fn issue(config: &ServerConfig, ca: &Ca) -> anyhow::Result<Arc<Self>> {
        let leaf = leaf(config);
        let current = Current::issue(ca, &leaf, Timestamp::now())?;
        Ok(Arc::new(Self { ca: ca.clone(), leaf, current: RwLock::new(current) }))
    }

    fn at(&self, now: Timestamp) -> Arc<CertifiedKey> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        if !pki::leaf::due_for_renewal(&current.pem, now) {
            return current.key;
        }
        match Current::issue(&self.ca, &self.leaf, now) {
            Ok(renewed) => {
                tracing::info!("the server's certificate is renewed");
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed.clone();
                renewed.key
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the server's certificate is not renewed");
                current.key
            }
        }
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.at(Timestamp::now()))
    }
}

impl Current {
    fn issue(ca: &Ca, leaf: &Leaf, now: Timestamp) -> anyhow::Result<Self> {
        let pair = ca.issue(leaf, now)?;
        Ok(Self { key: Arc::new(certified_key(&pair)?), pem: pair.cert_pem.into() })
    }
}

fn leaf(config: &ServerConfig) -> Leaf {
    let domain = &config.network.domain;
    let mut dns_names: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).to_vec();
    dns_names.push(format!("kubernetes.default.svc.{domain}"));
    dns_names.push(config.name.clone());
    let mut addresses = vec![
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V4(nth_address(config.network.service_cidr, 1)),
        config.advertise,
    ];
    let listening = [Some(config.listen), config.etcd_listen].into_iter().flatten().map(|address| address.ip());
    addresses.extend(listening.filter(|ip| !ip.is_unspecified()));
    addresses.extend(config.node.as_ref().map(|node| node.ip));
    for san in &config.tls_sans {
        match san.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => dns_names.push(san.clone()),
        }
    }
    addresses.sort();
    addresses.dedup();
    Leaf::Peer { identity: Identity::server(&config.name), dns_names, addresses }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    #[test]
    fn a_certificate_that_is_due_is_renewed_at_the_handshake() {
        let now = Timestamp::now();
        let ca = Ca::from_pem(&Ca::generate("rk-test", now).unwrap()).unwrap();
        let leaf = Leaf::Peer { identity: Identity::server("a"), dns_names: vec!["a".into()], addresses: Vec::new() };
        let current = RwLock::new(Current::issue(&ca, &leaf, now).unwrap());
        let serving = Serving { ca, leaf, current };
        let first = serving.at(now);
        assert!(Arc::ptr_eq(&first, &serving.at(now + SignedDuration::from_hours(24 * 200))));
        let later = now + SignedDuration::from_hours(24 * 300);
        let renewed = serving.at(later);
        assert!(!Arc::ptr_eq(&first, &renewed) && Arc::ptr_eq(&renewed, &serving.at(later)));
    }
}
