//! The etcd endpoint as a client sees it, over a pipe in memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod hostile;
mod kubernetes;
#[path = "../cluster/net.rs"]
#[expect(dead_code, reason = "what else the tests of the cluster need")]
mod net;
mod pages;
mod several;

use std::time::Duration;

use storage::etcd::client::{Answers, Asking, CallError, Client};
use storage::etcd::{Config, Endpoint, wire};
use storage::{Op, Store, Txn};

struct Server {
    _dir: tempfile::TempDir,
    store: Store,
    endpoint: Endpoint,
    client: Client,
}

async fn connect(endpoint: &Endpoint) -> Client {
    let (near, far) = tokio::io::duplex(64 << 10);
    let endpoint = endpoint.clone();
    tokio::spawn(async move { endpoint.serve(far).await });
    Client::connect(near).await.unwrap()
}

async fn server() -> Server {
    server_with(Config::default()).await
}

async fn server_with(config: Config) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let opened = storage::Config { watch_buffer: 64, ..storage::Config::new(dir.path(), 7) };
    let store = Store::open(opened).await.unwrap();
    let config = Config { name: "one".to_owned(), ..config };
    let endpoint = Endpoint::new(store.clone(), config).await.unwrap();
    let client = connect(&endpoint).await;
    Server { _dir: dir, store, endpoint, client }
}

fn put_request(key: &str, value: impl Into<Vec<u8>>) -> wire::PutRequest {
    wire::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn range(key: &str) -> wire::RangeRequest {
    wire::RangeRequest { key: key.into(), ..Default::default() }
}

fn all() -> wire::RangeRequest {
    wire::RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() }
}

fn refused<A: std::fmt::Debug>(outcome: Result<A, CallError>) -> (u16, String) {
    match outcome.unwrap_err() {
        CallError::Status { code, message } => (code, message),
        other => (u16::MAX, other.to_string()),
    }
}

impl Server {
    async fn put(&self, key: &str, value: &str) -> i64 {
        let response: wire::PutResponse = self.client.call("KV/Put", &put_request(key, value)).await.unwrap();
        response.header.unwrap().revision
    }

    async fn get(&self, request: &wire::RangeRequest) -> wire::RangeResponse {
        self.client.call("KV/Range", request).await.unwrap()
    }

    async fn delete(&self, key: &str) {
        let request = wire::DeleteRangeRequest { key: key.into(), ..Default::default() };
        let _: wire::DeleteRangeResponse = self.client.call("KV/DeleteRange", &request).await.unwrap();
    }

    async fn txn(&self, request: &wire::TxnRequest) -> Result<wire::TxnResponse, CallError> {
        self.client.call("KV/Txn", request).await
    }

    async fn watch(&self, create: wire::WatchCreateRequest) -> Watching {
        let (asking, answers) = self.client.stream("Watch/Watch", &ask(wire::WatchAsk::Create(create))).await.unwrap();
        Watching { asking, answers }
    }
}

fn ask(ask: wire::WatchAsk) -> wire::WatchRequest {
    wire::WatchRequest { ask: Some(ask) }
}

fn everything(from: i64) -> wire::WatchCreateRequest {
    wire::WatchCreateRequest { key: vec![0], range_end: vec![0], start_revision: from, ..Default::default() }
}

struct Watching {
    asking: Asking,
    answers: Answers,
}

impl Watching {
    fn ask(&mut self, asked: wire::WatchAsk) {
        self.asking.send(&ask(asked), false).unwrap();
    }

    async fn next(&mut self) -> wire::WatchResponse {
        let answer = tokio::time::timeout(Duration::from_secs(60), self.answers.next());
        answer.await.expect("an answer in time").unwrap().expect("the stream goes on")
    }

    /// Revisions of the next `count` events.
    async fn revisions(&mut self, count: usize) -> Vec<i64> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let response = self.next().await;
            seen.extend(response.events.into_iter().map(|event| event.kv.unwrap().mod_revision));
        }
        seen
    }
}

#[tokio::test]
async fn a_fresh_store_begins_where_etcd_does() {
    let server = server().await;
    let empty = server.get(&all()).await;
    assert_eq!((empty.header.unwrap().revision, empty.count), (1, 0));
    assert_eq!(empty.header.unwrap().member_id, 7);
    assert_eq!(server.put("k", "v").await, 2);
    // A second endpoint, or a restart, leaves the revision alone.
    Endpoint::new(server.store.clone(), Config::default()).await.unwrap();
    assert_eq!(server.store.revision(), 2);
}

#[tokio::test]
async fn pages_of_one_revision_do_not_see_later_changes() {
    let server = server().await;
    for key in ["a", "b", "c", "d"] {
        server.put(key, "1").await;
    }
    let first = server.get(&wire::RangeRequest { limit: 2, ..all() }).await;
    assert_eq!((first.kvs.len(), first.more, first.count), (2, true, 4));
    let revision = first.header.unwrap().revision;
    server.delete("c").await;
    server.put("bb", "late").await;
    let mut from = first.kvs[1].key.to_vec();
    from.push(0);
    let rest = server.get(&wire::RangeRequest { key: from, revision, ..all() }).await;
    let keys: Vec<_> = rest.kvs.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!((keys, rest.more), (vec!["c".into(), "d".into()], false));
    let counted = server.get(&wire::RangeRequest { count_only: true, ..all() }).await;
    assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 4, false));
}

#[tokio::test]
async fn what_etcd_refuses_is_refused_in_its_words() {
    let server = server().await;
    server.put("k", "1").await;
    server.put("k", "2").await;
    let range_of = |request| async move { refused(server_range(&request).await) };
    async fn server_range(request: &(Client, wire::RangeRequest)) -> Result<wire::RangeResponse, CallError> {
        request.0.call("KV/Range", &request.1).await
    }
    let client = &server.client;
    let at = |revision| (client.clone(), wire::RangeRequest { revision, ..range("k") });
    let future = "etcdserver: mvcc: required revision is a future revision";
    assert_eq!(range_of(at(99)).await, (11, future.to_owned()));
    assert_eq!(range_of((client.clone(), range(""))).await, (3, "etcdserver: key is not provided".to_owned()));
    let compact = |revision| wire::CompactionRequest { revision, physical: true };
    let _: wire::HeaderOnly = client.call("KV/Compact", &compact(3)).await.unwrap();
    let compacted = (11, "etcdserver: mvcc: required revision has been compacted".to_owned());
    assert_eq!(range_of(at(2)).await, compacted);
    assert_eq!(refused(client.call::<wire::HeaderOnly>("KV/Compact", &compact(3)).await), compacted);
    assert_eq!(refused(client.call::<wire::HeaderOnly>("KV/Compact", &compact(9)).await).1, future);
    let put =
        |request: wire::PutRequest| async move { refused(client.call::<wire::PutResponse>("KV/Put", &request).await) };
    let missing = wire::PutRequest { ignore_value: true, ..put_request("none", "") };
    assert_eq!(put(missing).await, (3, "etcdserver: key not found".to_owned()));
    let unleased = wire::PutRequest { lease: 5, ..put_request("k", "") };
    assert_eq!(put(unleased).await, (5, "etcdserver: requested lease not found".to_owned()));
    assert_eq!(put(put_request("k", vec![0; 4 << 20])).await, (3, "etcdserver: request is too large".to_owned()));
    let (code, message) = put(put_request("k", vec![0; 5 << 20])).await;
    assert!(code == 8 && message.starts_with("grpc: received message larger than max"), "{code} {message}");
    let granted =
        client.call::<wire::LeaseGrantResponse>("Lease/LeaseGrant", &wire::LeaseGrantRequest { ttl: i64::MAX, id: 1 });
    assert_eq!(refused(granted.await), (11, "etcdserver: too large lease TTL".to_owned()));
    let unknown = client.call::<wire::Empty>("KV/Nothing", &wire::Empty {}).await;
    assert_eq!(refused(unknown), (12, "unknown method Nothing".to_owned()));
    let login = client.call::<wire::Empty>("Auth/Authenticate", &wire::Empty {}).await;
    assert_eq!(refused(login), (9, "etcdserver: authentication is not enabled".to_owned()));
}

fn op(request: wire::Request) -> wire::RequestOp {
    wire::RequestOp { request: Some(request) }
}

#[tokio::test]
async fn transactions_nest_and_may_change_a_key_once() {
    let server = server().await;
    server.put("k", "1").await;
    let put = |key: &str| op(wire::Request::Put(wire::PutRequest { prev_kv: true, ..put_request(key, "2") }));
    let missing =
        wire::Compare { key: b"none".to_vec(), target: wire::CompareTarget::Mod as i32, ..Default::default() };
    let inner = wire::TxnRequest {
        compare: vec![missing.clone()],
        success: vec![put("k"), op(wire::Request::Range(wire::RangeRequest { sort_order: 2, limit: 1, ..all() }))],
        failure: vec![put("wrong")],
    };
    let outer = wire::TxnRequest {
        compare: vec![wire::Compare {
            range_end: vec![0],
            result: 1,
            compared: Some(wire::Compared::ModRevision(0)),
            key: b"a".to_vec(),
            ..missing
        }],
        success: vec![put("a"), op(wire::Request::Txn(inner.clone()))],
        failure: Vec::new(),
    };
    let response = server.txn(&outer).await.unwrap();
    assert_eq!((response.succeeded, response.header.unwrap().revision), (true, 3));
    let Some(wire::Response::Txn(nested)) = &response.responses[1].response else { unreachable!("{response:?}") };
    assert!(nested.succeeded);
    let Some(wire::Response::Put(changed)) = &nested.responses[0].response else { unreachable!("{nested:?}") };
    assert_eq!(&changed.prev_kv.as_ref().unwrap().value[..], b"1");
    let Some(wire::Response::Range(read)) = &nested.responses[1].response else { unreachable!("{nested:?}") };
    // The range sees both puts, sorts them downwards, and then cuts.
    assert_eq!((&read.kvs[0].key[..], &read.kvs[0].value[..], read.more, read.count), (&b"k"[..], &b"2"[..], true, 2));
    let duplicate = (3, "etcdserver: duplicate key given in txn request".to_owned());
    let delete = op(wire::Request::DeleteRange(wire::DeleteRangeRequest { key: b"k".to_vec(), ..Default::default() }));
    for success in [vec![put("k"), put("k")], vec![put("k"), op(wire::Request::Txn(inner))], vec![delete, put("k")]] {
        assert_eq!(refused(server.txn(&wire::TxnRequest { success, ..Default::default() }).await), duplicate);
    }
    let many = wire::TxnRequest { success: (0..129).map(|n| put(&n.to_string())).collect(), ..Default::default() };
    assert_eq!(refused(server.txn(&many).await), (3, "etcdserver: too many operations in txn request".to_owned()));
    assert_eq!(server.store.revision(), 3);
}

#[tokio::test]
async fn watches_share_a_stream_and_are_filtered_and_cancelled_one_by_one() {
    let server = server().await;
    server.put("k", "1").await;
    let no_put = vec![wire::WatchFilter::NoPut as i32];
    let mut stream = server.watch(wire::WatchCreateRequest { prev_kv: true, filters: no_put, ..everything(2) }).await;
    let created = stream.next().await;
    assert_eq!((created.created, created.watch_id), (true, 0));
    stream.ask(wire::WatchAsk::Create(wire::WatchCreateRequest {
        key: b"k".to_vec(),
        watch_id: 9,
        ..Default::default()
    }));
    assert_eq!(stream.next().await.watch_id, 9);
    stream.ask(wire::WatchAsk::Create(wire::WatchCreateRequest { watch_id: 9, ..everything(0) }));
    let refused = stream.next().await;
    assert_eq!((refused.watch_id, refused.created, refused.canceled), (-1, true, true));
    assert_eq!(refused.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    server.put("k", "2").await;
    let event = stream.next().await;
    assert_eq!((event.watch_id, event.events[0].kind, &event.events[0].prev_kv), (9, 0, &None));
    stream.ask(wire::WatchAsk::Cancel(wire::WatchCancelRequest { watch_id: 9 }));
    let cancelled = stream.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled, cancelled.compact_revision), (9, true, 0));
    server.delete("k").await;
    let event = stream.next().await;
    assert_eq!((event.watch_id, event.events.len(), event.events[0].kind), (0, 1, 1));
    assert_eq!(&event.events[0].prev_kv.as_ref().unwrap().value[..], b"2");
    assert_eq!(event.events[0].kv.as_ref().unwrap().mod_revision, 4);
}

#[tokio::test]
async fn progress_comes_after_everything_before_it_on_all_watches() {
    let server = server().await;
    let mut stream = server.watch(everything(0)).await;
    stream.ask(wire::WatchAsk::Create(wire::WatchCreateRequest { key: b"other".to_vec(), ..Default::default() }));
    assert!(stream.next().await.created && stream.next().await.created);
    for n in 0..200 {
        server.put(&format!("k{n}"), "v").await;
    }
    stream.ask(wire::WatchAsk::Progress(wire::Empty {}));
    let mut seen = Vec::new();
    loop {
        let response = stream.next().await;
        if response.watch_id == -1 {
            assert_eq!((response.header.unwrap().revision, response.events.len()), (201, 0));
            break;
        }
        seen.extend(response.events.into_iter().map(|event| event.kv.unwrap().mod_revision));
    }
    assert_eq!(seen, (2..=201).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_does_not_read_is_fed_from_the_history_and_misses_nothing() {
    let server = server().await;
    let mut stream = server.watch(everything(0)).await;
    assert!(stream.next().await.created);
    // Far above what windows, channel and buffer hold.
    let value = bytes(8 << 10);
    for n in 0..1500 {
        let op = Op::put(format!("k{}", n % 5), value.clone());
        let txn = Txn { success: vec![op], durability: storage::Durability::Coalesced, ..Txn::default() };
        server.store.txn(txn).await.unwrap();
    }
    assert_eq!(stream.revisions(1500).await, (2..1502).collect::<Vec<_>>());
}

fn bytes(length: usize) -> Vec<u8> {
    vec![b'x'; length]
}

#[tokio::test]
async fn a_watch_from_before_a_compaction_is_told_where_to_go_on() {
    let server = server().await;
    for n in 0..10 {
        server.put("k", &n.to_string()).await;
    }
    server.store.compact(6).await.unwrap();
    let mut stream = server.watch(everything(3)).await;
    assert!(stream.next().await.created);
    let ended = stream.next().await;
    assert_eq!((ended.canceled, ended.compact_revision), (true, 7));
    stream.ask(wire::WatchAsk::Create(everything(ended.compact_revision)));
    assert!(stream.next().await.created);
    assert_eq!(stream.revisions(5).await, [7, 8, 9, 10, 11]);
}

#[tokio::test]
async fn a_large_revision_comes_in_fragments_when_asked() {
    let server = server().await;
    let mut stream = server.watch(wire::WatchCreateRequest { fragment: true, ..everything(0) }).await;
    assert!(stream.next().await.created);
    let ops = (0..4).map(|n| Op::put(format!("k{n}"), bytes(900 << 10))).collect();
    server.store.txn(Txn { success: ops, ..Txn::default() }).await.unwrap();
    let mut parts = Vec::new();
    while parts.last().is_none_or(|(_, more)| *more) {
        let part = stream.next().await;
        parts.push((part.events.len(), part.fragment));
    }
    assert_eq!(parts, [(1, true), (1, true), (1, true), (1, false)]);
}

#[tokio::test]
async fn leases_are_renewed_on_a_stream_and_end_with_their_keys() {
    let server = server().await;
    let client = &server.client;
    let request = wire::LeaseGrantRequest { ttl: 60, id: 0x77 };
    let granted: wire::LeaseGrantResponse = client.call("Lease/LeaseGrant", &request).await.unwrap();
    assert_eq!((granted.id, granted.ttl), (0x77, 60));
    let again = client.call::<wire::LeaseGrantResponse>("Lease/LeaseGrant", &request).await;
    assert_eq!(refused(again), (9, "etcdserver: lease already exists".to_owned()));
    let put = wire::PutRequest { lease: 0x77, ..put_request("leased", "v") };
    let _: wire::PutResponse = client.call("KV/Put", &put).await.unwrap();
    let id = wire::LeaseIdRequest { id: 0x77 };
    let (mut asking, mut answers) = client.stream("Lease/LeaseKeepAlive", &id).await.unwrap();
    let renewed: wire::LeaseKeepAliveResponse = answers.next().await.unwrap().unwrap();
    assert_eq!((renewed.id, renewed.ttl), (0x77, 60));
    let asked = wire::LeaseTimeToLiveRequest { id: 0x77, keys: true };
    let status: wire::LeaseTimeToLiveResponse = client.call("Lease/LeaseTimeToLive", &asked).await.unwrap();
    assert_eq!((status.granted_ttl, status.keys), (60, vec!["leased".into()]));
    let listed: wire::LeaseLeasesResponse = client.call("Lease/LeaseLeases", &wire::Empty {}).await.unwrap();
    assert_eq!(listed.leases.len(), 1);
    let _: wire::HeaderOnly = client.call("Lease/LeaseRevoke", &id).await.unwrap();
    assert_eq!(server.get(&range("leased")).await.count, 0);
    asking.send(&id, true).unwrap();
    let gone: wire::LeaseKeepAliveResponse = answers.next().await.unwrap().unwrap();
    assert_eq!(gone.ttl, 0);
    assert!(answers.next::<wire::LeaseKeepAliveResponse>().await.unwrap().is_none());
    let status: wire::LeaseTimeToLiveResponse = client.call("Lease/LeaseTimeToLive", &asked).await.unwrap();
    assert_eq!(status.ttl, -1);
    let revoked = client.call::<wire::HeaderOnly>("Lease/LeaseRevoke", &id).await;
    assert_eq!(refused(revoked), (5, "etcdserver: requested lease not found".to_owned()));
}

#[tokio::test]
async fn the_checksum_depends_on_what_can_be_read_and_not_on_what_was_freed() {
    let server = server().await;
    for n in 0..50 {
        server.put(&format!("k{}", n % 7), &n.to_string()).await;
    }
    server.delete("k3").await;
    let early = server.store.hash(Some(20)).await.unwrap();
    server.put("later", "v").await;
    assert_eq!(server.store.hash(Some(20)).await.unwrap(), early);
    let before = server.store.hash(None).await.unwrap();
    server.store.compact(30).await.unwrap();
    let lazily = server.store.hash(None).await.unwrap();
    server.store.purge().await;
    assert_eq!(server.store.hash(None).await.unwrap(), lazily);
    assert_eq!((lazily.revision, lazily.compacted), (before.revision, 30));
    assert_ne!(lazily.hash, before.hash);
    let request = wire::HashKvRequest { revision: 0 };
    let told: wire::HashKvResponse = server.client.call("Maintenance/HashKV", &request).await.unwrap();
    assert_eq!((told.hash, told.compact_revision), (lazily.hash, 30));
    assert!(server.store.hash(Some(29)).await.is_err());
}

#[tokio::test]
async fn the_end_of_the_store_is_told_to_streams_and_calls() {
    let server = server().await;
    let mut stream = server.watch(everything(0)).await;
    assert!(stream.next().await.created);
    server.store.shutdown().await;
    let stopped = (14, "etcdserver: server stopped".to_owned());
    assert_eq!(refused(stream.answers.next::<wire::WatchResponse>().await), stopped);
    assert_eq!(refused(server.client.call::<wire::PutResponse>("KV/Put", &put_request("k", "v")).await), stopped);
}

#[tokio::test]
async fn streams_of_a_client_that_goes_end_their_watches() {
    let server = server().await;
    let client = connect(&server.endpoint).await;
    let (asking, mut answers) =
        client.stream("Watch/Watch", &ask(wire::WatchAsk::Create(everything(0)))).await.unwrap();
    assert!(answers.next::<wire::WatchResponse>().await.unwrap().unwrap().created);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while server.store.stats().watchers == 0 {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    drop((asking, answers, client));
    while server.store.stats().watchers > 0 {
        assert!(std::time::Instant::now() < deadline, "a watch outlives its client");
        tokio::task::yield_now().await;
    }
}
