//! The decoders behind the checksums, with thousands of inputs that are nearly valid: log records, snapshots, the hard state,
//! what members say to each other, what etcd's clients say. None may panic or stop the store. The targets in `fuzz/` go on
//! where this ends. `PROOF_SEED=n` repeats one round.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proof::disk::MemoryDisk;
use proof::framing::{self, RECORD, RECORD_END, RECORD_HEADER, SEGMENT_HEADER};
use proof::mutation::mutate;
use proof::seeded::Seeded;
use storage::disk::{Disk, Mode};
use storage::{
    Answer, Bytes, ClusterId, Config, Member, MemberId, Op, OpenError, PeerIdentity, RangeRequest, Store, Transport,
    TransportError, Txn,
};
use tokio::time::timeout;

const DIR: &str = "/store";

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn config(disk: &MemoryDisk) -> Config {
    Config {
        disk: Arc::new(disk.clone()),
        segment_bytes: 8 << 10,
        snapshot_after_bytes: 8 << 10,
        ..Config::new(DIR, 1)
    }
}

fn put(key: String) -> Txn {
    Txn { success: vec![Op::put(key, vec![7; 300])], ..Txn::default() }
}

/// The files of a small store with a snapshot, leases and deletions.
async fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let disk = MemoryDisk::new(1);
    let store = Store::open(config(&disk)).await.unwrap();
    store.lease_grant(5, Duration::from_secs(50)).await.unwrap();
    for number in 0..40 {
        store.txn(put(format!("key {}", number % 20))).await.unwrap();
    }
    store.txn(Txn { success: vec![Op::delete("key 1")], ..Txn::default() }).await.unwrap();
    store.shutdown().await;
    let content = |path: PathBuf| disk.content(&path).map(|content| (path, content));
    disk.files().into_iter().filter_map(|(path, _)| content(path)).collect()
}

/// The bodies in a log segment.
fn records(segment: &[u8]) -> Vec<&[u8]> {
    let (mut at, mut bodies) = (SEGMENT_HEADER, Vec::new());
    while at + RECORD_HEADER < segment.len() && word(segment, at) == RECORD as usize {
        let size = word(segment, at + 4) & 0x00ff_ffff;
        let from = at + RECORD_HEADER;
        bodies.push(&segment[from..from + size]);
        at = from + size + RECORD_END.len();
    }
    bodies
}

/// A file with one of its parts changed, checksums right again.
fn spoil(random: &mut Seeded, path: &Path, content: &[u8], change: bool) -> Option<Vec<u8>> {
    let choice = random.index(1 << 16);
    let mut changed = |body: &[u8], other: &[u8]| if change { mutate(random, body, other) } else { body.to_vec() };
    let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
    if kind == "log" {
        let bodies = records(content);
        let victim = choice % bodies.len().max(1);
        let mut out = content[..SEGMENT_HEADER].to_vec();
        for (number, body) in bodies.iter().enumerate() {
            let other = bodies[(number + 1) % bodies.len()];
            out.extend(framing::record(&if number == victim { changed(body, other) } else { body.to_vec() }));
        }
        out.resize(out.len() + 512, 0);
        return Some(out);
    }
    if kind == "snap" {
        let meta = &content[16..16 + word(content, 8)];
        let at = 16 + meta.len();
        let stored = &content[at + 12..at + 12 + word(content, at + 4)];
        let rest = &content[at + 12 + stored.len()..];
        let raw = zstd::decode_all(stored).unwrap();
        let (meta, raw) =
            if choice.is_multiple_of(2) { (changed(meta, &raw), raw) } else { (meta.to_vec(), changed(&raw, meta)) };
        let stored = zstd::encode_all(&raw[..], 1).unwrap();
        let block = framing::block(&framing::length(&raw), &stored);
        return Some([&content[..8], &framing::framed(&meta), &block, rest].concat());
    }
    if path.ends_with("state") {
        let body = changed(&content[8..8 + word(content, 0)], &[]);
        let mut slot = framing::framed(&body);
        slot.resize(8192, 0);
        return Some(slot);
    }
    None
}

async fn open_spoiled(files: &[(PathBuf, Vec<u8>)], seed: u64, change: bool) -> Result<(), OpenError> {
    let mut random = Seeded::new(seed);
    let disk = MemoryDisk::new(1);
    for dir in ["/store/log", "/store/snapshots"] {
        disk.create_dir_all(Path::new(dir)).unwrap();
    }
    let spoilable: Vec<_> = (0..files.len())
        .filter(|file| spoil(&mut Seeded::new(0), &files[*file].0, &files[*file].1, false).is_some())
        .collect();
    let victim = spoilable[random.index(spoilable.len())];
    for (number, (path, content)) in files.iter().enumerate() {
        let spoilt = if number == victim { spoil(&mut random, path, content, change) } else { None };
        let file = disk.open(path, Mode::Fresh).unwrap();
        file.write_all_at(spoilt.as_ref().unwrap_or(content), 0).unwrap();
    }
    let store = Store::open(config(&disk)).await?;
    // What could be opened can be read and written.
    store.range(&RangeRequest::prefix("")).unwrap();
    drop(store.txn(put("after".to_owned())).await);
    store.shutdown().await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn files_that_are_nearly_valid_are_opened_or_refused() {
    let files = files().await;
    for seed in 0..8 {
        open_spoiled(&files, seed, false).await.expect("what is put together again unchanged is valid");
    }
    let (mut opened, mut refused) = (0, 0);
    for seed in proof::seeds::chosen(0..600) {
        match open_spoiled(&files, seed, true).await {
            Ok(()) => opened += 1,
            Err(_) => refused += 1,
        }
    }
    println!("{opened} opened, {refused} refused");
}

/// Two members that hear each other, and what they say.
#[derive(Debug, Default)]
struct Tap {
    stores: Mutex<BTreeMap<MemberId, Store>>,
    seen: Mutex<Vec<(MemberId, Bytes)>>,
}

#[derive(Debug)]
struct Wire(Arc<Tap>, MemberId);

impl Transport for Wire {
    fn call<'a>(&'a self, id: MemberId, _to: &'a Member, request: Bytes, _limit: Duration) -> Answer<'a> {
        Box::pin(async move {
            self.0.seen.lock().unwrap().push((id, request.clone()));
            let store = self.0.stores.lock().unwrap().get(&id).cloned().ok_or(TransportError::Unreachable)?;
            let peer = PeerIdentity { name: Some(format!("m{}", self.1)) };
            let answer = tokio::spawn(async move { store.handle(request, &peer).await });
            answer.await.map_err(|_| TransportError::Lost)
        })
    }
}

async fn start(tap: &Arc<Tap>, id: MemberId, join: Option<ClusterId>) -> Store {
    let disk = MemoryDisk::new(id);
    let member = Member { name: format!("m{id}"), addresses: vec!["a".to_owned()] };
    let transport: Arc<dyn Transport> = Arc::new(Wire(tap.clone(), id));
    let config = Config { member, join, transport: Some(transport), ..config(&disk) };
    let store = Store::open(Config { node_id: id, ..config }).await.unwrap();
    tap.stores.lock().unwrap().insert(id, store.clone());
    store
}

/// A cluster of two, with all kinds of requests said.
async fn pair() -> Arc<Tap> {
    let tap = Arc::new(Tap::default());
    let one = start(&tap, 1, None).await;
    for number in 0..60 {
        one.txn(put(format!("k{number}"))).await.unwrap();
    }
    let two = start(&tap, 2, Some(one.cluster())).await;
    one.add_member(2, Member { name: "m2".to_owned(), addresses: vec!["a".to_owned()] }).await.unwrap();
    one.promote(2).await.unwrap();
    two.txn(put("forwarded".to_owned())).await.unwrap();
    two.lease_grant(9, Duration::from_secs(60)).await.unwrap();
    two.lease_renew(9).await.unwrap();
    two.read_barrier().await.unwrap();
    one.transfer_leader(2).await.unwrap();
    two.txn(put("led".to_owned())).await.unwrap();
    tap
}

/// The frame around a changed body: address and checksum are right.
fn framed(valid: &[u8], body: &[u8]) -> Bytes {
    let rest = [&valid[8..56], body].concat();
    [&valid[..4], &framing::sum(&rest), &rest].concat().into()
}

#[tokio::test(start_paused = true)]
async fn what_members_nearly_say_stops_nobody() {
    let mut read = 0;
    for seed in proof::seeds::chosen(0..30) {
        let mut random = Seeded::new(seed);
        let tap = pair().await;
        let corpus = tap.seen.lock().unwrap().clone();
        let kinds: std::collections::BTreeSet<u8> = corpus.iter().map(|(_, request)| request[56]).collect();
        assert!(kinds.len() >= 9, "{kinds:?}");
        for _ in 0..150 {
            // Each kind as often as every other.
            let kind = *kinds.iter().nth(random.index(kinds.len())).unwrap();
            let same: Vec<_> = corpus.iter().filter(|(_, request)| request[56] == kind).collect();
            let (to, valid) = same[random.index(same.len())];
            let (_, other) = &corpus[random.index(corpus.len())];
            let request = framed(valid, &mutate(&mut random, &valid[56..], &other[56..]));
            read += u64::from(storage::is_request(&request));
            let store = tap.stores.lock().unwrap()[to].clone();
            let peer = PeerIdentity { name: Some(format!("m{}", 3 - to)) };
            let answered = timeout(Duration::from_secs(600), store.handle(request, &peer)).await;
            assert!(answered.expect("an answer").starts_with(b"rkr"));
        }
        let stores: Vec<_> = tap.stores.lock().unwrap().values().cloned().collect();
        for store in stores {
            store.range(&RangeRequest::prefix("")).unwrap();
            // A lie may take the leadership away, or shut a member out; it must not stop one.
            let written = store.txn(put("after".to_owned())).await;
            assert!(!matches!(written, Err(storage::StoreError::Failed)), "seed {seed}: member {}", store.node_id());
        }
    }
    println!("{read} of the requests could be read");
    assert!(read > 700 || std::env::var_os(proof::seeds::SEED).is_some(), "{read}");
}

mod etcd {
    use h2::client::SendRequest;
    use storage::etcd::{Config, Endpoint};

    use super::*;

    /// Calls of etcd with bodies that are valid.
    fn corpus() -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("KV/Put", b"\x0a\x03key\x12\x05value\x18\x00\x20\x01".to_vec()),
            ("KV/Range", b"\x0a\x01a\x12\x01z\x18\x0a\x20\x00\x28\x01\x30\x01\x38\x01".to_vec()),
            ("KV/DeleteRange", b"\x0a\x01a\x12\x01b\x18\x01".to_vec()),
            (
                "KV/Txn",
                b"\x0a\x0b\x08\x00\x10\x03\x1a\x03key\x3a\x00\x12\x0c\x12\x0a\x0a\x03key\x12\x03new\x1a\x07\x0a\x05\x0a\x03key".to_vec(),
            ),
            ("KV/Compact", b"\x08\x01".to_vec()),
            ("Lease/LeaseGrant", b"\x08\x3c\x10\x05".to_vec()),
            ("Lease/LeaseRevoke", b"\x08\x05".to_vec()),
            ("Lease/LeaseTimeToLive", b"\x08\x05\x10\x01".to_vec()),
            ("Lease/LeaseKeepAlive", b"\x08\x05".to_vec()),
            ("Watch/Watch", b"\x0a\x0c\x0a\x03key\x12\x03kez\x18\x01".to_vec()),
            ("Maintenance/HashKV", b"\x08\x01".to_vec()),
            ("Maintenance/Alarm", b"\x08\x00\x10\x01\x18\x01".to_vec()),
            ("Cluster/MemberList", b"\x08\x01".to_vec()),
            ("Cluster/MemberPromote", b"\x08\x07".to_vec()),
        ]
    }

    async fn call(client: SendRequest<Bytes>, method: &str, body: &[u8]) {
        let request = http::Request::post(format!("http://etcd/etcdserverpb.{method}"));
        let request = request.header("content-type", "application/grpc").body(()).unwrap();
        let framed = [&[0][..], &u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat();
        let mut client = client.ready().await.expect("the connection lives");
        let (response, mut stream) = client.send_request(request, false).unwrap();
        stream.send_data(framed.into(), true).unwrap();
        let response = response.await.expect("an answer");
        let mut body = response.into_body();
        while let Some(chunk) = body.data().await {
            let length = chunk.unwrap().len();
            body.flow_control().release_capacity(length).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_clients_nearly_say_is_answered() {
        let disk = MemoryDisk::new(1);
        let store = Store::open(config(&disk)).await.unwrap();
        let endpoint = Endpoint::new(store.clone(), Config::default()).await.unwrap();
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move { endpoint.serve(far).await });
        let (client, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        let corpus = corpus();
        for (method, body) in &corpus {
            drop(timeout(Duration::from_secs(5), call(client.clone(), method, body)).await);
        }
        assert!(store.revision() > 1, "valid calls are carried out");
        for seed in proof::seeds::chosen(0..1500) {
            let mut random = Seeded::new(seed);
            let (method, body) = &corpus[random.index(corpus.len())];
            let (_, other) = &corpus[random.index(corpus.len())];
            let body = mutate(&mut random, body, other);
            // A watch has no end.
            let answered = timeout(Duration::from_secs(5), call(client.clone(), method, &body)).await;
            assert!(answered.is_ok() || *method == "Watch/Watch", "seed {seed}: no answer to {method}");
        }
        store.txn(put("after".to_owned())).await.expect("the store goes on");
    }
}
