//! Members that are far behind get a snapshot, and watches survive it or say what they missed.

use storage::{Op, Store, Txn, WatchError, WatchRequest};
use tokio::time::timeout;

use super::net::{Faults, Members, PATIENCE, all, put, put_until_acknowledged, timing, value};

/// Noise that does not compress.
fn noise(seed: u32, length: u32) -> Vec<u8> {
    (0..length).flat_map(|n| (n.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)).to_le_bytes()).collect()
}

/// Writes so much that the log before it is gone, on some members at least.
async fn outgrow_the_log(store: &Store, rounds: u32) {
    for n in 0..rounds {
        store.txn(put(format!("k{}", n % 5), noise(n, 2000))).await.unwrap();
    }
}

/// First entries of the oldest and of the newest segment of a member's log.
fn segments(members: &Members, id: u64) -> (u64, u64) {
    let files = members.dir(id).join("log").read_dir().unwrap().flatten();
    let first = |file: std::fs::DirEntry| {
        let name = file.file_name().into_string().ok()?;
        u64::from_str_radix(name.strip_suffix(".log")?, 16).ok()
    };
    let firsts: Vec<_> = files.filter_map(first).collect();
    (firsts.iter().copied().min().unwrap_or(0), firsts.iter().copied().max().unwrap_or(0))
}

/// Writes until none of these members has anything of the log that there is now: whoever is behind needs a snapshot.
async fn outgrow_all_logs(members: &Members, store: &Store, ids: &[u64]) {
    let newest = ids.iter().map(|id| segments(members, *id).1).max().unwrap();
    let outgrown = async {
        while ids.iter().any(|id| segments(members, *id).0 <= newest) {
            outgrow_the_log(store, 10).await;
        }
    };
    timeout(PATIENCE, outgrown).await.expect("logs are purged");
}

async fn small(voters: u64) -> Members {
    let mut members = Members::with_small_files(timing()).await;
    for id in 2..=voters {
        members.join(id).await;
    }
    members
}

#[tokio::test]
async fn one_that_was_away_for_long_gets_a_snapshot() {
    let mut members = small(3).await;
    put_until_acknowledged(&members.store(1), "old", "value").await;
    members.kill(3);
    outgrow_the_log(&members.store(1), 150).await;
    let before = members.net.carried(3);
    members.start(3).await;
    members.agree().await;
    assert_eq!(value(&members.store(3), "old").as_deref(), Some("value"));
    assert!(members.dir(3).join("snapshots").read_dir().unwrap().count() > 0);
    assert!(members.net.carried(3) > before, "no snapshot was sent");
    // And it has it for good.
    members.kill(3);
    members.start(3).await;
    members.agree().await;
}

#[tokio::test]
async fn one_that_joins_late_gets_a_snapshot_and_votes() {
    let mut members = small(1).await;
    outgrow_the_log(&members.store(1), 150).await;
    members.join(2).await;
    members.join(3).await;
    members.agree().await;
    members.kill(1);
    put_until_acknowledged(&members.store(2), "after", "value").await;
    assert_eq!(value(&members.store(2), "after").as_deref(), Some("value"));
}

#[tokio::test]
async fn a_cut_transfer_is_taken_up_where_it_ended() {
    let mut members = small(1).await;
    // Over and over, so that the log is longer than the versions of all, and a snapshot takes its place.
    for n in (0..5).flat_map(|_| 0..20) {
        members.store(1).txn(put(format!("large{n}"), noise(n, 150_000))).await.unwrap();
    }
    outgrow_the_log(&members.store(1), 80).await;
    members
        .wait("a snapshot in the log's place", |members| {
            let log = members.dir(1).join("log").read_dir().unwrap().flatten();
            let oldest =
                log.map(|file| file.file_name()).filter(|name| name.to_string_lossy().ends_with(".log")).min()?;
            (oldest != *"0000000000000000.log" && newest_snapshot(members)? > 6 << 20).then_some(())
        })
        .await;
    let (mut last, mut polls) = (0, 0);
    // Another snapshot, made meanwhile, would be sent from its beginning.
    let no_newer = |members: &Members| {
        let newest = newest_snapshot(members)?;
        polls = if newest == last { polls + 1 } else { 0 };
        last = newest;
        (polls > 100).then_some(())
    };
    members.wait("the last snapshot", no_newer).await;
    members.start(2).await;
    let net = members.net.clone();
    net.carry_at_most(Some((2, 6 << 20)));
    members.store(1).add_member(2, super::net::member(2)).await.unwrap();
    let part = members.dir(2).join("snapshots");
    let received = || {
        let files = part.read_dir().unwrap().flatten();
        let parts = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "part"));
        parts.map(|file| file.metadata().unwrap().len()).max().filter(|length| *length >= 4 << 20)
    };
    let before = members.wait("a part of the snapshot", |_| received()).await;
    // The receiver is even started anew meanwhile.
    members.kill(2);
    members.start(2).await;
    let (carried, whole) = (net.carried(2), newest_snapshot(&members).unwrap());
    net.carry_at_most(None);
    members.store(1).promote(2).await.unwrap();
    members.agree().await;
    let again = net.carried(2) - carried;
    println!("{before} of {whole} bytes before the cut, {again} after it");
    assert!(again < whole, "all of the {whole} bytes were sent again");
}

fn newest_snapshot(members: &Members) -> Option<u64> {
    let files = members.dir(1).join("snapshots").read_dir().unwrap().flatten();
    let snapshots = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "snap"));
    snapshots.max_by_key(std::fs::DirEntry::path)?.metadata().ok().map(|found| found.len())
}

#[tokio::test]
async fn watches_go_on_across_a_snapshot_or_say_that_they_cannot() {
    let members = small(3).await;
    let cut_off = members.leader().await % 3 + 1;
    let others: Vec<_> = members.ids().into_iter().filter(|id| *id != cut_off).collect();
    let watching = members.store(cut_off);
    watching.txn(put("seen", "0")).await.unwrap();
    let mut watcher = watching.watch(WatchRequest::prefix("seen", 1)).unwrap();
    assert_eq!(watcher.next().await.unwrap().events.len(), 1);
    members.net.isolate(cut_off, &members.ids());
    let writer = members.store(others[0]);
    for n in 1..=3 {
        put_until_acknowledged(&writer, "seen", &n.to_string()).await;
    }
    outgrow_the_log(&writer, 150).await;
    members.net.heal();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let batch = timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
        seen.extend(batch.events.into_iter().map(|event| String::from_utf8(event.kv.value.to_vec()).unwrap()));
    }
    assert_eq!(seen, ["1", "2", "3"], "nothing is missed, repeated or out of order");
    // Now with a compaction beyond what it has seen.
    members.agree().await;
    members.net.isolate(cut_off, &members.ids());
    for n in 4..=6 {
        put_until_acknowledged(&writer, "seen", &n.to_string()).await;
    }
    writer.compact(writer.revision()).await.unwrap();
    outgrow_all_logs(&members, &writer, &others).await;
    members.net.heal();
    let error = timeout(PATIENCE, async {
        loop {
            match watcher.next().await {
                Ok(batch) => assert!(batch.events.is_empty(), "{batch:?}"),
                Err(error) => return error,
            }
        }
    });
    assert!(matches!(error.await.unwrap(), WatchError::Compacted { .. }));
    members.agree().await;
}

#[tokio::test]
async fn snapshots_arrive_over_a_bad_network_while_others_write() {
    let mut members = small(3).await;
    members.kill(3);
    outgrow_the_log(&members.store(1), 120).await;
    members.net.faults(Faults { lose_request: 5, lose_answer: 5, repeat: 10, delay: 10 });
    members.start(3).await;
    for n in 0..40 {
        let txn = Txn { success: vec![Op::put(format!("k{}", n % 5), noise(n, 2000))], ..Txn::default() };
        drop(members.store(1).txn(txn).await);
    }
    members.net.faults(Faults::default());
    members.agree().await;
    assert!(!all(&members.store(3)).is_empty());
}
