//! Who leads, and how soon after the last one is gone.

use std::time::Duration;

use storage::{MemberError, StoreError, Timing};
use tokio::time::{Instant, timeout};

use super::net::{Faults, Members, PATIENCE, all, put, put_until_acknowledged, value};

#[tokio::test]
async fn with_default_times_a_write_is_acknowledged_three_seconds_after_the_leader_died() {
    let members = Members::with(3, Timing::default()).await;
    let leader = members.leader().await;
    let other = members.ids().into_iter().find(|id| *id != leader).unwrap();
    put_until_acknowledged(&members.store(other), "before", "x").await;
    members.kill(leader);
    let killed = Instant::now();
    put_until_acknowledged(&members.store(other), "after", "y").await;
    let took = killed.elapsed();
    println!("leader killed; next write acknowledged after {took:?}");
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert_eq!(value(&members.store(other), "before").as_deref(), Some("x"));
}

#[tokio::test]
async fn an_orderly_end_of_the_leader_keeps_nobody_waiting() {
    let members = Members::with(3, Timing::default()).await;
    let leader = members.leader().await;
    let other = members.store(leader % 3 + 1);
    put_until_acknowledged(&other, "before", "x").await;
    let began = Instant::now();
    members.store(leader).shutdown().await;
    put_until_acknowledged(&other, "after", "y").await;
    let took = began.elapsed();
    println!("leader stopped; next write acknowledged after {took:?}");
    assert!(took < Timing::default().election.0, "{took:?}");
}

#[tokio::test]
async fn any_member_may_be_killed_and_comes_back() {
    let mut members = Members::of(3).await;
    for round in 0..2 {
        for id in 1..=3 {
            members.kill(id);
            let other = members.store(id % 3 + 1);
            put_until_acknowledged(&other, "key", &format!("{round}-{id}")).await;
            members.start(id).await;
            let back = members.store(id);
            timeout(PATIENCE, back.read_barrier()).await.unwrap().unwrap();
            assert_eq!(value(&back, "key"), Some(format!("{round}-{id}")));
        }
    }
    members.agree().await;
}

#[tokio::test]
async fn all_may_be_killed_at_once_and_lose_nothing() {
    let mut members = Members::of(3).await;
    let mut last = 0;
    for round in 0..3 {
        for n in 0..30 {
            last = put_until_acknowledged(&members.store(n % 3 + 1), &format!("k{round}-{n}"), "v").await;
        }
        (1..=3).for_each(|id| members.kill(id));
        for id in 1..=3 {
            members.start(id).await;
        }
        for store in members.stores() {
            let read = timeout(PATIENCE, store.read_barrier()).await.unwrap();
            assert!(read.as_ref().is_ok_and(|read| *read >= last), "{read:?} {:#?}", members.statuses());
            assert!((0..30).all(|n| value(&store, &format!("k{round}-{n}")).is_some()));
        }
    }
}

#[tokio::test]
async fn a_cut_off_leader_acknowledges_nothing_and_reads_nothing_stale() {
    let members = Members::of(3).await;
    let old = members.leader().await;
    put_until_acknowledged(&members.store(old), "key", "before").await;
    members.net.isolate(old, &members.ids());
    let (cut_off, other) = (members.store(old), members.store(old % 3 + 1));
    let stale = tokio::spawn(async move { (cut_off.txn(put("key", "lost")).await, cut_off.read_barrier().await) });
    put_until_acknowledged(&other, "key", "after").await;
    let (written, read) = stale.await.unwrap();
    assert!(matches!(written, Err(StoreError::NoLeader | StoreError::Unknown)), "{written:?}");
    assert!(matches!(read, Err(StoreError::NoLeader)), "{read:?}");
    members.net.heal();
    let back = members.store(old);
    timeout(PATIENCE, async { while back.read_barrier().await.is_err() {} }).await.unwrap();
    assert_eq!(value(&back, "key").as_deref(), Some("after"));
    members.agree().await;
}

#[tokio::test]
async fn a_member_that_was_cut_off_does_not_unseat_the_leader() {
    let members = Members::of(3).await;
    let leader = members.leader().await;
    let cut_off = leader % 3 + 1;
    let term = members.store(leader).status().term;
    members.net.isolate(cut_off, &members.ids());
    // Long enough that it would have stood for election several times.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        put_until_acknowledged(&members.store(leader), "key", "value").await;
    }
    members.net.heal();
    members.agree().await;
    assert_eq!((members.leader().await, members.store(leader).status().term), (leader, term));
}

#[tokio::test]
async fn one_way_cuts_do_not_stop_the_others() {
    let members = Members::of(3).await;
    let leader = members.leader().await;
    // It can no longer be heard, and hears the others.
    (1..=3).filter(|id| *id != leader).for_each(|id| members.net.cut_one_way(leader, id));
    put_until_acknowledged(&members.store(leader % 3 + 1), "key", "value").await;
    members.net.heal();
    members.agree().await;
}

#[tokio::test]
async fn leadership_is_handed_over_and_told() {
    let members = Members::of(3).await;
    let mut changes = members.store(1).leader_changes();
    let first = members.leader().await;
    assert!(changes.next().await.is_some(), "the leader at the start");
    let mut leader = first;
    for _ in 0..4 {
        let heir = leader % 3 + 1;
        members.store(first).transfer_leader(heir).await.unwrap();
        put_until_acknowledged(&members.store(first), "key", "value").await;
        leader = members.leader().await;
        assert_eq!(leader, heir);
    }
    let seen = timeout(PATIENCE, async { while changes.next().await != Some(Some(leader)) {} });
    seen.await.expect("the new leader is told");
    let unknown = members.store(1).transfer_leader(99).await;
    assert_eq!(unknown, Err(MemberError::NotFound(99)));
}

#[tokio::test]
async fn leadership_is_handed_over_where_votes_take_their_time_to_reach_the_disk() {
    for flush in [30, 120, 400] {
        let members = Members::in_memory(3, Timing::default()).await;
        let leader = members.leader().await;
        (1..=3).for_each(|id| members.disk(id).set_slow(Duration::from_millis(flush)));
        let heir = leader % 3 + 1;
        let begun = Instant::now();
        let handed = members.store(leader).transfer_leader(heir).await;
        println!("flushes of {flush} ms: handed over after {:?}: {handed:?}", begun.elapsed());
        handed.unwrap();
        assert_eq!(members.leader().await, heir);
    }
}

#[tokio::test]
async fn a_lossy_network_that_repeats_and_delays_slows_down_and_breaks_nothing() {
    let members = Members::of(3).await;
    members.net.faults(Faults { lose_request: 4, lose_answer: 4, repeat: 20, delay: 15 });
    let mut writers = Vec::new();
    for id in 1..=3 {
        let store = members.store(id);
        writers.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..60 {
                let key = format!("{id}-{n}");
                match store.txn(put(key.clone(), "v")).await {
                    Ok(_) => acknowledged.push(key),
                    Err(StoreError::Unknown | StoreError::NoLeader) => {}
                    Err(error) => unreachable!("{error}"),
                }
            }
            acknowledged
        }));
    }
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(timeout(PATIENCE * 2, writer).await.unwrap().unwrap());
    }
    members.net.faults(Faults::default());
    members.agree().await;
    for store in members.stores() {
        assert!(acknowledged.iter().all(|key| value(&store, key).is_some()));
        let twice: Vec<_> = all(&store).into_iter().filter(|kv| kv.version != 1).collect();
        assert!(twice.is_empty(), "these ran twice: {twice:?}");
    }
    assert!(acknowledged.len() > 90, "only {} of 180 were acknowledged", acknowledged.len());
}
