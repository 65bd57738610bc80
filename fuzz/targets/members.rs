//! What arrives from other members: any bytes get an answer, and none of them a panic or a change of what is stored.
//!
//! Half of the inputs get a proper frame around them, so that they reach the decoders behind the checksum.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use storage::{Bytes, Config, PeerIdentity, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime"));

static STORE: LazyLock<(TempDir, Store)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let store = RUNTIME.block_on(Store::open(Config::new(folder.path(), 1))).expect("open a new store");
    (folder, store)
});

/// A request to member 1 with this kind and body, as a member of the same cluster would send it.
fn framed(body: &[u8]) -> Vec<u8> {
    let cluster = STORE.1.cluster();
    let mut rest = Vec::new();
    for word in [cluster.id, cluster.generation, 2, 1, 1, 1] {
        rest.extend_from_slice(&word.to_le_bytes());
    }
    rest.extend_from_slice(body);
    let mut out = b"rkr\x02".to_vec();
    out.extend_from_slice(&crc32fast::hash(&rest).to_le_bytes());
    out.extend_from_slice(&rest);
    out
}

/// Votes and log entries: a member may change the log with them, so here they are only decoded.
const RAFT: [u8; 2] = [0, 2];

fuzz_target!(|input: (bool, &[u8])| {
    let (proper, bytes) = input;
    let request = if proper { framed(bytes) } else { bytes.to_vec() };
    let known = storage::is_request(&request);
    if proper && known && bytes.first().is_some_and(|kind| RAFT.contains(kind)) {
        return;
    }
    let answer = RUNTIME.block_on(STORE.1.handle(Bytes::from(request), &PeerIdentity::default()));
    assert!(answer.starts_with(b"rkr"), "no answer");
});
