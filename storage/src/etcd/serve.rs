//! One client's connection: accepts calls and hands each to its service.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, StatusCode};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Endpoint;
use super::grpc::{self, Gone, Inbound, Outbound};
use super::status::{Code, Status};

/// Calls that one connection may have open at once; a watch stream is one, however many watches it carries.
const MAX_CALLS: u32 = 16_384;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why a connection ended other than by the client's wish.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the client did not speak HTTP/2 in time")]
    Slow,
    #[error("HTTP/2 failed")]
    Http(#[from] h2::Error),
}

/// One call.
pub(super) struct Call {
    pub(super) inbound: Inbound,
    respond: SendResponse<Bytes>,
    timeout: Option<Duration>,
}

impl Endpoint {
    /// Serves one client until it goes.
    pub async fn serve<T>(&self, io: T) -> Result<(), ServeError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_CALLS)
            .max_header_list_size(16 << 10);
        let handshake = tokio::time::timeout(HANDSHAKE, builder.handshake::<_, Bytes>(io));
        let mut connection = handshake.await.map_err(|_| ServeError::Slow)??;
        // One more reference than there are calls.
        let open = Arc::new(());
        loop {
            let accepted = match poll_fn(|cx| Poll::Ready(connection.poll_accept(cx))).await {
                Poll::Ready(Some(accepted)) => accepted,
                Poll::Ready(None) => return Ok(()),
                Poll::Pending => {
                    woken().await;
                    // With several calls open, what else is ready to be answered goes out with what woke us.
                    if Arc::strong_count(&open) > 2 {
                        tokio::task::yield_now().await;
                    }
                    continue;
                }
            };
            let (request, respond) = accepted?;
            let (endpoint, open) = (self.clone(), open.clone());
            tokio::spawn(async move {
                endpoint.call(request, respond).await;
                drop(open);
            });
        }
    }

    async fn call(self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            return grpc::refuse_http(respond, StatusCode::METHOD_NOT_ALLOWED);
        }
        let content = head.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content.is_some_and(|content| content.starts_with("application/grpc")) {
            return grpc::refuse_http(respond, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        match grpc::timeout(&head.headers) {
            Ok(timeout) => self.dispatch(head.uri.path(), Call { inbound: Inbound::new(body), respond, timeout }).await,
            Err(status) => grpc::refuse(respond, &status),
        }
    }

    async fn dispatch(&self, path: &str, call: Call) {
        match path.strip_prefix("/etcdserverpb.").and_then(|path| path.split_once('/')) {
            Some(("KV", method)) => self.keys(method, call).await,
            Some(("Watch", "Watch")) => {
                call.stream(async |inbound, outbound| self.watch(inbound, outbound).await).await
            }
            Some(("Lease", method)) => self.leases(method, call).await,
            Some(("Cluster", method)) => self.cluster(method, call).await,
            Some(("Maintenance", method)) => self.maintenance(method, call).await,
            Some(("Auth", method)) => self.authentication(method, call).await,
            _ if path == "/grpc.health.v1.Health/Check" => {
                call.unary(async |_: super::wire::Empty| Ok(super::wire::HealthResponse { status: 1 })).await;
            }
            _ => call.unknown(path),
        }
    }
}

/// Waits until the task is woken by something that has its waker.
async fn woken() {
    let mut asked = false;
    poll_fn(|_| if std::mem::replace(&mut asked, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

fn late() -> Status {
    Status::new(Code::DeadlineExceeded, "context deadline exceeded")
}

impl Call {
    /// One message in, one out.
    pub(super) async fn unary<Q, A>(mut self, handle: impl AsyncFnOnce(Q) -> Result<A, Status>)
    where
        Q: Message + Default,
        A: Message,
    {
        let inbound = &mut self.inbound;
        let work = async move { handle(inbound.only().await?).await };
        let outcome = match self.timeout {
            None => work.await,
            Some(timeout) => tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(late())),
        };
        grpc::answer(self.respond, outcome);
    }

    /// Any number of messages both ways; ends with the status that `handle` returns.
    pub(super) async fn stream(self, handle: impl AsyncFnOnce(&mut Inbound, &mut Outbound) -> Result<Status, Gone>) {
        let Self { mut inbound, respond, timeout } = self;
        let Ok(mut outbound) = Outbound::open(respond) else { return };
        let work = handle(&mut inbound, &mut outbound);
        let outcome = match timeout {
            None => work.await,
            Some(timeout) => tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Ok(late())),
        };
        if let Ok(status) = outcome {
            outbound.finish(&status);
        }
    }

    pub(super) fn refuse(self, status: &Status) {
        grpc::refuse(self.respond, status);
    }

    pub(super) fn unknown(self, method: &str) {
        self.refuse(&Status::unimplemented(format!("unknown method {method}")));
    }
}
