//! Measurements, run by hand: `cargo test --release -p storage --test speed -- --ignored --nocapture`.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

use std::time::{Duration, Instant};

use storage::{Config, Durability, Op, RangeRequest, Store, Txn};

async fn put(store: &Store, key: String, durability: Durability) {
    let txn = Txn { success: vec![Op::put(key, vec![7; 1024])], durability, ..Txn::default() };
    store.txn(txn).await.unwrap();
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn cpu() -> String {
    std::fs::read_to_string("/proc/self/stat")
        .unwrap()
        .split_whitespace()
        .skip(13)
        .take(2)
        .collect::<Vec<_>>()
        .join("+")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed_and_memory() {
    let dir = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or_else(|| "/var/tmp".into())).unwrap();
    if let Some(kept) = std::env::var_os("BENCH_REOPEN") {
        return reopen(kept.as_ref()).await;
    }
    let store = Store::open(Config::new(dir.path(), 1)).await.unwrap();
    for clients in [1, 16, 256] {
        let began = Instant::now();
        let fsyncs = store.stats().fsyncs;
        let each = 4000 / clients;
        let tasks: Vec<_> = (0..clients)
            .map(|client| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0..each {
                        put(&store, format!("bench/{client}/{n}"), Durability::Synced).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let rate = f64::from(each * clients) / began.elapsed().as_secs_f64();
        println!("{clients} clients: {rate:.0} durable puts/s, {} fsyncs", store.stats().fsyncs - fsyncs);
    }
    let before = resident();
    for n in 0..100_000 {
        put(&store, format!("load/{n:06}"), Durability::Coalesced).await;
    }
    println!("{:?}", store.stats());
    println!("resident {before} -> {}", resident());
    let requests: Vec<_> = (0..100_000).map(|n| RangeRequest::key(format!("load/{:06}", n * 7919 % 100_000))).collect();
    let began = Instant::now();
    let found: u64 = requests.iter().map(|request| store.range(request).unwrap().count).sum();
    println!("{:.0} gets/s", found as f64 / began.elapsed().as_secs_f64());
    store.shutdown().await;
    let kept = dir.keep();
    println!("BENCH_REOPEN={} measures opening, and then remove it", kept.display());
}

async fn reopen(dir: &std::path::Path) {
    let began = Instant::now();
    let store = Store::open(Config::new(dir, 1)).await.unwrap();
    println!("opened {} keys in {:?}", store.stats().keys, began.elapsed());
    println!("resident {} for {} live", resident(), store.stats().live_bytes);
    let before = cpu();
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("cpu ticks in 5 idle seconds: {before} -> {}", cpu());
    store.shutdown().await;
}
