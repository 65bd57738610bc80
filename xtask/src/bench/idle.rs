//! A cluster left alone: its memory once settled, then its CPU time and disk writes.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::processes::{self, Memory, Totals};
use super::subject::Subject;

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Idle {
    pub(super) memory: Memory,
    /// Percent of one core.
    pub(super) cpu_percent: f64,
    pub(super) written_bytes_per_second: f64,
}

/// Settles for `window`, then observes for another.
pub(super) fn measure(subject: &Subject, window: Duration) -> anyhow::Result<Idle> {
    let pause = || {
        subject.inside(async {
            tokio::time::sleep(window).await;
            Ok(())
        })
    };
    pause()?;
    let memory = processes::memory(subject)?;
    let (started, before) = (Instant::now(), processes::totals(subject)?);
    pause()?;
    let (seconds, after) = (started.elapsed().as_secs_f64(), processes::totals(subject)?);
    Ok(between(memory, &before, &after, seconds))
}

fn between(memory: Memory, before: &Totals, after: &Totals, seconds: f64) -> Idle {
    let written = u32::try_from(after.written_bytes.saturating_sub(before.written_bytes)).unwrap_or(u32::MAX);
    Idle {
        memory,
        cpu_percent: (after.cpu_seconds - before.cpu_seconds) / seconds * 100.0,
        written_bytes_per_second: f64::from(written) / seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let memory = Memory { server_kib: 1, shims_kib: 2, shims: 1 };
        let before = Totals { cpu_seconds: 1.0, written_bytes: 1_000 };
        let after = Totals { cpu_seconds: 1.5, written_bytes: 3_000 };
        let idle = between(memory, &before, &after, 10.0);
        assert!((idle.cpu_percent - 5.0).abs() < 1e-9);
        assert!((idle.written_bytes_per_second - 200.0).abs() < 1e-9);
        assert_eq!(idle.memory.total_kib(), 3);
    }
}
