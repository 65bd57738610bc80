//! Archives that somebody has made up, every checksum right: they are taken or refused, and what is taken opens.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;

use proof::disk::MemoryDisk;
use sha2::{Digest, Sha256};
use storage::archive::{self, ArchiveError, Label};
use storage::disk::{Disk, Mode};
use storage::{Config, Op, Store, Txn};

const ARCHIVE: &str = "/archive";

fn config(disk: &MemoryDisk, dir: &str) -> Config {
    Config { disk: Arc::new(disk.clone()), segment_bytes: 8 << 10, ..Config::new(dir, 1) }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(work)
}

fn good() -> Vec<u8> {
    let disk = MemoryDisk::new(1);
    block_on(async {
        let store = Store::open(config(&disk, "/store")).await.unwrap();
        store.lease_grant(5, std::time::Duration::from_secs(60)).await.unwrap();
        for number in 0..5 {
            let txn = Txn { success: vec![Op::put(format!("key {number}"), "value")], ..Txn::default() };
            store.txn(txn).await.unwrap();
        }
        store.save(ARCHIVE.into(), Label::default()).await.unwrap();
        store.shutdown().await;
    });
    disk.content(Path::new(ARCHIVE)).unwrap()
}

/// With another head, and all checksums right.
fn with_head(good: &[u8], head: &[u8]) -> Vec<u8> {
    let length = usize::try_from(archive::head_bytes(good).unwrap()).unwrap();
    let mut bytes = good[..8].to_vec();
    bytes.extend(u32::try_from(head.len()).unwrap().to_le_bytes());
    bytes.extend(crc32fast::hash(head).to_le_bytes());
    bytes.extend(head);
    bytes.extend(&good[length..good.len() - 32]);
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum);
    bytes
}

fn restored(bytes: &[u8]) -> Result<(), ArchiveError> {
    let disk = MemoryDisk::new(2);
    let file = disk.open(Path::new(ARCHIVE), Mode::Fresh).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    archive::restore(&config(&disk, "/new"), Path::new(ARCHIVE))?;
    block_on(async {
        let store = Store::open(config(&disk, "/new")).await.unwrap();
        let before = store.revision();
        let txn = Txn { success: vec![Op::put("k", "v")], ..Txn::default() };
        assert_eq!(store.txn(txn).await.unwrap().revision, before + 1);
        store.shutdown().await;
    });
    Ok(())
}

fn head(good: &[u8]) -> serde_json::Value {
    let length = usize::try_from(archive::head_bytes(good).unwrap()).unwrap();
    serde_json::from_slice(&good[16..length]).unwrap()
}

#[test]
fn impossible_numbers_are_refused() {
    let good = good();
    restored(&with_head(&good, &serde_json::to_vec(&head(&good)).unwrap())).unwrap();
    let huge = serde_json::json!(u64::MAX);
    for path in
        ["/state/revision", "/state/compacted", "/state/last/index", "/state/last/leader_id/term", "/generation"]
    {
        let mut changed = head(&good);
        *changed.pointer_mut(path).unwrap() = huge.clone();
        let refused = restored(&with_head(&good, &serde_json::to_vec(&changed).unwrap()));
        assert!(matches!(refused, Err(ArchiveError::Damaged { .. })), "{path}: {refused:?}");
    }
    let mut endless = head(&good);
    endless["state"]["leases"] = serde_json::json!([[5, u64::MAX]]);
    assert!(restored(&with_head(&good, &serde_json::to_vec(&endless).unwrap())).is_err());
}

#[test]
fn any_change_of_the_head_is_taken_or_refused() {
    let good = good();
    let length = usize::try_from(archive::head_bytes(&good).unwrap()).unwrap();
    let (mut taken, mut refused) = (0, 0);
    for at in 0..length - 16 {
        let mut changed = good[16..length].to_vec();
        changed[at] = b"90\"{,"[at % 5];
        match restored(&with_head(&good, &changed)) {
            Ok(()) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(taken > 10 && refused > 100, "{taken} taken, {refused} refused");
}

#[test]
fn bytes_that_are_nothing_are_refused() {
    for length in 0..200_usize {
        let noise: Vec<u8> = (0..length).map(|at| u8::try_from(at * 37 % 251).unwrap()).collect();
        assert!(restored(&noise).is_err());
        assert!(restored(&[&b"rksave\0\x01"[..], &noise].concat()).is_err());
    }
}
