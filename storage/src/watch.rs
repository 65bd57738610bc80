//! Watches: the hub that the apply path feeds, and the receiving side.
//!
//! Invariants: the hub is fed under the state's write lock, and a watcher goes live under its read lock, so no change is
//! missed or repeated. A live watcher's buffer is bounded; one that overflows delivers what it has, then fails as too
//! slow. A watcher that starts in the past reads the history in steps, at its own pace, and buffers nothing meanwhile.
//!
//! One task may read many watchers ([`Ready`]): it is woken once, however many of them have something to take.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::error::WatchError;
use crate::mvcc::contains;
use crate::state::Shared;
use crate::types::{Event, Revision, WatchBatch, WatchRequest};

/// Changes that a watcher looks at in one step through the history.
const REPLAY_STEP: usize = 512;

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<WatchBatch>,
    events: usize,
    /// Set when the buffer overflowed: the first revision that was not kept.
    missed: Option<Revision>,
    /// Set when the state has jumped ahead: the first revision to look for in its history.
    rewind: Option<Revision>,
    closed: bool,
    progress: bool,
}

/// The watchers of one reader that have something to take: each at most once, the one that has waited longest first.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    tokens: Mutex<VecDeque<u64>>,
    more: Notify,
}

impl Ready {
    fn tokens(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, token: u64) {
        let first = {
            let mut tokens = self.tokens();
            tokens.push_back(token);
            tokens.len() == 1
        };
        if first {
            self.more.notify_one();
        }
    }

    pub(crate) fn pop(&self) -> Option<u64> {
        self.tokens().pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens().is_empty()
    }

    /// Returns when there is one. For one reader; cancel-safe.
    pub(crate) async fn wait(&self) {
        while self.is_empty() {
            self.more.notified().await;
        }
    }
}

/// Who is told that there is something to take.
#[derive(Debug)]
enum Wake {
    Own(Notify),
    Shared {
        ready: Arc<Ready>,
        token: u64,
        /// Set while the token is in there.
        queued: AtomicBool,
    },
}

#[derive(Debug)]
struct Slot {
    /// With the first revision that is handed over in `from`.
    request: WatchRequest,
    queue: Mutex<Queue>,
    wake: Wake,
    capacity: usize,
}

impl Slot {
    fn wake(&self) {
        match &self.wake {
            Wake::Own(waiting) => waiting.notify_one(),
            Wake::Shared { ready, token, queued } => {
                if !queued.swap(true, Ordering::AcqRel) {
                    ready.push(*token);
                }
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds all changes of one revision. False once the watcher takes no more.
    fn offer(&self, revision: Revision, mut events: Vec<Event>) -> bool {
        if revision < self.request.from {
            return true;
        }
        let mut queue = self.queue();
        if queue.missed.is_some() {
            return false;
        }
        // An empty buffer takes any revision, however many changes it has.
        if queue.events > 0 && queue.events + events.len() > self.capacity {
            queue.missed = Some(revision);
            return false;
        }
        if !self.request.prev_kv {
            events.iter_mut().for_each(|event| event.prev = None);
        }
        queue.events += events.len();
        queue.batches.push_back(WatchBatch { revision, events });
        true
    }
}

/// Routes changes to live watchers.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    next_id: u64,
    closed: bool,
    keys: HashMap<Bytes, Vec<(u64, Arc<Slot>)>>,
    ranges: Vec<(u64, Arc<Slot>)>,
}

impl Hub {
    /// Hands the changes of one revision to whoever watches them.
    pub(crate) fn publish(&mut self, revision: Revision, events: &[Event]) {
        if let [event] = events {
            return self.publish_one(revision, event);
        }
        let mut matched: BTreeMap<u64, (Arc<Slot>, Vec<Event>)> = BTreeMap::new();
        for event in events {
            let exact = self.keys.get(&event.kv.key).into_iter().flatten();
            let matching = |slot: &WatchRequest| contains(&slot.key, slot.end.as_deref(), &event.kv.key);
            for (id, slot) in exact.chain(self.ranges.iter().filter(|(_, slot)| matching(&slot.request))) {
                matched.entry(*id).or_insert_with(|| (slot.clone(), Vec::new())).1.push(event.clone());
            }
        }
        for (id, (slot, events)) in matched {
            let keeps_up = slot.offer(revision, events);
            slot.wake();
            if !keeps_up {
                self.remove(id, &slot.request);
            }
        }
    }

    /// The same for a single change: nothing has to be gathered, and most revisions are such.
    fn publish_one(&mut self, revision: Revision, event: &Event) {
        let key = &event.kv.key;
        let hand_over = |(_, slot): &(u64, Arc<Slot>)| {
            let keeps_up = slot.offer(revision, vec![event.clone()]);
            slot.wake();
            keeps_up
        };
        if let Some(slots) = self.keys.get_mut(key) {
            slots.retain(hand_over);
            if slots.is_empty() {
                self.keys.remove(key);
            }
        }
        let matching = |slot: &WatchRequest| contains(&slot.key, slot.end.as_deref(), key);
        self.ranges.retain(|entry| !matching(&entry.1.request) || hand_over(entry));
    }

    /// Ends every watch, now and later.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        let slots = self.keys.drain().flat_map(|(_, slots)| slots).chain(self.ranges.drain(..));
        for (_, slot) in slots {
            slot.queue().closed = true;
            slot.wake();
        }
    }

    /// The state has jumped ahead without its changes: every live watch looks for them in the history.
    pub(crate) fn reset(&mut self, revision: Revision) {
        let slots = self.keys.drain().flat_map(|(_, slots)| slots).chain(self.ranges.drain(..));
        for (_, slot) in slots {
            slot.queue().rewind.get_or_insert(revision);
            slot.wake();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn watchers(&self) -> u64 {
        (self.ranges.len() + self.keys.values().map(Vec::len).sum::<usize>()) as u64
    }

    fn add(&mut self, slot: &Arc<Slot>) -> u64 {
        self.next_id += 1;
        let entry = (self.next_id, slot.clone());
        match slot.request.end {
            None => self.keys.entry(slot.request.key.clone()).or_default().push(entry),
            Some(_) => self.ranges.push(entry),
        }
        self.next_id
    }

    fn remove(&mut self, id: u64, request: &WatchRequest) {
        if request.end.is_some() {
            self.ranges.retain(|(other, _)| *other != id);
        } else if let Some(slots) = self.keys.get_mut(&request.key) {
            slots.retain(|(other, _)| *other != id);
            if slots.is_empty() {
                self.keys.remove(&request.key);
            }
        }
    }
}

/// What a watcher has at the moment.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Changes, progress, or the end.
    This(Result<WatchBatch, WatchError>),
    /// Nothing in this part of the history; there is more of it.
    Further,
    /// Nothing before it is woken.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Reading the history; the next revision to look at.
    Past(Revision),
    /// Fed by the hub.
    Live(u64),
}

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    phase: Phase,
    /// Everything up to here has been delivered, or had no match.
    delivered: Arc<AtomicU64>,
}

impl Watcher {
    pub(crate) fn open(shared: Arc<Shared>, request: WatchRequest, capacity: usize) -> Result<Self, WatchError> {
        Self::begin(shared, request, capacity, Wake::Own(Notify::new()))
    }

    /// One of many of a reader, who calls [`Watcher::take`] when its token is ready; it is so at once.
    pub(crate) fn among(
        shared: Arc<Shared>,
        request: WatchRequest,
        capacity: usize,
        ready: &Arc<Ready>,
        token: u64,
    ) -> Result<Self, WatchError> {
        let wake = Wake::Shared { ready: ready.clone(), token, queued: AtomicBool::new(false) };
        let watcher = Self::begin(shared, request, capacity, wake)?;
        watcher.slot.wake();
        Ok(watcher)
    }

    fn begin(shared: Arc<Shared>, request: WatchRequest, capacity: usize, wake: Wake) -> Result<Self, WatchError> {
        let from = request.from;
        let slot = Arc::new(Slot { request, queue: Mutex::default(), wake, capacity });
        let state = shared.read();
        let mut hub = shared.hub();
        if hub.is_closed() {
            return Err(WatchError::Closed);
        }
        let current = state.mvcc.revision();
        let (phase, delivered) = if from == 0 || from > current {
            (Phase::Live(hub.add(&slot)), current)
        } else if from <= state.mvcc.compacted() {
            return Err(WatchError::Compacted { revision: from, oldest: state.mvcc.compacted() + 1 });
        } else {
            (Phase::Past(from), from - 1)
        };
        drop(hub);
        drop(state);
        Ok(Self { shared, slot, phase, delivered: Arc::new(AtomicU64::new(delivered)) })
    }

    /// The next revision that has matching changes, or progress that was asked for. Cancel-safe. After an error there
    /// is nothing more to come.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            match self.take() {
                Taken::This(outcome) => return outcome,
                Taken::Further => {}
                Taken::Nothing => match &self.slot.wake {
                    Wake::Own(woken) => woken.notified().await,
                    // Read by nobody but who has the token.
                    Wake::Shared { .. } => std::future::pending().await,
                },
            }
        }
    }

    /// What there is, without waiting, and with a look at one part of the history at most.
    pub(crate) fn take(&mut self) -> Taken {
        loop {
            if let Some(batch) = self.buffered() {
                return Taken::This(Ok(batch));
            }
            match self.phase {
                Phase::Past(next) => match self.step(next) {
                    Err(error) => return Taken::This(Err(error)),
                    Ok(()) => {
                        return self.buffered().map_or(Taken::Further, |batch| Taken::This(Ok(batch)));
                    }
                },
                Phase::Live(_) => {
                    if let Some(next) = self.rewound() {
                        self.phase = Phase::Past(next.max(self.slot.request.from));
                    } else if let Some(outcome) = self.idle() {
                        return Taken::This(outcome);
                    } else if self.slot.queue().batches.is_empty() {
                        return Taken::Nothing;
                    }
                }
            }
        }
    }

    /// Its token has been taken out: what comes from now on puts it in again.
    pub(crate) fn taken_out(&self) {
        if let Wake::Shared { queued, .. } = &self.slot.wake {
            queued.swap(false, Ordering::AcqRel);
        }
    }

    /// Puts its token in behind the others.
    pub(crate) fn wake(&self) {
        self.slot.wake();
    }

    /// What has been buffered.
    fn buffered(&mut self) -> Option<WatchBatch> {
        let mut queue = self.slot.queue();
        let batch = queue.batches.pop_front()?;
        queue.events = queue.events.saturating_sub(batch.events.len());
        drop(queue);
        self.delivered.fetch_max(batch.revision, Ordering::Relaxed);
        Some(batch)
    }

    /// With an empty buffer: where to go on in the history.
    fn rewound(&self) -> Option<Revision> {
        let mut queue = self.slot.queue();
        if queue.batches.is_empty() && queue.missed.is_none() { queue.rewind.take() } else { None }
    }

    /// With an empty buffer: the end of the watch, or progress if it was asked for.
    fn idle(&self) -> Option<Result<WatchBatch, WatchError>> {
        {
            // Nearly always there is neither, and whoever writes need not wait for the answer.
            let queue = self.slot.queue();
            if queue.missed.is_none() && !queue.closed && !queue.progress {
                return None;
            }
        }
        // The state's lock keeps changes out between the look at the buffer and at the revision.
        let state = self.shared.read();
        let mut queue = self.slot.queue();
        if !queue.batches.is_empty() {
            return None;
        }
        if let Some(resume_from) = queue.missed {
            return Some(Err(WatchError::TooSlow { resume_from }));
        }
        if queue.closed {
            return Some(Err(WatchError::Closed));
        }
        if std::mem::take(&mut queue.progress) {
            let revision = state.mvcc.revision().max(self.delivered.load(Ordering::Relaxed));
            self.delivered.fetch_max(revision, Ordering::Relaxed);
            return Some(Ok(WatchBatch { revision, events: Vec::new() }));
        }
        None
    }

    /// Reads one step of history, and goes live at its end.
    fn step(&mut self, next: Revision) -> Result<(), WatchError> {
        let state = self.shared.read();
        let request = &self.slot.request;
        let replay = state.mvcc.replay(&request.key, request.end.as_deref(), next, REPLAY_STEP)?;
        let mut hub = self.shared.hub();
        if hub.is_closed() {
            return Err(WatchError::Closed);
        }
        {
            let mut queue = self.slot.queue();
            for mut batch in replay.batches {
                if !request.prev_kv {
                    batch.events.iter_mut().for_each(|event| event.prev = None);
                }
                queue.events += batch.events.len();
                queue.batches.push_back(batch);
            }
        }
        self.phase = if replay.next > state.mvcc.revision() {
            Phase::Live(hub.add(&self.slot))
        } else {
            Phase::Past(replay.next)
        };
        Ok(())
    }

    /// Asks for progress from elsewhere while [`Watcher::next`] waits.
    pub fn progress_handle(&self) -> ProgressHandle {
        ProgressHandle { slot: self.slot.clone() }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Phase::Live(id) = self.phase {
            self.shared.hub().remove(id, &self.slot.request);
        }
    }
}

/// Makes a watcher yield an empty batch once it has delivered everything up to the store's present revision.
#[derive(Clone, Debug)]
pub struct ProgressHandle {
    slot: Arc<Slot>,
}

impl ProgressHandle {
    /// The empty batch comes after all changes up to now.
    pub fn request(&self) {
        self.slot.queue().progress = true;
        self.slot.wake();
    }
}
