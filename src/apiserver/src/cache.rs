//! The watch cache: one store watch for all keys feeds one [`KindCache`] for each kind that somebody has read.
//!
//! Invariants: a kind's cache is complete up to [`Hub::revision`] once that revision is published; events reach a
//! cache in revision order and only from the committed log; cached values are the store's own `Bytes`.
//! Read by LIST and WATCH, by authorization and by admission. The store's GETs bypass it.

pub(crate) mod entry;
pub(crate) mod kind;
pub(crate) mod projection;
pub(crate) mod window;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use objects::status::Status;
use storage::{ProgressHandle, RangeRequest, Revision, Store, StoreError, WatchBatch, WatchError, WatchRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{entry::Entry, kind::KindCache, projection::Projector, window::Change};
use crate::{keys, registry::Resource};

/// Longest wait for the cache to reach a revision the client has seen.
const CATCH_UP: Duration = Duration::from_secs(3);
/// A change that there is comes to the caches sooner than this; otherwise revisions were passed over without one.
const OVERDUE: Duration = Duration::from_millis(100);
/// Longest wait for the other members to say what is acknowledged. An election fits in.
const BARRIER: Duration = Duration::from_secs(7);
/// When to ask again a server that has no leader, in seconds.
const COME_AGAIN: u32 = 1;

/// Owner of all kinds' caches.
pub(crate) struct Hub {
    store: Store,
    kinds: Mutex<HashMap<Box<str>, Arc<KindCache>>>,
    revision: watch::Sender<Revision>,
    /// Asks the store's watch how far it is.
    progress: Mutex<Option<ProgressHandle>>,
}

impl Hub {
    /// A hub that begins at the store's present revision. [`Hub::run`] must be spawned for it to move.
    pub(crate) fn new(store: Store) -> Arc<Hub> {
        let revision = watch::Sender::new(store.revision());
        Arc::new(Hub { store, kinds: Mutex::default(), revision, progress: Mutex::default() })
    }

    /// The newest revision that every cache has seen.
    pub(crate) fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// The cache of the built-in kind stored under `prefix`.
    pub(crate) fn kind(&self, prefix: &str) -> Result<Arc<KindCache>, Status> {
        self.kind_with(prefix, || Projector::of_built_in(prefix))
    }

    /// The cache of any resource.
    pub(crate) fn of(&self, resource: &Resource) -> Result<Arc<KindCache>, Status> {
        self.kind_with(resource.prefix(), || resource.projector.clone())
    }

    /// The cache of the kind stored under `prefix`, filled on first use.
    fn kind_with(&self, prefix: &str, projector: impl FnOnce() -> Projector) -> Result<Arc<KindCache>, Status> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = kinds.get(prefix) {
            return Ok(cache.clone());
        }
        // Batches are applied under the same lock, so nothing falls between this range and the next batch.
        let cache = Arc::new(KindCache::new(projector()));
        self.fill(prefix, &cache, self.revision())?;
        kinds.insert(prefix.into(), cache.clone());
        Ok(cache)
    }

    /// Forgets a kind (its CustomResourceDefinition is gone or has changed); open watches on it end.
    pub(crate) fn forget(&self, prefix: &str) {
        let removed = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).remove(prefix);
        if let Some(cache) = removed {
            cache.close();
        }
    }

    /// Fills a cache with the state at `revision`, or with the newest if that is gone from the store.
    fn fill(&self, prefix: &str, cache: &KindCache, revision: Revision) -> Result<(), Status> {
        let mut request = RangeRequest::prefix(keys::collection(prefix, ""));
        request.revision = Some(revision).filter(|r| *r > 0);
        match self.store.range(&request) {
            Ok(range) => cache.reset(prefix, range.kvs, revision),
            Err(error) => {
                tracing::debug!(prefix, revision, %error, "cache start falls back to the newest revision");
                request.revision = None;
                let range = self.store.range(&request).map_err(Status::internal)?;
                cache.reset(prefix, range.kvs, range.revision);
            }
        }
        Ok(())
    }

    /// Waits until the caches hold everything up to `revision`.
    pub(crate) async fn wait_for(&self, revision: Revision) -> Result<(), Status> {
        if self.revision() >= revision {
            return Ok(());
        }
        // One that is shut out of the cluster gets nothing more.
        tokio::select! {
            biased;
            caught_up = self.catch_up(revision) => caught_up,
            exclusion = self.store.excluded() => Err(store_status(&StoreError::Excluded(exclusion))),
        }
    }

    async fn catch_up(&self, revision: Revision) -> Result<(), Status> {
        let mut seen = self.revision.subscribe();
        let stopping = |_| Status::unavailable("the server is shutting down");
        if let Ok(reached) = tokio::time::timeout(OVERDUE, seen.wait_for(|r| *r >= revision)).await {
            return reached.map(drop).map_err(stopping);
        }
        self.progress().iter().for_each(ProgressHandle::request);
        match tokio::time::timeout(CATCH_UP, seen.wait_for(|r| *r >= revision)).await {
            Ok(reached) => reached.map(drop).map_err(stopping),
            Err(_) => Err(Status::too_large_revision(revision, self.revision())),
        }
    }

    /// Waits until this member's store has everything acknowledged before this call; says up to which revision. At once
    /// where there is no other member.
    pub(crate) async fn barrier(&self) -> Result<Revision, Status> {
        let passed = tokio::time::timeout(BARRIER, self.store.read_barrier()).await;
        passed.unwrap_or(Err(StoreError::NoLeader)).map_err(|error| store_status(&error))
    }

    /// Waits until the caches hold everything acknowledged before this call.
    pub(crate) async fn linearize(&self) -> Result<(), Status> {
        let revision = self.barrier().await?;
        self.wait_for(revision).await
    }

    fn progress(&self) -> MutexGuard<'_, Option<ProgressHandle>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops window events older than `revision`, which the store no longer holds either.
    pub(crate) fn trim(&self, revision: Revision) {
        for cache in self.kinds.lock().unwrap_or_else(PoisonError::into_inner).values() {
            cache.trim(revision);
        }
    }

    /// Feeds the caches until the store closes or `stop` is cancelled.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let request = WatchRequest {
                key: Bytes::from_static(b"\0"),
                end: Some(Bytes::new()),
                from: self.revision() + 1,
                prev_kv: false,
            };
            let ended = match self.store.watch(request) {
                Ok(mut watcher) => {
                    *self.progress() = Some(watcher.progress_handle());
                    loop {
                        tokio::select! {
                            () = stop.cancelled() => return,
                            batch = watcher.next() => match batch {
                                Ok(batch) => self.apply(&batch),
                                Err(error) => break error,
                            }
                        }
                    }
                }
                Err(error) => error,
            };
            match ended {
                WatchError::TooSlow { .. } => tracing::warn!("watch cache fell behind the store; resuming"),
                WatchError::Compacted { .. } => self.refill(),
                WatchError::Closed => return,
            }
        }
    }

    fn apply(&self, batch: &WatchBatch) {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        for event in &batch.events {
            if let Some((cache, key)) = keys::split(&event.kv.key, |prefix| kinds.get(prefix)) {
                cache.apply(key, event);
            }
        }
        self.revision.send_replace(batch.revision);
    }

    /// Starts all caches over: the history between them and the store is gone.
    fn refill(&self) {
        tracing::warn!("watch cache lost its place in the store; refilling");
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = self.store.revision();
        for (prefix, cache) in kinds.iter() {
            if let Err(error) = self.fill(prefix, cache, revision) {
                tracing::error!(%prefix, %error, "cannot refill the watch cache");
            }
        }
        // Last: no bookmark may promise what a cache does not have yet.
        self.revision.send_replace(revision);
    }
}

/// A store failure as clients see it. None invites to try again here, but the end of a server that may be started anew: the
/// store has waited for a leader already, and clients that obey `Retry-After` do so ten times before they say what is wrong.
pub(crate) fn store_status(error: &StoreError) -> Status {
    use storage::StoreError::{Closed, DiskFull, Excluded, Failed, NoLeader, TooLarge, Unknown};
    match error {
        Closed => Status::unavailable(format!("the store cannot answer: {error}")).with_retry_after(COME_AGAIN),
        NoLeader | Failed | Excluded(_) | DiskFull { .. } => {
            Status::unavailable(format!("the store cannot answer: {error}"))
        }
        // It may have been done: whoever tries again has to look first.
        Unknown => Status::timeout(&format!("the store did not answer in time: {error}"), 0),
        TooLarge { .. } => Status::too_large(&error.to_string()),
        other => Status::internal(other),
    }
}

#[cfg(test)]
mod tests {
    use storage::{Exclusion, Store};

    use super::*;

    #[test]
    fn who_has_waited_already_is_not_asked_to_come_again() {
        let answer = |error| {
            let status = store_status(&error);
            (status.code(), status.retry_after())
        };
        assert_eq!(answer(StoreError::NoLeader), (503, None));
        assert_eq!(answer(StoreError::Closed), (503, Some(1)));
        assert_eq!(answer(StoreError::Excluded(Exclusion::Removed)), (503, None));
        assert_eq!(answer(StoreError::Failed), (503, None));
        assert_eq!(answer(StoreError::Unknown), (504, None));
    }

    #[tokio::test]
    async fn revisions_that_were_passed_over_hold_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(storage::Config::new(dir.path(), 1)).await.unwrap();
        let hub = Hub::new(store.clone());
        let running = tokio::spawn(hub.clone().run(CancellationToken::new()));
        // The endpoint leaves out revision 0, without a change that the watch could tell of.
        storage::etcd::Endpoint::new(store.clone(), storage::etcd::Config::default()).await.unwrap();
        assert!(store.revision() > hub.revision());
        hub.linearize().await.unwrap();
        assert_eq!(hub.revision(), store.revision());
        store.shutdown().await;
        running.await.unwrap();
    }
}
