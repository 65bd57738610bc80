//! The HTTPS transport: TLS 1.3 by rustls and ring, trust in one CA only, HTTP/2 with one connection to one of
//! several API servers. When the connection breaks, the next server of the list is tried.
//!
//! Names are resolved by hickory: a static executable must not call the C library's resolver.

mod connect;
#[cfg(test)]
#[path = "https/tests.rs"]
mod wire_tests;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use rustls::client::ResolvesClientCert;
use tower::BoxError;

use self::connect::Connector;
use crate::dial::{Dialer, Target};
use crate::tls::{self, Identity, TlsError};

/// The API servers to try, as `https://HOST:PORT`, in order of preference. Shared: the agent adds servers as it
/// learns of them, and the next connection uses the new list.
#[derive(Clone, Debug, Default)]
pub struct ServerList {
    servers: Arc<RwLock<Vec<String>>>,
}

impl ServerList {
    pub fn new(servers: Vec<String>) -> Self {
        Self { servers: Arc::new(RwLock::new(servers)) }
    }

    pub fn set(&self, servers: Vec<String>) {
        *self.servers.write().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    pub fn get(&self) -> Vec<String> {
        self.servers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<Vec<String>> for ServerList {
    fn from(servers: Vec<String>) -> Self {
        Self::new(servers)
    }
}

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

/// Connections are pooled under this name, whatever server they are made to: the list fails over beneath it.
const AUTHORITY: &str = "kubernetes.default.svc";

/// Bytes in flight per stream and per connection: watches of many kinds share one connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A client of the servers in `config`. Must be called within a tokio runtime; connects on first use.
pub fn https(config: HttpsConfig) -> Result<kube::Client, HttpsError> {
    let HttpsConfig { servers, ca_pem, credentials } = config;
    if servers.get().is_empty() {
        return Err(HttpsError::NoServers);
    }
    for server in servers.get() {
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
    let connector = Connector::new(servers, Dialer::new(tls));
    let http = legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_only(true)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        // A server that vanished without a word is noticed by its silence while watches are open.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .build::<_, Body>(connector);
    let service = tower::service_fn(move |request| send(http.clone(), authorization.clone(), request));
    Ok(kube::Client::new(service, "default"))
}

async fn send(
    http: legacy::Client<Connector, Body>,
    authorization: Option<HeaderValue>,
    mut request: Request<Body>,
) -> Result<Response<Incoming>, BoxError> {
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(Scheme::HTTPS);
    uri.authority = Some(Authority::from_static(AUTHORITY));
    *request.uri_mut() = Uri::from_parts(uri)?;
    if let Some(value) = authorization {
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(http.request(request).await?)
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
