//! A small API client: one keep-alive HTTP/1.1 connection over mutual TLS, one request in flight.
//!
//! Deliberately less than `kube::Client`: the client shares the machine with the server it measures.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use client::{Dialer, Kubeconfig};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

/// Where the server is, and who we are to it.
#[derive(Clone)]
pub(super) struct Target {
    server: String,
    dialer: Arc<Dialer>,
}

impl Target {
    /// Reads a kubeconfig of one cluster and one user with a client certificate.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let config = Kubeconfig::parse(text).context("read the kubeconfig")?;
        let tls = client::tls::trusting(&config.ca_pem, Some(config.identity()))?;
        Ok(Self { server: config.server, dialer: Arc::new(Dialer::new(tls)) })
    }
}

/// One connection.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

impl Connection {
    pub(super) async fn open(target: &Target) -> anyhow::Result<Self> {
        let Target { server, dialer } = target;
        let stream = dialer.dial(server).await.with_context(|| format!("connect to {server}"))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its error reaches whoever waits for an answer.
        tokio::spawn(async move { connection.await.unwrap_or_default() });
        Ok(Self { sender, host: HeaderValue::try_from(server.trim_start_matches("https://"))? })
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
