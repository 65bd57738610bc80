//! The store's etcd endpoint on a port of its own, by mutual TLS.
//!
//! Invariant: nobody gets past the handshake whose certificate is not of the cluster's CA and in the group
//! [`ETCD_CLIENTS`]; being an administrator of the API is not enough, since the store holds what the API would refuse to
//! show or to write. Off unless asked for; started by the server.

use crate::config::ServerConfig;
use crate::https::notice_silence;
use crate::preflight;
use anyhow::{Context, anyhow, ensure};
use apiserver::ETCD_CLIENTS;
use jiff::Timestamp;
use pki::{Ca, Identity, KeyCert, Leaf, files};
use rustls::RootCertStore;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use storage::Store;
use storage::etcd::{Config, Endpoint};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// After an error of the listener itself, such as no file descriptors left.
const PAUSE: Duration = Duration::from_millis(200);
/// Connections that may be shaking hands, which anyone who reaches the port can begin; more are closed at once.
const HANDSHAKES: usize = 256;
/// Connections of clients that were let in; one more is closed. What each may hold is the endpoint's to bound.
const CLIENTS: usize = 1024;

pub(super) fn bind(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    preflight::bind(address).context("--etcd-listen")
}

/// Writes a client's files and serves until the process ends.
pub(super) async fn start(
    config: &ServerConfig,
    listener: std::net::TcpListener,
    store: &Store,
    ca: &Ca,
    serving: Arc<dyn ResolvesServerCert>,
) -> anyhow::Result<()> {
    let folder = config.data_dir.join("server/tls/etcd");
    preflight::private_folder(&folder)?;
    let client = Leaf::Client(Identity::new("system:rk:etcd-client", &[ETCD_CLIENTS]));
    let KeyCert { key_pem, cert_pem } = ca.issue(&client, Timestamp::now())?;
    for (name, content) in [("ca.crt", ca.cert_pem()), ("client.crt", &cert_pem), ("client.key", &key_pem)] {
        files::write_private(&folder.join(name), content.as_bytes())?;
    }
    let address = listener.local_addr().context("read the etcd listener's address")?;
    let host = if address.ip().is_unspecified() { config.advertise } else { address.ip() };
    let name = config.name.clone();
    let url = format!("https://{}", SocketAddr::new(host, address.port()));
    tracing::info!(%url, credentials = %folder.display(), "serving etcd's interface to the store");
    let described = Config { name, client_urls: vec![url], peer_scheme: "https://", ..Config::default() };
    let endpoint = Endpoint::new(store.clone(), described).await?;
    let door = Arc::new(Door {
        endpoint,
        acceptor: acceptor(ca, serving)?,
        handshakes: Semaphore::new(HANDSHAKES),
        clients: Semaphore::new(CLIENTS),
    });
    let listener = TcpListener::from_std(listener).context("hand over the etcd listener")?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((connection, peer)) => {
                    let door = door.clone();
                    tokio::spawn(async move {
                        if let Err(error) = door.serve(connection).await {
                            tracing::debug!(%peer, error = format!("{error:#}"), "a connection of an etcd client ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of an etcd client");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    Ok(())
}

fn acceptor(ca: &Ca, serving: Arc<dyn ResolvesServerCert>) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.cert_der().to_vec()))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    // The latter for what is monitored.
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

/// What a connection passes through.
struct Door {
    endpoint: Endpoint,
    acceptor: TlsAcceptor,
    handshakes: Semaphore,
    clients: Semaphore,
}

impl Door {
    async fn serve(&self, connection: TcpStream) -> anyhow::Result<()> {
        let shaking = self.handshakes.try_acquire().map_err(|_| anyhow!("{HANDSHAKES} others are shaking hands"))?;
        connection.set_nodelay(true)?;
        notice_silence(&connection)?;
        let accepted = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(connection));
        let stream = accepted.await.context("TLS handshake")??;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let identity = certificate.and_then(|certificate| Identity::of_certificate(certificate));
        ensure!(
            identity.as_ref().is_some_and(|identity| identity.groups.iter().any(|group| group == ETCD_CLIENTS)),
            "the certificate of {:?} is not of group {ETCD_CLIENTS}",
            identity.map(|identity| identity.user)
        );
        drop(shaking);
        let _counted = self.clients.try_acquire().map_err(|_| {
            tracing::warn!("closing a connection of an etcd client: there are {CLIENTS}");
            anyhow!("{CLIENTS} clients are connected")
        })?;
        self.endpoint.serve(stream).await.context("serve")
    }
}
