//! Clients that mean harm, or are broken: what they may cost is bounded, and others do not notice.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use storage::etcd::{MAX_CALLS, wire};
use storage::{Durability, Op, Txn};
use tokio::io::AsyncWriteExt;

use crate::{Server, all, ask, connect, everything, put_request, range, refused, server};

const DEADLINE: Duration = Duration::from_secs(60);

/// A connection below gRPC.
async fn raw(server: &Server) -> SendRequest<Bytes> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let endpoint = server.endpoint.clone();
    tokio::spawn(async move { endpoint.serve(far).await });
    let (requests, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    requests
}

async fn begin(requests: &SendRequest<Bytes>, method: &str) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let request = Request::post(format!("http://etcd/etcdserverpb.{method}"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    requests.clone().ready().await.unwrap().send_request(request, false).unwrap()
}

fn announcing(length: u32, sent: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(&[0][..]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(sent);
    bytes.freeze()
}

async fn status(response: h2::client::ResponseFuture) -> String {
    let response = tokio::time::timeout(DEADLINE * 3, response).await.expect("an answer in time").unwrap();
    let header = |name: &str| response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    format!("{} {}", header("grpc-status"), header("grpc-message"))
}

/// Bytes of this process that lie in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_by_its_length_alone() {
    let server = server().await;
    let requests = raw(&server).await;
    let (put, mut body) = begin(&requests, "KV/Put").await;
    body.send_data(announcing(u32::MAX, b""), false).unwrap();
    assert!(status(put).await.starts_with("8 grpc: received message larger than max"));
    // A watch needs two keys, not megabytes.
    let (watch, mut body) = begin(&requests, "Watch/Watch").await;
    body.send_data(announcing(1 << 20, b""), false).unwrap();
    let mut answer = watch.await.unwrap().into_body();
    assert!(answer.data().await.is_none());
    assert_eq!(answer.trailers().await.unwrap().unwrap()["grpc-status"], "8");
    assert_eq!(server.put("k", "v").await, 2);
}

/// Most writes come in one piece, and take a shorter way; how they are cut must not be seen.
#[tokio::test]
async fn a_write_may_come_in_pieces() {
    let server = server().await;
    let requests = raw(&server).await;
    let message = prost::Message::encode_to_vec(&put_request("key", "value"));
    let framed = announcing(u32::try_from(message.len()).unwrap(), &message);
    let taken = async |response: h2::client::ResponseFuture| {
        let mut answer = tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap().into_body();
        while let Some(data) = answer.data().await {
            data.unwrap();
        }
        answer.trailers().await.unwrap().is_some_and(|trailers| trailers["grpc-status"] == "0")
    };
    for cut in 0..=framed.len() {
        let (response, mut body) = begin(&requests, "KV/Put").await;
        body.send_data(framed.slice(..cut), false).unwrap();
        body.send_data(framed.slice(cut..), true).unwrap();
        assert!(taken(response).await, "cut at {cut}");
    }
    let (response, mut body) = begin(&requests, "KV/Put").await;
    body.send_data(framed.clone(), false).unwrap();
    tokio::task::yield_now().await;
    body.send_data(Bytes::new(), true).unwrap();
    assert!(taken(response).await);
    assert_eq!(server.store.revision(), framed.len() as u64 + 3);
    for (bad, code) in [
        ([&framed[..], &framed[..]].concat(), "13 the request has more than one message"),
        (framed[..framed.len() - 1].to_vec(), "13 the stream ends within a message"),
        (vec![1, 0, 0, 0, 0], "12 grpc: compressed messages are not supported"),
        (vec![0, 0, 0, 0, 1, 0xff], "13 grpc: error unmarshalling request"),
        (vec![0, 0, 0, 0, 0], "3 etcdserver: key is not provided"),
    ] {
        let (response, mut body) = begin(&requests, "KV/Put").await;
        body.send_data(bad.into(), true).unwrap();
        let refused = status(response).await;
        assert!(refused.starts_with(code), "{refused} instead of {code}");
    }
    assert_eq!(server.store.revision(), framed.len() as u64 + 3);
}

/// A piece is kept as its bytes alone, however small it is.
#[tokio::test]
async fn a_message_may_come_byte_by_byte() {
    let server = server().await;
    let requests = raw(&server).await;
    let value = vec![7; 20_000];
    let message = prost::Message::encode_to_vec(&put_request("key", value.clone()));
    let framed = announcing(u32::try_from(message.len()).unwrap(), &message);
    let (response, mut body) = begin(&requests, "KV/Put").await;
    for at in 0..framed.len() {
        body.send_data(framed.slice(at..=at), at + 1 == framed.len()).unwrap();
    }
    let mut answer = tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap().into_body();
    while let Some(data) = answer.data().await {
        data.unwrap();
    }
    assert_eq!(answer.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    let read: wire::RangeResponse = server.client.call("KV/Range", &range("key")).await.unwrap();
    assert_eq!(read.kvs[0].value, value);
}

#[tokio::test]
async fn messages_that_never_end_take_little_and_leave_room_for_others() {
    let server = server().await;
    let requests = raw(&server).await;
    let before = resident();
    let mut open = Vec::new();
    for _ in 0..500 {
        let (response, mut body) = begin(&requests, "KV/Put").await;
        body.send_data(announcing(4 << 20, &[1; 1000]), false).unwrap();
        open.push((response, body));
    }
    // On the same connection small ones pass, on another any.
    let (response, mut body) = begin(&requests, "KV/Range").await;
    let request = prost::Message::encode_to_vec(&range("k"));
    body.send_data(announcing(u32::try_from(request.len()).unwrap(), &request), true).unwrap();
    assert!(tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap().headers().get("grpc-status").is_none());
    let large: wire::PutResponse =
        connect(&server.endpoint).await.call("KV/Put", &put_request("k", vec![7; 3 << 20])).await.unwrap();
    assert_eq!(large.header.unwrap().revision, 2);
    assert!(resident() - before < 200 << 20, "{} bytes", resident() - before);
}

#[tokio::test(start_paused = true)]
async fn who_takes_too_long_is_cut() {
    let server = server().await;
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"PRI * HTTP/2.0").await.unwrap();
    let error = server.endpoint.serve(far).await.unwrap_err();
    assert_eq!(error.to_string(), "the client did not speak HTTP/2 in time");
    let requests = raw(&server).await;
    let (response, mut body) = begin(&requests, "KV/Put").await;
    body.send_data(announcing(100, b"half"), false).unwrap();
    assert_eq!(status(response).await, "4 the request did not come in in time");
}

#[tokio::test]
async fn answers_that_nobody_reads_take_little() {
    let server = server().await;
    for n in 0..4 {
        let value = vec![b'x'; 1 << 20];
        server.store.txn(Txn { success: vec![Op::put(format!("k{n}"), value)], ..Txn::default() }).await.unwrap();
    }
    let requests = raw(&server).await;
    let before = resident();
    let request = prost::Message::encode_to_vec(&all());
    let framed = announcing(u32::try_from(request.len()).unwrap(), &request);
    let mut open = Vec::new();
    for _ in 0..500 {
        let (response, mut body) = begin(&requests, "KV/Range").await;
        body.send_data(framed.clone(), true).unwrap();
        open.push(response);
    }
    // The first ones have begun to answer, which is as far as it goes.
    assert_eq!(tokio::time::timeout(DEADLINE, open.swap_remove(0)).await.unwrap().unwrap().status(), 200);
    let other = connect(&server.endpoint).await;
    for _ in 0..3 {
        let read: wire::RangeResponse = other.call("KV/Range", &all()).await.unwrap();
        assert_eq!(read.count, 4);
    }
    // 2 GB have been asked for.
    assert!(resident() - before < 300 << 20, "{} bytes", resident() - before);
}

#[tokio::test]
async fn a_watcher_that_never_reads_holds_nothing_and_is_cut_by_compaction() {
    let server = server().await;
    let mut stream = server.watch(everything(0)).await;
    assert!(stream.next().await.created);
    let mut before = 0;
    for n in 0..2000_u64 {
        let op = Op::put(format!("k{}", n % 5), vec![b'x'; 100 << 10]);
        let txn = Txn { success: vec![op], durability: Durability::Coalesced, ..Txn::default() };
        let revision = server.store.txn(txn).await.unwrap().revision;
        if n % 100 == 99 {
            server.store.compact(revision - 1).await.unwrap();
            server.store.purge().await;
        }
        if n == 199 {
            before = resident();
        }
    }
    assert!(resident().saturating_sub(before) < 60 << 20, "{} bytes", resident() - before);
    let (mut seen, mut last) = (0, 1);
    let ended = loop {
        let response = stream.next().await;
        if response.canceled {
            break response;
        }
        for event in response.events {
            let revision = event.kv.unwrap().mod_revision;
            assert_eq!(revision, last + 1, "nothing is left out before the end");
            (seen, last) = (seen + 1, revision);
        }
    };
    assert!(seen > 0 && seen < 2000 && ended.compact_revision > last, "{seen} {ended:?}");
    stream.ask(wire::WatchAsk::Create(everything(ended.compact_revision)));
    assert!(stream.next().await.created);
    assert_eq!(stream.revisions(1).await, [ended.compact_revision]);
}

#[tokio::test]
async fn as_many_streams_as_there_may_be_leave_room_for_other_clients_and_go_with_their_own() {
    let server = server().await;
    let many = connect(&server.endpoint).await;
    let mut open = Vec::new();
    for _ in 0..MAX_CALLS {
        let create = wire::WatchCreateRequest { key: b"k".to_vec(), ..Default::default() };
        let (asking, mut answers) = many.stream("Watch/Watch", &ask(wire::WatchAsk::Create(create))).await.unwrap();
        assert!(answers.next::<wire::WatchResponse>().await.unwrap().unwrap().created);
        open.push((asking, answers));
    }
    // One more waits in the client.
    let request = all();
    let more = many.call::<wire::RangeResponse>("KV/Range", &request);
    assert!(tokio::time::timeout(Duration::from_millis(200), more).await.is_err());
    assert_eq!(server.put("k", "v").await, 2);
    for (_, answers) in &mut open {
        assert_eq!(answers.next::<wire::WatchResponse>().await.unwrap().unwrap().events.len(), 1);
    }
    drop((open, many));
    let deadline = std::time::Instant::now() + DEADLINE;
    while server.store.stats().watchers > 0 {
        assert!(std::time::Instant::now() < deadline, "watches outlive their client");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_no_protobuf_is_refused_and_the_connection_goes_on() {
    let server = server().await;
    for method in ["KV/Txn", "KV/Range", "Lease/LeaseGrant", "Cluster/MemberUpdate", "Maintenance/Alarm"] {
        let requests = raw(&server).await;
        let (response, mut body) = begin(&requests, method).await;
        body.send_data(announcing(3, &[0x0a, 0xff, 0xff]), true).unwrap();
        assert!(status(response).await.starts_with("13 grpc: error unmarshalling request"), "{method}");
        let (response, mut body) = begin(&requests, method).await;
        body.send_data(announcing(9, b"x"), true).unwrap();
        assert_eq!(status(response).await, "13 the stream ends within a message");
    }
    let deep = (0..200).fold(wire::TxnRequest::default(), |inner, _| wire::TxnRequest {
        success: vec![crate::op(wire::Request::Txn(inner))],
        ..Default::default()
    });
    let (code, _) = refused(server.txn(&deep).await);
    assert!(code == 13 || code == 3, "{code}");
    assert_eq!(server.put("k", "v").await, 2);
}

/// Requests of every method, as good clients write them.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    fn of(method: &'static str, message: &impl prost::Message) -> (&'static str, Vec<u8>) {
        (method, message.encode_to_vec())
    }
    let txn = wire::TxnRequest {
        compare: vec![wire::Compare {
            key: b"k".to_vec(),
            target: 2,
            compared: Some(wire::Compared::ModRevision(3)),
            range_end: b"z".to_vec(),
            ..Default::default()
        }],
        success: vec![
            crate::op(wire::Request::Put(put_request("k", "v"))),
            crate::op(wire::Request::Range(wire::RangeRequest { sort_order: 2, sort_target: 4, ..all() })),
            crate::op(wire::Request::Txn(wire::TxnRequest::default())),
        ],
        failure: vec![crate::op(wire::Request::DeleteRange(wire::DeleteRangeRequest {
            key: b"a".to_vec(),
            range_end: b"b".to_vec(),
            prev_kv: true,
        }))],
    };
    let lease = wire::LeaseIdRequest { id: 5 };
    let member = wire::MemberIdRequest { id: 9 };
    let update = wire::MemberUpdateRequest { id: 9, peer_urls: vec!["https://10.0.0.1:6443".to_owned()] };
    vec![
        of("KV/Range", &wire::RangeRequest { limit: 2, revision: 2, min_mod_revision: 1, ..all() }),
        of("KV/Put", &wire::PutRequest { lease: 0, prev_kv: true, ..put_request("k", "v") }),
        of("KV/DeleteRange", &wire::DeleteRangeRequest { key: b"k".to_vec(), ..Default::default() }),
        of("KV/Txn", &txn),
        of("KV/Compact", &wire::CompactionRequest { revision: 2, physical: true }),
        of("Lease/LeaseGrant", &wire::LeaseGrantRequest { ttl: 600, id: 5 }),
        of("Lease/LeaseRevoke", &lease),
        of("Lease/LeaseKeepAlive", &lease),
        of("Lease/LeaseTimeToLive", &wire::LeaseTimeToLiveRequest { id: 5, keys: true }),
        of("Lease/LeaseLeases", &wire::Empty {}),
        of("Cluster/MemberList", &wire::MemberListRequest { linearizable: true }),
        of("Cluster/MemberAdd", &update),
        of("Cluster/MemberUpdate", &update),
        of("Cluster/MemberRemove", &member),
        of("Cluster/MemberPromote", &member),
        of("Maintenance/Status", &wire::Empty {}),
        of("Maintenance/HashKV", &wire::HashKvRequest { revision: 2 }),
        of("Maintenance/Alarm", &wire::AlarmRequest { action: 2, member_id: 1, alarm: 1 }),
        of("Maintenance/MoveLeader", &wire::MoveLeaderRequest { target_id: 7 }),
        of("Auth/AuthEnable", &wire::Empty {}),
        of("Watch/Watch", &ask(wire::WatchAsk::Create(wire::WatchCreateRequest { fragment: true, ..everything(1) }))),
        of("Watch/Watch", &ask(wire::WatchAsk::Progress(wire::Empty {}))),
    ]
}

#[tokio::test]
async fn whatever_is_sent_is_answered() {
    use rand::{Rng as _, SeedableRng as _};
    let server = server().await;
    let requests = raw(&server).await;
    let mut random = rand::rngs::StdRng::seed_from_u64(11);
    let samples = samples();
    for n in 0..4000 {
        let (method, good) = &samples[n % samples.len()];
        let mut bytes = good.clone();
        for _ in 0..random.random_range(0..4) {
            match random.random_range(0..4) {
                0 if !bytes.is_empty() => {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] ^= 1 << random.random_range(0..8);
                }
                1 => bytes.truncate(random.random_range(0..=bytes.len())),
                2 => bytes.insert(random.random_range(0..=bytes.len()), random.random()),
                _ => bytes.extend_from_slice(&good[..random.random_range(0..=good.len())]),
            }
        }
        let (response, mut body) = begin(&requests, method).await;
        body.send_data(announcing(u32::try_from(bytes.len()).unwrap(), &bytes), true).unwrap();
        // A panic resets the stream.
        let response = tokio::time::timeout(DEADLINE, response).await.expect("an answer");
        let response = response.unwrap_or_else(|error| unreachable!("{method} {bytes:02x?}: {error}"));
        assert_eq!(response.status(), 200);
    }
    let read: wire::RangeResponse = server.client.call("KV/Range", &range("still")).await.unwrap();
    assert_eq!(read.count, 0);
}
