//! Watches and leases through the public interface.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use storage::{
    Compare, Config, Durability, EventKind, Op, RangeRequest, Store, StoreError, Txn, WatchError, WatchRequest, Watcher,
};

async fn opened(buffer: usize) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { watch_buffer: buffer, ..Config::new(dir.path(), 1) };
    let store = Store::open(config).await.unwrap();
    (dir, store)
}

async fn run(store: &Store, ops: Vec<Op>) -> u64 {
    store.txn(Txn { success: ops, durability: Durability::Coalesced, ..Txn::default() }).await.unwrap().revision
}

async fn take(watcher: &mut Watcher, count: usize) -> Vec<(u64, usize)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let batch = watcher.next().await.unwrap();
        seen.push((batch.revision, batch.events.len()));
    }
    seen
}

#[tokio::test]
async fn history_and_live_changes_come_once_in_order_and_whole() {
    let (_dir, store) = opened(4096).await;
    for n in 0..1500 {
        run(&store, vec![Op::put(format!("a/{}", n % 7), "x"), Op::put(format!("a/pair{}", n % 7), "x")]).await;
        run(&store, vec![Op::put("b", "x")]).await;
    }
    let mut watcher = store.watch(WatchRequest::prefix("a/", 1)).unwrap();
    let early = take(&mut watcher, 700).await;
    for n in 0..100 {
        run(&store, vec![Op::put(format!("a/{n}"), "y"), Op::delete("a/pair0")]).await;
    }
    let late = take(&mut watcher, 900).await;
    let revisions: Vec<u64> = early.iter().chain(&late).map(|(revision, _)| *revision).collect();
    let expected: Vec<u64> = (0..1500).map(|n| 2 * n + 1).chain(3001..=3100).collect();
    assert_eq!(revisions, expected);
    assert!(early.iter().all(|(_, events)| *events == 2));
}

#[tokio::test]
async fn deletes_carry_the_previous_state_when_asked() {
    let (_dir, store) = opened(16).await;
    let request = WatchRequest { prev_kv: true, ..WatchRequest::prefix("k", 0) };
    let mut live = store.watch(request.clone()).unwrap();
    run(&store, vec![Op::put("k", "v")]).await;
    run(&store, vec![Op::delete("k")]).await;
    let mut late = store.watch(WatchRequest { from: 1, ..request }).unwrap();
    for watcher in [&mut live, &mut late] {
        assert_eq!(watcher.next().await.unwrap().events[0].prev, None);
        let gone = watcher.next().await.unwrap().events.remove(0);
        assert_eq!((gone.kind, gone.kv.mod_revision, gone.kv.value.len()), (EventKind::Delete, 2, 0));
        assert_eq!(&gone.prev.unwrap().value[..], b"v");
    }
}

#[tokio::test]
async fn a_slow_watcher_gets_what_was_kept_then_an_error_and_may_resume() {
    let (_dir, store) = opened(10).await;
    let mut slow = store.watch(WatchRequest::prefix("k", 0)).unwrap();
    for n in 0..30 {
        run(&store, vec![Op::put(format!("k{n}"), "x")]).await;
    }
    assert_eq!(take(&mut slow, 10).await.last(), Some(&(10, 1)));
    let error = slow.next().await.unwrap_err();
    assert_eq!(error, WatchError::TooSlow { resume_from: 11 });
    let mut again = store.watch(WatchRequest::prefix("k", 11)).unwrap();
    assert_eq!(take(&mut again, 20).await.first(), Some(&(11, 1)));
    drop(slow);
    assert_eq!(store.stats().watchers, 1);
}

#[tokio::test]
async fn compaction_ends_old_watches_and_reads_but_not_live_ones() {
    let (_dir, store) = opened(4096).await;
    for n in 0..1200 {
        run(&store, vec![Op::put("k", format!("{n}"))]).await;
    }
    let mut live = store.watch(WatchRequest::prefix("k", 0)).unwrap();
    let mut old = store.watch(WatchRequest::prefix("k", 1)).unwrap();
    old.next().await.unwrap();
    store.compact(1100).await.unwrap();
    assert!(matches!(store.watch(WatchRequest::prefix("k", 1100)), Err(WatchError::Compacted { oldest: 1101, .. })));
    let error = loop {
        if let Err(error) = old.next().await {
            break error;
        }
    };
    assert!(matches!(error, WatchError::Compacted { .. }), "{error}");
    run(&store, vec![Op::put("k", "new")]).await;
    assert_eq!(live.next().await.unwrap().revision, 1201);
    let at = |revision| store.range(&RangeRequest { revision: Some(revision), ..RangeRequest::key("k") });
    assert!(at(1099).is_err());
    assert_eq!(&at(1100).unwrap().kvs[0].value[..], b"1099");
    assert!(matches!(store.compact(1).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.compact(9999).await, Err(StoreError::FutureRevision { .. })));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while store.stats().versions > 102 {
        assert!(std::time::Instant::now() < deadline, "{:?}", store.stats());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn progress_comes_after_all_changes_and_the_end_is_told() {
    let (_dir, store) = opened(16).await;
    let mut watcher = store.watch(WatchRequest::prefix("k", 0)).unwrap();
    run(&store, vec![Op::put("k", "1")]).await;
    run(&store, vec![Op::put("other", "1")]).await;
    watcher.progress_handle().request();
    assert_eq!(watcher.next().await.unwrap().revision, 1);
    let progress = watcher.next().await.unwrap();
    assert_eq!((progress.revision, progress.events.len()), (2, 0));
    store.shutdown().await;
    assert_eq!(watcher.next().await.unwrap_err(), WatchError::Closed);
    assert!(matches!(store.watch(WatchRequest::prefix("k", 0)), Err(WatchError::Closed)));
}

#[tokio::test]
async fn a_lease_takes_its_keys_along_when_it_is_not_renewed() {
    let (dir, store) = opened(16).await;
    let lease = store.lease_grant(0, Duration::from_secs(1)).await.unwrap();
    let put = |key: &'static str| Op::Put { key: key.into(), value: "v".into(), lease: lease.id, prev_kv: false };
    run(&store, vec![put("a"), put("b")]).await;
    run(&store, vec![Op::put("b", "released")]).await;
    let status = store.lease_status(lease.id).unwrap();
    assert_eq!(status.keys, ["a"]);
    assert_eq!(store.lease_keep_alive(lease.id).unwrap(), Duration::from_secs(1));
    let mut watcher = store.watch(WatchRequest::prefix("", 0)).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), watcher.next()).await.unwrap().unwrap();
    assert_eq!(
        (ended.events.len(), ended.events[0].kind, &ended.events[0].kv.key[..]),
        (1, EventKind::Delete, &b"a"[..])
    );
    assert!(matches!(store.lease_keep_alive(lease.id), Err(StoreError::LeaseNotFound(_))));
    let txn = Txn { success: vec![put("c")], ..Txn::default() };
    assert!(matches!(store.txn(txn).await, Err(StoreError::LeaseNotFound(_))));
    let kept = store.lease_grant(77, Duration::from_secs(600)).await.unwrap();
    store.shutdown().await;
    let store = Store::open(Config::new(dir.path(), 1)).await.unwrap();
    assert_eq!(store.leases(), [kept.id]);
    assert!(store.lease_status(77).unwrap().remaining > Duration::from_secs(590));
    assert!(matches!(store.lease_grant(77, Duration::from_secs(5)).await, Err(StoreError::LeaseExists(77))));
    store.lease_revoke(77).await.unwrap();
    store.shutdown().await;
}

#[tokio::test]
async fn bad_requests_are_refused_before_the_log() {
    let (_dir, store) = opened(16).await;
    let refused = async |ops| store.txn(Txn { success: ops, ..Txn::default() }).await.unwrap_err();
    assert!(matches!(refused(vec![Op::put("", "v")]).await, StoreError::KeySize { size: 0, .. }));
    assert!(matches!(refused(vec![Op::put("k", vec![0; 5 << 20])]).await, StoreError::TooLarge { .. }));
    assert!(matches!(refused(vec![Op::put("k", "1"), Op::put("k", "2")]).await, StoreError::DuplicateKey));
    assert!(matches!(refused(vec![Op::delete("k"), Op::put("k", "2")]).await, StoreError::DuplicateKey));
    // The log could not be read again with that in it.
    let all = |condition| Compare::All { condition: Box::new(condition), end: "z".into() };
    let nested =
        Txn { compares: vec![all(all(Compare::absent("a")))], success: vec![Op::put("k", "v")], ..Txn::default() };
    assert!(matches!(store.txn(nested).await.unwrap_err(), StoreError::TooDeep { .. }));
    assert_eq!(store.revision(), 0);
}
