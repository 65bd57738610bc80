//! A small API client: one keep-alive HTTP/1.1 connection over mutual TLS, one request in flight.
//!
//! Deliberately less than `kube::Client`: the client shares the machine with the server it measures.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the server is, and who we are to it.
#[derive(Clone)]
pub(super) struct Kubeconfig {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

#[derive(Deserialize)]
struct Text {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

impl Kubeconfig {
    /// Reads a kubeconfig of one cluster and one user with a client certificate; the server must be an IP address.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let text: Text = serde_yaml_ng::from_str(text).context("read the kubeconfig")?;
        let cluster = &text.clusters.first().context("the kubeconfig has no cluster")?.cluster;
        let user = &text.users.first().context("the kubeconfig has no user")?.user;
        let uri: Uri = cluster.server.parse().with_context(|| format!("{:?} is no URL", cluster.server))?;
        let address = uri.authority().context("the server has no address")?.as_str();
        let address = address.parse().with_context(|| format!("{address:?} is no IP address with a port"))?;
        Ok(Self { address, tls: Arc::new(tls(cluster, user)?) })
    }
}

fn tls(cluster: &Cluster, user: &User) -> anyhow::Result<ClientConfig> {
    let pem = |data: &str| STANDARD.decode(data).context("the kubeconfig's certificates are no base64");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem(&cluster.certificate_authority_data)?)?)?;
    let certificates = pem(&user.client_certificate_data)?;
    let chain = CertificateDer::pem_slice_iter(&certificates).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&pem(&user.client_key_data)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?)
}

/// One connection.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

impl Connection {
    pub(super) async fn open(kubeconfig: &Kubeconfig) -> anyhow::Result<Self> {
        let address = kubeconfig.address;
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(kubeconfig.tls.clone());
        let stream = connector.connect(ServerName::IpAddress(address.ip().into()), stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its error reaches whoever waits for an answer.
        tokio::spawn(async move { connection.await.unwrap_or_default() });
        Ok(Self { sender, host: HeaderValue::try_from(address.to_string())? })
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.start(method, path, body).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// Sends a request and returns as soon as the answer begins: for watches.
    pub(super) async fn start(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(body.unwrap_or_default()))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// A request that must succeed; returns the answer's body.
    pub(super) async fn must(&mut self, method: Method, path: &str, body: Option<Bytes>) -> anyhow::Result<Bytes> {
        let (status, answer) = self.send(method.clone(), path, body).await?;
        let text = String::from_utf8_lossy(&answer);
        ensure!(status.is_success(), "{method} {path}: {status}: {text}");
        Ok(answer)
    }

    /// Creates a namespace and waits for its default service account, which pods need.
    pub(super) async fn make_namespace(&mut self, name: &str) -> anyhow::Result<()> {
        let body = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.must(Method::POST, "/api/v1/namespaces", Some(body.to_string().into())).await?;
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        for _ in 0..1_000 {
            if self.send(Method::GET, &path, None).await?.0.is_success() {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        anyhow::bail!("namespace {name} got no default service account within 10 s")
    }
}
