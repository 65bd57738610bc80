//! What simulated clients do, and what watchers see.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storage::{Compare, Durability, MemberId, Op, OpResult, StoreError, Txn, TxnResponse, WatchRequest};
use tokio::time::{sleep, timeout};

use super::cluster::Running;
use crate::history::watches::Seen;
use crate::history::{Action, History, Outcome, Value, changes};
use crate::seeded::Seeded;

/// How long a client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
const KEYS: u64 = 4;

/// What all clients share.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    history: Arc<Mutex<History>>,
    watches: Arc<Mutex<Vec<Seen>>>,
    next: Arc<Mutex<Value>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Records {
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    pub(super) fn watches(&self) -> Vec<Seen> {
        lock(&self.watches).clone()
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
pub(super) async fn client(number: u64, mut random: Seeded, running: Running, records: Records) {
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
        if random.chance(20) {
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

/// Watches everything through a member, and goes on with another when that ends.
pub(super) async fn watcher(mut random: Seeded, running: Running, records: Records) {
    let mut from = 1;
    loop {
        sleep(Duration::from_millis(random.between(5, 400))).await;
        let Some((member, store, alive)) = running.pick(&mut random) else { continue };
        from = watch(member, &store, from, &alive, &running, &records).await;
        // Now and then one starts from the beginning.
        if random.chance(10) {
            from = 1;
        }
    }
}

async fn watch(
    member: MemberId,
    store: &storage::Store,
    from: u64,
    alive: &std::sync::atomic::AtomicBool,
    running: &Running,
    records: &Records,
) -> u64 {
    let request = WatchRequest { from, end: Some("".into()), ..WatchRequest::default() };
    let Ok(mut watcher) = store.watch(request) else { return from };
    let number = {
        let mut watches = lock(&records.watches);
        watches.push(Seen { from, upto: from - 1, batches: Vec::new() });
        watches.len() - 1
    };
    let mut next = from;
    while let Ok(Ok(batch)) = timeout(Duration::from_secs(4), watcher.next()).await {
        if !alive.load(std::sync::atomic::Ordering::SeqCst) {
            return next;
        }
        running.trace.note(|| format!("a watch of {member} has revision {}", batch.revision));
        let mut watches = lock(&records.watches);
        if let Some(seen) = watches.get_mut(number) {
            seen.upto = seen.upto.max(batch.revision);
            if !batch.events.is_empty() {
                seen.batches.push((batch.revision, changes(&batch.events)));
            }
        }
        next = batch.revision + 1;
    }
    next
}
