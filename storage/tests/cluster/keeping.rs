//! Leases and coalesced writes with several members.

use std::time::Duration;

use storage::{Durability, Op, StoreError, Timing, Txn};
use tokio::time::{Instant, timeout};

use super::net::{Members, PATIENCE, put_until_acknowledged, timing, value};

fn leased(key: &str, lease: i64) -> Txn {
    let put = Op::Put { key: key.to_owned().into(), value: "v".into(), lease, prev_kv: false };
    Txn { success: vec![put], ..Txn::default() }
}

#[tokio::test]
async fn leases_end_by_the_leader_and_are_renewed_through_any_member() {
    let members = Members::of(3).await;
    let (kept, left) = (7, 8);
    members.store(2).lease_grant(kept, Duration::from_secs(1)).await.unwrap();
    members.store(3).lease_grant(left, Duration::from_secs(1)).await.unwrap();
    members.store(1).txn(leased("kept", kept)).await.unwrap();
    members.store(1).txn(leased("left", left)).await.unwrap();
    let mut renewer = 0;
    let deadline = Instant::now() + PATIENCE;
    while value(&members.store(1), "left").is_some() {
        assert!(Instant::now() < deadline, "a lease that nobody renews never ends");
        renewer = renewer % 3 + 1;
        assert_eq!(members.store(renewer).lease_renew(kept).await.unwrap(), Duration::from_secs(1));
    }
    assert!(value(&members.store(1), "kept").is_some());
    assert!(matches!(members.store(2).lease_renew(left).await, Err(StoreError::LeaseNotFound(8))));
    let follower = members.leader().await % 3 + 1;
    assert!(matches!(members.store(follower).lease_keep_alive(kept), Err(StoreError::NoLeader)));
    members.agree().await;
}

#[tokio::test]
async fn a_new_leader_gives_every_lease_its_full_time() {
    let members = Members::of(3).await;
    let leader = members.leader().await;
    let other = members.store(leader % 3 + 1);
    other.lease_grant(5, Duration::from_secs(30)).await.unwrap();
    other.txn(leased("key", 5)).await.unwrap();
    members.kill(leader);
    put_until_acknowledged(&other, "after", "x").await;
    let now = members.leader().await;
    members
        .wait("the new leader's clock", |members| {
            let status = members.store(now).lease_status(5)?;
            (status.remaining > Duration::from_secs(25) && members.store(now).lease_keep_alive(5).is_ok()).then_some(())
        })
        .await;
    assert!(value(&other, "key").is_some());
}

#[tokio::test]
async fn coalesced_writes_share_entries_and_none_is_lost_by_a_kill() {
    let hold = Duration::from_millis(400);
    let mut members = Members::with(3, Timing { hold, ..timing() }).await;
    let beat = |n: u32| Txn {
        success: vec![Op::put(format!("beat-{n}"), "x")],
        durability: Durability::Coalesced,
        ..Txn::default()
    };
    let before = members.store(1).status().last;
    let mut tasks = Vec::new();
    for n in 0..60 {
        let store = members.store(u64::from(n % 3) + 1);
        tasks.push(tokio::spawn(async move { store.txn(beat(n)).await }));
    }
    for task in tasks {
        timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
    }
    let entries = members.store(1).status().last - before;
    assert!(entries < 12, "{entries} log entries for 60 coalesced writes");
    (1..=3).for_each(|id| members.kill(id));
    for id in 1..=3 {
        members.start(id).await;
    }
    let store = members.store(2);
    timeout(PATIENCE, store.read_barrier()).await.unwrap().unwrap();
    assert!((0..60).all(|n| value(&store, &format!("beat-{n}")).is_some()));
    members.agree().await;
}

/// Flushes per minute on each member while so many keys are renewed every 10 s.
async fn flushes_with(voters: u64, keys: u32) -> Vec<u64> {
    const MINUTES: u64 = 5;
    let members = Members::with(voters, Timing::default()).await;
    let flushes = |members: &Members| members.stores().iter().map(|store| store.stats().fsyncs).collect::<Vec<_>>();
    let before = flushes(&members);
    let end = Instant::now() + Duration::from_secs(60 * MINUTES);
    let mut tasks = Vec::new();
    for n in 0..keys {
        let store = members.store(u64::from(n) % voters + 1);
        tasks.push(tokio::spawn(async move {
            let mut due = Instant::now() + Duration::from_millis(100 * u64::from(n));
            while due < end {
                tokio::time::sleep_until(due).await;
                let beat = Op::put(format!("lease-{n}"), "renewed");
                let txn = Txn { success: vec![beat], durability: Durability::Coalesced, ..Txn::default() };
                store.txn(txn).await.unwrap();
                due += Duration::from_secs(10);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let after = flushes(&members);
    before.iter().zip(after).map(|(before, after)| (after - before) / MINUTES).collect()
}

#[tokio::test(start_paused = true)]
async fn flushes_do_not_grow_with_the_number_of_heartbeats() {
    for voters in [1, 3] {
        for keys in [1, 100] {
            let flushes = flushes_with(voters, keys).await;
            assert!(flushes.iter().all(|each| *each <= 12), "{flushes:?} a minute, {keys} keys, {voters} voters");
            assert!(flushes.iter().all(|each| *each > 0), "{flushes:?}: nothing is ever flushed");
            println!("{flushes:?} flushes a minute, {keys} keys, {voters} voters");
        }
    }
}
