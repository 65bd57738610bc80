//! One HTTPS request, or one upgraded connection, to a server: what joining and the tunnel need.

use anyhow::{Context, bail};
use bytes::Bytes;
use client::Dialer;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use std::time::Duration;
use tokio::net::TcpStream;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 1 << 20;

/// A server, `https://HOST:PORT`, and how to verify it.
pub(crate) struct Https {
    server: String,
    dialer: Dialer,
    /// Longest time from the handshake to the head of the answer.
    patience: Duration,
}

/// The server answered with an error status; `text` is its explanation.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    text: String,
}

impl Https {
    pub(crate) fn new(server: &str, tls: ClientConfig) -> Self {
        Self { server: server.to_owned(), dialer: Dialer::new(tls), patience: ANSWER_TIMEOUT }
    }

    /// For answers that take long to make.
    pub(crate) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Takes any server of the cluster at that address, and no other machine of it.
    #[must_use]
    pub(crate) fn by_name(self) -> Self {
        Self { dialer: self.dialer.to_api_server(), ..self }
    }

    /// Sends a request and reads the whole answer; an error status is a [`Refused`].
    pub(crate) async fn send(&self, request: Request<Bytes>) -> anyhow::Result<Bytes> {
        let response = self.exchange(request).await?;
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(self.patience, Limited::new(body, MAX_ANSWER).collect()).await;
        let body = body.context("the server's answer does not come to its end")?;
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

    async fn exchange(&self, mut request: Request<Bytes>) -> anyhow::Result<Response<Incoming>> {
        let place = || format!("connect to {}", self.server);
        let stream = self.dialer.dial(&self.server).await.with_context(place)?;
        notice_silence(stream.get_ref().0).context("set TCP keepalives")?;
        let host = self.server.trim_start_matches("https://").parse().context("host header")?;
        request.headers_mut().insert(header::HOST, host);
        let answer = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("HTTP handshake")?;
            tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "connection to the server ended");
                }
            });
            sender.send_request(request.map(Full::new)).await.context("send the request")
        };
        tokio::time::timeout(self.patience, answer).await.context("the server does not answer")?
    }
}

/// A tunnel may be idle for days: a server that vanished without a word is noticed by unanswered probes, within 30 s.
pub(crate) fn notice_silence(stream: &TcpStream) -> nix::Result<()> {
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
