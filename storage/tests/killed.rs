//! `kill -9` of a real process under load, again and again: every acknowledged write is there afterwards, and nothing else.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use proof::seeded::Seeded;
use storage::{Config, Durability, Op, RangeRequest, Store, Txn};

const DIR: &str = "STORAGE_TEST_DIR";
const ROUNDS: usize = 200;
const WRITERS: usize = 3;

fn config(dir: &Path) -> Config {
    Config { segment_bytes: 64 << 10, snapshot_after_bytes: 64 << 10, ..Config::new(dir, 1) }
}

fn value(writer: usize, number: u64) -> String {
    format!("{writer} {number} ").repeat(30)
}

/// How many keys of a writer there are; they follow each other without a gap, each as it was written.
fn found(store: &Store, writer: usize) -> u64 {
    let kvs = store.range(&RangeRequest::prefix(format!("k{writer} "))).unwrap().kvs;
    for (number, kv) in kvs.iter().enumerate() {
        assert_eq!(kv.key, format!("k{writer} {number:08}"));
        assert_eq!(kv.value, value(writer, number as u64));
        assert_eq!(kv.version, 1);
    }
    kvs.len() as u64
}

async fn write(store: Store, writer: usize, mut next: u64) {
    loop {
        let durability = if next.is_multiple_of(3) { Durability::Coalesced } else { Durability::Synced };
        let success = vec![Op::put(format!("k{writer} {next:08}"), value(writer, next)), Op::put("churn", "x")];
        store.txn(Txn { success, durability, ..Txn::default() }).await.unwrap();
        next += 1;
        println!("acknowledged {writer} {next}");
    }
}

/// Says what it finds, then writes for ever and says each write that is acknowledged.
#[tokio::test]
#[ignore = "the process that the other test kills"]
async fn writes_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = Store::open(config(dir.as_ref())).await.unwrap();
    let counts: Vec<_> = (0..WRITERS).map(|writer| found(&store, writer)).collect();
    let running: Vec<_> = counts
        .iter()
        .enumerate()
        .map(|(writer, count)| {
            println!("found {writer} {count}");
            tokio::spawn(write(store.clone(), writer, *count))
        })
        .collect();
    for writer in running {
        writer.await.unwrap();
    }
}

/// Writer and number of a line. The test harness may have begun the line.
fn read(line: &str, word: &str) -> Option<(usize, u64)> {
    let (writer, number) = line.split_once(word)?.1.trim_start().split_once(' ')?;
    Some((writer.parse().ok()?, number.parse().ok()?))
}

fn spawn(dir: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "writes_until_killed", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_is_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Seeded::new(1);
    let mut told = [0; WRITERS];
    for round in 0..ROUNDS {
        let (mut child, mut lines) = spawn(dir.path());
        // Some are killed while they open, or while they say what they have found.
        let wanted = random.below(50);
        let mut heard = Vec::new();
        while (heard.len() as u64) < wanted {
            let line = lines.next().expect("it goes on until it is killed").unwrap();
            heard.push(line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        heard.extend(lines.map_while(Result::ok));
        for line in &heard {
            if let Some((writer, count)) = read(line, "found") {
                let last = told[writer];
                assert!(count == last || count == last + 1, "round {round}: {count} of {last} of writer {writer}");
                told[writer] = count;
            }
            if let Some((writer, count)) = read(line, "acknowledged") {
                assert_eq!(count, told[writer] + 1, "round {round}");
                told[writer] = count;
            }
        }
    }
    assert!(told.iter().sum::<u64>() > 10 * ROUNDS as u64, "{told:?}");
    let store = Store::open(config(dir.path())).await.unwrap();
    for (writer, last) in told.into_iter().enumerate() {
        let count = found(&store, writer);
        assert!(count == last || count == last + 1, "{count} of {last} of writer {writer}");
    }
    store.shutdown().await;
}
