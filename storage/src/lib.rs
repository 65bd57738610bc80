//! Raft-replicated, multi-version key-value store.
//!
//! Invariants: nothing is acknowledged as [`Durability::Synced`] before it is on disk in the checksummed Raft log; reads
//! and watches are served from memory; watch events come from the committed log in revision order, exactly once. The
//! crate knows nothing of Kubernetes. Called by the API server and by the executable, both through [`Store`] only.
#![forbid(unsafe_code)]

mod error;
mod store;
mod types;
mod watch;

pub use error::{OpenError, RangeError, StoreError, WatchError};
pub use store::{Config, Store};
pub use types::{
    Bytes, Compare, Durability, Event, EventKind, KeyValue, LeaseGrant, LeaseId, LeaseStatus, Op, OpResult, Ordering,
    RangeRequest, RangeResponse, Revision, Stats, Txn, TxnResponse, WatchBatch, WatchRequest, prefix_end,
};
pub use watch::{ProgressHandle, Watcher};
