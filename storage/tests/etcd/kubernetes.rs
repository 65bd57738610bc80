//! What an upstream kube-apiserver (1.36) sends, form by form: its writes are transactions that compare one revision, its
//! lists are ranges in pages at one revision, its caches are watches that want previous values and progress, and one of
//! the servers compacts every few minutes.

use std::time::Duration;

use storage::etcd::client::CallError;
use storage::etcd::{Config, wire};

use crate::{Server, ask, everything, op, put_request, range, refused, server, server_with};

fn prefix(key: &str) -> wire::RangeRequest {
    let mut end = key.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    wire::RangeRequest { key: key.into(), range_end: end, ..Default::default() }
}

/// `If(ModRevision(key) = expected).Then(then).Else(Get(key))`
fn optimistic(key: &str, expected: i64, then: wire::Request) -> wire::TxnRequest {
    let compare = wire::Compare {
        target: wire::CompareTarget::Mod as i32,
        key: key.into(),
        compared: Some(wire::Compared::ModRevision(expected)),
        ..Default::default()
    };
    let failure = vec![op(wire::Request::Range(range(key)))];
    wire::TxnRequest { compare: vec![compare], success: vec![op(then)], failure }
}

fn write(key: &str, expected: i64, value: &str, lease: i64) -> wire::TxnRequest {
    optimistic(key, expected, wire::Request::Put(wire::PutRequest { lease, ..put_request(key, value) }))
}

fn remove(key: &str, expected: i64) -> wire::TxnRequest {
    let delete = wire::DeleteRangeRequest { key: key.into(), ..Default::default() };
    optimistic(key, expected, wire::Request::DeleteRange(delete))
}

/// Whether the transaction wrote, at which revision, and what it found if it did not.
async fn attempt(server: &Server, txn: &wire::TxnRequest) -> (bool, i64, Option<(String, i64)>) {
    let response = server.txn(txn).await.unwrap();
    let found = match response.responses.into_iter().next().unwrap().response.unwrap() {
        wire::Response::Range(range) => {
            range.kvs.into_iter().next().map(|kv| (String::from_utf8(kv.value.to_vec()).unwrap(), kv.mod_revision))
        }
        _ => None,
    };
    (response.succeeded, response.header.unwrap().revision, found)
}

#[tokio::test]
async fn writes_are_optimistic_and_a_loser_is_told_what_is_there() {
    let server = server().await;
    let key = "/registry/configmaps/default/a";
    assert_eq!(attempt(&server, &write(key, 0, "one", 0)).await, (true, 2, None));
    assert_eq!(attempt(&server, &write(key, 0, "again", 0)).await, (false, 2, Some(("one".to_owned(), 2))));
    assert_eq!(attempt(&server, &write(key, 2, "two", 0)).await, (true, 3, None));
    assert_eq!(attempt(&server, &write(key, 2, "late", 0)).await, (false, 3, Some(("two".to_owned(), 3))));
    assert_eq!(attempt(&server, &remove(key, 2)).await, (false, 3, Some(("two".to_owned(), 3))));
    assert_eq!(attempt(&server, &remove(key, 3)).await, (true, 4, None));
    assert_eq!(attempt(&server, &remove(key, 3)).await, (false, 4, None));
    assert_eq!(attempt(&server, &write(key, 3, "gone", 0)).await, (false, 4, None));
    // Without a wish to know what is there.
    let silent = wire::TxnRequest { failure: Vec::new(), ..write(key, 9, "x", 0) };
    let response = server.txn(&silent).await.unwrap();
    assert_eq!((response.succeeded, response.responses.len()), (false, 0));
    let lost = server.txn(&write(key, 0, "leased", 0x55)).await;
    assert_eq!(refused(lost), (5, "etcdserver: requested lease not found".to_owned()));
}

#[tokio::test]
async fn lists_go_on_at_the_revision_of_their_first_page() {
    let server = server().await;
    for n in 0..10 {
        server.put(&format!("/registry/pods/ns/p{n}"), "pod").await;
    }
    server.put("/registry/podsx/other", "beside").await;
    let all = prefix("/registry/pods/");
    let mut page = server.get(&wire::RangeRequest { limit: 4, ..all.clone() }).await;
    let revision = page.header.unwrap().revision;
    let mut keys: Vec<_> = page.kvs.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!((page.count, page.more), (10, true));
    server.delete("/registry/pods/ns/p7").await;
    server.put("/registry/pods/ns/p55", "late").await;
    while page.more {
        // The last key and a zero byte, up to the end of the prefix.
        let mut from = keys.last().unwrap().to_vec();
        from.push(0);
        page = server.get(&wire::RangeRequest { key: from, limit: 4, revision, ..all.clone() }).await;
        keys.extend(page.kvs.iter().map(|kv| kv.key.clone()));
        // etcd counts from the key that was asked for; what is left is computed from it.
        assert_eq!(usize::try_from(page.count).unwrap(), 10 - (keys.len() - page.kvs.len()));
        assert_eq!(page.header.unwrap().revision, revision + 2);
    }
    assert_eq!(keys.len(), 10);
    assert!(keys.contains(&"/registry/pods/ns/p7".into()) && !keys.contains(&"/registry/pods/ns/p55".into()));
    // A server that starts takes names alone, and counts objects for its metrics.
    let names = server.get(&wire::RangeRequest { keys_only: true, ..all.clone() }).await;
    assert!(names.kvs.len() == 10 && names.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 0));
    let counted = server.get(&wire::RangeRequest { count_only: true, ..all.clone() }).await;
    assert_eq!((counted.count, counted.kvs.len()), (10, 0));
    let one = server.get(&wire::RangeRequest { limit: 1, ..range("/registry/pods/ns/p1") }).await;
    assert_eq!((one.kvs.len(), one.more), (1, false));
    let future = wire::RangeRequest { revision: revision + 100, ..all };
    let future = server.client.call::<wire::RangeResponse>("KV/Range", &future).await;
    assert_eq!(refused(future), (11, "etcdserver: mvcc: required revision is a future revision".to_owned()));
}

#[tokio::test]
async fn caches_are_fed_by_watches_with_previous_values_and_asked_how_far_they_are() {
    let server = server().await;
    let first = server.put("/registry/pods/ns/a", "1").await;
    let watch = |key: &str| {
        let range = prefix(key);
        wire::WatchCreateRequest {
            key: range.key,
            range_end: range.range_end,
            start_revision: first + 1,
            prev_kv: true,
            progress_notify: true,
            ..Default::default()
        }
    };
    let client = server.client.requiring_leader();
    let create = ask(wire::WatchAsk::Create(watch("/registry/pods/")));
    let (asking, answers) = client.stream("Watch/Watch", &create).await.unwrap();
    let mut stream = crate::Watching { asking, answers };
    assert!(stream.next().await.created);
    stream.ask(wire::WatchAsk::Create(watch("/registry/services/")));
    assert_eq!(stream.next().await.watch_id, 1);
    attempt(&server, &write("/registry/pods/ns/a", first, "2", 0)).await;
    let changed = stream.next().await;
    let event = &changed.events[0];
    assert_eq!((changed.watch_id, event.kind, &event.prev_kv.as_ref().unwrap().value[..]), (0, 0, &b"1"[..]));
    attempt(&server, &remove("/registry/pods/ns/a", first + 1)).await;
    let gone = stream.next().await;
    let event = &gone.events[0];
    // A deletion is told with the value that went, at the revision of the deletion.
    assert_eq!((event.kind, &event.prev_kv.as_ref().unwrap().value[..]), (1, &b"2"[..]));
    assert_eq!(event.kv.as_ref().unwrap().mod_revision, first + 2);
    // Writes beside it: the caches are as far, though they have seen nothing.
    let newest = server.put("/registry/events/x", "y").await;
    stream.ask(wire::WatchAsk::Progress(wire::Empty {}));
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len(), progress.header.unwrap().revision), (-1, 0, newest));
}

#[tokio::test]
async fn a_watch_that_asked_is_told_how_far_it_is_from_time_to_time() {
    let config = Config { progress_every: Duration::from_millis(20), ..Config::default() };
    let server = server_with(config).await;
    let mut silent = server.watch(everything(0)).await;
    assert!(silent.next().await.created);
    let mut stream = server.watch(wire::WatchCreateRequest { progress_notify: true, ..everything(0) }).await;
    assert!(stream.next().await.created);
    let revision = server.put("k", "v").await;
    // It may have been told of progress before that.
    while stream.next().await.events.is_empty() {}
    for _ in 0..3 {
        let told = stream.next().await;
        assert_eq!((told.watch_id, told.events.len(), told.header.unwrap().revision), (0, 0, revision));
    }
    // One that did not ask hears of changes alone.
    assert_eq!(silent.next().await.events.len(), 1);
    server.put("k", "w").await;
    assert_eq!(silent.next().await.events.len(), 1);
}

/// `If(Version(compact_rev_key) = seen).Then(Put(compact_rev_key, revision)).Else(Get(compact_rev_key))`
fn compaction(seen: i64, revision: i64) -> wire::TxnRequest {
    let compare = wire::Compare {
        target: wire::CompareTarget::Version as i32,
        key: b"compact_rev_key".to_vec(),
        compared: Some(wire::Compared::Version(seen)),
        ..Default::default()
    };
    wire::TxnRequest {
        compare: vec![compare],
        success: vec![op(wire::Request::Put(put_request("compact_rev_key", revision.to_string())))],
        failure: vec![op(wire::Request::Range(range("compact_rev_key")))],
    }
}

#[tokio::test]
async fn of_two_servers_one_compacts_and_both_go_on_from_there() {
    let server = server().await;
    let mut last = 0;
    for n in 0..20 {
        last = server.put("/registry/pods/ns/a", &n.to_string()).await;
    }
    let won = server.txn(&compaction(0, last)).await.unwrap();
    assert!(won.succeeded);
    let lost = server.txn(&compaction(0, last)).await.unwrap();
    let Some(wire::Response::Range(found)) = &lost.responses[0].response else { unreachable!("{lost:?}") };
    assert!(!lost.succeeded && found.kvs[0].version == 1 && found.kvs[0].value == last.to_string());
    let compact = wire::CompactionRequest { revision: last, physical: false };
    let _: wire::HeaderOnly = server.client.call("KV/Compact", &compact).await.unwrap();
    let again = server.client.call::<wire::HeaderOnly>("KV/Compact", &compact).await;
    let compacted = (11, "etcdserver: mvcc: required revision has been compacted".to_owned());
    assert_eq!(refused(again), compacted);
    let page = |revision| wire::RangeRequest { revision, limit: 500, ..prefix("/registry/pods/") };
    assert_eq!(server.get(&page(last)).await.kvs[0].value, "19");
    let late = server.client.call::<wire::RangeResponse>("KV/Range", &page(last - 1)).await;
    assert_eq!(refused(late), compacted);
    // A cache that was behind is told so, and where to begin.
    let mut stream = server.watch(everything(last - 5)).await;
    assert!(stream.next().await.created);
    let ended = stream.next().await;
    assert!(ended.canceled && ended.compact_revision > last - 5, "{ended:?}");
    assert_eq!(ended.cancel_reason, compacted.1);
}

#[tokio::test]
async fn events_go_with_the_lease_that_they_share() {
    let server = server().await;
    let grant = wire::LeaseGrantRequest { ttl: 1, id: 0 };
    let granted: wire::LeaseGrantResponse = server.client.call("Lease/LeaseGrant", &grant).await.unwrap();
    let mut stream = server.watch(wire::WatchCreateRequest { prev_kv: true, ..everything(0) }).await;
    assert!(stream.next().await.created);
    for n in 0..5 {
        let key = format!("/registry/events/ns/e{n}");
        assert!(attempt(&server, &write(&key, 0, "event", granted.id)).await.0);
    }
    assert_eq!(stream.revisions(5).await.len(), 5);
    let mut gone = Vec::new();
    while gone.len() < 5 {
        gone.extend(stream.next().await.events);
    }
    assert!(gone.iter().all(|event| event.kind == 1 && event.prev_kv.as_ref().unwrap().value == "event"));
    assert_eq!(server.get(&prefix("/registry/events/")).await.count, 0);
}

#[tokio::test]
async fn the_version_says_that_progress_may_be_asked_for_and_the_size_is_told() {
    let server = server().await;
    server.put("k", &"v".repeat(10_000)).await;
    let client = server.client.requiring_leader();
    let status: wire::StatusResponse = client.call("Maintenance/Status", &wire::Empty {}).await.unwrap();
    let version: Vec<u32> = status.version.split('.').map(|part| part.parse().unwrap()).collect();
    // The first of 3.5 whose progress is right.
    assert!(version >= vec![3, 5, 13], "{version:?}");
    assert!(status.db_size >= status.db_size_in_use && status.db_size_in_use >= 10_000, "{status:?}");
    let health: Result<wire::RangeResponse, CallError> = client.call("KV/Range", &range("health")).await;
    assert_eq!(health.unwrap().count, 0);
}
