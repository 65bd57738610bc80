//! What the executable hands to [`crate::ApiServer::start`]. Everything is resolved already: no file is read and no
//! name is looked up from here on.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use ipnet::IpNet;
use rustls::server::ResolvesServerCert;

use crate::{authn::User, dial::NodeDialer, limits::Limits};

/// Everything an API server needs to run.
pub struct Config {
    /// The replicated store. Only the API server reads or writes keys below `/registry/`.
    pub store: storage::Store,
    /// Ranges that cluster IPs are given out from; the first is the primary one.
    pub service_cidrs: Vec<IpNet>,
    /// Range that node ports are given out from.
    pub node_ports: RangeInclusive<u16>,
    /// Address and port of this server as pods and other nodes reach it; the endpoint of the `kubernetes` Service.
    pub advertise: SocketAddr,
    /// Chooses the serving certificate at each handshake, so that a rotated one is used without a restart.
    pub serving: Arc<dyn ResolvesServerCert>,
    /// PEM bundle of the authorities whose client certificates are believed (user = CN, groups = O).
    pub client_ca_pem: String,
    /// How service-account tokens are signed and verified.
    pub service_accounts: ServiceAccountConfig,
    /// Bearer tokens that name a user outright (join tokens, bootstrap tokens).
    pub tokens: Vec<StaticToken>,
    /// Reaches the kubelet API of a node.
    pub dialer: Arc<dyn NodeDialer>,
    /// Whether requests without credentials are served as `system:anonymous`.
    pub anonymous: bool,
    /// How long an Event is kept.
    pub event_ttl: Duration,
    /// How often the store's history is compacted, when anything was written meanwhile.
    pub compaction_interval: Duration,
    /// How much is done at once.
    pub limits: Limits,
    /// Version shown by `/version`, for example `v1.36.0+rk0.1.0`.
    pub version: String,
}

/// Keys and names for service-account tokens.
pub struct ServiceAccountConfig {
    /// `iss` of the tokens, for example `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Audiences that this server itself answers to; the first is the default of a new token.
    pub audiences: Vec<String>,
    /// PKCS#8 DER of the signing key: ECDSA P-256 (ES256) or RSA (RS256).
    pub signing_key: Vec<u8>,
    /// The longest life a requested token may have.
    pub max_expiration: Duration,
}

/// A bearer token and the user it stands for.
#[derive(Clone)]
pub struct StaticToken {
    /// The secret, compared in constant time.
    pub secret: String,
    /// Who its holder is.
    pub user: User,
}
