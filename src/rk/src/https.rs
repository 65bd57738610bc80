//! One HTTPS request, or one upgraded connection, to a server: what joining and the tunnel need.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the handshake to the head of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 1 << 20;

/// A server, `https://HOST:PORT`, and how to verify it.
#[derive(Clone)]
pub(crate) struct Https {
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
}

/// The server answered with an error status; `text` is its explanation.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    text: String,
}

impl Https {
    pub(crate) fn new(url: &str, tls: ClientConfig) -> anyhow::Result<Self> {
        let uri: http::Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        let host = uri.host().with_context(|| format!("{url:?} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(6443), tls: Arc::new(tls) })
    }

    /// Sends a request and reads the whole answer; an error status is a [`Refused`].
    pub(crate) async fn send(&self, request: Request<Bytes>) -> anyhow::Result<Bytes> {
        let response = self.exchange(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error)).context("read the server's answer")?.to_bytes();
        if head.status.is_success() {
            return Ok(body);
        }
        Err(Refused { status: head.status, text: explanation(head.status, &body) }.into())
    }

    /// Sends an upgrade request and returns the connection once the server has switched protocols.
    pub(crate) async fn upgrade(&self, path: &str, protocol: &str) -> anyhow::Result<TokioIo<Upgraded>> {
        let request = Request::get(path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, protocol)
            .body(Bytes::new())?;
        let response = self.exchange(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            bail!("the server answered {} instead of opening the tunnel", response.status());
        }
        Ok(TokioIo::new(hyper::upgrade::on(response).await.context("take over the connection")?))
    }

    async fn exchange(&self, request: Request<Bytes>) -> anyhow::Result<Response<Incoming>> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await.context("connecting timed out")??;
        tokio::time::timeout(ANSWER_TIMEOUT, self.ask(stream, request)).await.context("the server does not answer")?
    }

    async fn ask(&self, stream: TcpStream, mut request: Request<Bytes>) -> anyhow::Result<Response<Incoming>> {
        let name =
            ServerName::try_from(self.host.clone()).with_context(|| format!("{:?} is no host name", self.host))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await.context("TLS handshake")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("HTTP handshake")?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the server ended");
            }
        });
        let host = format!("{}:{}", self.host, self.port).parse().context("host header")?;
        request.headers_mut().insert(header::HOST, host);
        sender.send_request(request.map(Full::new)).await.context("send the request")
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let addresses = self.addresses().await?;
        let mut last = None;
        for address in addresses {
            match TcpStream::connect(SocketAddr::new(address, self.port)).await {
                Ok(stream) => {
                    stream.set_nodelay(true).context("set TCP_NODELAY")?;
                    notice_silence(&stream).context("set TCP keepalives")?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        let place = format!("connect to {}:{}", self.host, self.port);
        match last {
            Some(error) => Err(error).context(place),
            None => bail!("{place}: the name has no address"),
        }
    }

    async fn addresses(&self) -> anyhow::Result<Vec<IpAddr>> {
        if let Ok(address) = self.host.parse() {
            return Ok(vec![address]);
        }
        let resolver = hickory_resolver::TokioResolver::builder_tokio().context("read /etc/resolv.conf")?.build()?;
        let found = resolver.lookup_ip(self.host.as_str()).await.with_context(|| format!("resolve {}", self.host))?;
        Ok(found.iter().collect())
    }
}

/// A tunnel may be idle for days: a server that vanished without a word is noticed by unanswered probes, within 30 s.
fn notice_silence(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &10)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &5)?;
    setsockopt(stream, sockopt::TcpKeepCount, &4)?;
    // Data that nobody acknowledges counts like unanswered probes.
    setsockopt(stream, sockopt::TcpUserTimeout, &30_000)
}

fn explanation(status: StatusCode, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    match serde_json::from_slice::<Message>(body) {
        Ok(Message { message }) => message,
        Err(_) => format!("the server answered {status}"),
    }
}
