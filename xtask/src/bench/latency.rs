//! Latencies and their percentiles, in milliseconds.

use std::time::Duration;

#[derive(Debug, Default, Clone)]
pub(super) struct Latencies {
    all: Vec<Duration>,
}

impl Latencies {
    pub(super) fn add(&mut self, latency: Duration) {
        self.all.push(latency);
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The value that `percent` % of all stay at or below (nearest rank); 0 when there are none.
    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.all.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<T: IntoIterator<Item = Duration>>(latencies: T) -> Self {
        Self { all: latencies.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let latencies: Latencies = (1..=50).rev().map(Duration::from_millis).collect();
        assert_eq!([1, 50, 99, 100].map(|percent| latencies.percentile(percent)), [1.0, 25.0, 50.0, 50.0]);
        assert_eq!(Latencies::default().percentile(50).to_bits(), 0.0_f64.to_bits());
    }
}
