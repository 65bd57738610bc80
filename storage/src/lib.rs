//! Raft-replicated, multi-version key-value store.
//!
//! Invariants: nothing is acknowledged as [`Durability::Synced`] before it is on disk in the checksummed Raft log; reads
//! and watches are served from memory; watch events come from the committed log in revision order, exactly once. The
//! crate knows nothing of Kubernetes. Called by the API server and by the executable, both through [`Store`] only.
#![forbid(unsafe_code)]

pub mod archive;
mod cluster;
mod codec;
mod command;
mod data_dir;
mod deadlines;
pub mod disk;
mod error;
pub mod etcd;
mod hard_state;
mod link;
mod log;
mod members;
mod mvcc;
mod open;
mod proposal;
mod raft;
mod repair;
mod request;
mod rpc;
mod snapshot;
mod state;
mod store;
mod transport;
mod types;
mod upkeep;
mod watch;
mod writer;

pub use cluster::Timing;
pub use error::{OpenError, RangeError, StoreError, WatchError};
pub use members::{ClusterId, Exclusion, Member, MemberError, MemberId, MemberStatus, Role, Status};
pub use repair::{Forced, force_one_voter, move_aside};
pub use request::{MAX_KEY_BYTES, MAX_TXN_BYTES, MAX_TXN_DEPTH};
pub use rpc::is_request;
pub use store::{Config, LeaderChanges, MemberChanges, Store};
pub use transport::{Answer, MAX_RPC_BYTES, PeerIdentity, Transport, TransportError};
pub use types::{
    Bytes, Compare, Durability, Event, EventKind, KeyValue, LeaseGrant, LeaseId, LeaseStatus, Op, OpResult, Ordering,
    RangeRequest, RangeResponse, Revision, StateHash, Stats, Txn, TxnResponse, WatchBatch, WatchRequest, prefix_end,
};
pub use watch::{ProgressHandle, Watcher};
