//! Members with slow and full disks, members that answer nonsense, and two that are one.

use std::time::Duration;

use storage::{Config, Exclusion, Store, StoreError, Timing};
use tokio::time::{Instant, sleep, timeout};

use super::net::{Members, PATIENCE, put, put_until_acknowledged, value};

/// What a member that cannot be spoken to costs: requests in three seconds, and whether the others go on.
async fn asked_in_three_seconds(members: &Members, bad: u64) -> u64 {
    let good = members.store(bad % 3 + 1);
    let before = members.net.asked(bad);
    let until = Instant::now() + Duration::from_secs(3);
    let mut written = 0;
    while Instant::now() < until {
        put_until_acknowledged(&good, "key", &written.to_string()).await;
        written += 1;
    }
    assert!(written > 10, "{written} writes in three seconds");
    members.net.asked(bad) - before
}

/// The Raft core itself would ask again at once, thousands of times in a second.
#[tokio::test]
async fn a_member_whose_answers_are_lost_at_once_is_asked_a_few_times_in_a_second() {
    let members = Members::with(3, Timing::default()).await;
    let bad = members.leader().await % 3 + 1;
    members.net.answer_instead(bad, None);
    let asked = asked_in_three_seconds(&members, bad).await;
    members.net.answer_instead(bad, Some(b"HTTP/1.1 400 Bad Request".as_slice().into()));
    let garbage = asked_in_three_seconds(&members, bad).await;
    println!("asked {asked} and {garbage} times in three seconds");
    // Three a second by pauses, two of heartbeats, and the few quick ones at the start.
    assert!(asked < 40 && garbage < 40, "asked {asked} and {garbage} times");
    members.net.answer_again(bad);
    members.agree().await;
}

/// A copy of a member's directory that is started, too: one of the two is turned away, and the cluster goes on.
#[tokio::test]
async fn of_two_members_with_one_identity_one_is_turned_away() {
    let mut members = Members::of(3).await;
    let leader = members.leader().await;
    let doubled = leader % 3 + 1;
    put_until_acknowledged(&members.store(leader), "before", "x").await;
    members.kill(doubled);
    let copy = tempfile::tempdir().unwrap();
    let dir = copy.path().join("db");
    let copied = std::process::Command::new("cp").arg("-a").arg(members.dir(doubled)).arg(&dir).status().unwrap();
    assert!(copied.success());
    members.start(doubled).await;
    // It has to speak: the others have to know it.
    put_until_acknowledged(&members.store(doubled), "known", "x").await;
    let transport = Some(members.wire(doubled));
    let config = Config { transport, timing: super::net::timing(), ..Config::new(&dir, doubled) };
    let twin = Store::open(config).await.unwrap();
    assert_eq!(timeout(PATIENCE, twin.excluded()).await.unwrap(), Exclusion::Twin);
    let refused = twin.txn(put("key", "twin")).await;
    assert!(matches!(refused, Err(StoreError::Excluded(Exclusion::Twin))), "{refused:?}");
    put_until_acknowledged(&members.store(doubled), "after", "x").await;
    members.agree().await;
    assert_eq!(value(&members.store(leader), "key"), None);
}

/// Fills a member's disk: also what it had taken in advance, by writing until it notices.
async fn fill(members: &Members, id: u64) {
    members.disk(id).set_full(true);
    let store = members.store(id % 3 + 1);
    for number in 0..4 {
        drop(store.txn(put(format!("filling {id} {number}"), vec![b'x'; 60_000])).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_space_has_another_one_lead() {
    let members = Members::in_memory(3, Timing::default()).await;
    let leader = members.leader().await;
    let full = members.store(leader);
    put_until_acknowledged(&full, "before", "x").await;
    fill(&members, leader).await;
    // Through the one that is full, too: it passes on what it cannot write.
    put_until_acknowledged(&full, "after", "y").await;
    assert_ne!(members.leader().await, leader);
    // What it has it can tell, and what it lacks it can ask for space.
    let read = full.range(&storage::RangeRequest::key("before")).unwrap();
    assert_eq!(read.kvs.len(), 1);
    members.disk(leader).set_full(false);
    put_until_acknowledged(&members.store(leader % 3 + 1), "again", "z").await;
    members.agree().await;
}

#[tokio::test(start_paused = true)]
async fn without_space_at_a_quorum_writes_are_refused_soon_and_resume_by_themselves() {
    let members = Members::in_memory(3, Timing::default()).await;
    let leader = members.leader().await;
    let store = members.store(leader);
    put_until_acknowledged(&store, "before", "x").await;
    for id in (1..=3).filter(|id| *id != leader) {
        fill(&members, id).await;
    }
    let refused = timeout(PATIENCE, async {
        loop {
            if let Err(error @ StoreError::DiskFull { .. }) = store.txn(put("key", vec![b'x'; 60_000])).await {
                return error;
            }
        }
    });
    let error = refused.await.expect("a clear error");
    assert!(error.to_string().contains("read-only"), "{error}");
    let began = Instant::now();
    let again = store.txn(put("key", "x")).await;
    assert!(matches!(again, Err(StoreError::DiskFull { .. })), "{again:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "refused after {:?}", began.elapsed());
    assert!(timeout(PATIENCE, store.read_barrier()).await.unwrap().is_ok(), "reads go on");
    (1..=3).for_each(|id| members.disk(id).set_full(false));
    let freed = Instant::now();
    let resumed = timeout(PATIENCE, async {
        while store.txn(put("key", "resumed")).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    resumed.await.expect("writes go on by themselves");
    assert!(freed.elapsed() < Duration::from_secs(3), "resumed after {:?}", freed.elapsed());
    members.agree().await;
}

/// A memory card may take seconds for a flush.
#[tokio::test(start_paused = true)]
async fn disks_that_flush_for_three_seconds_cause_no_elections() {
    let members = Members::in_memory(3, Timing::default()).await;
    let leader = members.leader().await;
    put_until_acknowledged(&members.store(1), "before", "x").await;
    let term = members.store(leader).status().term;
    for (leads, others) in [(3000, 0), (0, 3000), (3000, 3000), (1000, 2000)] {
        for id in 1..=3 {
            let slow = if id == leader { leads } else { others };
            members.disk(id).set_slow(Duration::from_millis(slow));
        }
        let until = Instant::now() + Duration::from_secs(60);
        let mut written = 0;
        while Instant::now() < until {
            let through = members.store(written % 3 + 1);
            put_until_acknowledged(&through, "key", &written.to_string()).await;
            timeout(PATIENCE, through.read_barrier()).await.unwrap().unwrap();
            written += 1;
        }
        let now = members.store(leader).status();
        assert_eq!((now.leader, now.term), (Some(leader), term), "flushes of {leads} and {others} ms");
        println!("flushes of {leads} ms at the leader and {others} ms elsewhere: {written} writes in a minute");
        assert!(written >= 5, "{written}");
    }
}

#[tokio::test(start_paused = true)]
async fn members_with_slow_disks_elect_a_leader() {
    let members = Members::in_memory(3, Timing::default()).await;
    let leader = members.leader().await;
    put_until_acknowledged(&members.store(leader), "before", "x").await;
    (1..=3).for_each(|id| members.disk(id).set_slow(Duration::from_secs(3)));
    members.kill(leader);
    let killed = Instant::now();
    put_until_acknowledged(&members.store(leader % 3 + 1), "after", "y").await;
    println!("with flushes of 3 s the next write came after {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(30), "{:?}", killed.elapsed());
}

/// A leader whose disk never answers again is one that is gone.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_hangs_is_replaced() {
    let members = Members::in_memory(3, Timing::default()).await;
    let leader = members.leader().await;
    put_until_acknowledged(&members.store(leader), "before", "x").await;
    members.disk(leader).set_slow(Duration::from_secs(100_000));
    let hung = members.store(leader);
    let hanging = tokio::spawn(async move { hung.txn(put("key", "hung")).await });
    sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    put_until_acknowledged(&members.store(leader % 3 + 1), "after", "y").await;
    println!("the disk of the leader hangs; next write after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    hanging.abort();
}
