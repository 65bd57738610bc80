//! A store that has nothing to do does not wake up; and no decision of it hangs on the wall clock.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use storage::{Config, Op, Store, Txn};

const DIR: &str = "STORAGE_IDLE_DIR";
/// What openraft's ticks would disturb every 1.5 s.
const QUIET: Duration = Duration::from_secs(5);

/// Opens a store, writes to it, and does nothing more.
#[test]
#[ignore = "the process that the other test looks at"]
fn idles() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_millis(1))
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(Config::new(dir, 1)).await.unwrap();
        store.txn(Txn { success: vec![Op::put("k", "v")], ..Txn::default() }).await.unwrap();
        println!("open");
        std::future::pending::<()>().await;
    });
}

/// How often the threads of a process, but its first, have gone to sleep. The first is the test harness.
fn rests(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let others = tasks.filter(|task| task.file_name() != *pid.to_string());
    let count = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim();
        line.parse::<u64>().ok()
    };
    others.filter_map(|task| count(fs::read_to_string(task.path().join("status")).ok()?)).sum()
}

#[test]
fn a_store_without_work_never_wakes_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "idles", "--nocapture"])
        .env(DIR, dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let opened = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).any(|line| line == "open");
    assert!(opened);
    // Nothing is ever sent: it is a clock.
    let (_never, clock) = mpsc::channel::<()>();
    let deadline = Instant::now() + Duration::from_secs(60);
    let woken = loop {
        let before = rests(child.id());
        assert!(clock.recv_timeout(QUIET).is_err());
        let woken = rests(child.id()).saturating_sub(before);
        // What it still had to do after it was opened may fall into the first period.
        if woken == 0 || Instant::now() > deadline {
            break woken;
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(woken, 0, "it woke up {woken} times in {QUIET:?}");
}

fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            sources(&entry.path(), found);
        } else {
            found.push((entry.path().display().to_string(), fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

/// Leases, elections and all the rest go by the monotonic clock: jumps of the other, and a machine that starts in 1970,
/// mean nothing to the store.
#[test]
fn nothing_in_the_store_reads_the_wall_clock() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 40, "{}", found.len());
    for (path, text) in found {
        for clock in ["SystemTime", "UNIX_EPOCH", "CLOCK_REALTIME", "jiff", "chrono"] {
            assert!(!text.contains(clock), "{path} knows {clock}");
        }
    }
}
