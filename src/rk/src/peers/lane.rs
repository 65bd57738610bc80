//! One kept connection: opened by the first who needs it, shared by all, opened anew when it has ended. Attempts have
//! pauses between them, which grow until a peer has answered: a dead peer costs a few packets a second, and whoever
//! wants it meanwhile is told so at once.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::SendRequest;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage::{MAX_RPC_BYTES, TransportError};
use tokio::sync::watch;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// An answer may hold what many requests have read.
const MAX_ANSWER: usize = 4 * MAX_RPC_BYTES;

pub(super) type Sender = SendRequest<Full<Bytes>>;

/// Cheap to clone; all clones are one connection.
#[derive(Clone, Default)]
pub(super) struct Lane {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    open: Option<Sender>,
    /// Closes when the attempt that is under way has come to an end.
    attempt: Option<watch::Receiver<()>>,
    failures: u32,
    not_before: Option<Instant>,
}

impl State {
    fn usable(&self) -> Option<Sender> {
        self.open.clone().filter(|sender| !sender.is_closed())
    }
}

impl Lane {
    /// Whether there is a connection, or somebody makes one.
    pub(super) fn is_used(&self) -> bool {
        let state = self.state();
        state.usable().is_some() || state.attempt.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open connection, or one that `connect` opens, if that takes no longer than `limit`. The attempt goes on when
    /// nobody waits for it any more.
    pub(super) async fn sender<F, C>(&self, connect: F, limit: Duration) -> Option<Sender>
    where
        F: FnOnce() -> C,
        C: Future<Output = anyhow::Result<Sender>> + Send + 'static,
    {
        let mut attempt = {
            let mut state = self.state();
            if let Some(sender) = state.usable() {
                return Some(sender);
            }
            match &state.attempt {
                // One that ended without a word has panicked.
                Some(attempt) if attempt.has_changed().is_ok() => attempt.clone(),
                _ => {
                    let now = Instant::now();
                    if state.not_before.is_some_and(|at| now < at) {
                        return None;
                    }
                    // Counted before it is made: a peer that takes connections and never answers is one that fails.
                    state.not_before = Some(now + pause(state.failures));
                    state.failures = state.failures.saturating_add(1);
                    let (done, attempt) = watch::channel(());
                    state.attempt = Some(attempt.clone());
                    tokio::spawn(self.clone().run(connect(), done));
                    attempt
                }
            }
        };
        // An error is what the end looks like: nothing is ever sent.
        tokio::time::timeout(limit, attempt.changed()).await.ok()?.err();
        self.state().usable()
    }

    async fn run(self, connecting: impl Future<Output = anyhow::Result<Sender>>, done: watch::Sender<()>) {
        let outcome = connecting.await;
        let mut state = self.state();
        state.attempt = None;
        match outcome {
            Ok(sender) => state.open = Some(sender),
            Err(error) => {
                state.open = None;
                tracing::debug!(error = format!("{error:#}"), failures = state.failures, "a peer cannot be reached");
            }
        }
        drop(state);
        drop(done);
    }

    /// The peer has answered: the next attempt need not wait.
    fn answered(&self) {
        let mut state = self.state();
        state.failures = 0;
        state.not_before = None;
    }
}

fn pause(failures: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.saturating_pow(failures.min(8))).min(LONGEST_PAUSE)
}

/// Sends a request and reads its answer. Only what was not written, or was turned away by the peer before its store saw
/// it, counts as unreachable.
pub(super) async fn send(
    lane: &Lane,
    mut sender: Sender,
    request: Request<Full<Bytes>>,
) -> Result<Bytes, TransportError> {
    let response = sender.try_send_request(request).await.map_err(|mut failed| {
        tracing::debug!(error = %failed.error(), "a request to a peer failed");
        if failed.take_message().is_some() { TransportError::Unreachable } else { TransportError::Lost }
    })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
        tracing::debug!(%error, "an answer of a peer broke off");
        TransportError::Lost
    })?;
    lane.answered();
    if head.status == StatusCode::OK {
        return Ok(body.to_bytes());
    }
    tracing::warn!(status = %head.status, "a peer turned a request away");
    Err(TransportError::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second() {
        let pauses: Vec<_> = (0..6).map(|failures| pause(failures).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_fails_is_tried_once_at_a_time_and_not_before_the_pause_is_over() {
        let lane = Lane::default();
        let attempts = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let connect = || {
            let attempts = attempts.clone();
            move || async move {
                attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
                anyhow::bail!("refused")
            }
        };
        let count = || attempts.load(std::sync::atomic::Ordering::Relaxed);
        let limit = Duration::from_secs(10);
        let (first, second) = tokio::join!(lane.sender(connect(), limit), lane.sender(connect(), limit));
        assert!(first.is_none() && second.is_none());
        assert_eq!(count(), 1, "the second has waited for the attempt of the first");
        let before = Instant::now();
        assert!(lane.sender(connect(), limit).await.is_none());
        assert_eq!((count(), before.elapsed()), (1, Duration::ZERO), "in the pause there is an answer at once");
        tokio::time::advance(Duration::from_millis(50)).await;
        assert!(lane.sender(connect(), limit).await.is_none());
        assert_eq!(count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_wait_leaves_and_the_attempt_goes_on() {
        let lane = Lane::default();
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            anyhow::bail!("too late")
        };
        let before = Instant::now();
        assert!(lane.sender(slow, Duration::from_millis(300)).await.is_none());
        assert_eq!(before.elapsed(), Duration::from_millis(300));
        assert!(lane.state().attempt.is_some());
        assert!(lane.sender(slow, Duration::from_secs(5)).await.is_none());
        assert_eq!(before.elapsed(), Duration::from_secs(1), "it waited for the same attempt");
    }
}
