//! Work that goes on after a panic: what the state of one object led to must not leave a component without anybody who
//! does its work. Used for the scheduler, the node's own tasks and the pods' workers.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use crate::backoff::Backoff;
use futures::FutureExt;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Runs what `make` makes until it ends; after a panic, makes it anew, the later the more often that happened.
pub async fn persist<F: Future<Output = ()>>(what: &str, mut make: impl FnMut() -> F) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    while AssertUnwindSafe(async { make().await }).catch_unwind().await.is_err() {
        let pause = backoff.next_delay();
        tracing::error!(what, ?pause, "panicked; starting it again");
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_panics_is_made_anew_until_it_ends() {
        let mut runs = 0;
        persist("test", || {
            runs += 1;
            let run = runs;
            async move { assert!(run == 3, "panics on purpose") }
        })
        .await;
        assert_eq!(runs, 3);
    }
}
