//! Whether the far end of a tunnel is still there.
//!
//! A link that is cut, or a machine that loses its power, says nothing: TCP would retry for a quarter of an hour what
//! is under way, and whoever waits for a node's answer with it. So both ends of a tunnel see to it that something is
//! always to be heard (yamux pings every 10 s, if it is polled: at the next beat), and give up an end that was silent for [`SILENCE`].

use futures::{AsyncRead, AsyncWrite};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// More than yamux's pings are apart; with the beat below, requests end within half a minute of a cut.
pub(super) const SILENCE: Duration = Duration::from_secs(25);
/// How often the owner of the connection is woken to ping and to look. All connections of a process beat together: ten
/// tunnels wake it no oftener than one.
const BEAT: Duration = Duration::from_secs(5);
static FIRST_BEAT: OnceLock<Instant> = OnceLock::new();

/// When bytes last came, in milliseconds since `start`.
#[derive(Clone)]
struct Heard {
    start: Instant,
    last: Arc<AtomicU64>,
}

impl Heard {
    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn silent_for(&self) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(self.last.load(Ordering::Relaxed)))
    }
}

/// The connection, noting when bytes come.
pub(super) struct Attentive<T> {
    inner: T,
    heard: Heard,
}

/// Tells that the connection went silent.
pub(super) struct Pulse {
    heard: Heard,
    beat: Interval,
}

pub(super) fn listen<T>(inner: T) -> (Attentive<T>, Pulse) {
    let heard = Heard { start: Instant::now(), last: Arc::default() };
    let mut beat = tokio::time::interval_at(next_beat(Instant::now()), BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    (Attentive { inner, heard: heard.clone() }, Pulse { heard, beat })
}

fn next_beat(now: Instant) -> Instant {
    let first = *FIRST_BEAT.get_or_init(|| now);
    let since = now.saturating_duration_since(first).as_secs();
    first + Duration::from_secs(since - since % BEAT.as_secs()) + BEAT
}

impl Pulse {
    /// Ready once the far end is given up. Wakes the caller at every beat, who then polls yamux.
    pub(super) fn poll_lost(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        while self.beat.poll_tick(context).is_ready() {}
        match self.heard.silent_for() >= SILENCE {
            true => Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "nothing was heard from the other end")),
            false => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Attentive<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.inner).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(1..))) {
            this.heard.last.store(this.heard.millis(), Ordering::Relaxed);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Attentive<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(context)
    }
}
