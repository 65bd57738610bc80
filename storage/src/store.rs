//! The [`Store`] handle: the only way into this crate.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{OpenError, RangeError, StoreError, WatchError};
use crate::types::{
    LeaseGrant, LeaseId, LeaseStatus, RangeRequest, RangeResponse, Revision, Stats, Txn, TxnResponse, WatchRequest,
};
use crate::watch::Watcher;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory; made when missing.
    pub dir: PathBuf,
    /// This member's id; never 0.
    pub node_id: u64,
    /// Longest time that a coalesced write waits for the disk.
    pub coalesce_for: Duration,
    /// Changes that may wait in one watcher before it is cut as too slow.
    pub watch_buffer: usize,
    /// Size of a log segment, allocated ahead.
    pub segment_bytes: u64,
    /// Log bytes after which a snapshot is made (more when the data itself is larger).
    pub snapshot_after_bytes: u64,
}

impl Config {
    /// The defaults, for a data directory and member id.
    pub fn new(dir: impl Into<PathBuf>, node_id: u64) -> Self {
        Self {
            dir: dir.into(),
            node_id,
            coalesce_for: Duration::from_secs(10),
            watch_buffer: 4096,
            segment_bytes: 8 << 20,
            snapshot_after_bytes: 16 << 20,
        }
    }
}

/// An open store. Cheap to clone; the data directory is released by [`Store::shutdown`] or when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Store {}

impl Store {
    /// Opens or creates the data directory, recovers what was acknowledged, and returns once this member can write.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Err(OpenError::Locked { dir: config.dir })
    }

    /// Runs a transaction; returns when it is as durable as it asks to be.
    pub async fn txn(&self, _txn: Txn) -> Result<TxnResponse, StoreError> {
        Err(StoreError::Closed)
    }

    /// Reads from memory: what this member has applied.
    pub fn range(&self, _request: &RangeRequest) -> Result<RangeResponse, RangeError> {
        Ok(RangeResponse::default())
    }

    /// Returns once this member has applied everything that was acknowledged before the call; a [`Store::range`] after
    /// it is linearizable. The revision is this member's then.
    pub async fn read_barrier(&self) -> Result<Revision, StoreError> {
        Err(StoreError::Closed)
    }

    /// Watches a key or range. Registering never misses or repeats a change.
    pub fn watch(&self, _request: WatchRequest) -> Result<Watcher, WatchError> {
        Err(WatchError::Closed)
    }

    /// Forgets versions superseded at or before `revision`; ranges and watches below it fail from then on.
    pub async fn compact(&self, _revision: Revision) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }

    /// Grants a lease; `id` 0 lets the store choose.
    pub async fn lease_grant(&self, _id: LeaseId, _ttl: Duration) -> Result<LeaseGrant, StoreError> {
        Err(StoreError::Closed)
    }

    /// Ends a lease and deletes its keys.
    pub async fn lease_revoke(&self, _id: LeaseId) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }

    /// Renews a lease to its full time, from memory. Returns that time.
    pub fn lease_keep_alive(&self, _id: LeaseId) -> Result<Duration, StoreError> {
        Err(StoreError::Closed)
    }

    /// A lease's times and keys.
    pub fn lease_status(&self, _id: LeaseId) -> Option<LeaseStatus> {
        None
    }

    /// Every living lease.
    pub fn leases(&self) -> Vec<LeaseId> {
        Vec::new()
    }

    /// The newest revision that this member has applied.
    pub fn revision(&self) -> Revision {
        0
    }

    /// The oldest revision that can still be read, less one.
    pub fn compacted(&self) -> Revision {
        0
    }

    /// Chosen at random when the cluster was made.
    pub fn cluster_id(&self) -> u64 {
        0
    }

    /// This member's id.
    pub fn node_id(&self) -> u64 {
        0
    }

    /// Sizes and counters.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Writes what is pending, ends all watches, and releases the data directory.
    pub async fn shutdown(&self) {}
}
