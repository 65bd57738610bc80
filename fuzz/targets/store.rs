//! The store's files after damage: opening them succeeds or fails, but never panics or reads wild memory sizes.
//!
//! A real data directory is made once; each input overwrites bytes of one of its files.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use storage::{Config, Durability, Op, Store, Txn};
use tempfile::TempDir;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime"));

/// Small files, so that an input is likely to hit something, and a snapshot after little.
fn config(dir: &Path) -> Config {
    Config { segment_bytes: 64 << 10, snapshot_after_bytes: 64 << 10, ..Config::new(dir, 1) }
}

static TEMPLATE: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("make a temporary folder");
    RUNTIME.block_on(async {
        let store = Store::open(config(folder.path())).await.expect("open a new store");
        for number in 0..200_u32 {
            let key = format!("key-{}", number % 50).into_bytes().into();
            let put = Op::Put { key, value: vec![b'v'; 1024].into(), lease: 0, prev_kv: false };
            let txn =
                Txn { compares: Vec::new(), success: vec![put], failure: Vec::new(), durability: Durability::Synced };
            store.txn(txn).await.expect("put");
        }
        store.shutdown().await;
    });
    folder
});

/// Copies the template; returns its files in a fixed order.
fn copy(from: &Path, to: &Path, files: &mut Vec<PathBuf>) {
    fs::create_dir_all(to).expect("make a folder");
    let mut entries: Vec<_> = fs::read_dir(from).expect("list a folder").flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target, files);
        } else {
            fs::copy(entry.path(), &target).expect("copy a file");
            files.push(target);
        }
    }
}

fuzz_target!(|input: (u8, u32, &[u8])| {
    let (which, offset, bytes) = input;
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let mut files = Vec::new();
    copy(TEMPLATE.path(), folder.path(), &mut files);
    let victim = &files[usize::from(which) % files.len()];
    let mut content = fs::read(victim).expect("read a file");
    let start = offset as usize % (content.len() + 1);
    let end = (start + bytes.len()).min(content.len());
    content[start..end].copy_from_slice(&bytes[..end - start]);
    fs::write(victim, content).expect("write a file");
    RUNTIME.block_on(async {
        if let Ok(store) = Store::open(config(folder.path())).await {
            store.shutdown().await;
        }
    });
});
