//! What one log entry carries, and who waits for its outcomes.
//!
//! A batch that comes from the [`Lane`] is open until its entry is written: it then takes whatever waits, so that
//! requests that come while the entry before it is flushed need not wait for a third one. Its outcomes go to those who
//! wait without another step in between. Used by the writer, the Raft log storage and the state machine.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::command::{Batch, Command, Reply};
use crate::error::StoreError;

/// Requests that share one entry at most; keeps the time in the state's write lock short.
pub(crate) const MAX_BATCH: usize = 1024;
pub(crate) const MAX_BATCH_BYTES: usize = 1 << 20;

type Waiting = oneshot::Sender<Result<Reply, StoreError>>;
/// Where the outcome of a request comes out.
pub(crate) type Awaited = oneshot::Receiver<Result<Reply, StoreError>>;

/// A request that waits for its turn.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) command: Command,
    pub(crate) size: usize,
    /// It makes sense only if this member leads.
    pub(crate) here_only: bool,
    pub(crate) arrived: Instant,
    pub(crate) reply: Waiting,
}

/// The caller may be gone; its request counts all the same.
pub(crate) fn answer(reply: Waiting, outcome: Result<Reply, StoreError>) {
    drop(reply.send(outcome));
}

/// Requests in the order in which they came.
#[derive(Debug)]
pub(crate) struct Lane {
    queue: Mutex<Queue>,
    gathering: Arc<Gathering>,
    /// An open batch has taken its requests.
    pub(crate) sealed: Notify,
}

/// Tells whoever waits for company that there is enough of it.
#[derive(Debug)]
pub(crate) struct Gathering {
    wanted: AtomicUsize,
    enough: Notify,
}

impl Default for Gathering {
    fn default() -> Self {
        Self { wanted: AtomicUsize::new(usize::MAX), enough: Notify::new() }
    }
}

impl Gathering {
    /// So many requests wait now.
    pub(crate) fn grew(&self, waiting: usize) {
        if waiting >= self.wanted.load(Ordering::SeqCst) {
            self.wanted.store(usize::MAX, Ordering::SeqCst);
            self.enough.notify_one();
        }
    }
}

#[derive(Debug)]
struct Queue {
    /// Those that were looked at already, and come first.
    next: VecDeque<Pending>,
    arriving: mpsc::Receiver<Pending>,
}

impl Lane {
    pub(crate) fn new(arriving: mpsc::Receiver<Pending>, gathering: Arc<Gathering>) -> Self {
        Self { gathering, queue: Mutex::new(Queue { next: VecDeque::new(), arriving }), sealed: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request; none once the lane is closed and empty.
    pub(crate) async fn next(&self) -> Option<Pending> {
        poll_fn(|cx| {
            let mut queue = self.queue();
            match queue.next.pop_front() {
                Some(pending) => Poll::Ready(Some(pending)),
                None => queue.arriving.poll_recv(cx),
            }
        })
        .await
    }

    /// Waits until so many requests wait here.
    pub(crate) async fn gathered(&self, wanted: usize) {
        loop {
            self.gathering.wanted.store(wanted, Ordering::SeqCst);
            let waiting = {
                let queue = self.queue();
                queue.next.len() + queue.arriving.len()
            };
            if waiting >= wanted {
                self.gathering.wanted.store(usize::MAX, Ordering::SeqCst);
                return;
            }
            self.gathering.enough.notified().await;
        }
    }

    pub(crate) fn put_back(&self, pending: Pending) {
        self.queue().next.push_front(pending);
    }

    /// No more requests are accepted; those that wait are still answered.
    pub(crate) fn close(&self) {
        self.queue().arriving.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue().arriving.is_closed()
    }

    /// Those that came before have waited long enough.
    pub(crate) fn give_up(&self, since: Instant) {
        let mut queue = self.queue();
        while let Some(next) = queue.next.pop_front().or_else(|| queue.arriving.try_recv().ok()) {
            if next.arrived > since {
                queue.next.push_front(next);
                return;
            }
            answer(next.reply, Err(StoreError::Unknown));
        }
    }

    /// Takes requests for one entry for as long as `fits` agrees to the size of all of them.
    pub(crate) fn gather(&self, mut fits: impl FnMut(usize) -> bool) -> Vec<Pending> {
        let mut queue = self.queue();
        let mut batch: Vec<Pending> = Vec::with_capacity((queue.next.len() + queue.arriving.len()).min(MAX_BATCH));
        let mut size = 0;
        while batch.len() < MAX_BATCH && size < MAX_BATCH_BYTES {
            let next = queue.next.pop_front().or_else(|| queue.arriving.try_recv().ok());
            let Some(next) = next else { break };
            if !fits(size + next.size) {
                queue.next.push_front(next);
                break;
            }
            size += next.size;
            batch.push(next);
        }
        batch
    }
}

/// A request without its command.
#[derive(Debug)]
struct Waiter {
    here_only: bool,
    arrived: Instant,
    reply: Waiting,
}

/// A shared batch: openraft clones entries on their way to disk and to the state machine.
#[derive(Clone, Debug)]
pub(crate) struct Proposal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    batch: OnceLock<Batch>,
    waiting: Mutex<Vec<Waiter>>,
    /// Where an open batch takes its requests.
    lane: Option<Arc<Lane>>,
    beside: AtomicBool,
}

static OPEN: Batch = Batch { synced: false, commands: Vec::new() };

impl Proposal {
    /// Commands whose outcomes go to whoever proposes them.
    pub(crate) fn of(batch: Batch) -> Self {
        Self(Arc::new(Inner { batch: batch.into(), ..Inner::default() }))
    }

    /// A batch that takes what waits when it is written.
    pub(crate) fn open(lane: Arc<Lane>) -> Self {
        Self(Arc::new(Inner { lane: Some(lane), ..Inner::default() }))
    }

    /// Where an open batch takes its requests; its outcomes go straight to those who wait.
    pub(crate) fn lane(&self) -> Option<&Arc<Lane>> {
        self.0.lane.as_ref()
    }

    /// Empty as long as the batch is open.
    pub(crate) fn batch(&self) -> &Batch {
        self.0.batch.get().unwrap_or(&OPEN)
    }

    /// It is applied by the log storage, and not when the Raft core says so.
    pub(crate) fn apply_beside(&self) {
        self.0.beside.store(true, Ordering::Release);
    }

    pub(crate) fn is_applied_beside(&self) -> bool {
        self.0.beside.load(Ordering::Acquire)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiter>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes an open batch, with what waits and fits.
    pub(crate) fn seal(&self, fits: impl FnMut(usize) -> bool) {
        let Some(lane) = self.0.lane.as_ref().filter(|_| self.0.batch.get().is_none()) else { return };
        let part = |Pending { command, here_only, arrived, reply, .. }| (command, Waiter { here_only, arrived, reply });
        let (commands, waiting): (Vec<_>, Vec<_>) = lane.gather(fits).into_iter().map(part).unzip();
        let synced = commands.iter().any(Command::synced);
        *self.waiting() = waiting;
        self.0.batch.get_or_init(|| Batch { synced, commands });
        lane.sealed.notify_one();
    }

    /// Hands the outcomes to those who wait, or back when nobody does.
    pub(crate) fn answer(&self, outcomes: Vec<Result<Reply, StoreError>>) -> Vec<Result<Reply, StoreError>> {
        let waiting = std::mem::take(&mut *self.waiting());
        if waiting.is_empty() {
            return outcomes;
        }
        waiting.into_iter().zip(outcomes).for_each(|(waiter, outcome)| answer(waiter.reply, outcome));
        Vec::new()
    }

    /// Nobody waits any more.
    pub(crate) fn is_answered(&self) -> bool {
        self.waiting().is_empty()
    }

    /// All who still wait get an error.
    pub(crate) fn fail(&self, error: &StoreError) {
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_iter().for_each(|waiter| answer(waiter.reply, Err(error.clone())));
    }

    /// The requests of a batch that certainly was not taken, for another attempt.
    pub(crate) fn take_back(&self) -> Vec<Pending> {
        let waiting = std::mem::take(&mut *self.waiting());
        let again = |(command, waiter): (&Command, Waiter)| {
            let Waiter { here_only, arrived, reply } = waiter;
            Pending { command: command.clone(), size: command.size(), here_only, arrived, reply }
        };
        self.batch().commands.iter().zip(waiting).map(again).collect()
    }
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = Vec::new();
        self.batch().encode(&mut out);
        serializer.serialize_bytes(&out)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = bytes::Bytes::deserialize(deserializer)?;
        Batch::decode(&bytes).map(Self::of).map_err(de::Error::custom)
    }
}
