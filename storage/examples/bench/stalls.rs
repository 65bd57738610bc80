//! Whether compaction and snapshots stall writes: the slowest puts while both go on all the time.

use std::path::Path;
use std::time::{Duration, Instant};

use storage::{Config, Durability, Store};

use crate::Outcome;
use crate::inside::put;
use crate::table::Table;

const CLIENTS: u64 = 16;
const KEYS: u64 = 20_000;
/// Log bytes after which a snapshot is made, unless the live data is larger: here it is always the live data.
const SNAPSHOT_AFTER: u64 = 1 << 20;
/// Puts between two compactions.
const COMPACT_EVERY: u64 = 5_000;

pub(crate) async fn measure(dir: &Path, time: Duration, table: &mut Table) -> Outcome<()> {
    let folder = tempfile::tempdir_in(dir)?;
    let config = Config { snapshot_after_bytes: SNAPSHOT_AFTER, ..Config::new(folder.path().join("db"), 1) };
    let store = Store::open(config).await?;
    for key in 0..KEYS {
        put(&store, format!("stalls/{key:08}"), Durability::Coalesced).await?;
    }
    let before = store.stats();
    let began = Instant::now();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let (mut times, mut number) = (Vec::new(), client);
                while began.elapsed() < time {
                    let before = Instant::now();
                    put(&store, format!("stalls/{:08}", number * 7919 % KEYS), Durability::Synced).await?;
                    times.push(before.elapsed());
                    number += CLIENTS;
                    if client == 0 && number % COMPACT_EVERY < CLIENTS {
                        store.compact(store.revision()).await?;
                    }
                }
                Outcome::Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    times.sort_unstable();
    let after = store.stats();
    store.shutdown().await;
    let slowest = times.get(times.len() * 999 / 1000).ok_or("no puts")?;
    let max = times.last().ok_or("no puts")?;
    let beside = format!(
        "of {} puts, slowest {:.1} ms; {} MB of log and snapshots, compacted to {}",
        times.len(),
        max.as_secs_f64() * 1e3,
        (after.written_bytes - before.written_bytes) / 1_000_000,
        after.compacted
    );
    table.most("p99.9 of puts during snapshots and compactions", slowest.as_secs_f64() * 1e3, "ms", 100.0, &beside);
    Ok(())
}
