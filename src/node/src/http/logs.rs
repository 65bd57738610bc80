//! `GET /containerLogs/{namespace}/{pod}/{container}`.
//!
//! [`entry`] knows the log format, [`files`] which files make up a log and where to begin, [`reader`] turns them into
//! the answer, [`watch`] tells when a file has changed. The answer is sent as it is read: one buffer's worth is all
//! that is ever held, and a follower that waits costs no wake-up.

mod entry;
mod files;
mod reader;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use jiff::Timestamp;
use objects::status::{Qualified, Reason, Status};
use tokio::sync::mpsc;

use super::Api;
use super::answer::{self, Body};
use super::query::LogQuery;
use super::route::Target;
use crate::{ContainerHandle, LookupError};

use self::reader::{LogReader, Sent};

/// Pieces of the answer that wait for a slow client.
const AHEAD: usize = 4;
/// How long a follower waits for a container that is about to start.
const START_WAIT: Duration = Duration::from_secs(3);

pub(super) async fn serve(api: &Arc<Api>, target: &Target, request: &Request<Incoming>) -> Response<Body> {
    let query = match LogQuery::parse(request.uri().query().unwrap_or_default(), Timestamp::now()) {
        Ok(query) => query,
        Err(error) => return answer::status(&Status::custom(422, Reason::Invalid, error.to_string())),
    };
    match find(api, target, &query).await {
        Ok(container) => stream(api, container, query),
        Err(error) => answer::status(&refusal(&error)),
    }
}

fn refusal(error: &LookupError) -> Status {
    match error {
        LookupError::NoPod(name) => Status::not_found(Qualified::new("", "pods"), name),
        LookupError::Waiting { pod, container, reason } => {
            // Two reasons have words of their own upstream.
            let why = match reason.as_str() {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                other => other,
            };
            Status::bad_request(format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {why}"))
        }
        other => Status::bad_request(other.to_string()),
    }
}

/// The container, waiting a little for one that a follower asks for just before its start.
async fn find(api: &Api, target: &Target, query: &LogQuery) -> Result<ContainerHandle, LookupError> {
    let look = || {
        let pod = &target.pod;
        api.host.container(&pod.namespace, &pod.name, pod.uid.as_deref(), &target.container, query.previous)
    };
    let started = async {
        loop {
            // Asked for before looking, so that no start falls between.
            let next = api.host.next_start();
            match look() {
                Err(LookupError::Waiting { reason, .. }) if query.follow && reason == "ContainerCreating" => next.await,
                other => return other,
            }
        }
    };
    match tokio::time::timeout(START_WAIT, started).await {
        Ok(found) => found,
        Err(_) => look(),
    }
}

/// What the session sends: pieces, and an empty one when all was sent. Without it the answer is broken off, not ended:
/// a client must not take the half of a log for the whole.
type Pieces = mpsc::Sender<io::Result<Bytes>>;

fn stream(api: &Arc<Api>, container: ContainerHandle, query: LogQuery) -> Response<Body> {
    let (pieces, body) = mpsc::channel(AHEAD);
    let session = copy(api.clone(), container, query, pieces.clone());
    api.spawn(async move {
        let end = session.await.map(|()| Bytes::new());
        if let Err(error) = &end {
            tracing::warn!(%error, "container log cannot be read to its end");
        }
        if pieces.send(end).await.is_err() {
            tracing::trace!("the reader of a log is gone");
        }
    });
    let mut response = Response::new(StreamBody::new(frames(body)).boxed());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn frames(pieces: mpsc::Receiver<io::Result<Bytes>>) -> impl Stream<Item = io::Result<Frame<Bytes>>> {
    futures::stream::unfold(Some(pieces), async |pieces| {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(Ok(piece)) if piece.is_empty() => None,
            Some(Ok(piece)) => Some((Ok(Frame::data(piece)), Some(pieces))),
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(io::Error::other("the node is stopping")), None)),
        }
    })
}

/// Sends the log; with `follow`, goes on until the container has ended or the client has gone.
async fn copy(api: Arc<Api>, container: ContainerHandle, query: LogQuery, pieces: Pieces) -> io::Result<()> {
    let follow = query.follow && !query.previous && container.running;
    // The watch comes before the first read: what is written in between is told.
    let mut changes = follow.then(|| watch::watch(container.log_path.parent())).transpose()?;
    let mut reader = LogReader::new(container.log_path.clone(), query);
    let ended = api.host.ended(&container.id);
    tokio::pin!(ended);
    let mut over = !follow;
    loop {
        let sent;
        (reader, sent) = send_available(reader, pieces.clone()).await?;
        let Some(changes) = changes.as_mut().filter(|_| sent == Sent::All && !over) else { return Ok(()) };
        tokio::select! {
            () = changes.changed() => {}
            // Whatever it wrote last is read once more.
            () = &mut ended => over = true,
            () = pieces.closed() => return Ok(()),
        }
    }
}

async fn send_available(mut reader: LogReader, pieces: Pieces) -> io::Result<(LogReader, Sent)> {
    let task = tokio::task::spawn_blocking(move || {
        let sent = reader.read(&mut |piece| pieces.blocking_send(Ok(piece)).is_ok())?;
        Ok((reader, sent))
    });
    task.await.map_err(io::Error::other)?
}
