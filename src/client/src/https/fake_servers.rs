//! Servers of one fake cluster on loopback, each of which can die, freeze, hang or lose its quorum.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::Body;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Credentials, HttpsConfig};
use crate::servers::ServerList;
use crate::testing::FakeApi;

pub(super) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(super) fn pem(&self) -> Vec<u8> {
        self.issuer.pem().into_bytes()
    }

    pub(super) fn config(&self, servers: ServerList) -> HttpsConfig {
        HttpsConfig { servers, ca_pem: self.pem(), credentials: Credentials::Token("t0".into()), by_name: false }
    }

    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(leaf.pem().as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Works,
    /// Answers everything with 503, watches that were begun excepted.
    NoQuorum,
    /// Takes requests, and answers none.
    Hangs,
    /// Does what it is asked, and dies before it says so.
    DiesAnswering,
}

/// One server. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) url: String,
    api: FakeApi,
    health: watch::Sender<Health>,
    frozen: Arc<AtomicBool>,
    dead: CancellationToken,
    asked: Arc<Mutex<Vec<String>>>,
    connections: watch::Sender<usize>,
}

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl Server {
    pub(super) async fn start(ca: &Ca, api: &FakeApi) -> Self {
        Self::named(ca, api, "127.0.0.1").await
    }

    /// With a certificate for `name` alone.
    pub(super) async fn named(ca: &Ca, api: &FakeApi, name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            url: format!("https://{}", listener.local_addr().unwrap()),
            api: api.clone(),
            health: watch::Sender::new(Health::Works),
            frozen: Arc::default(),
            dead: CancellationToken::new(),
            asked: Arc::default(),
            connections: watch::Sender::new(0),
        };
        let (this, acceptor) = (server.clone(), ca.acceptor(name));
        tokio::spawn(async move {
            let accepting = async {
                while let Ok((tcp, _)) = listener.accept().await {
                    let (this, acceptor) = (this.clone(), acceptor.clone());
                    tokio::spawn(
                        async move { this.dead.clone().run_until_cancelled(this.connection(acceptor, tcp)).await },
                    );
                }
            };
            this.dead.run_until_cancelled(accepting).await;
        });
        server
    }

    async fn connection(&self, acceptor: TlsAcceptor, tcp: TcpStream) {
        let Ok(tls) = acceptor.accept(Gate { tcp, frozen: self.frozen.clone() }).await else { return };
        self.connections.send_modify(|count| *count += 1);
        let service = service_fn(|request: Request<Incoming>| {
            let this = self.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        connection.serve_connection(TokioIo::new(tls), service).await.ok();
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let line = format!("{} {}", request.method(), request.uri().path_and_query().unwrap());
        self.asked.lock().unwrap().push(line);
        let health = *self.health.borrow();
        match health {
            Health::NoQuorum => return status(503),
            Health::Hangs => std::future::pending().await,
            Health::Works | Health::DiesAnswering => {}
        }
        if request.uri().path() == "/readyz" {
            return status(200);
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let writes = head.method != Method::GET;
        let reply = self.api.answer(Request::from_parts(head, Body::from(body))).await;
        if health == Health::DiesAnswering && writes {
            self.kill();
            std::future::pending().await
        }
        reply
    }

    pub(super) fn set(&self, health: Health) {
        self.health.send_replace(health);
    }

    /// As by SIGKILL: connections are closed, further ones refused.
    pub(super) fn kill(&self) {
        self.dead.cancel();
    }

    /// As by SIGSTOP: the kernel goes on taking connections and bytes, nobody reads them.
    pub(super) fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    pub(super) fn connections(&self) -> usize {
        *self.connections.borrow()
    }

    /// How many requests so far contain `part` in their method, path and query.
    pub(super) fn asked(&self, part: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }
}

fn status(code: u16) -> Reply {
    Response::builder().status(code).body(Empty::new().boxed_unsync()).unwrap()
}

struct Gate {
    tcp: TcpStream,
    frozen: Arc<AtomicBool>,
}

impl Gate {
    fn open(&mut self) -> Option<Pin<&mut TcpStream>> {
        (!self.frozen.load(Ordering::SeqCst)).then(|| Pin::new(&mut self.tcp))
    }
}

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let frozen = self.frozen.clone();
        let had = buf.filled().len();
        let Some(tcp) = self.get_mut().open() else { return Poll::Pending };
        let read = tcp.poll_read(cx, buf);
        // What came after the freeze stays unread.
        if frozen.load(Ordering::SeqCst) && buf.filled().len() > had {
            return Poll::Pending;
        }
        read
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().open().map_or(Poll::Pending, |tcp| tcp.poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().open().map_or(Poll::Pending, |tcp| tcp.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().open().map_or(Poll::Pending, |tcp| tcp.poll_shutdown(cx))
    }
}
