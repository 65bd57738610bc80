//! What simulated clients do, and what watchers see.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storage::{Compare, Durability, MemberId, Op, OpResult, StoreError, Txn, TxnResponse, WatchError, WatchRequest};
use tokio::time::{sleep, timeout};

use super::cluster::Running;
use crate::history::watches::Seen;
use crate::history::{Action, Changes, History, Outcome, Truth, Value, changes};
use crate::seeded::Seeded;

/// How long a client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
const KEYS: u64 = 4;

/// What all clients share.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    history: Arc<Mutex<History>>,
    watches: Arc<Mutex<Vec<Watched>>>,
    next: Arc<Mutex<Value>>,
    chronicle: Arc<Mutex<Chronicle>>,
}

/// What a watcher saw, with the one key that it watched, if it was not all.
pub(super) type Watched = (Option<String>, Seen);

/// What watchers of everything have seen from the beginning on without a gap: compaction may take that away.
#[derive(Clone, Debug, Default)]
pub(super) struct Chronicle {
    pub(super) truth: Truth,
    /// Complete up to here.
    pub(super) upto: u64,
    /// Two watchers saw different things.
    pub(super) flaw: Option<String>,
}

impl Chronicle {
    fn add(&mut self, from: u64, revision: u64, changes: &Changes) {
        // Watches from later on would leave a gap.
        if from > self.upto + 1 {
            return;
        }
        self.upto = self.upto.max(revision);
        if changes.is_empty() {
            return;
        }
        let known = self.truth.entry(revision).or_insert_with(|| changes.clone());
        if known != changes {
            self.flaw.get_or_insert(format!("two watchers saw different changes of revision {revision}"));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Records {
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    pub(super) fn watches(&self) -> Vec<Watched> {
        lock(&self.watches).clone()
    }

    pub(super) fn chronicle(&self) -> Chronicle {
        lock(&self.chronicle).clone()
    }

    fn value(&self) -> Value {
        let mut next = lock(&self.next);
        *next += 1;
        *next
    }
}

fn transaction(key: &str, action: Action, known: Option<&(Value, u64)>) -> Txn {
    let put = |value: Value| vec![Op::put(key.to_owned(), value.to_string())];
    match action {
        Action::Put(value) => Txn { success: put(value), ..Txn::default() },
        Action::Delete => Txn { success: vec![Op::delete(key.to_owned())], ..Txn::default() },
        Action::Get => Txn { success: vec![Op::get(key.to_owned())], ..Txn::default() },
        Action::Swap { expected, new } => {
            let revision = known.map_or(0, |(_, revision)| *revision);
            let revision = if expected.is_some() { revision } else { 0 };
            Txn { compares: vec![Compare::unchanged(key.to_owned(), revision)], success: put(new), ..Txn::default() }
        }
    }
}

fn outcome(action: Action, response: &TxnResponse) -> Outcome {
    let found = response.results.iter().find_map(|result| match result {
        OpResult::Range(range) => range.kvs.first().and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse().ok()),
        _ => None,
    });
    match action {
        Action::Put(_) | Action::Delete => Outcome::Written(response.revision),
        Action::Get => Outcome::Found(found, response.revision),
        Action::Swap { .. } => Outcome::Swapped(response.succeeded, response.revision),
    }
}

/// One client: asks one member after the other, one thing at a time.
pub(super) async fn client((number, coalescing): (u64, bool), mut random: Seeded, running: Running, records: Records) {
    // The newest version that this client knows of each key.
    let mut known: std::collections::BTreeMap<String, (Value, u64)> = std::collections::BTreeMap::new();
    loop {
        sleep(Duration::from_micros(random.between(1_000, 120_000))).await;
        let Some((member, store, alive)) = running.pick(&mut random) else { continue };
        let key = format!("k{}", random.below(KEYS));
        let action = match random.below(10) {
            0..4 => Action::Get,
            4..7 => Action::Put(records.value()),
            7 => Action::Delete,
            _ => Action::Swap { expected: known.get(&key).map(|(value, _)| *value), new: records.value() },
        };
        let mut txn = transaction(&key, action, known.get(&key));
        if random.chance(20) && coalescing {
            txn.durability = Durability::Coalesced;
        }
        let begun = records.history().begin(number, &key, action);
        let answer = timeout(PATIENCE, store.txn(txn)).await;
        // A process that has ended answers nobody.
        let answer = if alive.load(std::sync::atomic::Ordering::SeqCst) { answer.ok() } else { None };
        running.trace.note(|| format!("client {number} at {member}: {key} {action:?} {}", told(answer.as_ref())));
        match answer {
            Some(Ok(response)) => {
                let outcome = outcome(action, &response);
                match (action, outcome) {
                    (Action::Put(value), _) | (Action::Swap { new: value, .. }, Outcome::Swapped(true, _)) => {
                        known.insert(key, (value, response.revision));
                    }
                    (_, Outcome::Swapped(false, _) | Outcome::Found(None, _)) | (Action::Delete, _) => {
                        known.remove(&key);
                    }
                    (_, Outcome::Found(Some(value), _)) => {
                        let version = response.results.iter().find_map(|result| match result {
                            OpResult::Range(range) => range.kvs.first().map(|kv| kv.mod_revision),
                            _ => None,
                        });
                        known.insert(key, (value, version.unwrap_or(0)));
                    }
                    _ => {}
                }
                records.history().end(begun, outcome);
            }
            Some(Err(StoreError::NoLeader | StoreError::DiskFull { .. } | StoreError::Excluded(_))) => {
                records.history().refused(begun);
            }
            Some(Err(_)) | None => {}
        }
    }
}

fn told(answer: Option<&Result<TxnResponse, StoreError>>) -> String {
    match answer {
        Some(Ok(response)) => format!("{} at {}", response.succeeded, response.revision),
        Some(Err(error)) => error.to_string(),
        None => "no answer".to_owned(),
    }
}

/// Has the store forget what has been seen by watchers, now and then.
pub(super) async fn compactor(mut random: Seeded, running: Running, records: Records) {
    loop {
        sleep(Duration::from_millis(random.between(500, 8000))).await;
        let seen = records.chronicle().upto;
        let Some((member, store, _)) = running.pick(&mut random) else { continue };
        let upto = random.below(seen + 1);
        let compacted = timeout(PATIENCE, store.compact(upto)).await;
        running.trace.note(|| format!("compaction to {upto} at {member}: {compacted:?}"));
    }
}

/// Watches everything, or one key, through a member, and goes on with another when that ends.
pub(super) async fn watcher(mut random: Seeded, running: Running, records: Records, only: Option<String>) {
    let mut from = 1;
    loop {
        sleep(Duration::from_millis(random.between(5, 400))).await;
        let Some((member, store, alive)) = running.pick(&mut random) else { continue };
        from = watch(member, &store, (from, only.as_deref()), &alive, &running, &records).await;
        // Now and then one starts from the beginning.
        if random.chance(10) {
            from = 1;
        }
    }
}

async fn watch(
    member: MemberId,
    store: &storage::Store,
    (from, only): (u64, Option<&str>),
    alive: &std::sync::atomic::AtomicBool,
    running: &Running,
    records: &Records,
) -> u64 {
    let request = match only {
        Some(key) => WatchRequest { key: key.to_owned().into(), from, ..WatchRequest::default() },
        None => WatchRequest { from, end: Some("".into()), ..WatchRequest::default() },
    };
    let mut watcher = match store.watch(request) {
        Ok(watcher) => watcher,
        Err(WatchError::Compacted { .. }) => return from.max(store.compacted() + 1),
        Err(_) => return from,
    };
    let number = {
        let mut watches = lock(&records.watches);
        watches.push((only.map(str::to_owned), Seen { from, upto: from - 1, batches: Vec::new() }));
        watches.len() - 1
    };
    let mut next = from;
    while let Ok(Ok(batch)) = timeout(Duration::from_secs(4), watcher.next()).await {
        if !alive.load(std::sync::atomic::Ordering::SeqCst) {
            return next;
        }
        running.trace.note(|| format!("a watch of {member} has revision {}", batch.revision));
        let mut watches = lock(&records.watches);
        if only.is_none() {
            lock(&records.chronicle).add(from, batch.revision, &changes(&batch.events));
        }
        if let Some((_, seen)) = watches.get_mut(number) {
            seen.upto = seen.upto.max(batch.revision);
            if !batch.events.is_empty() {
                seen.batches.push((batch.revision, changes(&batch.events)));
            }
        }
        next = batch.revision + 1;
    }
    next
}
