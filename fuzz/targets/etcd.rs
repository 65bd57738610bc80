//! Calls of the etcd endpoint with any bytes for a body: each gets an answer, and the store goes on serving.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use libfuzzer_sys::fuzz_target;
use storage::etcd::{Config, Endpoint};
use storage::{RangeRequest, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const METHODS: [&str; 22] = [
    "KV/Range",
    "KV/Put",
    "KV/DeleteRange",
    "KV/Txn",
    "KV/Txn",
    "KV/Txn",
    "KV/Compact",
    "Watch/Watch",
    "Lease/LeaseGrant",
    "Lease/LeaseRevoke",
    "Lease/LeaseKeepAlive",
    "Lease/LeaseTimeToLive",
    "Cluster/MemberList",
    "Cluster/MemberRemove",
    "Cluster/MemberUpdate",
    "Cluster/MemberPromote",
    "Maintenance/Status",
    "Maintenance/HashKV",
    "Maintenance/Snapshot",
    "Maintenance/Alarm",
    "Maintenance/MoveLeader",
    "Maintenance/Defragment",
];
/// A watch has no end.
const PATIENCE: Duration = Duration::from_millis(20);

struct Target {
    runtime: Runtime,
    store: Store,
    client: SendRequest<Bytes>,
    _folder: TempDir,
}

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime");
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let (store, client) = runtime.block_on(async {
        let store = Store::open(storage::Config::new(folder.path(), 1)).await.expect("open a store");
        let endpoint = Endpoint::new(store.clone(), Config::default()).await.expect("make an endpoint");
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move { endpoint.serve(far).await.expect("serve") });
        // A stream of many small answers is no flood: this client would end its connection after some 170 in a row.
        let mut client = h2::client::Builder::new();
        let shaken = client.data_frame_budget(1 << 26).handshake(near).await;
        let (client, connection) = shaken.expect("shake hands");
        tokio::spawn(async move { connection.await.expect("a connection outlives bad bodies") });
        (store, client)
    });
    Target { runtime, store, client, _folder: folder }
});

async fn call(client: SendRequest<Bytes>, method: &str, body: Bytes) {
    let request = Request::post(format!("http://fuzz/etcdserverpb.{method}"))
        .header("content-type", "application/grpc")
        .body(())
        .expect("a request");
    let mut client = client.ready().await.expect("the connection lives");
    let (response, mut stream) = client.send_request(request, false).expect("send a head");
    stream.send_data(body, true).expect("send a body");
    let response = response.await.expect("an answer");
    if response.headers().contains_key("grpc-status") {
        return;
    }
    let mut body = response.into_body();
    while let Some(chunk) = body.data().await {
        let length = chunk.expect("a body").len();
        body.flow_control().release_capacity(length).expect("release capacity");
    }
    let trailers = body.trailers().await.expect("trailers").expect("trailers");
    assert!(trailers.contains_key("grpc-status"));
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (method, framed, bytes) = input;
    let method = METHODS[usize::from(method) % METHODS.len()];
    let mut body = Vec::new();
    if framed {
        // Most inputs would fail at the length: give it.
        body.push(0);
        body.extend(u32::try_from(bytes.len()).expect("a short input").to_be_bytes());
    }
    body.extend(bytes);
    let target = &*TARGET;
    target.runtime.block_on(async {
        let answered = tokio::time::timeout(PATIENCE, call(target.client.clone(), method, body.into())).await;
        assert!(answered.is_ok() || method == "Watch/Watch" || target.store.read_barrier().await.is_ok());
        target.store.range(&RangeRequest::prefix("")).expect("the store reads");
    });
});
