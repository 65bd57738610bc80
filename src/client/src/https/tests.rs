//! The HTTPS transport against a TLS server on loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Credentials, HttpsConfig, ServerList, https};

struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn pem(&self) -> Vec<u8> {
        self.issuer.pem().into_bytes()
    }

    fn leaf(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (leaf.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

/// Serves `/version` over HTTP/2, with the number of connections so far and the Authorization header as minor.
async fn serve(ca: &Ca, connections: Arc<AtomicUsize>) -> SocketAddr {
    let (cert, key) = ca.leaf("127.0.0.1");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(&cert).unwrap()],
            PrivateKeyDer::from_pem_slice(&key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(tls) = acceptor.accept(tcp).await else { continue };
            connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| async move {
                    let who = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
                    let mut version = serde_json::json!({"major": "1", "minor": who.unwrap_or_default()});
                    for field in
                        ["buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "platform"]
                    {
                        version[field] = "".into();
                    }
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(version.to_string()))))
                });
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tls), service)
                    .await
                    .ok();
            });
        }
    });
    address
}

async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_dead_server_is_passed_over_and_one_connection_serves_all_requests() {
    let ca = Ca::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let servers = [closed_port().await, serve(&ca, connections.clone()).await];
    let client = https(HttpsConfig {
        servers: ServerList::new(servers.iter().map(|a| format!("https://{a}")).collect()),
        ca_pem: ca.pem(),
        credentials: Credentials::Token("t0".into()),
    })
    .unwrap();
    for _ in 0..3 {
        assert_eq!(client.apiserver_version().await.unwrap().minor, "Bearer t0");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused() {
    let address = serve(&Ca::new(), Arc::default()).await;
    let client = https(HttpsConfig {
        servers: vec![format!("https://{address}")].into(),
        ca_pem: Ca::new().pem(),
        credentials: Credentials::Anonymous,
    })
    .unwrap();
    let error = client.apiserver_version().await.unwrap_err();
    let mut chain = Some(&error as &dyn std::error::Error);
    let mut text = String::new();
    while let Some(error) = chain {
        text = format!("{text}: {error}");
        chain = error.source();
    }
    assert!(text.contains("invalid peer certificate"), "{text}");
}
