//! The power goes at every single operation of the disk while an archive is written, or restored: the archive is whole or
//! has no name, and the directory holds the old state or the other one, whole.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;

use proof::disk::{Fault, MemoryDisk};
use storage::archive::{self, Label};
use storage::disk::Disk;
use storage::{Config, KeyValue, Op, RangeRequest, Store, Txn};

const DIR: &str = "/data/store";
const ARCHIVE: &str = "/data/archives/one";

fn config(disk: &MemoryDisk, dir: &str) -> Config {
    let disk = Arc::new(disk.clone());
    Config { disk, segment_bytes: 8 << 10, snapshot_after_bytes: 8 << 10, ..Config::new(dir, 1) }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(work)
}

async fn put(store: &Store, key: &str, length: usize) {
    let txn = Txn { success: vec![Op::put(key.to_owned(), vec![7; length])], ..Txn::default() };
    store.txn(txn).await.unwrap();
}

async fn content(disk: &MemoryDisk, dir: &str) -> Vec<KeyValue> {
    let store = Store::open(config(disk, dir)).await.unwrap();
    let all = store.range(&RangeRequest { end: Some("".into()), ..RangeRequest::default() }).unwrap().kvs;
    store.shutdown().await;
    all
}

/// A store whose first ten keys are in an archive, and its ten next are not.
async fn prepared(seed: u64) -> MemoryDisk {
    let disk = MemoryDisk::new(seed);
    for dir in ["/data", "/data/archives"] {
        disk.create_dir_all(Path::new(dir)).unwrap();
        disk.sync_dir(Path::new("/data")).unwrap();
    }
    disk.sync_dir(Path::new("/")).unwrap();
    let store = Store::open(config(&disk, DIR)).await.unwrap();
    for number in 0..10 {
        put(&store, &format!("before {number}"), 700).await;
    }
    store.save(ARCHIVE.into(), Label::default()).await.unwrap();
    for number in 0..10 {
        put(&store, &format!("later {number}"), 700).await;
    }
    store.shutdown().await;
    disk
}

#[test]
fn a_restore_that_is_cut_short_leaves_one_state_or_the_other() {
    let (mut old, mut new, mut resumed) = (0, 0, 0);
    for at in 0.. {
        let disk = block_on(prepared(at));
        disk.arm(at, Fault::PowerCut);
        let restored = archive::restore(&config(&disk, DIR), Path::new(ARCHIVE));
        if !disk.is_off() {
            restored.unwrap();
            assert!(at > 20, "the power was to go at {at} operations");
            break;
        }
        disk.restart_machine();
        match block_on(content(&disk, DIR)).len() {
            20 => old += 1,
            10 => new += 1,
            other => assert_eq!(other, 20, "cut at operation {at}"),
        }
        // Whatever it was, it can be restored now, or once more.
        let again = archive::restore(&config(&disk, DIR), Path::new(ARCHIVE)).unwrap();
        resumed += u32::from(again.cluster.generation == 2);
        assert_eq!(block_on(content(&disk, DIR)).len(), 10, "cut at operation {at}, restored again");
        // What was set aside is a whole store.
        let aside = again.aside.unwrap();
        let kept = block_on(content(&disk, aside.to_str().unwrap())).len();
        assert!([10, 20].contains(&kept), "{kept} keys were set aside");
    }
    assert!(old > 5 && new > 5 && resumed > 5, "{old} old, {new} new, {resumed} resumed");
}

#[test]
fn a_restore_into_an_empty_directory_that_is_cut_short_can_be_repeated() {
    for at in 0.. {
        let disk = block_on(prepared(at));
        disk.arm(at, Fault::PowerCut);
        let restored = archive::restore(&config(&disk, "/data/new"), Path::new(ARCHIVE));
        if !disk.is_off() {
            restored.unwrap();
            break;
        }
        disk.restart_machine();
        archive::restore(&config(&disk, "/data/new"), Path::new(ARCHIVE)).unwrap();
        assert_eq!(block_on(content(&disk, "/data/new")).len(), 10, "cut at operation {at}");
    }
}

#[test]
fn an_archive_that_is_cut_short_has_no_name() {
    let (mut whole, mut none) = (0, 0);
    for at in 0..200 {
        let disk = block_on(prepared(at));
        let second = Path::new("/data/archives/two");
        let saved = block_on(async {
            let store = Store::open(config(&disk, DIR)).await.unwrap();
            disk.arm(at, Fault::PowerCut);
            store.save(second.to_owned(), Label::default()).await
        });
        if !disk.is_off() {
            saved.unwrap();
            break;
        }
        disk.restart_machine();
        if disk.exists(second) {
            archive::restore(&config(&disk, "/data/new"), second).unwrap();
            whole += 1;
        } else {
            none += 1;
        }
    }
    assert!(none > 2, "{whole} whole, {none} without a name");
}

#[test]
fn a_full_disk_leaves_the_state_and_no_half_archive() {
    let disk = block_on(prepared(1));
    disk.set_full(true);
    assert!(archive::restore(&config(&disk, DIR), Path::new(ARCHIVE)).is_err());
    disk.set_full(false);
    assert_eq!(block_on(content(&disk, DIR)).len(), 20);
    block_on(async {
        let store = Store::open(config(&disk, DIR)).await.unwrap();
        disk.set_full(true);
        let saved = store.save("/data/archives/two".into(), Label::default()).await;
        disk.set_full(false);
        assert!(saved.is_err() && !disk.exists(Path::new("/data/archives/two")));
        assert!(!disk.exists(Path::new("/data/archives/.two.tmp")));
        store.shutdown().await;
    });
}
