//! Image archives: any bytes are refused or imported, and nothing is written outside the store. Takes root, as the
//! runtime does.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use runtime::{Runtime, RuntimeConfig};
use tempfile::TempDir;

/// The folder around the store, with the store in it.
static STORE: LazyLock<(TempDir, Runtime)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let config = RuntimeConfig {
        root: folder.path().join("images"),
        state: folder.path().join("state"),
        exe: "/nonexistent".into(),
        cgroup_parent: "/rk-fuzz".into(),
        registries: Default::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime");
    let opened = runtime.block_on(Runtime::open(config)).expect("open an empty store");
    (folder, opened)
});

fuzz_target!(|archive: &[u8]| {
    let (folder, runtime) = &*STORE;
    let images = runtime.images();
    if let Ok(records) = images.import(archive) {
        for record in records {
            assert!(images.get(&record.id).is_some());
            images.remove(&record.id).expect("remove what was imported");
        }
    }
    let entries = fs::read_dir(folder.path()).expect("list the folder");
    assert!(entries.flatten().all(|entry| entry.file_name() == "images" || entry.file_name() == "state"));
});
