//! A measurement, run by hand: `cargo test --release -p storage --test archive_speed -- --ignored --nocapture`.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use storage::archive::Label;
use storage::{Config, Durability, Op, Store, Txn};

const CLIENTS: u64 = 8;
const KEYS: u64 = 100_000;
/// How long puts are measured without a snapshot beside them.
const ALONE: Duration = Duration::from_secs(5);

/// 1 KB that does not compress to nothing.
fn value(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + u8::try_from(state >> 59).unwrap_or(0)
    };
    (0..1024).map(|_| next()).collect()
}

async fn put(store: &Store, key: String, value: Vec<u8>, durability: Durability) {
    let txn = Txn { success: vec![Op::put(key, value)], durability, ..Txn::default() };
    store.txn(txn).await.unwrap();
}

/// Durable puts of 1 KB by some clients while `go_on` says so; their times, sorted.
async fn load(store: &Store, go_on: impl Fn() -> bool + Clone + Send + 'static) -> Vec<Duration> {
    let clients = (0..CLIENTS).map(|client| {
        let (store, go_on) = (store.clone(), go_on.clone());
        tokio::spawn(async move {
            let mut times = Vec::new();
            while go_on() {
                let key = format!("beside/{client}/{}", times.len() % 500);
                let began = Instant::now();
                put(&store, key, value(client), Durability::Synced).await;
                times.push(began.elapsed());
            }
            times
        })
    });
    let mut all = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        all.extend(client.await.unwrap());
    }
    all.sort_unstable();
    all
}

fn tell(what: &str, times: &[Duration]) -> Duration {
    let at = |thousandths: usize| times[(times.len() * thousandths / 1000).min(times.len() - 1)];
    let (p50, p99, p999) = (at(500), at(990), at(999));
    println!("{what}: {} puts, p50 {p50:?}, p99 {p99:?}, p99.9 {p999:?}, most {:?}", times.len(), at(1000));
    p999
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn snapshots_do_not_stall_writes() {
    let dir = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or_else(|| "/var/tmp".into())).unwrap();
    // No snapshots of the store's own meanwhile: they are measured elsewhere.
    let config = Config { snapshot_after_bytes: 1 << 40, ..Config::new(dir.path().join("db"), 1) };
    let store = Store::open(config).await.unwrap();
    for n in 0..KEYS {
        put(&store, format!("load/{n:06}"), value(n), Durability::Coalesced).await;
    }
    let began = Instant::now();
    tell("alone", &load(&store, move || began.elapsed() < ALONE).await);

    let stop = Arc::new(AtomicBool::new(false));
    let beside = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move { load(&store, move || !stop.load(Ordering::Relaxed)).await }
    });
    let before = resident();
    let began = Instant::now();
    for number in 0..3 {
        store.save(dir.path().join(number.to_string()), Label::default()).await.unwrap();
    }
    let took = began.elapsed() / 3;
    stop.store(true, Ordering::Relaxed);
    let times = beside.await.unwrap();
    let size = dir.path().join("0").metadata().unwrap().len() >> 20;
    println!("a snapshot of {KEYS} keys: {took:?}, {size} MiB; resident {before} MiB before, {} after", resident());
    let stalled = tell("beside a snapshot", &times);
    assert!(stalled < Duration::from_millis(100), "{stalled:?}");
    store.shutdown().await;
}
