//! Disks that fail, hang, or take a program with them, and what comes together with entries that are applied beside.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::command::{Batch, Command, Reply};
use crate::disk::directed::Directed;
use crate::open::{self, Opened};
use crate::proposal::{Lane, Pending, Proposal};
use crate::{Config, Durability, Op, RangeRequest, Store, StoreError, Timing, Txn};

const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, holds: impl Fn() -> bool) {
    let held = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, held).await.unwrap_or_else(|_| panic!("{what}"));
}

fn put(key: &str, value: &str, durability: Durability) -> Txn {
    Txn { success: vec![Op::put(key.to_owned(), value.to_owned())], durability, ..Txn::default() }
}

fn left(value: &str, durability: Durability) -> Proposal {
    let synced = durability == Durability::Synced;
    Proposal::of(Batch { synced, commands: vec![Command::Txn(put("key", value, durability))] })
}

/// A batch that is open, with this request, and where its outcome comes.
fn open_batch(value: &str) -> (Proposal, oneshot::Receiver<Result<Reply, StoreError>>) {
    let (sender, receiver) = mpsc::channel(1);
    let (reply, answered) = oneshot::channel();
    let command = Command::Txn(put("key", value, Durability::Synced));
    let pending = Pending { size: command.size(), command, here_only: false, arrived: Instant::now(), reply };
    sender.try_send(pending).unwrap();
    (Proposal::open(Arc::new(Lane::new(receiver, Arc::default()))), answered)
}

fn value(opened: &Opened) -> String {
    let found = opened.shared.read().mvcc.range(&RangeRequest::key("key")).unwrap();
    String::from_utf8(found.kvs[0].value.to_vec()).unwrap()
}

/// The Raft core applies in another task. It has not done so yet when what comes next is flushed in place.
#[tokio::test]
async fn an_entry_does_not_overtake_one_that_is_left_to_the_raft_core() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { disk: Directed::by(|| Ok(())), ..Config::new(dir.path(), 1) };
    let opened = open::open(&config).await.unwrap();
    // The disk shows that it is quick.
    for _ in 0..32 {
        opened.raft.client_write(left("0", Durability::Synced)).await.unwrap();
    }
    for durability in [Durability::Coalesced, Durability::Synced] {
        let (batch, answered) = open_batch("second");
        let first = opened.raft.client_write_ff(left("first", durability)).await.unwrap();
        let second = opened.raft.client_write_ff(batch).await.unwrap();
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        timeout(PATIENCE, answered).await.unwrap().unwrap().unwrap();
        assert_eq!(value(&opened), "second");
    }
    opened.raft.shutdown().await.unwrap();
}

/// What is not on disk is not applied, so what comes after it must not be either.
#[tokio::test]
async fn nothing_is_applied_after_an_entry_that_could_not_be_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let flushes = AtomicUsize::new(0);
    let broken = move || match flushes.fetch_add(1, Ordering::SeqCst) {
        0..20 => Ok(()),
        _ => Err(io::Error::other("broken")),
    };
    let config = Config { disk: Directed::by(broken), ..Config::new(dir.path(), 1) };
    let opened = open::open(&config).await.unwrap();
    // Too large for a flush in place: the Raft core goes on meanwhile.
    let large = "before".repeat(8 << 10);
    loop {
        let (batch, answered) = open_batch(&large);
        let written = opened.raft.client_write_ff(batch).await.unwrap();
        let outcome = timeout(PATIENCE, answered).await.unwrap().unwrap();
        drop(written.await);
        if outcome.is_err() {
            break;
        }
    }
    let after = opened.raft.client_write(left("after", Durability::Coalesced)).await;
    assert!(after.is_err(), "{after:?}");
    assert_eq!(value(&opened), large);
}

/// How far the test below is.
#[derive(Default)]
struct Reported {
    inside: usize,
    told: bool,
}

/// The kernel reports an error once, to one of those who flush the file: here to the first who comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_flushes_at_a_time_neither_is_taken_for_good_when_one_fails() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new((Mutex::new(None::<Reported>), Condvar::new()));
    let (seen, news) = (state.clone(), "both are there");
    let flush = move || {
        let (state, changed) = &*seen;
        let mut state = state.lock().unwrap();
        let Some(reported) = state.as_mut() else { return Ok(()) };
        reported.inside += 1;
        if reported.inside == 1 {
            // Time for another one.
            changed.notify_all();
            let (guard, _) = changed
                .wait_timeout_while(state, Duration::from_millis(500), |state| {
                    state.as_ref().is_some_and(|reported| !reported.told)
                })
                .unwrap();
            state = guard;
        }
        let Some(reported) = state.as_mut() else { return Ok(()) };
        changed.notify_all();
        if std::mem::replace(&mut reported.told, true) { Ok(()) } else { Err(io::Error::other(news)) }
    };
    let coalesce_for = Duration::from_millis(20);
    let config = Config { disk: Directed::by(flush), coalesce_for, ..Config::new(dir.path(), 1) };
    let store = Store::open(config).await.unwrap();
    *state.0.lock().unwrap() = Some(Reported::default());
    store.txn(put("key", "coalesced", Durability::Coalesced)).await.unwrap();
    // Its flush comes while this one's runs.
    let synced = timeout(PATIENCE, store.txn(put("key", "synced", Durability::Synced))).await.unwrap();
    assert!(matches!(synced, Err(StoreError::Failed)), "{synced:?}");
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_on_the_way_to_disk_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let flushes = AtomicUsize::new(0);
    let panics = move || {
        assert!(flushes.fetch_add(1, Ordering::SeqCst) < 3, "a flush that panics");
        Ok(())
    };
    let store = Store::open(Config { disk: Directed::by(panics), ..Config::new(dir.path(), 1) }).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(timeout(PATIENCE, store.txn(put("key", "value", Durability::Synced))).await.unwrap().is_ok());
    }
    assert!(!answers[9], "{answers:?}");
    timeout(PATIENCE, store.shutdown()).await.unwrap();
}

/// Fewer come while a flush runs than it has. They need not wait for more, nor for another flush than the next one.
#[tokio::test]
async fn what_comes_while_a_flush_runs_shares_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Arc::new(AtomicUsize::new(0));
    let allowed = Arc::new((Mutex::new(usize::MAX), Condvar::new()));
    let (count, held) = (begun.clone(), allowed.clone());
    let flush = move || {
        let number = count.fetch_add(1, Ordering::SeqCst);
        drop(held.1.wait_timeout_while(held.0.lock().unwrap(), PATIENCE, |allowed| *allowed <= number).unwrap());
        Ok(())
    };
    let allow = |flushes| {
        *allowed.0.lock().unwrap() = flushes;
        allowed.1.notify_all();
    };
    let store = Store::open(Config { disk: Directed::by(flush), ..Config::new(dir.path(), 1) }).await.unwrap();
    store.txn(put("key", "before", Durability::Synced)).await.unwrap();
    let before = begun.load(Ordering::SeqCst);
    allow(before);
    let mut answers = Vec::new();
    let mut submit = |value: &str| {
        let slot = store.slot().unwrap();
        answers.push(slot.submit(Command::Txn(put("key", value, Durability::Synced))).unwrap());
    };
    // Too large for a flush in place.
    submit(&"x".repeat(64 << 10));
    until("the first flush", || begun.load(Ordering::SeqCst) == before + 1).await;
    (0..60).for_each(|_| submit("many"));
    until("the many are written", || store.waiting() == 0).await;
    allow(before + 1);
    until("their flush", || begun.load(Ordering::SeqCst) == before + 2).await;
    (0..10).for_each(|_| submit("few"));
    // The writer looks at one of them; then it is the Raft core's turn.
    until("the few wait", || store.waiting() == 9).await;
    allow(usize::MAX);
    for (revision, answered) in (2..).zip(answers) {
        let answer = timeout(PATIENCE, answered).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.txn().unwrap().revision, revision);
    }
    assert_eq!(begun.load(Ordering::SeqCst), before + 3);
    store.shutdown().await;
}

/// Callers of a disk that hangs are told after a while; nobody knows what comes of what is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_is_told_of_and_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let hangs = Arc::new((Mutex::new(false), Condvar::new()));
    let seen = hangs.clone();
    let flush = move || {
        // A test that fails must end, too.
        drop(seen.1.wait_timeout_while(seen.0.lock().unwrap(), PATIENCE / 2, |hangs| *hangs).unwrap());
        Ok(())
    };
    let timing = Timing { answer: Duration::from_millis(400), ..Timing::default() };
    let config = Config { disk: Directed::by(flush), timing, ..Config::new(dir.path(), 1) };
    let store = Store::open(config).await.unwrap();
    store.txn(put("key", "before", Durability::Synced)).await.unwrap();
    *hangs.0.lock().unwrap() = true;
    let mut tasks = tokio::task::JoinSet::new();
    // More than batches on their way and the queue hold.
    for number in 0..6000 {
        let store = store.clone();
        let durability = if number % 3 == 0 { Durability::Coalesced } else { Durability::Synced };
        tasks.spawn(async move { store.txn(put("key", &number.to_string(), durability)).await });
    }
    while let Some(answer) = timeout(PATIENCE / 4, tasks.join_next()).await.unwrap() {
        let answer = answer.unwrap();
        // Coalesced ones that nothing is in front of need no flush.
        assert!(matches!(answer, Err(StoreError::Unknown) | Ok(_)), "{answer:?}");
    }
    assert!(matches!(store.txn(put("key", "late", Durability::Synced)).await, Err(StoreError::Unknown)));
    store.range(&RangeRequest::key("key")).unwrap();
    *hangs.0.lock().unwrap() = false;
    hangs.1.notify_all();
    let again = async {
        while store.txn(put("key", "after", Durability::Synced)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
    let (revision, hash) = (store.revision(), store.hash(None).await.unwrap());
    store.shutdown().await;
    let store = Store::open(Config::new(dir.path(), 1)).await.unwrap();
    assert_eq!((store.revision(), store.hash(None).await.unwrap()), (revision, hash));
    store.shutdown().await;
}
