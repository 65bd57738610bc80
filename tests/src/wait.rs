//! Level-triggered waits: a condition is asked again until it holds or its deadline passes.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How often a condition is asked; conditions are commands, so this bounds their number.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until `condition` gives a value. At the deadline panics with the last reason it gave.
///
/// # Panics
/// When the condition does not hold within `limit`.
pub fn until<T, E: Display>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < deadline, "{what}: not within {limit:?}; last: {last}"),
        }
        std::thread::park_timeout(PAUSE);
    }
}
