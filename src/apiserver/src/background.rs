//! The server's own continuous work. Each server keeps its own rows of custom resources, says that it lives, and forgets
//! old history. What is to be done once for the whole cluster is done by the server whose store leads, for as long as
//! it does: repair of service records, the status of custom resource definitions, the sums of aggregated roles, the
//! tokens in secrets, the endpoints of the `kubernetes` Service.

use std::{sync::Arc, time::Duration};

use storage::Revision;
use tokio::task::JoinSet;

use crate::{alloc::repair, server::Inner, servers};

/// Pause before a new leader's caches are waited for again.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts all of it.
pub(crate) fn spawn(inner: &Arc<Inner>) {
    inner.tasks.spawn(compact(inner.clone()));
    inner.tasks.spawn(crate::crd::registrar::keep_rows(inner.clone()));
    inner.tasks.spawn(servers::announce(inner.clone()));
    inner.tasks.spawn(lead(inner.clone()));
}

/// Does what one server does for all, whenever that is this one.
async fn lead(inner: Arc<Inner>) {
    let me = inner.config.store.node_id();
    let mut leaders = inner.config.store.leader_changes();
    let mut leading = false;
    let mut work = JoinSet::new();
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            Some(ended) = work.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a part of the leader's work panicked; it begins again with the next leader");
                }
            }
            leader = leaders.next() => {
                let Some(leader) = leader else { return };
                let before = std::mem::replace(&mut leading, leader == Some(me));
                if leading && !before {
                    begin(&inner, &mut work);
                } else if !leading {
                    // What is dropped ends.
                    work = JoinSet::new();
                }
            }
        }
    }
}

fn begin(inner: &Arc<Inner>, work: &mut JoinSet<()>) {
    let of = || inner.clone();
    work.spawn(caught_up(of(), repair::run(of())));
    work.spawn(caught_up(of(), crate::crd::registrar::keep_status(of())));
    work.spawn(caught_up(of(), crate::role_sums::run(of())));
    work.spawn(caught_up(of(), crate::legacy_tokens::run(of())));
    work.spawn(caught_up(of(), servers::publish(of())));
}

/// Begins once the caches have what the leader before has written.
async fn caught_up(inner: Arc<Inner>, work: impl Future<Output = ()>) {
    while let Err(error) = inner.hub.linearize().await {
        tracing::debug!(%error, "leading, and not sure of it yet");
        tokio::time::sleep(PAUSE).await;
    }
    work.await;
}

/// Every interval, forgets the history from before the previous interval, if anything was written since: in the store if
/// this one leads, and in the caches in any case.
async fn compact(inner: Arc<Inner>) {
    let store = &inner.config.store;
    let mut previous: Revision = store.revision();
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(inner.config.compaction_interval.max(Duration::from_secs(1))) => {}
        }
        if previous > store.compacted()
            && store.is_leader()
            && let Err(error) = store.compact(previous).await
        {
            tracing::warn!(revision = previous, %error, "cannot compact the store");
        }
        inner.hub.trim(store.compacted());
        previous = store.revision();
    }
}
