//! Clusters of real processes in real trouble: `kill -9`, SIGSTOP, links cut in both directions or one, full disks, members
//! replaced and leaders changed under load. Longer with `cargo xtask chaos --model processes`.
#![expect(clippy::panic, reason = "a test that finds a contradiction fails")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use proof::processes::{self, MEMBER, Program, Tried, Trouble};

/// The process that is one member.
#[test]
#[ignore = "a member of the clusters of the other tests"]
fn a_member() {
    if std::env::var_os(MEMBER).is_some() {
        processes::main().unwrap();
    }
}

fn cluster(seed: u64, members: u64, seconds: u64) -> Tried {
    let arguments = ["--ignored", "--exact", "a_member", "--nocapture"].map(Into::into).to_vec();
    let program = Program { executable: std::env::current_exe().unwrap(), arguments };
    let root = tempfile::Builder::new().prefix("rk-proof-").tempdir().unwrap();
    let trouble = Trouble { time: Duration::from_secs(seconds), acknowledged: 300, watched: 300 };
    match processes::run(&program, root.path(), seed, members, trouble) {
        Ok(tried) => {
            println!("{tried:?}");
            assert!(tried.acknowledged >= 300 && tried.watched >= 300, "{tried:?}");
            assert!(tried.kills + tried.stops > 0 && tried.cuts + tried.one_way_cuts > 0, "{tried:?}");
            tried
        }
        Err(violation) => panic!("{violation}"),
    }
}

#[test]
fn three_processes_answer_as_one_store_would() {
    cluster(4, 3, 15);
}

#[test]
fn five_processes_answer_as_one_store_would() {
    cluster(7, 5, 15);
}
