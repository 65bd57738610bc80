//! The server's shared state, its start and its stop. Start: caches, then keys and roles that every cluster has,
//! then ready; stop: no new connections, running requests drain, watches end.
//!
//! What is served before the start is done are questions after health, and the paths of [`ExtraRoute`]s: by these the servers of a
//! cluster reach each other, and without each other they have no store to start on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::future::BoxFuture;
use http::{Request, Response};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::quota::Turns,
    alloc::Allocators,
    authn::{
        Authenticator, User,
        early::OrEarly,
        jwt::{JwtError, SigningKey},
        service_account::TokenAuthenticator,
    },
    authz::Authorizer,
    background,
    body::{Body, RequestBody},
    bootstrap,
    cache::Hub,
    config::Config,
    dial::SharedDialer,
    discovery::Documents,
    events::TtlLeases,
    in_process::InProcess,
    limits::Room,
    metrics::Metrics,
    registry::Registry,
    serve,
};

/// How long the other servers' connections are given to end.
const CLOSE: Duration = Duration::from_secs(1);

/// Why the server cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The client CA bundle has no usable certificate.
    #[error("the client CA bundle cannot be used")]
    ClientCa(#[source] VerifierBuilderError),
    /// A certificate of the bundle is broken.
    #[error("a certificate of the client CA bundle cannot be used")]
    Certificate(#[source] rustls::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The service-account signing key is of no use.
    #[error("the service-account signing key cannot be used")]
    SigningKey(#[source] JwtError),
    /// The objects every cluster has could not be written.
    #[error("cannot write the objects every cluster has")]
    Bootstrap(#[source] objects::status::Status),
}

/// Paths beyond the Kubernetes API, served behind the same listener and authentication but without authorization:
/// the route decides by the user it gets. An upgrade is taken from the request as hyper's `OnUpgrade`.
pub trait ExtraRoute: Send + Sync + 'static {
    /// Answers one request; `user` is `system:anonymous` when no credential was shown.
    fn handle(&self, request: Request<RequestBody>, user: Arc<User>) -> BoxFuture<'static, Response<Body>>;
}

/// The API server. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

/// What every request needs. Fields are set once at start.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) hub: Arc<Hub>,
    pub(crate) registry: Registry,
    pub(crate) authn: Authenticator,
    pub(crate) authz: Authorizer,
    pub(crate) signing_key: Arc<SigningKey>,
    pub(crate) allocators: Allocators,
    pub(crate) documents: Documents,
    pub(crate) event_leases: TtlLeases,
    pub(crate) quota_turns: Turns,
    pub(crate) metrics: Metrics,
    pub(crate) room: Room,
    pub(crate) dialer: SharedDialer,
    pub(crate) routes: ArcSwap<Vec<(String, Arc<dyn ExtraRoute>)>>,
    pub(crate) tls: TlsAcceptor,
    pub(crate) ready: AtomicBool,
    /// What the start waits for; nothing once it is done.
    pub(crate) starting: ArcSwapOption<String>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Later than `stop`: the other servers are served until then.
    pub(crate) closed: CancellationToken,
    /// The listener, and the other servers' connections.
    pub(crate) ports: TaskTracker,
}

impl ApiServer {
    /// [`ApiServer::new`] and [`ApiServer::bootstrap`] in one.
    ///
    /// # Errors
    /// When keys or certificates are unusable or the store refuses the first writes.
    pub async fn start(config: Config) -> Result<ApiServer, StartError> {
        let server = ApiServer::new(config)?;
        server.bootstrap().await?;
        Ok(server)
    }

    /// A server that is starting: it answers requests with 503 but for questions after health, and the paths of
    /// [`ExtraRoute`]s. No connection is accepted until [`ApiServer::serve`].
    ///
    /// # Errors
    /// When keys or certificates are unusable.
    pub fn new(mut config: Config) -> Result<ApiServer, StartError> {
        let signing_key =
            Arc::new(SigningKey::from_pkcs8(&config.service_accounts.signing_key).map_err(StartError::SigningKey)?);
        config.service_accounts.signing_key.clear();
        let tls = tls_acceptor(&config)?;
        let hub = Hub::new(config.store.clone());
        let registry = Registry::built_in();
        let tokens = Arc::new(TokenAuthenticator::new(signing_key.clone(), &config.service_accounts, hub.clone()));
        let inner = Arc::new(Inner {
            authn: Authenticator::new(&config.tokens, tokens, config.anonymous),
            authz: Authorizer::new(hub.clone()),
            allocators: Allocators::new(&config.service_cidrs, config.node_ports.clone()),
            documents: Documents::default(),
            event_leases: TtlLeases::new(config.store.clone(), config.event_ttl),
            quota_turns: Turns::default(),
            metrics: Metrics::new(),
            room: Room::new(&config.limits),
            dialer: config.dialer.clone(),
            routes: ArcSwap::default(),
            ready: AtomicBool::new(false),
            starting: ArcSwapOption::from_pointee("the store".to_owned()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
            ports: TaskTracker::new(),
            signing_key,
            tls,
            hub,
            registry,
            config,
        });
        inner.tasks.spawn(inner.hub.clone().run(inner.stop.clone()));
        Ok(ApiServer { inner })
    }

    /// Says, while the server is starting, what it waits for; whoever asks is told.
    pub fn waits_for(&self, what: &str) {
        if self.inner.starting.load().is_some() {
            self.inner.starting.store(Some(Arc::new(what.to_owned())));
        }
    }

    /// Waits for what the cluster has, writes the objects every cluster has, and starts the server's own tasks. It may be
    /// tried again when it fails.
    ///
    /// # Errors
    /// When the store refuses the first writes.
    pub async fn bootstrap(&self) -> Result<(), StartError> {
        let inner = &self.inner;
        bootstrap::run(inner).await.map_err(StartError::Bootstrap)?;
        background::spawn(inner);
        inner.starting.store(None);
        inner.ready.store(true, Ordering::Release);
        tracing::info!("api server ready");
        Ok(())
    }

    /// Accepts connections until [`ApiServer::shutdown`] or [`ApiServer::close`].
    pub async fn serve(&self, listener: TcpListener) {
        self.inner.ports.track_future(serve::accept(&self.inner, listener)).await;
    }

    /// Serves TLS on one connection that was accepted elsewhere.
    pub async fn serve_connection(&self, stream: tokio::net::TcpStream) {
        serve::connection(self.inner.clone(), stream).await;
    }

    /// A tower service that sends requests as `user` through the same chain as the network does.
    pub fn service_for(&self, user: User) -> InProcess {
        InProcess::new(self.inner.clone(), Arc::new(user.authenticated()))
    }

    /// Adds a handler for all paths that begin with `prefix`, for example `/rk/v1/`.
    pub fn add_route(&self, prefix: &str, route: Arc<dyn ExtraRoute>) {
        self.inner.routes.rcu(|routes| {
            let mut routes = routes.as_ref().clone();
            routes.push((prefix.to_owned(), route.clone()));
            routes
        });
    }

    /// Shows metrics of other components of the process at `/metrics`.
    pub fn extend_metrics(&self, register: impl FnOnce(&mut prometheus_client::registry::Registry)) {
        self.inner.metrics.extend(register);
    }

    /// Whether the server answers `/readyz` with ok.
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire) && !self.inner.stop.is_cancelled()
    }

    /// [`ApiServer::drain`] and [`ApiServer::close`] in one.
    pub async fn shutdown(&self, grace: Duration) {
        self.drain(grace).await;
        self.close().await;
    }

    /// Ends watches, takes nobody in any more, and waits up to `grace` for running requests. The other servers still come
    /// through: by this port the store hears that what it is writing has been written.
    pub async fn drain(&self, grace: Duration) {
        self.inner.ready.store(false, Ordering::Release);
        self.inner.stop.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(grace, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!(open = self.inner.tasks.len(), "requests still running at the end of the grace period");
        }
    }

    /// Gives up the port, and the connections of the other servers.
    pub async fn close(&self) {
        self.inner.closed.cancel();
        self.inner.ports.close();
        if tokio::time::timeout(CLOSE, self.inner.ports.wait()).await.is_err() {
            tracing::debug!(open = self.inner.ports.len(), "other servers still ask this one");
        }
    }
}

fn tls_acceptor(config: &Config) -> Result<TlsAcceptor, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.client_ca_pem.as_bytes()).flatten() {
        roots.add(certificate).map_err(StartError::Certificate)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(StartError::ClientCa)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(StartError::Tls)?
        .with_client_cert_verifier(Arc::new(OrEarly(verifier)))
        .with_cert_resolver(config.serving.clone());
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}
