//! Clusters of three and five members under every trouble the simulation knows, by seed. A failure prints its seed and what
//! led to it; `PROOF_SEED=n` repeats it alone.
#![expect(clippy::panic, reason = "a test that finds a contradiction fails")]

use std::ops::Range;

use proof::power_cut::Violation;
use proof::simulation::{self, Tried};

fn all(seeds: Range<u64>) -> Tried {
    by(simulation::run, seeds)
}

fn by(run: impl Fn(u64) -> Result<Tried, Violation>, seeds: Range<u64>) -> Tried {
    let mut tried = Tried::default();
    let mut bad = Vec::new();
    for seed in proof::seeds::chosen(seeds) {
        match run(seed) {
            Ok(run) => tried.add(&run),
            Err(violation) => bad.push(violation),
        }
    }
    println!("{tried:?}");
    let seeds: Vec<_> = bad.iter().map(|violation| (violation.seed, &violation.what)).collect();
    if let Some(first) = bad.first() {
        panic!("{first}\nfailed: {seeds:#?}");
    }
    tried
}

#[test]
fn clusters_answer_as_one_store_would_0_to_12() {
    let tried = all(0..12);
    if std::env::var_os(proof::seeds::SEED).is_none() {
        let every = tried.acknowledged > 2_000 && tried.crashes + tried.power_cuts > 6 && tried.partitions > 6;
        assert!(every && tried.watched > 2_000 && tried.stops > 2, "{tried:?}");
        assert!(tried.renewals > 50 && tried.compacted > 500 && tried.full_disks + tried.slow_disks > 5, "{tried:?}");
    }
}

#[test]
fn clusters_answer_as_one_store_would_12_to_24() {
    all(12..24);
}

/// A member is alone and has company in turns.
#[test]
fn a_cluster_that_grows_and_shrinks_answers_as_one_store_would() {
    let tried = by(simulation::run_growing, 0..8);
    if std::env::var_os(proof::seeds::SEED).is_none() {
        assert!(tried.acknowledged > 2_000 && tried.membership_changes > 20 && tried.slow_disks > 5, "{tried:?}");
    }
}

/// The Raft core of a member ended while it stood for election, or handed over, and it asked that core for the outcome
/// without a pause.
#[test]
fn elections_and_hand_overs_end_with_the_raft_core() {
    all(1224..1225);
    all(1296..1297);
}

/// One of two voters loses its power while a third member joins.
#[test]
fn a_member_joins_once_power_is_back() {
    all(1326..1327);
}

/// A former leader, with entries that it did not get through, is sent a snapshot that contradicts its log.
#[test]
fn a_snapshot_replaces_a_log_that_contradicts_it() {
    all(3035..3036);
}

/// A member is taken out while nobody can say so, for the leader loses its power.
#[test]
fn a_member_may_be_out_though_nobody_said_so() {
    all(3120..3121);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 2, 3, 4] {
        let (one, other) = (simulation::traced(seed).unwrap(), simulation::traced(seed).unwrap());
        let differs = one.1.iter().zip(&other.1).position(|(one, other)| one != other);
        let differs = differs.map(|at| (&one.1[at.saturating_sub(8)..=at], &other.1[at.saturating_sub(8)..=at]));
        assert_eq!((differs, one.0), (None, other.0), "seed {seed}");
    }
}
