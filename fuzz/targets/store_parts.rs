//! The store's decoders behind their checksums: an input becomes the body of a log record, of a snapshot's description or
//! block, or of the hard state, with a checksum that is right. Opening succeeds or fails, but never panics.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use proof::disk::MemoryDisk;
use proof::framing::{self, SEGMENT_HEADER};
use storage::disk::{Disk, Mode};
use storage::{Config, Op, Store, Txn};
use tokio::runtime::Runtime;

const DIR: &str = "/store";

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("start a runtime"));

fn config(disk: &MemoryDisk) -> Config {
    let disk = Arc::new(disk.clone());
    Config { disk, segment_bytes: 8 << 10, snapshot_after_bytes: 8 << 10, ..Config::new(DIR, 1) }
}

/// The files of a small store, with a snapshot.
static FILES: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let disk = MemoryDisk::new(1);
    RUNTIME.block_on(async {
        let store = Store::open(config(&disk)).await.expect("open a new store");
        for number in 0..40 {
            let txn = Txn { success: vec![Op::put(format!("key {number}"), vec![7; 400])], ..Txn::default() };
            store.txn(txn).await.expect("put");
        }
        store.shutdown().await;
    });
    let content = |path: PathBuf| disk.content(&path).map(|content| (path, content));
    disk.files().into_iter().filter_map(|(path, _)| content(path)).collect()
});

/// What the file is with the input in it.
fn spoil(path: &Path, content: &[u8], which: u8, body: &[u8]) -> Option<Vec<u8>> {
    let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
    match (kind, which % 4) {
        ("log", 0) => Some([&content[..SEGMENT_HEADER], &framing::record(body), &[0; 512]].concat()),
        ("snap", 1) => Some([&content[..8], &framing::framed(body)].concat()),
        ("snap", 2) => {
            let meta = 16 + usize::try_from(u32::from_le_bytes(content[8..12].try_into().ok()?)).ok()?;
            Some([&content[..meta], &framing::block(&4096_u32.to_le_bytes(), body)].concat())
        }
        ("", 3) if path.ends_with("state") => {
            let mut slot = framing::framed(body);
            slot.resize(8192, 0);
            Some(slot)
        }
        _ => None,
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (which, body) = input;
    let disk = MemoryDisk::new(1);
    disk.create_dir_all(Path::new("/store/log")).expect("make a folder");
    disk.create_dir_all(Path::new("/store/snapshots")).expect("make a folder");
    for (path, content) in FILES.iter() {
        let content = spoil(path, content, which, body).unwrap_or_else(|| content.clone());
        let file = disk.open(path, Mode::Fresh).expect("make a file");
        file.write_all_at(&content, 0).expect("write a file");
    }
    RUNTIME.block_on(async {
        if let Ok(store) = Store::open(config(&disk)).await {
            store.shutdown().await;
        }
    });
});
