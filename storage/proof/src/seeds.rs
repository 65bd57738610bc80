//! Which seeds a test runs: a range of its own, or one from the environment to repeat a failure.

use std::ops::Range;

/// Set to a seed, it alone is run.
pub const SEED: &str = "PROOF_SEED";

/// The range, or the seed that the environment names.
pub fn chosen(all: Range<u64>) -> Range<u64> {
    let named = std::env::var(SEED).ok().and_then(|seed| seed.parse::<u64>().ok());
    named.map_or(all, |seed| seed..seed + 1)
}
