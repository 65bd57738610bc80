//! A work queue of keys: a key waits at most once, is worked on by one worker at a time, comes back if it was added
//! meanwhile, and is delayed more with each failure in a row.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::ObjectKey;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::{Metrics, QueueLabel};

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LONGEST_DELAY: Duration = Duration::from_secs(120);
/// What is asked for beyond this means for ever, and no clock counts that far.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The state of a queue. Knows no clock: `now` is a parameter.
#[derive(Default)]
struct State {
    ready: VecDeque<ObjectKey>,
    /// Keys that are waiting in `ready`, or are to go there when the worker that has them is done.
    dirty: HashSet<ObjectKey>,
    in_flight: HashSet<ObjectKey>,
    /// When each delayed key is due; entries of the heap that say otherwise are out of date.
    due: HashMap<ObjectKey, Instant>,
    delayed: BinaryHeap<Reverse<(Instant, ObjectKey)>>,
    failures: HashMap<ObjectKey, u32>,
}

impl State {
    fn add(&mut self, key: ObjectKey) {
        if self.dirty.insert(key.clone()) && !self.in_flight.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// A key waits for one time only: the earliest it was given.
    fn add_at(&mut self, key: ObjectKey, at: Instant) {
        if self.due.get(&key).is_none_or(|due| at < *due) {
            self.due.insert(key.clone(), at);
            self.delayed.push(Reverse((at, key)));
        }
    }

    fn fail(&mut self, key: ObjectKey, now: Instant) {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = FIRST_DELAY.saturating_mul(1 << (*failures).min(20)).min(LONGEST_DELAY);
        *failures += 1;
        self.add_at(key, now + delay);
    }

    fn take(&mut self, now: Instant) -> Option<ObjectKey> {
        while let Some(Reverse((at, _))) = self.delayed.peek()
            && *at <= now
            && let Some(Reverse((at, key))) = self.delayed.pop()
        {
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                self.add(key);
            }
        }
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.in_flight.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: &ObjectKey) {
        self.in_flight.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.delayed.peek().map(|Reverse((at, _))| *at)
    }
}

/// Cheap to clone; all clones are one queue.
#[derive(Clone)]
pub(crate) struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    name: &'static str,
    depth: Gauge,
    adds: Counter,
    retries: Counter,
    panics: Counter,
}

impl Queue {
    pub(crate) fn new(name: &'static str, metrics: &Metrics) -> Self {
        let label = QueueLabel { name };
        let shared = Shared {
            state: Mutex::default(),
            changed: Notify::new(),
            name,
            depth: metrics.depth.get_or_create_owned(&label),
            adds: metrics.adds.get_or_create_owned(&label),
            retries: metrics.retries.get_or_create_owned(&label),
            panics: metrics.panics.get_or_create_owned(&label),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.shared.name
    }

    fn edit<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state: MutexGuard<'_, State> = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        self.shared.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
        drop(state);
        self.shared.changed.notify_one();
        result
    }

    pub(crate) fn add(&self, key: ObjectKey) {
        self.shared.adds.inc();
        self.edit(|state| state.add(key));
    }

    pub(crate) fn add_after(&self, key: ObjectKey, delay: Duration) {
        // A delay that objects give may be longer than a clock can count.
        let delay = delay.min(LONGEST_WAIT);
        self.edit(|state| state.add_at(key, Instant::now() + delay));
    }

    /// Ends the work on a key that failed: it comes back later, the later the more often it failed.
    pub(crate) fn failed(&self, key: &ObjectKey) {
        self.shared.retries.inc();
        self.edit(|state| {
            state.done(key);
            state.fail(key.clone(), Instant::now());
        });
    }

    pub(crate) fn panicked(&self, key: &ObjectKey) {
        self.shared.panics.inc();
        self.failed(key);
    }

    /// Ends the work on a key that succeeded.
    pub(crate) fn succeeded(&self, key: &ObjectKey) {
        self.edit(|state| {
            state.failures.remove(key);
            state.done(key);
        });
    }

    /// The next key to work on. Cancel-safe: a key is taken only by the call that returns it.
    pub(crate) async fn next(&self) -> ObjectKey {
        loop {
            let changed = self.shared.changed.notified();
            let (key, due) = {
                let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                let key = state.take(Instant::now());
                self.shared.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
                (key, state.next_due())
            };
            match (key, due) {
                (Some(key), _) => return key,
                (None, None) => changed.await,
                (None, Some(due)) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::cluster(name)
    }

    #[test]
    fn a_key_waits_once() {
        let (mut state, now) = (State::default(), Instant::now());
        state.add(key("a"));
        state.add(key("a"));
        assert_eq!(state.take(now), Some(key("a")));
        assert_eq!(state.take(now), None);
    }

    #[test]
    fn a_key_dirtied_in_flight_comes_back_when_done_and_not_before() {
        let (mut state, now) = (State::default(), Instant::now());
        state.add(key("a"));
        state.take(now);
        state.add(key("a"));
        assert_eq!(state.take(now), None);
        state.done(&key("a"));
        assert_eq!(state.take(now), Some(key("a")));
    }

    #[test]
    fn failures_in_a_row_wait_longer() {
        let (mut state, now) = (State::default(), Instant::now());
        state.fail(key("a"), now);
        assert_eq!(state.take(now), None);
        assert_eq!(state.take(now + FIRST_DELAY), Some(key("a")));
        state.done(&key("a"));
        state.fail(key("a"), now);
        assert_eq!(state.take(now + FIRST_DELAY), None);
        assert_eq!(state.take(now + FIRST_DELAY * 2), Some(key("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_key_comes_when_due_though_others_were_added_first() {
        let queue = Queue::new("test", &Metrics::default());
        queue.add_after(key("late"), Duration::from_secs(60));
        queue.add(key("now"));
        assert_eq!(queue.next().await, key("now"));
        let started = Instant::now();
        assert_eq!(queue.next().await, key("late"));
        assert_eq!(started.elapsed().as_secs(), 60);
    }
}
