//! How soon a request that nobody can carry out is told so.

use std::time::Duration;

use storage::{MemberId, StoreError, Timing};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::net::{Members, PATIENCE, put, put_until_acknowledged, timing};

/// More than the writer has on its way at a time, so that some wait behind others.
const REQUESTS: usize = 200;
/// For a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(2);

fn impatient() -> Timing {
    Timing { request: Duration::from_secs(4), ..timing() }
}

/// Sends a heap of requests through a member; returns how long the slowest took. None may be acknowledged.
async fn slowest(members: &Members, through: MemberId) -> Duration {
    let begun = Instant::now();
    let mut requests = JoinSet::new();
    for n in 0..REQUESTS {
        let store = members.store(through);
        requests.spawn(async move {
            let outcome = match n % 10 {
                0 => store.read_barrier().await.map(drop),
                1 => store.compact(1).await,
                _ => store.txn(put(format!("k{n}"), vec![b'v'; 100_000])).await.map(drop),
            };
            assert!(matches!(outcome, Err(StoreError::NoLeader | StoreError::Unknown)), "{outcome:?}");
        });
    }
    while let Some(ended) = timeout(PATIENCE, requests.join_next()).await.expect("an outcome of each request") {
        ended.unwrap();
    }
    begun.elapsed()
}

async fn fails_at_once(members: &Members, through: MemberId) {
    let store = members.store(through);
    let begun = Instant::now();
    let (written, read) = tokio::join!(store.txn(put("k", "v")), store.read_barrier());
    assert!(
        matches!((&written, &read), (Err(StoreError::NoLeader), Err(StoreError::NoLeader))),
        "{written:?} {read:?}"
    );
    assert!(begun.elapsed() < timing().heartbeat * 2 + SLACK, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_member_that_is_cut_off_says_so_in_time_to_all_who_wait_and_later_at_once() {
    for packets_are_lost in [false, true] {
        let members = Members::with(3, impatient()).await;
        let leader = members.leader().await;
        let follower = leader % 3 + 1;
        put_until_acknowledged(&members.store(follower), "key", "value").await;
        members.net.lose_what_is_cut(packets_are_lost);
        members.net.isolate(follower, &members.ids());
        let took = slowest(&members, follower).await;
        println!("cut off, packets lost: {packets_are_lost}; the slowest of {REQUESTS} requests took {took:?}");
        assert!(took < impatient().request + timing().heartbeat + SLACK, "{took:?}");
        fails_at_once(&members, follower).await;
        members.net.heal();
        let back = async { while members.store(follower).txn(put("k", "v")).await.is_err() {} };
        timeout(PATIENCE, back).await.expect("it writes again");
    }
}

#[tokio::test]
async fn a_leader_without_a_quorum_says_so_in_time_to_all_who_wait_and_later_at_once() {
    let members = Members::with(3, impatient()).await;
    let leader = members.leader().await;
    members.net.lose_what_is_cut(true);
    for other in members.ids().into_iter().filter(|id| *id != leader) {
        members.kill(other);
    }
    let took = slowest(&members, leader).await;
    println!("without a quorum the slowest of {REQUESTS} requests took {took:?}");
    assert!(took < impatient().request + timing().heartbeat + SLACK, "{took:?}");
    fails_at_once(&members, leader).await;
}

#[tokio::test]
async fn with_default_times_no_request_waits_longer_than_etcds() {
    let Timing { request, heartbeat, election, .. } = Timing::default();
    assert_eq!(request, Duration::from_secs(7));
    let members = Members::with(2, Timing::default()).await;
    let leader = members.leader().await;
    put_until_acknowledged(&members.store(leader), "key", "value").await;
    members.kill(3 - leader);
    let begun = Instant::now();
    let (written, read) = {
        let store = members.store(leader);
        let other = store.clone();
        tokio::join!(async move { store.txn(put("k", "v")).await }, async move { other.read_barrier().await })
    };
    assert!(written.is_err() && matches!(read, Err(StoreError::NoLeader)), "{written:?} {read:?}");
    assert!(begun.elapsed() < request + heartbeat + SLACK, "{:?}", begun.elapsed());
    let begun = Instant::now();
    let refused = timeout(PATIENCE, async {
        loop {
            let begun = Instant::now();
            match members.store(leader).txn(put("k", "v")).await {
                Err(StoreError::NoLeader) if begun.elapsed() < heartbeat * 2 + SLACK => return,
                Err(StoreError::NoLeader | StoreError::Unknown) => {}
                outcome => panic!("{outcome:?}"),
            }
        }
    });
    refused.await.unwrap();
    assert!(begun.elapsed() < election.1 * 2 + request, "{:?}", begun.elapsed());
}
