//! The HTTPS transport: TLS 1.3 by rustls and ring, trust in one CA only, HTTP/2 with one connection to one of
//! several API servers ([`crate::servers`]), and from one to another of them when a server is lost ([`transport`]).
//!
//! Names are resolved by hickory: a static executable must not call the C library's resolver.

mod again;
#[cfg(test)]
mod fake_servers;
mod link;
mod transport;
#[cfg(test)]
#[path = "https/tests.rs"]
mod wire_tests;

use std::sync::Arc;

use http::HeaderValue;
use rustls::client::ResolvesClientCert;

use self::transport::Transport;
use crate::dial::{DialError, Dialer, Target};
use crate::servers::ServerList;
use crate::tls::{self, Identity, TlsError};

/// Who the client says it is.
#[derive(Clone)]
pub enum Credentials {
    Anonymous,
    /// A client certificate chain and its key, both PEM.
    Certificate {
        cert_pem: Vec<u8>,
        key_pem: Vec<u8>,
    },
    /// Certificates that change while the client lives: each new connection shows the current one.
    Changing(Arc<dyn ResolvesClientCert>),
    /// A bearer token.
    Token(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Certificate { .. } => "Certificate",
            Self::Changing(_) => "Changing",
            Self::Token(_) => "Token",
        })
    }
}

#[derive(Clone, Debug)]
pub struct HttpsConfig {
    pub servers: ServerList,
    /// The only certificates trusted, PEM.
    pub ca_pem: Vec<u8>,
    pub credentials: Credentials,
    /// Whether a server is known by the name that all API servers of the cluster have, wherever it is; else by its
    /// address. For lists that are learnt: nobody who could write to them can put a machine there that is no server.
    pub by_name: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    #[error("the list of API servers is empty")]
    NoServers,
    #[error("{0:?} is not an https://HOST:PORT address")]
    BadServer(String),
    #[error("token has characters that a header cannot carry")]
    Token,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("no API server could be reached; last tried {server}")]
    Unreachable { server: String, source: DialError },
    #[error("{server} does not speak HTTP/2")]
    Broken { server: String, source: hyper::Error },
    #[error("the list of API servers is empty")]
    NoServers,
}

/// A client of the servers in `config`. Must be called within a tokio runtime; connects on first use.
pub fn https(config: HttpsConfig) -> Result<kube::Client, HttpsError> {
    let HttpsConfig { servers, ca_pem, credentials, by_name } = config;
    if servers.is_empty() {
        return Err(HttpsError::NoServers);
    }
    for server in servers.candidates() {
        Target::parse(&server).ok_or(HttpsError::BadServer(server))?;
    }
    let (identity, authorization) = match &credentials {
        Credentials::Anonymous | Credentials::Changing(_) => (None, None),
        Credentials::Certificate { cert_pem, key_pem } => (Some(Identity { cert_pem, key_pem }), None),
        Credentials::Token(token) => (None, Some(bearer(token)?)),
    };
    let mut tls = tls::trusting(&ca_pem, identity)?;
    if let Credentials::Changing(certificates) = &credentials {
        tls.client_auth_cert_resolver = certificates.clone();
    }
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let dialer = Dialer::new(tls);
    let dialer = if by_name { dialer.to_api_server() } else { dialer };
    let transport = Transport::new(servers, dialer, authorization);
    Ok(kube::Client::new(tower::service_fn(move |request| transport.clone().send(request)), "default"))
}

fn bearer(token: &str) -> Result<HeaderValue, HttpsError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_invalid| HttpsError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_or_malformed_server_list_is_refused_by_name() {
        let config = |servers: Vec<String>| HttpsConfig {
            servers: servers.into(),
            ca_pem: Vec::new(),
            credentials: Credentials::Anonymous,
            by_name: false,
        };
        assert!(matches!(https(config(vec![])), Err(HttpsError::NoServers)));
        let error = https(config(vec!["ftp://x".into()])).err().unwrap();
        assert_eq!(error.to_string(), "\"ftp://x\" is not an https://HOST:PORT address");
        assert!(matches!(https(config(vec!["https://10.0.0.1:6443".into()])), Err(HttpsError::Tls(TlsError::NoCa))));
    }

    #[test]
    fn a_token_is_not_printed() {
        assert_eq!(format!("{:?}", Credentials::Token("secret".into())), "Token");
        assert!(bearer("with\nnewline").is_err());
    }
}
