//! `kill -9` of a real process under load: every acknowledged write is there afterwards, and nothing else.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use storage::{Config, Durability, Op, RangeRequest, Store, Txn};

const DIR: &str = "STORAGE_TEST_DIR";
const ROUNDS: usize = 12;

fn config(dir: &Path) -> Config {
    Config { segment_bytes: 64 << 10, snapshot_after_bytes: 64 << 10, ..Config::new(dir, 1) }
}

async fn count(store: &Store) -> u64 {
    let request = RangeRequest { count_only: true, ..RangeRequest::prefix("k") };
    store.range(&request).unwrap().count
}

/// Writes keys in order for ever, and says each one that is acknowledged.
#[tokio::test]
#[ignore = "the process that the other test kills"]
async fn writes_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = Store::open(config(dir.as_ref())).await.unwrap();
    let mut next = count(&store).await;
    loop {
        let durability = if next.is_multiple_of(3) { Durability::Coalesced } else { Durability::Synced };
        let success = vec![Op::put(format!("k{next:08}"), format!("{next}").repeat(100)), Op::put("churn", "x")];
        store.txn(Txn { success, durability, ..Txn::default() }).await.unwrap();
        next += 1;
        println!("acknowledged {next}");
    }
}

/// The number that a line acknowledges. The test harness may have begun the line.
fn acknowledged(line: &str) -> Option<u64> {
    line.split_once("acknowledged ")?.1.parse().ok()
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_is_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "writes_until_killed", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let wanted = before + 40 + 13 * round as u64;
        let reached = lines.find_map(|line| acknowledged(&line).filter(|last| *last >= wanted)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // A line that was cut short by the kill may name a shorter number; it never names a larger one.
        let last = lines.filter_map(|line| acknowledged(&line)).fold(reached, u64::max);
        let store = Store::open(config(dir.path())).await.unwrap();
        let found = store.range(&RangeRequest::prefix("k")).unwrap().kvs;
        assert!(found.len() as u64 >= last && found.len() as u64 <= last + 1, "{} of {last}", found.len());
        for (number, kv) in found.iter().enumerate() {
            assert_eq!(kv.key, format!("k{number:08}"));
            assert_eq!(kv.value, number.to_string().repeat(100));
            assert_eq!(kv.mod_revision, number as u64 + 1);
        }
        before = found.len() as u64;
        store.shutdown().await;
    }
}
