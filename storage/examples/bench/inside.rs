//! The store in this process: puts beside a plain file, gets, watchers, opening, write amplification.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use storage::{Bytes, Config, Durability, Op, RangeRequest, Store, Txn, WatchRequest};
use tokio::runtime::Runtime;

use crate::load::VALUE;
use crate::table::Table;
use crate::{Outcome, WATCHERS, process};

const KEYS: u64 = 100_000;
const CLIENTS: u64 = 256;
/// So often the store and the plain file take turns; the best of each counts.
const ROUNDS: u32 = 2;
const GETS: u64 = 2_000_000;
/// Puts over which write amplification is measured, a hundred times over the same keys: snapshots included.
const AMPLIFIED: u64 = 60_000;

/// Counts are far below where a float leaves out integers.
#[expect(clippy::cast_precision_loss, reason = "figures of a measurement")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

pub(crate) async fn put(store: &Store, key: String, durability: Durability) -> Outcome<()> {
    let success = vec![Op::put(key, vec![b'v'; VALUE])];
    store.txn(Txn { success, durability, ..Txn::default() }).await?;
    Ok(())
}

/// 256 clients in this process, and what a plain file gives with the same group size.
pub(crate) fn beside_a_file(runtime: &Runtime, dir: &Path, time: Duration, table: &mut Table) -> Outcome<()> {
    let folder = tempfile::tempdir_in(dir)?;
    let (mut best, mut group, mut most, mut cpu) = (0.0, 0.0, 0.0, 0.0);
    for round in 0..ROUNDS {
        let store = runtime.block_on(Store::open(Config::new(folder.path().join(format!("db{round}")), 1)))?;
        let before = process::cpu(std::process::id()).unwrap_or_default();
        let (puts, shared) = runtime.block_on(durable(&store, time))?;
        let busy = process::cpu(std::process::id()).unwrap_or_default() - before;
        runtime.block_on(store.shutdown());
        drop(store);
        if puts > best {
            (best, group, cpu) = (puts, shared, busy / (puts * time.as_secs_f64()) * 1e6);
        }
        most = plain(folder.path(), shared, time)?.max(most);
    }
    let beside = format!("{best:.0} of {most:.0} puts/s, {group:.0} in each flush, CPU {cpu:.1} µs");
    let what = format!("{CLIENTS} clients in process, of what plain append + fdatasync gives");
    table.least(&what, 100.0 * best / most, "%", 60.0, &beside);
    Ok(())
}

/// A store of so many keys: what its watchers and reads cost, and what opening it does.
pub(crate) fn resting(runtime: &Runtime, dir: &Path, table: &mut Table) -> Outcome<()> {
    let folder = tempfile::tempdir_in(dir)?;
    let store = runtime.block_on(Store::open(Config::new(folder.path().join("db"), 1)))?;
    let before = process::pss(std::process::id()).unwrap_or_default();
    let request =
        |number: usize| WatchRequest { key: Bytes::from(format!("watched/{number:08}")), ..WatchRequest::default() };
    let watchers: Vec<_> = (0..WATCHERS).map(|number| store.watch(request(number))).collect::<Result<_, _>>()?;
    let after = process::pss(std::process::id()).unwrap_or_default();
    table.most(&format!("{} watchers in process", watchers.len()), (after - before) / 1e6, "MB", 20.0, "");
    drop(watchers);
    runtime.block_on(fill(&store))?;
    table.least("gets in process, one thread", gets(&store)? / 1e6, "M/s", 1.0, "");
    runtime.block_on(store.shutdown());
    drop(store);
    let output = Command::new(std::env::current_exe()?).arg("--reopen").arg(folder.path().join("db")).output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut figures = text.split_whitespace().map(str::parse::<f64>);
    let mut next =
        || figures.next().ok_or_else(|| format!("opening failed: {text}"))?.map_err(|error| error.to_string());
    let (seconds, resident, live, keys) = (next()?, next()?, next()?, next()?);
    table.most(&format!("opening {keys} keys of 1 KB"), seconds, "s", 1.0, "");
    let beside = format!("{:.0} MB for {:.0} MB", resident / 1e6, live / 1e6);
    table.most("resident then, of the live bytes", resident / live, "×", 1.6, &beside);
    Ok(())
}

/// Puts per second, and how many share a flush.
async fn durable(store: &Store, time: Duration) -> Outcome<(f64, f64)> {
    let number = Arc::new(AtomicU64::new(0));
    let before = store.stats().fsyncs;
    let began = Instant::now();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (store, number) = (store.clone(), number.clone());
            tokio::spawn(async move {
                while began.elapsed() < time {
                    let key = number.fetch_add(1, Ordering::Relaxed) % 1000;
                    put(&store, format!("durable/{key:016}"), Durability::Synced).await?;
                }
                Outcome::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let puts = float(number.load(Ordering::Relaxed));
    let flushes = float((store.stats().fsyncs - before).max(1));
    Ok((puts / began.elapsed().as_secs_f64(), puts / flushes))
}

/// What a file gives that is allocated ahead, as the log is, and appended to in the same groups.
fn plain(dir: &Path, group: f64, time: Duration) -> Outcome<f64> {
    const AHEAD: usize = 8 << 20;
    let mut file = File::create(dir.join("plain"))?;
    // Beside its value a put has a key and some framing.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let bytes = vec![b'x'; (group * float(VALUE as u64 + 48)) as usize];
    nix::fcntl::fallocate(file.as_raw_fd(), nix::fcntl::FallocateFlags::empty(), 0, AHEAD.try_into()?)?;
    let (mut flushes, mut at) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < time {
        if at + bytes.len() > AHEAD {
            file = File::create(dir.join("plain"))?;
            nix::fcntl::fallocate(file.as_raw_fd(), nix::fcntl::FallocateFlags::empty(), 0, AHEAD.try_into()?)?;
            at = 0;
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        at += bytes.len();
        flushes += 1;
    }
    Ok(float(flushes) * group / began.elapsed().as_secs_f64())
}

/// Bytes written per byte acknowledged, by 16 clients on a store of its own.
pub(crate) fn amplification(runtime: &Runtime, dir: &Path, table: &mut Table) -> Outcome<()> {
    let folder = tempfile::tempdir_in(dir)?;
    let store = runtime.block_on(Store::open(Config::new(folder.path().join("db"), 1)))?;
    let before = process::written(std::process::id()).unwrap_or_default();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..16)
            .map(|client| {
                let store = store.clone();
                tokio::spawn(async move {
                    for number in 0..AMPLIFIED / 16 {
                        let key = format!("amplified/{:08}", (number * 16 + client) % (AMPLIFIED / 100));
                        put(&store, key, Durability::Synced).await?;
                    }
                    Outcome::Ok(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        Outcome::Ok(())
    })?;
    let (acknowledged, stats) = (float(AMPLIFIED) * float(VALUE as u64 + 18), store.stats());
    runtime.block_on(store.shutdown());
    let device = process::written(std::process::id()).unwrap_or_default() - before;
    let beside = format!("{:.2} as the store counts it", float(stats.written_bytes) / acknowledged);
    table.most("bytes written per byte acknowledged, 16 clients", device / acknowledged, "×", 4.0, &beside);
    Ok(())
}

async fn fill(store: &Store) -> Outcome<()> {
    for number in 0..KEYS {
        put(store, format!("load/{number:08}"), Durability::Coalesced).await?;
    }
    Ok(())
}

fn gets(store: &Store) -> Outcome<f64> {
    let requests: Vec<_> =
        (0..KEYS).map(|number| RangeRequest::key(format!("load/{:08}", number * 7919 % KEYS))).collect();
    let began = Instant::now();
    let mut found = 0;
    for request in requests.iter().cycle().take(usize::try_from(GETS)?) {
        found += store.range(request)?.count;
    }
    if found == GETS { Ok(float(GETS) / began.elapsed().as_secs_f64()) } else { Err("keys are missing".into()) }
}

/// In a process of its own: prints seconds, resident and live bytes, keys.
pub(crate) fn reopen(dir: &Path) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = Instant::now();
    let store = runtime.block_on(Store::open(Config::new(dir, 1)))?;
    let seconds = began.elapsed().as_secs_f64();
    let stats = store.stats();
    let resident = process::pss(std::process::id()).unwrap_or_default();
    println!("{seconds} {resident} {} {}", stats.live_bytes, stats.keys);
    runtime.block_on(store.shutdown());
    Ok(())
}
