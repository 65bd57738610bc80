//! Sends requests to whichever API server of the list does its work, over one connection at a time.
//!
//! - A connection that ends, by itself or because its server went silent (`link`), is replaced by one to the next
//!   server; what was under way is sent again there when it may be (`again`). Watches end with the connection, and their
//!   owners take them up from where they were.
//! - A server that answers with errors or not at all is asked whether it is ready. When it is not, and another is,
//!   everything moves there. While no server is ready, as in an election, everything stays where it is.
//! - One connection attempt at a time, whoever asks for it; rounds over the whole list that fail are further and
//!   further apart, and so are the moves of clients that lost one server together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use kube::client::Body;
use tokio::time::Instant;
use tower::BoxError;

use super::LinkError;
use super::again::{may_repeat, was_refused};
use super::link::{Link, means_trouble};
use crate::backoff::{Backoff, scatter};
use crate::dial::Dialer;
use crate::servers::ServerList;

/// A server that has not answered yet gets company after this long.
const STAGGER: Duration = Duration::from_secs(1);
/// A request without an answer for so long makes its server suspect. A long list may well take longer.
const SLOW: Duration = Duration::from_secs(4);
/// A server is not asked more often than this whether it is ready.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
/// Clients that lose a server at one moment come to the next within this time, not at once.
const SCATTER: Duration = Duration::from_millis(250);

/// Between a move that nothing forced and the end of the former connection, watches included.
const PARTING: Duration = Duration::from_secs(5);

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    servers: ServerList,
    dialer: Dialer,
    authorization: Option<HeaderValue>,
    current: Mutex<Option<Current>>,
    /// Held while somebody connects.
    pace: tokio::sync::Mutex<Pace>,
}

#[derive(Clone)]
struct Current {
    link: Arc<Link>,
    /// It has answered a request as a working server does.
    proven: bool,
    probed: Option<Instant>,
}

/// When to connect next.
struct Pace {
    backoff: Backoff,
    not_before: Option<Instant>,
}

/// A request whose parts can be sent again.
struct Repeatable {
    head: http::request::Parts,
    body: Bytes,
}

impl Repeatable {
    fn request(&self) -> Request<Body> {
        Request::from_parts(self.head.clone(), Body::from(self.body.clone()))
    }

    fn may_repeat(&self) -> bool {
        may_repeat(&self.head.method, &self.body)
    }
}

impl Transport {
    pub(super) fn new(servers: ServerList, dialer: Dialer, authorization: Option<HeaderValue>) -> Self {
        let pace = Pace { backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), not_before: None };
        let (current, pace) = (Mutex::default(), tokio::sync::Mutex::new(pace));
        Self { shared: Arc::new(Shared { servers, dialer, authorization, current, pace }) }
    }

    pub(super) async fn send(self, request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        let (mut head, body) = request.into_parts();
        if let Some(value) = &self.shared.authorization {
            head.headers.insert(header::AUTHORIZATION, value.clone());
        }
        let request = Repeatable { head, body: body.collect_bytes().await? };
        // One server after another, and the first of them once more: it may have been the connection that was old.
        let mut left = self.shared.servers.candidates().len();
        loop {
            let link = self.shared.link().await?;
            if let Some(better) = self.shared.servers.take_wish() {
                tokio::spawn(self.clone().settle(link.clone(), better));
            }
            let outcome = self.shared.exchange(&link, &request).await;
            match outcome {
                Ok(response) if !means_trouble(response.status()) => {
                    self.shared.proven(&link);
                    return Ok(response);
                }
                Ok(response) => {
                    let moved = self.shared.suspect(&link).await;
                    if !moved || left == 0 || !request.may_repeat() {
                        return Ok(response);
                    }
                }
                Err((error, certainly_not_done)) => {
                    tracing::debug!(server = %link.server, %error, "request broke off");
                    if left == 0 || !(certainly_not_done || request.may_repeat()) {
                        return Err(error.into());
                    }
                }
            }
            left -= 1;
        }
    }

    /// Moves to a server without need. What is under way at the former one is given time to end.
    async fn settle(self, former: Arc<Link>, server: String) {
        if former.server == server {
            return;
        }
        let connecting = self.shared.pace.lock().await;
        let stays = |open: Arc<Link>| Arc::ptr_eq(&open, &former);
        if !self.shared.open_link().is_some_and(stays) {
            return;
        }
        let Some(better) = self.shared.ready(server).await else { return };
        tracing::debug!(from = %former.server, to = %better.server, "moving to the server of first choice");
        self.shared.use_now(better);
        drop(connecting);
        tokio::time::sleep(PARTING).await;
        former.end();
    }
}

impl Shared {
    fn use_now(&self, link: Link) -> Arc<Link> {
        let link = Arc::new(link);
        *self.current() = Some(Current { link: link.clone(), proven: false, probed: None });
        link
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_link(&self) -> Option<Arc<Link>> {
        self.current().as_ref().map(|current| current.link.clone()).filter(|link| link.is_open())
    }

    /// The connection to use now: the one there is, or a new one.
    async fn link(&self) -> Result<Arc<Link>, LinkError> {
        if let Some(link) = self.open_link() {
            return Ok(link);
        }
        let mut pace = self.pace.lock().await;
        if let Some(link) = self.open_link() {
            return Ok(link);
        }
        // Taken by itself: the lock must not be held below.
        let lost = self.current().take();
        if let Some(lost) = lost {
            self.servers.failed(&lost.link.server);
            pace.lost(lost.proven);
        }
        if let Some(at) = pace.not_before {
            tokio::time::sleep_until(at).await;
        }
        match self.connect().await {
            Ok(link) => {
                tracing::debug!(server = %link.server, "connected");
                Ok(self.use_now(link))
            }
            Err(error) => {
                pace.not_before = Some(Instant::now() + pace.backoff.next_delay());
                Err(error)
            }
        }
    }

    /// The first server that answers; one that is slow to say anything does not hold up the next.
    async fn connect(&self) -> Result<Link, LinkError> {
        let mut waiting = self.servers.candidates().into_iter();
        let mut attempts = FuturesUnordered::new();
        let mut last = LinkError::NoServers;
        loop {
            if attempts.is_empty() {
                match waiting.next() {
                    Some(server) => attempts.push(self.attempt(server)),
                    None => return Err(last),
                }
            }
            tokio::select! {
                Some(outcome) = attempts.next() => match outcome {
                    Ok(link) => return Ok(link),
                    Err(error) => last = error,
                },
                () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => {
                    attempts.extend(waiting.next().map(|server| self.attempt(server)));
                }
            }
        }
    }

    async fn attempt(&self, server: String) -> Result<Link, LinkError> {
        let opened = Link::open(&self.dialer, &server).await;
        if opened.is_err() {
            self.servers.failed(&server);
        }
        opened
    }

    /// One request on one connection. The error tells whether the request has certainly not been done.
    async fn exchange(
        &self,
        link: &Arc<Link>,
        request: &Repeatable,
    ) -> Result<Response<Incoming>, (hyper::Error, bool)> {
        let mut answer = std::pin::pin!(link.exchange(request.request()));
        loop {
            tokio::select! {
                outcome = &mut answer => return outcome.map_err(|mut error| {
                    let unsent = error.take_message().is_some();
                    let error = error.into_error();
                    let refused = unsent || was_refused(&error);
                    (error, refused)
                }),
                // Should everything move, this request fails with the connection.
                () = tokio::time::sleep(SLOW) => { self.suspect(link).await; }
            }
        }
    }

    fn proven(&self, link: &Arc<Link>) {
        let mut current = self.current();
        if let Some(current) = current.as_mut().filter(|current| Arc::ptr_eq(&current.link, link) && !current.proven) {
            current.proven = true;
            self.servers.works(&link.server);
        }
    }

    /// Asks a server that gave cause for doubt whether it is ready; if not, moves to one that is. Whether requests go
    /// to another server now.
    async fn suspect(&self, link: &Arc<Link>) -> bool {
        if !self.may_probe(link) {
            return self.open_link().is_some_and(|open| !Arc::ptr_eq(&open, link));
        }
        if link.is_ready().await {
            return false;
        }
        let _connecting = self.pace.lock().await;
        match self.open_link() {
            Some(open) if Arc::ptr_eq(&open, link) => {}
            Some(_) => return true,
            // Lost meanwhile: the next request connects anew.
            None => return false,
        }
        self.servers.failed(&link.server);
        let others = self.servers.candidates().into_iter().filter(|server| *server != link.server);
        let mut attempts: FuturesUnordered<_> = others.map(|server| self.ready(server)).collect();
        while let Some(found) = attempts.next().await {
            let Some(better) = found else { continue };
            tracing::info!(from = %link.server, to = %better.server, "the server is not ready; moving to another");
            self.use_now(better);
            link.end();
            return true;
        }
        false
    }

    /// Whether it is time to ask the server; it counts as asked then.
    fn may_probe(&self, link: &Arc<Link>) -> bool {
        let now = Instant::now();
        let mut current = self.current();
        let Some(current) = current.as_mut().filter(|current| Arc::ptr_eq(&current.link, link)) else { return false };
        let due = current.probed.is_none_or(|at| now.duration_since(at) >= PROBE_PAUSE);
        if due {
            current.probed = Some(now);
        }
        due
    }

    /// A connection to a server that says it is ready.
    async fn ready(&self, server: String) -> Option<Link> {
        let link = self.attempt(server).await.ok()?;
        let ready = link.is_ready().await;
        if !ready {
            self.servers.failed(&link.server);
            link.end();
        }
        ready.then_some(link)
    }
}

impl Pace {
    /// A connection was lost. One that never served anything counts like one that was never made.
    fn lost(&mut self, proven: bool) {
        let pause = if proven {
            self.backoff.reset();
            scatter(SCATTER)
        } else {
            self.backoff.next_delay()
        };
        self.not_before = Some(Instant::now() + pause);
    }
}
