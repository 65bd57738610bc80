//! What runs beside the writer: each task sleeps without a timer until there is something to do, so an idle store does
//! not wake up.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::command::Command;
use crate::disk;
use crate::raft::log_store::LogFiles;
use crate::snapshot;
use crate::state::Shared;
use crate::store::Requests;

/// Changes freed per turn of the state's write lock.
const PURGE_STEP: usize = 512;

/// Longest time until the Raft core knows of a snapshot.
const PURGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Flushes coalesced writes that no synced write has flushed in time.
pub(crate) async fn flush_coalesced(files: Arc<LogFiles>, after: Duration) {
    loop {
        files.unsynced.notified().await;
        tokio::time::sleep(after).await;
        if let Err(error) = files.flush().await {
            tracing::error!(%error, "cannot flush the log");
        }
    }
}

/// Frees compacted versions in small steps.
pub(crate) async fn purge(shared: Arc<Shared>) {
    loop {
        shared.purge.notified().await;
        purge_all(&shared).await;
    }
}

/// Frees what was compacted, in steps.
pub(crate) async fn purge_all(shared: &Shared) {
    while shared.write().mvcc.purge_some(PURGE_STEP) {
        tokio::task::yield_now().await;
    }
}

/// Ends leases whose time is over.
pub(crate) async fn expire_leases(shared: Arc<Shared>, requests: Requests) {
    loop {
        // Only the leader's clock counts; a new one begins anew.
        if !shared.leading() {
            shared.deadlines_changed.notified().await;
            continue;
        }
        let earliest = shared.deadlines().earliest();
        let Some(earliest) = earliest else {
            shared.deadlines_changed.notified().await;
            continue;
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(earliest) => {}
            () = shared.deadlines_changed.notified() => continue,
        }
        let over = shared.deadlines().end(Instant::now());
        for id in over {
            match requests.submit_here(Command::LeaseRevoke(id)).await {
                Ok(_) | Err(crate::error::StoreError::LeaseNotFound(_)) => shared.deadlines().remove(id),
                Err(crate::error::StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(lease = id, %error, "cannot end a lease; trying again");
                    shared.deadlines().end_later(id, Duration::from_secs(1), Instant::now());
                }
            }
        }
    }
}

/// Makes snapshots and lets the log before them go.
pub(crate) struct Snapshots {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) dir: PathBuf,
    pub(crate) cluster_id: u64,
    /// Log that stays for members that were away for a while.
    pub(crate) keep_bytes: u64,
}

impl Snapshots {
    /// Ends with the raft core.
    pub(crate) async fn run(self) {
        let (files, raft) = (&self.cluster.files, &self.cluster.raft);
        loop {
            self.cluster.shared.snapshot_due.notified().await;
            let covered = files.since_snapshot.load(Ordering::Relaxed);
            // On failure too: the next attempt comes after as much log again, not after every write.
            files.since_snapshot.fetch_sub(covered, Ordering::Relaxed);
            let Some(index) = self.write().await else { continue };
            if let Err(error) = raft.trigger().snapshot().await {
                tracing::debug!(%error, "the raft core is gone");
                return;
            }
            let known = raft.wait(Some(PURGE_TIMEOUT));
            let known = known.metrics(|now| now.snapshot.is_some_and(|last| last.index >= index), "snapshot").await;
            let oldest = if self.cluster.has_peers() { files.log().last_bytes(self.keep_bytes) } else { u64::MAX };
            let purged = match index.min(oldest.saturating_sub(1)) {
                0 => Ok(()),
                upto => raft.trigger().purge_log(upto).await,
            };
            if known.is_err() || purged.is_err() {
                tracing::debug!("the log before a snapshot stays for now");
            }
        }
    }

    /// The log index of the snapshot, if one was written.
    async fn write(&self) -> Option<u64> {
        let files = &self.cluster.files;
        let (disk, shared) = (files.disk.clone(), self.cluster.shared.clone());
        let (cluster_id, dir) = (self.cluster_id, self.dir.clone());
        match disk::blocking(&*files.disk, move || snapshot::write(&*disk, &shared, cluster_id, &dir)).await {
            Ok(Ok(meta)) => return meta.last.map(|last| last.index),
            Ok(Err(error)) => tracing::warn!(%error, "cannot write a snapshot; the log grows until it can"),
            Err(error) => tracing::error!(%error, "the snapshot task failed"),
        }
        None
    }
}
