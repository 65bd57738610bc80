//! One client's connection: reads and writes the socket, answers writes, and hands all other calls to tasks of their own.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::grpc::{self, Gone, Inbound, Outbound};
use super::http2::Violation;
use super::http2::receive::{self, Begun, Head, Method, Receiver};
use super::http2::streams::{Respond, Shared};
use super::limits::Limits;
use super::pages::{self, Page};
use super::short::{Taken, Writes};
use super::status::{Code, Status};
use super::{Endpoint, leader};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// For a client that has broken the protocol to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes that are read at a time.
const READ: usize = 32 << 10;
/// For the one message of a call to come in.
const REQUEST: Duration = Duration::from_secs(60);

/// Why a connection ended other than by the client's wish.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the client did not speak HTTP/2 in time")]
    Slow,
    #[error("HTTP/2 failed")]
    Http(#[from] Violation),
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
}

/// One call.
pub(super) struct Call {
    pub(super) inbound: Inbound,
    pub(super) limits: Arc<Limits>,
    respond: Respond,
    pub(super) deadline: Option<Instant>,
    /// For an endpoint whose calls of this kind end with the leader.
    leaderless: Option<Endpoint>,
}

/// What a call is answered whose headers are enough.
enum Early {
    Page(Page),
    Http(u16),
    Grpc(Status),
}

/// A client's connection, and what belongs to it.
struct Connection<'a, T> {
    endpoint: &'a Endpoint,
    io: T,
    receiver: Receiver,
    streams: Shared,
    /// What has come in of a frame that is not whole.
    input: BytesMut,
    writes: Writes,
    limits: Arc<Limits>,
}

impl Endpoint {
    /// Serves one client until it goes.
    pub async fn serve<T>(&self, io: T) -> Result<(), ServeError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let begun = timeout(HANDSHAKE, pages::Begun::of(io)).await.map_err(|_| ServeError::Slow)??;
        if !begun.is_http2() {
            return Ok(self.serve_http1(begun).await?);
        }
        let mut connection = Connection {
            endpoint: self,
            io: begun,
            receiver: Receiver::default(),
            streams: Shared::new(),
            input: BytesMut::new(),
            writes: Writes::default(),
            limits: Arc::default(),
        };
        let served = connection.run().await;
        if let Err(ServeError::Http(violation)) = &served {
            connection.streams.lock().end_with(violation.reason);
            // It may not listen.
            drop(timeout(FAREWELL, poll_fn(|cx| connection.send(cx))).await);
        }
        served
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<'_, T> {
    async fn run(&mut self) -> Result<(), ServeError> {
        receive::greet(&mut self.streams.lock());
        let deadline = Instant::now() + HANDSHAKE;
        while !self.receiver.is_greeted() {
            let news = timeout_at(deadline, poll_fn(|cx| self.news(cx))).await;
            if !news.map_err(|_| ServeError::Slow)?? {
                return Ok(());
            }
        }
        while poll_fn(|cx| self.news(cx)).await? {
            // With several calls open, what else is ready to be answered goes out together.
            if self.streams.lock().several() {
                tokio::task::yield_now().await;
            }
            poll_fn(|cx| {
                self.answer_writes(cx);
                // Who waits for the socket is woken for `news`.
                match self.send(cx) {
                    Poll::Ready(sent) => Poll::Ready(sent),
                    Poll::Pending => Poll::Ready(Ok(())),
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until the client, the store or a call's task has something to say, and sends what there is meanwhile. False when
    /// the client has gone.
    fn news(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ServeError>> {
        let answered = self.answer_writes(cx);
        let full = self.streams.lock().is_full();
        if !full && let Poll::Ready(more) = self.read(cx)? {
            return Poll::Ready(Ok(more));
        }
        if self.streams.lock().take_told(cx) || answered {
            return Poll::Ready(Ok(true));
        }
        if let Poll::Ready(sent) = self.send(cx) {
            sent?;
        }
        // With room again, it is to read again.
        if full && !self.streams.lock().is_full() { Poll::Ready(Ok(true)) } else { Poll::Pending }
    }

    fn answer_writes(&mut self, cx: &mut Context<'_>) -> bool {
        self.writes.answer(self.endpoint, &self.limits, &self.streams, cx)
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServeError>> {
        loop {
            let mut streams = self.streams.lock();
            if streams.out().is_empty() {
                break;
            }
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, streams.out()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            streams.sent(sent);
        }
        Pin::new(&mut self.io).poll_flush(cx).map_err(ServeError::from)
    }

    /// Reads what is there, and takes the calls in it. False at the end.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ServeError>> {
        let mut space = [std::mem::MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        let read = read.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(false));
        }
        if self.input.is_empty() {
            let taken = self.take(read)?;
            self.input.extend_from_slice(&read[taken..]);
        } else {
            self.input.extend_from_slice(read);
            let mut input = std::mem::take(&mut self.input);
            let taken = self.take(&input)?;
            input.advance(taken);
            // Nothing is kept for a connection that rests.
            self.input = if input.is_empty() { BytesMut::new() } else { input };
        }
        Poll::Ready(Ok(true))
    }

    /// Takes all whole frames; says how many bytes they were.
    fn take(&mut self, input: &[u8]) -> Result<usize, Violation> {
        let mut at = 0;
        loop {
            let (taken, begun) = self.receiver.next(&mut self.streams.lock(), &input[at..])?;
            at += taken;
            let Some(begun) = begun else { return Ok(at) };
            self.call(begun)?;
        }
    }

    fn call(&mut self, begun: Begun<'_>) -> Result<(), Violation> {
        let Begun { id, head, whole } = begun;
        let (deadline, leaderless) = match self.endpoint.begin(&head) {
            Ok(begun) => begun,
            Err(early) => {
                let mut streams = self.streams.lock();
                match early {
                    Early::Page(Page { content_type, body }) => streams.answer_http(id, 200, content_type, body),
                    Early::Http(code) => streams.answer_http(id, code, "", String::new()),
                    Early::Grpc(status) => streams.refuse(id, &status),
                }
                return Ok(());
            }
        };
        if let Some(framed) = whole {
            match self.endpoint.take_at_once(id, &head.path, deadline, framed) {
                Taken::Write(write) => {
                    self.writes.push(write);
                    return Ok(());
                }
                Taken::Refused(status) => {
                    self.streams.lock().refuse(id, &status);
                    return Ok(());
                }
                Taken::Not => self.streams.lock().keep(id, framed),
            }
        }
        let ((body, respond), limits) = (self.streams.call(id), self.limits.clone());
        let inbound = Inbound::new(body, limits.clone());
        let call = Call { inbound, limits, respond, deadline, leaderless };
        let endpoint = self.endpoint.clone();
        tokio::spawn(async move { endpoint.dispatch(&head.path, call).await });
        Ok(())
    }
}

impl<T> Drop for Connection<'_, T> {
    fn drop(&mut self) {
        self.streams.lock().close_all();
    }
}

impl Endpoint {
    /// Looks at the headers of a call: how long it may take, and for whom it ends with the leader.
    fn begin(&self, head: &Head) -> Result<(Option<Instant>, Option<Self>), Early> {
        match head.method {
            _ if head.too_long => return Err(Early::Http(431)),
            Method::Get => return Err(self.page(&head.path).map_or(Early::Http(404), Early::Page)),
            Method::Other => return Err(Early::Http(405)),
            Method::Post if !head.grpc => return Err(Early::Http(415)),
            Method::Post => {}
        }
        let timeout = head.timeout.clone().map_err(Early::Grpc)?;
        if head.wants_leader && self.store().reachable_leader().is_none() {
            return Err(Early::Grpc(leader::no_leader()));
        }
        // None is as good as one that the clock does not reach.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok((deadline, head.wants_leader.then(|| self.clone())))
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
        self.respond.refuse(status);
    }

    pub(super) fn unknown(self, method: &str) {
        self.refuse(&Status::unimplemented(format!("unknown method {method}")));
    }
}
