//! The server's own continuous work: compaction of the store's history, repair of service records, keeping the rows of
//! custom resources, the sums of aggregated roles and the tokens in secrets up to date.

use std::{sync::Arc, time::Duration};

use storage::Revision;

use crate::{alloc::repair, server::Inner};

/// Starts all of it.
pub(crate) fn spawn(inner: &Arc<Inner>) {
    inner.tasks.spawn(compact(inner.clone()));
    inner.tasks.spawn(repair::run(inner.clone()));
    inner.tasks.spawn(crate::crd::registrar::run(inner.clone()));
    inner.tasks.spawn(crate::role_sums::run(inner.clone()));
    inner.tasks.spawn(crate::legacy_tokens::run(inner.clone()));
}

/// Every interval, forgets the history from before the previous interval, if anything was written since.
async fn compact(inner: Arc<Inner>) {
    let mut previous: Revision = inner.config.store.revision();
    let mut compacted: Revision = 0;
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(inner.config.compaction_interval.max(Duration::from_secs(1))) => {}
        }
        if previous > compacted {
            match inner.config.store.compact(previous).await {
                Ok(()) => {
                    compacted = previous;
                    inner.hub.trim(previous);
                }
                Err(error) => tracing::warn!(revision = previous, %error, "cannot compact the store"),
            }
        }
        previous = inner.config.store.revision();
    }
}
