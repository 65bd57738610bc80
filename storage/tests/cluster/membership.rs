//! Members come and go while others write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use storage::{ClusterId, Config, Exclusion, MemberError, OpenError, Role, Store, StoreError, Timing, force_one_voter};
use tokio::time::{Instant, timeout};

use super::net::{Members, PATIENCE, member, put, put_until_acknowledged, timing, value};

/// Writes through one member until told to stop; returns how many were acknowledged.
fn load(store: Store, name: &'static str, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut written = 0;
        while !stop.load(Ordering::Relaxed) {
            if store.txn(put(format!("{name}-{written}"), "v")).await.is_ok() {
                written += 1;
            }
        }
        written
    })
}

#[tokio::test]
async fn one_grows_to_three_to_five_and_back_to_one_under_load() {
    let mut members = Members::of(1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = load(members.store(1), "load", &stop);
    for id in 2..=5 {
        members.join(id).await;
    }
    assert_eq!(members.voters(1), [1, 2, 3, 4, 5]);
    for id in [5, 4, 3, 2] {
        members.store(1).remove_member(id).await.unwrap();
        let gone = members.store(id);
        let told = timeout(PATIENCE, gone.excluded()).await.expect("a removed member learns that it is");
        assert_eq!(told, Exclusion::Removed);
        let error = gone.txn(put("x", "y")).await.unwrap_err();
        assert!(matches!(error, StoreError::Excluded(Exclusion::Removed)), "{error}");
        members.kill(id);
    }
    stop.store(true, Ordering::Relaxed);
    let written = timeout(PATIENCE, writer).await.unwrap().unwrap();
    assert_eq!(members.voters(1), [1]);
    let store = members.store(1);
    assert!(written > 0 && (0..written).all(|n| value(&store, &format!("load-{n}")).is_some()));
    // One again: nothing is sent to anybody, and it serves alone after a restart.
    drop(store);
    members.kill(1);
    members.start(1).await.txn(put("alone", "yes")).await.unwrap();
}

/// Waits until a member knows that it is out, and says how long that took.
async fn told(members: &Members, id: u64) -> Duration {
    let begun = Instant::now();
    let told = timeout(PATIENCE, members.store(id).excluded()).await.expect("a removed member learns that it is");
    assert_eq!(told, Exclusion::Removed);
    begun.elapsed()
}

#[tokio::test]
async fn a_learner_that_is_removed_is_told_soon_connected_or_not() {
    let mut members = Members::with(1, Timing::default()).await;
    for id in [2, 3] {
        members.start(id).await;
        members.store(1).add_member(id, member(id)).await.unwrap();
    }
    members.agree().await;
    members.store(1).remove_member(2).await.unwrap();
    let connected = told(&members, 2).await;
    members.net.isolate(3, &[1, 2]);
    members.store(1).remove_member(3).await.unwrap();
    // It cannot know, and is not shut out by silence alone.
    let silence = Instant::now();
    while silence.elapsed() < Timing::default().election.1 * 2 {
        put_until_acknowledged(&members.store(1), "key", "value").await;
    }
    assert_eq!(members.store(3).status().excluded, None);
    members.net.heal();
    let cut_off = told(&members, 3).await;
    println!("a learner was told after {connected:?}, one that had been cut off after {cut_off:?}");
    assert!(connected.max(cut_off) < Duration::from_secs(6));
}

#[tokio::test]
async fn a_voter_that_is_removed_while_it_is_away_is_told_when_it_is_back() {
    let mut members = Members::with(3, Timing::default()).await;
    let leader = members.leader().await;
    let (away, stopped) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    members.join(4).await;
    members.join(5).await;
    members.agree().await;
    let leader = members.leader().await;
    members.net.isolate(away, &members.ids());
    members.kill(stopped);
    for id in [away, stopped] {
        let removed = timeout(PATIENCE, async { while members.store(leader).remove_member(id).await.is_err() {} });
        removed.await.unwrap();
    }
    members.net.heal();
    members.start(stopped).await;
    let (one, other) = (told(&members, away).await, told(&members, stopped).await);
    println!("a voter that had been cut off was told after {one:?}, one that had been stopped after {other:?}");
    assert!(one + other < Duration::from_secs(6));
}

/// Writes, or reads, through a member until it refuses; returns how long the slowest answer took, and the refusal.
async fn insist(store: Store, task: u64) -> (Duration, StoreError) {
    let mut slowest = Duration::ZERO;
    for number in 0.. {
        let begun = Instant::now();
        let outcome = match task % 2 {
            0 => store.txn(put(format!("{task}-{number}"), "v")).await.map(drop),
            _ => store.read_barrier().await.map(drop),
        };
        slowest = slowest.max(begun.elapsed());
        if let Err(error) = outcome {
            return (slowest, error);
        }
    }
    unreachable!("it is refused in the end")
}

/// What is under way there waits for log entries that are not sent any more.
#[tokio::test]
async fn what_a_removed_voter_was_asked_is_answered_soon() {
    for round in 0..5 {
        let members = Members::with(3, Timing::default()).await;
        let leader = members.leader().await;
        let gone = leader % 3 + 1;
        // The first is told without asking for anything.
        let asking: Vec<_> =
            (0..32 * u64::min(round, 1)).map(|task| tokio::spawn(insist(members.store(gone), task))).collect();
        for number in 0..20 {
            members.store(gone).txn(put(format!("warm-{number}"), "v")).await.unwrap();
        }
        members.store(leader).remove_member(gone).await.unwrap();
        let told = told(&members, gone).await;
        let mut slowest = Duration::ZERO;
        for task in asking {
            let (took, error) = timeout(PATIENCE, task).await.unwrap().unwrap();
            assert!(matches!(error, StoreError::Excluded(Exclusion::Removed)), "{error}");
            slowest = slowest.max(took);
        }
        println!("round {round}: told after {told:?}, the slowest answer took {slowest:?}");
        assert!(told.max(slowest) < Duration::from_millis(1500), "{told:?} {slowest:?}");
    }
}

#[tokio::test]
async fn members_are_told_each_time_they_change() {
    let mut members = Members::of(1).await;
    let store = members.store(1);
    let mut changes = store.member_changes();
    assert_eq!(changes.next().await, Some(vec![1]));
    assert!(store.is_sole_member());
    let new = members.start(2).await;
    assert!(!new.is_sole_member(), "it knows of no member, itself not either");
    store.add_member(2, member(2)).await.unwrap();
    assert_eq!(timeout(PATIENCE, changes.next()).await.unwrap(), Some(vec![1, 2]), "a learner is a member");
    assert!(!store.is_sole_member());
    store.remove_member(2).await.unwrap();
    assert_eq!(timeout(PATIENCE, changes.next()).await.unwrap(), Some(vec![1]));
    assert!(store.is_sole_member());
}

#[tokio::test]
async fn the_leader_can_be_removed_and_a_dead_member_replaced() {
    let mut members = Members::of(3).await;
    let leader = members.leader().await;
    members.store(leader).remove_member(leader).await.unwrap();
    assert_eq!(timeout(PATIENCE, members.store(leader).excluded()).await.unwrap(), Exclusion::Removed);
    members.forget(leader);
    members.join(4).await;
    // One dies for good and is replaced.
    let dead = members.ids().into_iter().find(|id| *id != 4).unwrap();
    members.forget(dead);
    put_until_acknowledged(&members.store(4), "key", "value").await;
    members.wait("removal of the dead member", |_| Some(())).await;
    let removed = timeout(PATIENCE, async {
        loop {
            match members.store(4).remove_member(dead).await {
                Ok(()) => return,
                Err(MemberError::NoLeader | MemberError::WouldLoseQuorum { .. } | MemberError::Unknown) => {}
                Err(error) => unreachable!("{error}"),
            }
        }
    });
    removed.await.unwrap();
    members.join(5).await;
    assert_eq!(members.voters(4).len(), 3);
    members.agree().await;
    assert_eq!(value(&members.store(5), "key").as_deref(), Some("value"));
}

#[tokio::test]
async fn clashes_are_refused_and_say_with_what() {
    let mut members = Members::of(2).await;
    let store = members.store(2);
    let named = |name: &str| storage::Member { name: name.to_owned(), ..member(9) };
    assert_eq!(store.add_member(9, named("m1")).await, Err(MemberError::NameInUse { name: "m1".to_owned(), id: 1 }));
    assert_eq!(store.add_member(2, named("x")).await, Err(MemberError::IdInUse { id: 2, name: "m2".to_owned() }));
    assert_eq!(store.add_member(9, named("")).await, Err(MemberError::Incomplete));
    assert_eq!(store.promote(9).await, Err(MemberError::NotFound(9)));
    assert_eq!(store.add_member(2, member(2)).await, Ok(()), "asking again is harmless");
    assert_eq!(store.promote(2).await, Ok(()));
    // One of two cannot be removed while the other is away: nobody could agree to it.
    let leader = members.leader().await;
    drop(store);
    members.kill(3 - leader);
    members
        .wait("the other one's silence", |members| {
            let status = members.store(leader).status();
            status.members.iter().find(|known| known.id != leader)?.heard.filter(|since| *since > timing().election.1)
        })
        .await;
    let error = members.store(leader).remove_member(3 - leader).await.unwrap_err();
    assert!(matches!(error, MemberError::WouldLoseQuorum { alive: 1, voters: 1, .. }), "{error}");
    members.start(3 - leader).await;
    members.leader().await;
    assert_eq!(Members::of(1).await.store(1).remove_member(1).await, Err(MemberError::LastVoter(1)));
}

#[tokio::test]
async fn addresses_are_remembered_and_can_be_corrected() {
    let mut members = Members::of(3).await;
    let moved = storage::Member { addresses: vec!["10.9.9.9:6443".to_owned()], ..member(2) };
    members.store(3).update_member(2, moved.clone()).await.unwrap();
    members.kill(1);
    members.kill(3);
    for id in [1, 3] {
        members.start(id).await;
    }
    for store in members.stores() {
        timeout(PATIENCE, store.read_barrier()).await.unwrap().unwrap();
        let known: Vec<_> = store.members().into_iter().map(|status| (status.id, status.member, status.role)).collect();
        let expected = [(1, member(1), Role::Voter), (2, moved.clone(), Role::Voter), (3, member(3), Role::Voter)];
        assert_eq!(known, expected);
    }
}

#[tokio::test]
async fn a_member_knows_the_others_as_soon_as_it_is_open() {
    let mut members = Members::of(3).await;
    for _ in 0..10 {
        members.kill(2);
        let store = members.start(2).await;
        assert_eq!((store.members().len(), store.member_changes().current().len()), (3, 3));
        assert!(!store.is_sole_member());
    }
}

#[tokio::test]
async fn another_clusters_directory_and_messages_are_refused() {
    let (mut members, others) = (Members::of(2).await, Members::of(1).await);
    let ours = members.cluster;
    members.kill(2);
    members.cluster = others.cluster;
    let error = members.try_start(2).await.unwrap_err();
    let wrong = matches!(error, OpenError::WrongCluster { found, expected, .. } if found == ours.id && expected == others.cluster.id);
    assert!(wrong, "{error}");
    members.cluster = ClusterId { generation: 1, ..ours };
    let error = members.try_start(2).await.unwrap_err();
    assert!(matches!(error, OpenError::WrongGeneration { found: 0, expected: 1, .. }), "{error}");
    // A member of one cluster that is wired to another by mistake is not taken in.
    let mut dirs = Members::of(1).await;
    dirs.net = others.net.clone();
    dirs.cluster = ClusterId { id: 77, generation: 0 };
    let stray = dirs.start(2).await;
    others.store(1).add_member(2, member(2)).await.unwrap();
    let error = others.store(1).promote(2).await.unwrap_err();
    assert!(matches!(error, MemberError::Behind { id: 2, .. }), "{error}");
    assert_eq!(stray.revision(), 0);
    assert!(others.store(1).txn(put("still", "serving")).await.is_ok());
}

#[tokio::test]
async fn a_survivor_becomes_a_cluster_of_its_own_and_the_others_are_told_to_join_again() {
    let mut members = Members::with(3, Timing { request: Duration::from_secs(1), ..timing() }).await;
    put_until_acknowledged(&members.store(1), "key", "value").await;
    members.agree().await;
    (1..=3).for_each(|id| members.kill(id));
    let alone = members.start(3).await;
    assert!(matches!(alone.txn(put("k", "v")).await, Err(StoreError::NoLeader)));
    drop(alone);
    members.kill(3);
    let config = Config::new(members.dir(3), 3);
    let forced = loop {
        match force_one_voter(&config) {
            Err(OpenError::Locked { .. }) => tokio::task::yield_now().await,
            forced => break forced.unwrap(),
        }
    };
    assert_eq!(forced.cluster, ClusterId { id: members.cluster.id, generation: 1 });
    assert!(forced.aside.join("FORMAT").exists() && forced.aside.join("log").exists(), "the old data is kept");
    let first = members.cluster;
    members.cluster = forced.cluster;
    let survivor = members.start(3).await;
    assert_eq!(value(&survivor, "key").as_deref(), Some("value"));
    survivor.txn(put("alone", "yes")).await.unwrap();
    // The others come back, speak to it, and learn that it has gone on without them.
    members.cluster = first;
    let lost = members.start(2).await;
    assert_eq!(timeout(PATIENCE, lost.excluded()).await.unwrap(), Exclusion::Forked { generation: 1 });
    assert!(matches!(lost.txn(put("k", "v")).await, Err(StoreError::Excluded(_))));
    drop(lost);
    members.kill(2);
    let config = Config::new(members.dir(2), 2);
    let aside = loop {
        match storage::move_aside(&config) {
            Err(OpenError::Locked { .. }) => tokio::task::yield_now().await,
            moved => break moved.unwrap(),
        }
    };
    assert!(aside.exists() && !members.dir(2).exists());
    members.cluster = forced.cluster;
    members.join(2).await;
    members.agree().await;
    assert_eq!(value(&members.store(2), "alone").as_deref(), Some("yes"));
}

/// On threads of its own, so that a cluster that stands still is noticed.
#[test]
fn asking_how_the_cluster_is_never_holds_it_up() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let members = Members::of(3).await;
            let stop = Arc::new(AtomicBool::new(false));
            let asking: Vec<_> = members
                .stores()
                .into_iter()
                .map(|store| {
                    let stop = stop.clone();
                    std::thread::spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            assert_eq!(store.status().members.len(), 3);
                        }
                    })
                })
                .collect();
            for n in 0..300 {
                members.store(1).txn(put(format!("k{n}"), "v")).await.unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            asking.into_iter().for_each(|thread| thread.join().unwrap());
            done.send(()).unwrap();
        });
    });
    ended.recv_timeout(PATIENCE).expect("the cluster stands still");
}
