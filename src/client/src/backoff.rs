//! Exponential back-off with jitter, for anything that reconnects or retries.

use std::time::Duration;

/// Doubles from `first` to `max`; every delay is jittered by up to a quarter so that clients do not move in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    pub fn reset(&mut self) {
        self.next = self.first;
    }

    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.max);
        delay.mul_f64(rand::random_range(0.75..=1.0))
    }
}

/// A random part of `within`: for those who would else all do the same at one moment.
pub fn scatter(within: Duration) -> Duration {
    within.mul_f64(rand::random_range(0.0..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_limit_and_start_over_after_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        let delays: Vec<_> = (0..4).map(|_| backoff.next_delay().as_millis()).collect();
        for (delay, full) in delays.iter().zip([100, 200, 400, 400]) {
            assert!((full * 3 / 4..=full).contains(delay), "{delays:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
