//! What every part of an open store shares: the applied state, the watch hub, lease deadlines, counters.
//!
//! Lock order: state, hub, deadlines. No lock is held across an await.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use openraft::{LogId, StoredMembership};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::deadlines::Deadlines;
use crate::error::RangeError;
use crate::members::Member;
use crate::mvcc::{Hashing, Mvcc};
use crate::types::{Revision, StateHash};
use crate::watch::Hub;

/// The state machine with its place in the log.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) mvcc: Mvcc,
    pub(crate) last: Option<LogId<u64>>,
    pub(crate) membership: StoredMembership<u64, Member>,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: RwLock<Applied>,
    hub: Mutex<Hub>,
    deadlines: Mutex<Deadlines>,
    /// The earliest deadline may have changed.
    pub(crate) deadlines_changed: Notify,
    /// There may be versions to free.
    pub(crate) purge: Notify,
    pub(crate) snapshot_bytes: AtomicU64,
    /// Bytes of all versions in the last snapshot, before they are compressed.
    pub(crate) snapshot_held: AtomicU64,
    /// The log has grown enough for a snapshot.
    pub(crate) snapshot_due: Notify,
    /// Bytes of log after which that is so; none before the store serves.
    snapshot_after: OnceLock<u64>,
    /// Revision of the newest change that is worth keeping at once.
    changed: AtomicU64,
    /// Index of the last applied log entry.
    applied: AtomicU64,
    /// Wakes in the order of arrival, unlike a watch channel, so that a simulated run can be repeated.
    applied_more: Notify,
    /// This member leads; only then do leases end here.
    leading: AtomicBool,
    /// The state of a snapshot that is about to be installed, already read and verified.
    prepared: Mutex<Option<(Option<LogId<u64>>, Applied)>>,
}

/// Holds versions in memory for as long as somebody reads them in steps; made after [`Mvcc::pin`].
pub(crate) struct Pinned<'a>(pub(crate) &'a Shared);

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.0.write().mvcc.unpin();
        self.0.purge.notify_one();
    }
}

/// Bytes that are hashed while the state's lock is held.
const HASH_STEP: usize = 1 << 20;

/// The checksum at a revision. Blocking.
pub(crate) fn hash(shared: &Shared, revision: Option<Revision>) -> Result<StateHash, RangeError> {
    let (mut hashing, _pinned) = {
        let mut state = shared.write();
        let hashing = Hashing::begin(&state.mvcc, revision)?;
        state.mvcc.pin();
        (hashing, Pinned(shared))
    };
    loop {
        let hashed = hashing.step(&shared.read().mvcc, HASH_STEP);
        if let Some(hashed) = hashed {
            return Ok(hashed);
        }
    }
}

impl Shared {
    pub(crate) fn new(state: Applied) -> Self {
        let applied = AtomicU64::new(state.last.map_or(0, |last| last.index));
        // Which of the changes in a snapshot were such is not known.
        let changed = AtomicU64::new(state.mvcc.revision());
        let snapshot_held = AtomicU64::new(state.mvcc.bytes());
        Self { state: RwLock::new(state), applied, changed, snapshot_held, ..Self::default() }
    }

    /// Recovery is over: snapshots are made once the log has so many bytes, or as many as the live data.
    pub(crate) fn serve(&self, snapshot_after: u64) {
        self.snapshot_after.get_or_init(|| snapshot_after);
    }

    /// The log has so many bytes that no snapshot covers, with this state. As long as that is less than the live data, or
    /// than what the last snapshot held, superseded versions included, the log is the smaller evil.
    pub(crate) fn consider_snapshot(&self, bytes: u64, mvcc: &Mvcc) {
        let held = self.snapshot_held.load(Ordering::Relaxed).max(mvcc.live().1);
        if self.snapshot_after.get().is_some_and(|least| bytes > *least.max(&held)) {
            self.snapshot_due.notify_one();
        }
    }

    /// Index of the last applied log entry.
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }

    /// Revision of the newest change that was not coalesced, or more.
    pub(crate) fn changed(&self) -> Revision {
        self.changed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_changed(&self, revision: Revision) {
        self.changed.store(revision, Ordering::Relaxed);
    }

    pub(crate) fn set_applied(&self, index: u64) {
        self.applied.store(index, Ordering::SeqCst);
        self.applied_more.notify_waiters();
    }

    /// Waits until an entry is applied; false when that did not happen in time.
    pub(crate) async fn wait_applied(&self, index: u64, deadline: Instant) -> bool {
        if self.applied() >= index {
            return true;
        }
        loop {
            let more = self.applied_more.notified();
            // From here on nothing is missed.
            if self.applied() >= index {
                return true;
            }
            if tokio::time::timeout_at(deadline, more).await.is_err() {
                return self.applied() >= index;
            }
        }
    }

    pub(crate) fn leading(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    /// This member leads from now on, or does not. A new leader grants every lease its full time again.
    pub(crate) fn lead(&self, leading: bool) {
        if self.leading.swap(leading, Ordering::Relaxed) != leading && leading {
            self.start_leases();
        }
        self.deadlines_changed.notify_one();
    }

    pub(crate) fn prepare(&self, last: Option<LogId<u64>>, state: Applied) {
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some((last, state));
    }

    pub(crate) fn prepared(&self) -> Option<(Option<LogId<u64>>, Applied)> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Gives every lease of the state its full time from now.
    pub(crate) fn start_leases(&self) {
        let state = self.read();
        let mut deadlines = Deadlines::default();
        for (id, lease) in state.mvcc.leases() {
            deadlines.set(id, Duration::from_secs(lease.ttl_secs), Instant::now());
        }
        *self.deadlines() = deadlines;
        self.deadlines_changed.notify_one();
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Applied> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Applied> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn deadlines(&self) -> MutexGuard<'_, Deadlines> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Op, Txn};

    #[tokio::test]
    async fn a_snapshot_is_due_when_the_log_is_larger_than_the_last_one() {
        let due = async |shared: &Shared, bytes| {
            shared.consider_snapshot(bytes, &shared.read().mvcc);
            tokio::time::timeout(Duration::ZERO, shared.snapshot_due.notified()).await.is_ok()
        };
        let mut state = Applied::default();
        let put = Txn { success: vec![Op::put("key", vec![7; 97])], ..Txn::default() };
        for _ in 0..10 {
            state.mvcc.txn(&put, &mut Vec::new()).unwrap();
        }
        let shared = Shared::new(state);
        assert!(!due(&shared, 5000).await, "recovery is not over");
        shared.serve(50);
        assert!(!due(&shared, 1000).await);
        assert!(due(&shared, 1001).await);
        // The next one holds two versions: the newest, and the one that can be read at the compacted revision.
        shared.write().mvcc.compact(9).unwrap();
        while shared.write().mvcc.purge_some(3) {}
        let dir = tempfile::tempdir().unwrap();
        crate::snapshot::write(&crate::disk::Files, &shared, 1, dir.path()).unwrap();
        assert!(!due(&shared, 200).await);
        assert!(due(&shared, 201).await);
    }
}
