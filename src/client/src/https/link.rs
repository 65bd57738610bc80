//! One HTTP/2 connection to one API server. It can be ended at once, with everything on it: requests and watches on a
//! server that does no work must fail here to go on elsewhere.

use std::future::Future;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::client::Body;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::LinkError;
use crate::dial::Dialer;

/// Bytes in flight per stream and per connection: watches of many kinds share one connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// A server that vanished without a word is noticed by its silence while requests or watches are open: asked after so
/// long without a byte from it, given up when the answer takes so long. Nothing is asked while nothing is open.
const SILENCE: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(3);
/// For the answer of `/readyz`.
const PROBE: Duration = Duration::from_secs(3);

/// The authority of every request, whatever server it goes to.
const AUTHORITY: &str = "kubernetes.default.svc";

pub(super) struct Link {
    pub(super) server: String,
    sender: http2::SendRequest<Body>,
    /// Ends the connection and all that hangs on it.
    end: CancellationToken,
}

/// Runs hyper's tasks of one connection until it is ended.
#[derive(Clone)]
struct Tasks {
    end: CancellationToken,
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let end = self.end.clone();
        tokio::spawn(async move { end.run_until_cancelled(task).await.map(drop) });
    }
}

impl Link {
    pub(super) async fn open(dialer: &Dialer, server: &str) -> Result<Self, LinkError> {
        let unreachable = |source| LinkError::Unreachable { server: server.to_owned(), source };
        let stream = dialer.dial(server).await.map_err(unreachable)?;
        let end = CancellationToken::new();
        // Until the handshake is done, nobody else can end what it began.
        let guard: DropGuard = end.clone().drop_guard();
        let (sender, driver) = http2::Builder::new(Tasks { end: end.clone() })
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(SILENCE)
            .keep_alive_timeout(ANSWER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| LinkError::Broken { server: server.to_owned(), source })?;
        let (ended, place) = (end.clone(), server.to_owned());
        tokio::spawn(async move {
            if let Some(Err(error)) = ended.run_until_cancelled(driver).await {
                tracing::debug!(server = %place, %error, "connection to the server ended");
            }
        });
        guard.disarm();
        Ok(Self { server: server.to_owned(), sender, end })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.end.is_cancelled() && !self.sender.is_closed()
    }

    /// Ends the connection: what is under way on it fails.
    pub(super) fn end(&self) {
        self.end.cancel();
    }

    pub(super) async fn exchange(
        &self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(Authority::from_static(AUTHORITY));
        if uri.path_and_query.is_none() {
            uri.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        }
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        self.sender.clone().try_send_request(request).await
    }

    /// Whether the server says that it can do its work. A refusal to say is no `no`.
    pub(super) async fn is_ready(&self) -> bool {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static("/readyz");
        let answer = tokio::time::timeout(PROBE, self.exchange(request)).await;
        matches!(answer, Ok(Ok(response)) if !means_trouble(response.status()))
    }
}

/// Statuses that a server answers with which is no part of a working cluster; it may also be something behind it.
pub(super) fn means_trouble(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}
