//! A thousand power cuts, by seed. A failure prints its seed; `PROOF_SEED=n` repeats it alone.
#![expect(clippy::panic, reason = "a test that finds a lost write fails")]

use std::ops::Range;

use proof::power_cut::{self, Tried, Violation};

fn all(seeds: Range<u64>) -> Tried {
    by(power_cut::run, seeds)
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
        panic!("{first}\n{} of the seeds fail: {seeds:#?}", bad.len());
    }
    tried
}

/// Also shows that the model tries what it is for: a test that cuts nothing proves nothing.
fn thorough(tried: &Tried) {
    if std::env::var_os(proof::seeds::SEED).is_none() {
        let every = tried.acknowledged > 5_000 && tried.power_cuts > 300 && tried.kills > 20;
        assert!(
            every && tried.disk_failures > 20 && tried.lost_coalesced > 20 && tried.flips_refused > 100,
            "{tried:?}"
        );
    }
}

#[test]
fn seeds_0_to_250_lose_nothing() {
    thorough(&all(0..250));
}

#[test]
fn seeds_250_to_500_lose_nothing() {
    thorough(&all(250..500));
}

#[test]
fn seeds_500_to_750_lose_nothing() {
    thorough(&all(500..750));
}

#[test]
fn seeds_750_to_1000_lose_nothing() {
    thorough(&all(750..1000));
}

/// Flushes take time, and what comes meanwhile is written beside them.
#[test]
fn a_busy_store_loses_nothing() {
    let tried = by(power_cut::run_busy, 0..40);
    if std::env::var_os(proof::seeds::SEED).is_none() {
        assert!(tried.acknowledged > 5_000 && tried.power_cuts > 40 && tried.disk_failures > 20, "{tried:?}");
    }
}
