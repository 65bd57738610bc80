//! Archives are brought from anywhere: whatever the bytes are, they are described and restored, or refused, without a
//! panic. What is behind a checksum is reached by giving the head one that is right.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use proof::disk::MemoryDisk;
use storage::disk::{Disk, Mode};
use storage::{Config, archive};

fn restore(bytes: &[u8]) {
    let disk = MemoryDisk::new(1);
    let path = Path::new("/archive");
    let file = disk.open(path, Mode::Fresh).expect("make a file");
    file.write_all_at(bytes, 0).expect("write it");
    let config = Config { disk: Arc::new(disk), ..Config::new("/store", 1) };
    drop(archive::restore(&config, path));
}

fuzz_target!(|bytes: &[u8]| {
    drop(archive::describe_bytes(Path::new("input"), bytes));
    archive::head_bytes(bytes);
    restore(bytes);
    // The input as a head that arrived as it was written.
    let length = u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
    let head = [&b"rksave\0\x01"[..], &length, &crc32fast::hash(bytes).to_le_bytes(), bytes].concat();
    drop(archive::describe_bytes(Path::new("input"), &head));
    restore(&head);
});
