//! What is acknowledged survives: reopening, torn tails, damage, a killed process, a full disk.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use storage::{Compare, Config, Durability, Op, OpenError, RangeRequest, Store, StoreError, Txn, WatchRequest};

fn small(dir: &Path) -> Config {
    Config { segment_bytes: 64 << 10, snapshot_after_bytes: 64 << 10, ..Config::new(dir, 1) }
}

async fn put(store: &Store, key: &str, value: impl Into<Vec<u8>>) -> u64 {
    let txn = Txn { success: vec![Op::put(key.to_owned(), value.into())], ..Txn::default() };
    store.txn(txn).await.unwrap().revision
}

fn all(store: &Store) -> Vec<(String, Vec<u8>, u64)> {
    let range = store.range(&RangeRequest { end: Some(Vec::new().into()), ..RangeRequest::default() }).unwrap();
    let text = |kv: &storage::KeyValue| String::from_utf8_lossy(&kv.key).into_owned();
    range.kvs.iter().map(|kv| (text(kv), kv.value.to_vec(), kv.mod_revision)).collect()
}

fn log_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if let Ok(content) = fs::read(&path) {
            fs::write(target, content).unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_an_orderly_end_and_ids_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(small(dir.path())).await.unwrap();
    for n in 0..50 {
        put(&store, &format!("k{n}"), format!("v{n}")).await;
    }
    let coalesced = Txn { success: vec![Op::put("beat", "1")], durability: Durability::Coalesced, ..Txn::default() };
    store.txn(coalesced).await.unwrap();
    let (before, id, revision) = (all(&store), store.cluster_id(), store.revision());
    store.shutdown().await;
    assert!(matches!(store.txn(Txn::default()).await, Err(StoreError::Closed)));
    let store = Store::open(small(dir.path())).await.unwrap();
    assert_eq!((all(&store), store.cluster_id(), store.revision()), (before, id, revision));
    assert_eq!(put(&store, "next", "x").await, revision + 1);
    store.shutdown().await;
}

#[tokio::test]
async fn the_log_stays_bounded_and_snapshots_carry_versions_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(small(dir.path())).await.unwrap();
    let first = put(&store, "old", "first").await;
    for n in 0..600u32 {
        let noise: Vec<u8> =
            (0..1000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) ^ (n * 97)).to_le_bytes()).collect();
        put(&store, &format!("k{}", n % 5), noise).await;
    }
    put(&store, "old", "second").await;
    // Each snapshot holds all versions, so the next comes after as much log again.
    let deadline = Instant::now() + Duration::from_secs(60);
    while log_files(dir.path()).len() > 24 {
        assert!(Instant::now() < deadline, "{} segments are kept of 2.4 MB of log", log_files(dir.path()).len());
        tokio::task::yield_now().await;
    }
    store.shutdown().await;
    let store = Store::open(small(dir.path())).await.unwrap();
    let then = RangeRequest { revision: Some(first), ..RangeRequest::key("old") };
    assert_eq!(&store.range(&then).unwrap().kvs[0].value[..], b"first");
    let mut watcher = store.watch(WatchRequest { key: "old".into(), from: 1, ..WatchRequest::default() }).unwrap();
    assert_eq!(watcher.next().await.unwrap().revision, first);
    assert_eq!(&watcher.next().await.unwrap().events[0].kv.value[..], b"second");
    store.shutdown().await;
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_the_rest_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(small(dir.path())).await.unwrap();
    put(&store, "a", "1").await;
    let kept = all(&store);
    let end = written_end(&log_files(dir.path())[0]);
    put(&store, "b", vec![7; 3000]).await;
    store.shutdown().await;
    let file = log_files(dir.path()).pop().unwrap();
    let content = fs::read(&file).unwrap();
    let handle = fs::File::options().write(true).open(&file).unwrap();
    handle.write_all_at(&vec![0; content.len() - end - 1000], end as u64 + 1000).unwrap();
    let store = Store::open(small(dir.path())).await.unwrap();
    assert_eq!(all(&store), kept);
    let revision = put(&store, "c", "3").await;
    store.shutdown().await;
    let store = Store::open(small(dir.path())).await.unwrap();
    assert_eq!(store.revision(), revision);
    store.shutdown().await;
}

fn written_end(file: &Path) -> usize {
    fs::read(file).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1
}

#[tokio::test]
async fn a_flipped_bit_is_located_and_never_opened_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(small(dir.path())).await.unwrap();
    put(&store, "a", "1").await;
    let start = written_end(&log_files(dir.path())[0]);
    put(&store, "b", "acknowledged").await;
    let end = written_end(&log_files(dir.path())[0]);
    store.shutdown().await;
    let file = log_files(dir.path()).pop().unwrap();
    let handle = fs::File::options().write(true).open(&file).unwrap();
    let content = fs::read(&file).unwrap();
    for at in (32..end).step_by(5) {
        handle.write_all_at(&[content[at] ^ 4], at as u64).unwrap();
        match Store::open(small(dir.path())).await {
            Err(OpenError::Corrupt { file: named, offset, .. }) => {
                assert_eq!(named, file);
                assert!(offset <= at as u64 && (at < start || offset >= start as u64), "offset {offset} for {at}");
            }
            other => panic!("a flipped bit at {at} gave {other:?}"),
        }
        handle.write_all_at(&content[at..=at], at as u64).unwrap();
    }
    Store::open(small(dir.path())).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_located() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(small(dir.path())).await.unwrap();
    for n in 0..200 {
        put(&store, &format!("k{n}"), vec![n; 1000]).await;
    }
    let snapshots = dir.path().join("snapshots");
    let snapshot = wait_for(|| {
        fs::read_dir(&snapshots).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(|path| is_snap(path))
    });
    store.shutdown().await;
    let snapshot = fs::read_dir(&snapshots)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| is_snap(path))
        .unwrap_or(snapshot);
    let mut content = fs::read(&snapshot).unwrap();
    let middle = content.len() - 40;
    content[middle] ^= 1;
    fs::write(&snapshot, content).unwrap();
    let error = Store::open(small(dir.path())).await.unwrap_err().to_string();
    assert!(error.contains(snapshot.to_str().unwrap()) && error.contains("offset"), "{error}");
}

fn is_snap(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "snap")
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "waited in vain");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_taken_at_any_moment_open_with_all_that_was_acknowledged_before() {
    let dir = tempfile::tempdir().unwrap();
    // Without snapshots: a plain copy of a directory whose log moves on meanwhile is no crash image.
    let config = Config { snapshot_after_bytes: u64::MAX, ..small(dir.path()) };
    let store = Store::open(config).await.unwrap();
    let acknowledged = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let writing = tokio::spawn({
        let (store, acknowledged) = (store.clone(), acknowledged.clone());
        async move {
            let mut n = 0u64;
            loop {
                n += 1;
                let txn = Txn { success: vec![Op::put(format!("k{n}"), vec![9; 200])], ..Txn::default() };
                if store.txn(txn).await.is_err() {
                    return;
                }
                acknowledged.store(n, std::sync::atomic::Ordering::SeqCst);
            }
        }
    });
    for round in 1..=20u64 {
        let target = round * 5;
        while acknowledged.load(std::sync::atomic::Ordering::SeqCst) < target {
            tokio::task::yield_now().await;
        }
        let before = acknowledged.load(std::sync::atomic::Ordering::SeqCst);
        let killed = tempfile::tempdir().unwrap();
        for part in ["FORMAT", "state", "log"] {
            let (from, to) = (dir.path().join(part), killed.path().join(part));
            if from.is_dir() {
                copy(&from, &to);
            } else {
                fs::copy(from, to).unwrap();
            }
        }
        let reopened = Store::open(small(killed.path())).await.unwrap();
        let count = all(&reopened).len() as u64;
        assert!(count >= before, "{count} keys of {before} acknowledged");
        reopened.shutdown().await;
    }
    store.shutdown().await;
    writing.await.unwrap();
}

#[tokio::test]
async fn a_second_opener_and_another_member_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Config::new(dir.path(), 1)).await.unwrap();
    assert!(matches!(Store::open(Config::new(dir.path(), 1)).await, Err(OpenError::Locked { .. })));
    store.shutdown().await;
    assert!(matches!(Store::open(Config::new(dir.path(), 2)).await, Err(OpenError::WrongNode { .. })));
}

struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = Some("size=1m");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, options).ok()?;
        Some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_keeps_reads_and_resumes() {
    let Some(disk) = Tmpfs::mount() else {
        drop(writeln!(std::io::stderr(), "SKIPPED: mounting a tmpfs takes root"));
        return;
    };
    let dir = disk.0.path().join("data");
    let config = Config { snapshot_after_bytes: 16 << 20, ..small(&dir) };
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 600 << 10]).unwrap();
    let store = Store::open(config.clone()).await.unwrap();
    let mut written = 0;
    let error = loop {
        let txn = Txn { success: vec![Op::put(format!("k{written}"), vec![3; 4000])], ..Txn::default() };
        match store.txn(txn).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk never got full");
    };
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    assert_eq!(all(&store).len(), written);
    store.read_barrier().await.unwrap();
    fs::remove_file(&ballast).unwrap();
    put(&store, "again", "works").await;
    store.shutdown().await;
    let store = Store::open(config).await.unwrap();
    assert_eq!(all(&store).len(), written + 1);
    store.shutdown().await;
}

#[tokio::test]
async fn only_the_first_of_two_conditional_creates_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Config::new(dir.path(), 1)).await.unwrap();
    let create = |value: &'static str| Txn {
        compares: vec![Compare::absent("k")],
        success: vec![Op::put("k", value)],
        failure: vec![Op::get("k")],
        ..Txn::default()
    };
    let (first, second) = tokio::join!(store.txn(create("1")), store.txn(create("2")));
    assert!(first.unwrap().succeeded);
    assert!(!second.unwrap().succeeded);
    store.shutdown().await;
}

#[tokio::test]
async fn coalesced_writes_share_a_late_flush_and_an_idle_store_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { coalesce_for: std::time::Duration::from_millis(300), ..Config::new(dir.path(), 1) };
    let store = Store::open(config).await.unwrap();
    let before = store.stats().fsyncs;
    for n in 0..50 {
        let beat = Txn { success: vec![Op::put(format!("beat{n}"), "x")], ..Txn::default() };
        store.txn(Txn { durability: Durability::Coalesced, ..beat }).await.unwrap();
    }
    assert_eq!(all(&store).len(), 50);
    assert!(store.stats().fsyncs - before <= 1, "{:?}", store.stats());
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while store.stats().fsyncs == before {
        assert!(tokio::time::Instant::now() < deadline, "never flushed");
        tokio::task::yield_now().await;
    }
    store.shutdown().await;
    assert!(store.stats().fsyncs - before <= 2, "{:?}", store.stats());
}

#[tokio::test]
async fn dropping_the_last_handle_releases_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(small(dir.path())).await.unwrap();
    put(&store, "a", "1").await;
    drop(store);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let store = loop {
        match Store::open(small(dir.path())).await {
            Ok(store) => break store,
            Err(OpenError::Locked { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
        assert!(tokio::time::Instant::now() < deadline, "never released");
    };
    assert_eq!(all(&store).len(), 1);
    store.shutdown().await;
}

/// A length is not to be believed: each of these would take more memory than there is.
#[tokio::test]
async fn files_of_absurd_length_are_refused_by_name_and_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(small(dir.path())).await.unwrap();
    put(&store, "key", "value").await;
    store.shutdown().await;
    let segment = log_files(dir.path()).remove(0);
    for path in [segment, dir.path().join("state"), dir.path().join("FORMAT")] {
        let before = fs::metadata(&path).unwrap().len();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        let named = match Store::open(small(dir.path())).await.unwrap_err() {
            OpenError::Corrupt { file, .. } => file,
            OpenError::Io { path, .. } => path,
            error => panic!("{error}"),
        };
        assert_eq!(named, path);
        file.set_len(before).unwrap();
    }
    Store::open(small(dir.path())).await.unwrap().shutdown().await;
}
