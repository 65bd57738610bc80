//! What every part of an open store shares: the applied state, the watch hub, lease deadlines, counters.
//!
//! Lock order: state, hub, deadlines. No lock is held across an await.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use openraft::{BasicNode, LogId, StoredMembership};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::deadlines::Deadlines;
use crate::error::RangeError;
use crate::mvcc::{Hashing, Mvcc};
use crate::types::{Revision, StateHash};
use crate::watch::Hub;

/// The state machine with its place in the log.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) mvcc: Mvcc,
    pub(crate) last: Option<LogId<u64>>,
    pub(crate) membership: StoredMembership<u64, BasicNode>,
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
        Self { state: RwLock::new(state), ..Self::default() }
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
