//! What happened, when by the simulated clock: the same for the same seed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Lines that are kept for the report of a failure.
const KEPT: usize = 200_000;

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    digest: DefaultHasher,
    count: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Trace {
    began: Instant,
    lines: Arc<Mutex<Lines>>,
}

impl Trace {
    pub(super) fn begin() -> Self {
        Self { began: Instant::now(), lines: Arc::default() }
    }

    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{:>12?} {}", self.began.elapsed(), line());
        line.hash(&mut lines.digest);
        lines.count += 1;
        if lines.lines.len() < KEPT {
            lines.lines.push(line);
        }
    }

    /// A number for the whole, and how many lines it has.
    pub(super) fn digest(&self) -> (u64, u64) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        (lines.digest.finish(), lines.count)
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }
}
