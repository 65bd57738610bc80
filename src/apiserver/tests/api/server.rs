//! A running API server with its data in a temporary folder.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use apiserver::{ApiServer, Body, Config, Limits, NoNodes, ServiceAccountConfig, User};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use pki::{Ca, Identity, Leaf};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use serde_json::Value;
use storage::Store;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

pub(crate) struct Server {
    pub(crate) api: ApiServer,
    store: Store,
    dir: Arc<TempDir>,
    address: SocketAddr,
    ca: Ca,
    serving: Option<tokio::task::JoinHandle<()>>,
}

/// The configuration of a server with its keys in a folder.
pub(crate) fn config(dir: &Path, ca: &Ca, store: Store, advertise: SocketAddr) -> Config {
    let leaf = Leaf::Server {
        common_name: "kube-apiserver".into(),
        dns_names: vec!["localhost".into()],
        addresses: vec![[127, 0, 0, 1].into()],
    };
    let serving = ca.issue(&leaf, Timestamp::now()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(serving.cert_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes()).unwrap();
    let certified = CertifiedKey::new(chain, any_supported_type(&key).unwrap());
    let signing = pki::authority::load_or_create_signing_key(&dir.join("sa.key")).unwrap();
    let signing = PrivateKeyDer::from_pem_slice(signing.as_bytes()).unwrap().secret_der().to_vec();
    Config {
        store,
        service_cidrs: vec!["10.43.0.0/24".parse().unwrap()],
        node_ports: 30000..=30100,
        advertise,
        serving: Arc::new(SingleCertAndKey::from(certified)),
        client_ca_pem: ca.cert_pem().to_owned(),
        service_accounts: ServiceAccountConfig {
            issuer: "https://kubernetes.default.svc".into(),
            audiences: vec!["https://kubernetes.default.svc".into()],
            signing_key: signing,
            max_expiration: Duration::from_secs(86400),
        },
        tokens: Vec::new(),
        dialer: Arc::new(NoNodes),
        anonymous: true,
        event_ttl: Duration::from_secs(3600),
        compaction_interval: Duration::from_secs(300),
        limits: Limits::default(),
        version: "v1.36.0+rk0".into(),
    }
}

/// Longest wait for anything that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

impl Server {
    pub(crate) async fn start() -> Server {
        Server::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Server {
        Server::start_in(Arc::new(tempfile::tempdir().unwrap()), limits).await
    }

    async fn start_in(dir: Arc<TempDir>, limits: Limits) -> Server {
        let now = Timestamp::now();
        let ca = Ca::load_or_create(dir.path(), "ca", "test-ca", now).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = Store::open(storage::Config::new(dir.path().join("db"), 1)).await.unwrap();
        let api = ApiServer::start(Config { limits, ..config(dir.path(), &ca, store.clone(), address) }).await.unwrap();
        let serving = {
            let api = api.clone();
            tokio::spawn(async move { api.serve(listener).await })
        };
        Server { api, store, dir, address, ca, serving: Some(serving) }
    }

    /// Stops the server and starts it again on the same data.
    pub(crate) async fn restart(mut self) -> Server {
        self.api.shutdown(Duration::from_secs(5)).await;
        if let Some(serving) = self.serving.take() {
            serving.await.unwrap();
        }
        self.store.shutdown().await;
        let dir = self.dir.clone();
        drop(self);
        Server::start_in(dir, Limits::default()).await
    }

    /// A kubeconfig for a client certificate.
    pub(crate) fn kubeconfig(&self, user: &str, group: &str) -> PathBuf {
        let leaf = Leaf::Client(Identity::new(user, &[group]));
        let pair = self.ca.issue(&leaf, Timestamp::now()).unwrap();
        let encode = |text: &str| STANDARD.encode(text);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \"https://{}\", certificate-authority-data: {}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{client-certificate-data: {}, client-key-data: {}}}}}]\n",
            self.address,
            encode(self.ca.cert_pem()),
            encode(&pair.cert_pem),
            encode(&pair.key_pem)
        );
        let path = self.dir.path().join(format!("{user}.yaml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A TLS connection that speaks one of these protocols, of a client with a certificate.
    pub(crate) async fn connect(&self, user: &str, group: &str, protocols: &[&str]) -> TlsStream<TcpStream> {
        let pair = self.ca.issue(&Leaf::Client(Identity::new(user, &[group])), Timestamp::now()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.cert_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut tls = builder.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(tls)).connect("localhost".try_into().unwrap(), stream).await.unwrap()
    }

    /// Whether nobody listens any more.
    pub(crate) async fn refuses(&self) -> bool {
        TcpStream::connect(self.address).await.is_err()
    }

    /// A folder for files of the test.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A client of the in-process transport with all rights.
    pub(crate) fn admin(&self) -> Client {
        self.client("admin", &["system:masters"])
    }

    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> Client {
        Client::of(&self.api, user, groups)
    }
}

#[derive(Clone)]
pub(crate) struct Client {
    api: ApiServer,
    user: User,
    headers: Vec<(&'static str, String)>,
}

impl Client {
    /// A client of the in-process transport.
    pub(crate) fn of(api: &ApiServer, user: &str, groups: &[&str]) -> Client {
        Client { api: api.clone(), user: User::new(user, groups.iter().copied()), headers: Vec::new() }
    }

    /// Sends a request and returns the answer with its body still to be read.
    pub(crate) async fn send(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> Response<Body> {
        let bytes = body.map(|value| serde_json::to_vec(value).unwrap()).unwrap_or_default();
        let mut request =
            Request::builder().method(method).uri(path).header("content-type", kind).header("user-agent", "test/1");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(bytes))).unwrap();
        self.api.service_for(self.user.clone()).call(request).await.unwrap()
    }

    /// The same client, whose requests carry these headers too.
    pub(crate) fn with(&self, headers: &[(&'static str, &str)]) -> Client {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Client { headers, ..self.clone() }
    }

    async fn json(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> (u16, Value) {
        let response = self.send(method, path, kind, body).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.json(Method::GET, path, "application/json", None).await
    }

    /// A GET as `kubectl get` makes it.
    pub(crate) async fn table(&self, path: &str) -> Value {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let request = Request::get(path).header("accept", accept).body(Full::new(Bytes::new())).unwrap();
        let response = self.api.service_for(self.user.clone()).call(request).await.unwrap();
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.json(Method::POST, path, "application/json", Some(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.json(Method::PUT, path, "application/json", Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: Value) -> (u16, Value) {
        self.json(Method::PATCH, path, kind, Some(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        self.json(Method::DELETE, path, "application/json", None).await
    }

    /// Creates an object and insists that it works.
    pub(crate) async fn create(&self, path: &str, body: Value) -> Value {
        let (code, made) = self.post(path, body).await;
        assert_eq!(code, 201, "{made}");
        made
    }

    /// Asks again and again until `wanted` accepts the answer.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        let asked = tokio::time::timeout(SOON, async {
            let mut pause = tokio::time::interval(Duration::from_millis(20));
            loop {
                pause.tick().await;
                let (code, value) = self.get(path).await;
                if wanted(code, &value) {
                    return value;
                }
            }
        });
        asked.await.unwrap_or_else(|_| panic!("{path} does not become what is wanted"))
    }
}
