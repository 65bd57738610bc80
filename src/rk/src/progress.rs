//! What a person at a terminal sees: one line per step, with the time it took since the start.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Prints steps to standard output. Off a terminal the same lines come without colour.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    start: Instant,
    colour: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), colour: std::io::stdout().is_terminal() }
    }

    /// A step is done.
    pub(crate) fn step(&self, what: &str) {
        let elapsed = self.start.elapsed().as_secs_f64();
        let (on, off) = if self.colour { ("\x1b[32m", "\x1b[0m") } else { ("", "") };
        self.line(&format!("{on}✓{off} {what} ({elapsed:.1} s)"));
    }

    /// Text as it is.
    pub(crate) fn line(&self, text: &str) {
        // A closed standard output (a broken pipe) must not stop the cluster.
        if writeln!(std::io::stdout(), "{text}").is_err() {
            tracing::debug!("standard output is closed");
        }
    }
}
