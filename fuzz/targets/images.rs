//! Image archives: any bytes are refused or imported, and nothing is written outside the store.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::Images;

fuzz_target!(|archive: &[u8]| {
    let outer = tempfile::tempdir().expect("make a temporary folder");
    let images = Images::open(&outer.path().join("store"), Default::default()).expect("open an empty store");
    if let Ok(records) = images.import(archive) {
        assert!(records.iter().all(|record| images.get(&record.id).is_some()));
    }
    assert_eq!(std::fs::read_dir(outer.path()).expect("list the folder").count(), 1);
});
