//! What runs beside the writer: each task sleeps without a timer until there is something to do, so an idle store does
//! not wake up.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::command::Command;
use crate::disk;
use crate::raft::Raft;
use crate::raft::log_store::LogFiles;
use crate::snapshot;
use crate::state::Shared;
use crate::store::Requests;

/// Changes freed per turn of the state's write lock.
const PURGE_STEP: usize = 512;

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
        let earliest = shared.deadlines().earliest();
        let Some(earliest) = earliest else {
            shared.deadlines_changed.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep_until(earliest) => {}
            () = shared.deadlines_changed.notified() => continue,
        }
        let over = shared.deadlines().over(Instant::now());
        for id in over {
            match requests.submit(Command::LeaseRevoke(id)).await {
                Ok(_) | Err(crate::error::StoreError::LeaseNotFound(_)) => shared.deadlines().remove(id),
                Err(crate::error::StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(lease = id, %error, "cannot end a lease; trying again");
                    shared.deadlines().set(id, Duration::from_secs(1), Instant::now());
                }
            }
        }
    }
}

/// Makes snapshots and lets the log before them go.
pub(crate) struct Snapshots {
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Arc<LogFiles>,
    pub(crate) raft: Raft,
    pub(crate) dir: PathBuf,
    pub(crate) cluster_id: u64,
    pub(crate) due: Arc<Notify>,
}

impl Snapshots {
    /// Ends with the raft core.
    pub(crate) async fn run(self) {
        loop {
            self.due.notified().await;
            let covered = self.files.since_snapshot.load(Ordering::Relaxed);
            // On failure too: the next attempt comes after as much log again, not after every write.
            self.files.since_snapshot.fetch_sub(covered, Ordering::Relaxed);
            if self.write().await
                && let Err(error) = self.raft.trigger().snapshot().await
            {
                tracing::debug!(%error, "the raft core is gone");
                return;
            }
        }
    }

    /// Whether a snapshot was written.
    async fn write(&self) -> bool {
        let (disk, shared) = (self.files.disk.clone(), self.shared.clone());
        let (cluster_id, dir) = (self.cluster_id, self.dir.clone());
        match disk::blocking(&*self.files.disk, move || snapshot::write(&*disk, &shared, cluster_id, &dir)).await {
            Ok(Ok(_)) => return true,
            Ok(Err(error)) => tracing::warn!(%error, "cannot write a snapshot; the log grows until it can"),
            Err(error) => tracing::error!(%error, "the snapshot task failed"),
        }
        false
    }
}
