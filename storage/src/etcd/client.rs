//! A client of etcd's interface, over any byte stream: what tests and measurements speak to this endpoint and to an etcd
//! alike.

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::grpc;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("HTTP/2 failed")]
    Http(#[from] h2::Error),
    #[error("{message} (code {code})")]
    Status { code: u16, message: String },
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
}

/// A connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    requests: SendRequest<Bytes>,
    needs_leader: bool,
}

/// The sending half of a stream of messages.
#[derive(Debug)]
pub struct Asking {
    stream: SendStream<Bytes>,
}

/// The receiving half of a stream of messages.
#[derive(Debug)]
pub struct Answers {
    body: RecvStream,
    buffer: BytesMut,
}

impl Client {
    /// Shakes hands and drives the connection in a task of its own until the last clone is gone.
    pub async fn connect<T>(io: T) -> Result<Self, CallError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(8 << 20);
        let (requests, connection) = builder.handshake::<_, Bytes>(io).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection ended");
            }
        });
        Ok(Self { requests, needs_leader: false })
    }

    /// The same connection, for calls that fail and streams that end when there is no leader.
    pub fn requiring_leader(&self) -> Self {
        Self { needs_leader: true, ..self.clone() }
    }

    /// One message out, one in. `method` is like `KV/Range`.
    pub async fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A, CallError> {
        let (mut asking, answers) = self.begin(method).await?;
        asking.send(request, true)?;
        let mut answers = answers.await?;
        let answer = answers.next().await?.ok_or(CallError::Malformed("no message"))?;
        answers.end().await?;
        Ok(answer)
    }

    /// Messages both ways; the first one is sent along.
    pub async fn stream(&self, method: &str, first: &impl Message) -> Result<(Asking, Answers), CallError> {
        let (mut asking, answers) = self.begin(method).await?;
        asking.send(first, false)?;
        Ok((asking, answers.await?))
    }

    async fn begin(
        &self,
        method: &str,
    ) -> Result<(Asking, impl Future<Output = Result<Answers, CallError>> + use<>), CallError> {
        let mut request = Request::post(format!("http://etcd/etcdserverpb.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if self.needs_leader {
            request = request.header("hasleader", "true");
        }
        let request = request.body(()).map_err(|_| CallError::Malformed("method"))?;
        let mut requests = self.requests.clone().ready().await?;
        let (response, stream) = requests.send_request(request, false)?;
        let answers = async move {
            let (head, body) = response.await?.into_parts();
            check(&head.headers)?;
            Ok(Answers { body, buffer: BytesMut::new() })
        };
        Ok((Asking { stream }, answers))
    }
}

impl Asking {
    /// Sends a message, the last one if `end`.
    pub fn send(&mut self, message: &impl Message, end: bool) -> Result<(), CallError> {
        let framed = grpc::frame(message).map_err(|_| CallError::Malformed("request"))?;
        Ok(self.stream.send_data(framed, end)?)
    }
}

impl Answers {
    /// The next message; nothing at a good end.
    pub async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) =
                grpc::take(&mut self.buffer, u32::MAX as usize).map_err(|_| CallError::Malformed("frame"))?
            {
                return A::decode(message).map(Some).map_err(|_| CallError::Malformed("message"));
            }
            match self.body.data().await {
                Some(chunk) => {
                    let chunk = chunk?;
                    self.body.flow_control().release_capacity(chunk.len())?;
                    self.buffer.extend_from_slice(&chunk);
                }
                None => return self.end().await.map(|()| None),
            }
        }
    }

    async fn end(&mut self) -> Result<(), CallError> {
        while let Some(chunk) = self.body.data().await {
            self.body.flow_control().release_capacity(chunk?.len())?;
        }
        match self.body.trailers().await? {
            Some(trailers) => check(&trailers),
            None => Ok(()),
        }
    }
}

fn check(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let code = text("grpc-status").and_then(|code| code.parse().ok()).unwrap_or(0);
    if code == 0 {
        return Ok(());
    }
    let message = text("grpc-message").unwrap_or_default();
    let message = percent_encoding::percent_decode_str(message).decode_utf8_lossy().into_owned();
    Err(CallError::Status { code, message })
}
