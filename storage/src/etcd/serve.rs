//! One client's connection: accepts calls and hands each to its service.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use h2::server::SendResponse;
use http::request::Parts;
use http::{Method, StatusCode};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::grpc::{self, Gone, Inbound, Outbound};
use super::limits::{CONNECTION_WINDOW, Limits, MAX_CALLS, STREAM_WINDOW};
use super::pages::{Begun, Page};
use super::short::Taken;
use super::status::{Code, Status};
use super::{Endpoint, leader};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the one message of a call to come in.
const REQUEST: Duration = Duration::from_secs(60);

/// Why a connection ended other than by the client's wish.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the client did not speak HTTP/2 in time")]
    Slow,
    #[error("HTTP/2 failed")]
    Http(#[from] h2::Error),
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
}

/// One call.
pub(super) struct Call {
    pub(super) inbound: Inbound,
    pub(super) limits: Arc<Limits>,
    respond: SendResponse<Bytes>,
    pub(super) deadline: Option<Instant>,
    /// For an endpoint whose calls of this kind end with the leader.
    leaderless: Option<Endpoint>,
}

/// What a call is answered whose headers are enough.
enum Early {
    Page(Page),
    Http(StatusCode),
    Grpc(Status),
}

impl Early {
    fn answer(self, respond: SendResponse<Bytes>) {
        match self {
            Self::Page(Page { content_type, body }) => grpc::answer_http(respond, content_type, body),
            Self::Http(code) => grpc::refuse_http(respond, code),
            Self::Grpc(status) => grpc::refuse(respond, &status),
        }
    }
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
        let begun = tokio::time::timeout(HANDSHAKE, Begun::of(io)).await.map_err(|_| ServeError::Slow)??;
        if !begun.is_http2() {
            return Ok(self.serve_http1(begun).await?);
        }
        let handshake = tokio::time::timeout(HANDSHAKE, builder.handshake::<_, Bytes>(begun));
        let mut connection = handshake.await.map_err(|_| ServeError::Slow)??;
        let limits = Arc::new(Limits::default());
        let mut writes = FuturesUnordered::new();
        loop {
            let accepted = poll_fn(|cx| {
                while let Poll::Ready(Some(())) = writes.poll_next_unpin(cx) {}
                Poll::Ready(connection.poll_accept(cx))
            });
            let accepted = match accepted.await {
                Poll::Ready(Some(accepted)) => accepted,
                Poll::Ready(None) => return Ok(()),
                Poll::Pending => {
                    woken().await;
                    // Each call has a reference. With several open, what else is ready to be answered goes out together.
                    if Arc::strong_count(&limits) > 2 {
                        tokio::task::yield_now().await;
                    }
                    continue;
                }
            };
            let (request, respond) = accepted?;
            let (head, body) = request.into_parts();
            let (deadline, leaderless) = match self.begin(&head) {
                Ok(begun) => begun,
                Err(early) => {
                    early.answer(respond);
                    continue;
                }
            };
            let inbound = Inbound::new(body, limits.clone());
            let call = Call { inbound, limits: limits.clone(), respond, deadline, leaderless };
            match self.take_at_once(head.uri.path(), call) {
                Taken::Write(write) => writes.push(write.answered(self.clone())),
                Taken::Refused => {}
                Taken::Not(call) => {
                    let endpoint = self.clone();
                    tokio::spawn(async move { endpoint.dispatch(head.uri.path(), call).await });
                }
            }
        }
    }

    /// Looks at the headers of a call: how long it may take, and for whom it ends with the leader.
    fn begin(&self, head: &Parts) -> Result<(Option<Instant>, Option<Self>), Early> {
        if head.method == Method::GET {
            return Err(self.page(head.uri.path()).map_or(Early::Http(StatusCode::NOT_FOUND), Early::Page));
        }
        if head.method != Method::POST {
            return Err(Early::Http(StatusCode::METHOD_NOT_ALLOWED));
        }
        let content = head.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content.is_some_and(|content| content.starts_with("application/grpc")) {
            return Err(Early::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let timeout = grpc::timeout(&head.headers).map_err(Early::Grpc)?;
        let needs_leader = leader::asked_for(&head.headers);
        if needs_leader && self.store().reachable_leader().is_none() {
            return Err(Early::Grpc(leader::no_leader()));
        }
        // None is as good as one that the clock does not reach.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok((deadline, needs_leader.then(|| self.clone())))
    }

    async fn dispatch(&self, path: &str, call: Call) {
        match path.strip_prefix("/etcdserverpb.").and_then(|path| path.split_once('/')) {
            Some(("KV", method)) => self.keys(method, call).await,
            Some(("Watch", "Watch")) => {
                let limits = call.limits.clone();
                call.stream(async |inbound, outbound| self.watch(inbound, outbound, &limits).await).await
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

fn slow() -> Status {
    Status::new(Code::DeadlineExceeded, "the request did not come in in time")
}

pub(super) fn late() -> Status {
    Status::new(Code::DeadlineExceeded, "context deadline exceeded")
}

impl Call {
    /// One message in, one out.
    pub(super) async fn unary<Q, A>(self, handle: impl AsyncFnOnce(Q) -> Result<A, Status>)
    where
        Q: Message + Default,
        A: Message,
    {
        self.in_turn(|_| false, handle).await;
    }

    /// The same; requests whose answers may be large take turns, until the client has taken what it got.
    pub(super) async fn in_turn<Q, A>(
        mut self,
        large: impl Fn(&Q) -> bool,
        handle: impl AsyncFnOnce(Q) -> Result<A, Status>,
    ) where
        Q: Message + Default,
        A: Message,
    {
        let (inbound, limits) = (&mut self.inbound, &*self.limits);
        let mut _turn = None;
        let turn = &mut _turn;
        let work = async move {
            let request = tokio::time::timeout(REQUEST, inbound.only()).await.unwrap_or_else(|_| Err(slow()))?;
            if large(&request) {
                *turn = limits.reading().await;
            }
            handle(request).await
        };
        let outcome = match self.deadline {
            None => work.await,
            Some(deadline) => timeout_at(deadline, work).await.unwrap_or_else(|_| Err(late())),
        };
        self.answer(outcome).await;
    }

    pub(super) async fn answer<A: Message>(self, outcome: Result<A, Status>) {
        grpc::answer(self.respond, outcome, &self.limits).await;
    }

    /// The same for a message that needs no room.
    pub(super) fn answer_small<A: Message>(self, outcome: Result<A, Status>) {
        grpc::answer_small(self.respond, outcome);
    }

    /// Any number of messages both ways; ends with the status that `handle` returns.
    pub(super) async fn stream(self, handle: impl AsyncFnOnce(&mut Inbound, &mut Outbound) -> Result<Status, Gone>) {
        let Self { mut inbound, respond, deadline, leaderless, .. } = self;
        inbound.streamed();
        let Ok(mut outbound) = Outbound::open(respond) else { return };
        let given_up = async {
            match (deadline, &leaderless) {
                (None, None) => std::future::pending().await,
                (Some(deadline), None) => sleep_until(deadline).await,
                (None, Some(endpoint)) => return endpoint.leaderless().await,
                (Some(deadline), Some(endpoint)) => {
                    if let Ok(status) = timeout_at(deadline, endpoint.leaderless()).await {
                        return status;
                    }
                }
            }
            late()
        };
        let outcome = tokio::select! {
            outcome = handle(&mut inbound, &mut outbound) => outcome,
            status = given_up => Ok(status),
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
