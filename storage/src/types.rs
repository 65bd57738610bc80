//! The data model: keys, versions, transactions, ranges and watch events, shaped after etcd's.
//!
//! Keys and values are `Bytes`: the store keeps the very allocation the caller hands in and hands the same one out, so a
//! value should be an allocation of its own rather than a slice that keeps a larger buffer alive.

use std::time::Duration;

pub use bytes::Bytes;

/// The store-wide counter that every transaction with at least one change advances by one. 0 means none.
pub type Revision = u64;

/// Names a lease. 0 means none.
pub type LeaseId = i64;

/// One version of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    /// Empty in a delete event and in a keys-only range.
    pub value: Bytes,
    /// Revision at which this life of the key began.
    pub create_revision: Revision,
    /// Revision of this version.
    pub mod_revision: Revision,
    /// 1 on creation, one more on each put, 0 in a delete event.
    pub version: u64,
    pub lease: LeaseId,
}

/// When a transaction is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After the log that holds it is on disk.
    #[default]
    Synced,
    /// From memory: for heartbeat-like writes. It survives the end of the process at once, and a power cut after at
    /// most [`Config::coalesce_for`](crate::Config::coalesce_for) or the next synced write.
    Coalesced,
}

/// How a compare relates what the store has to what the caller names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    Equal,
    NotEqual,
    Greater,
    Less,
}

/// A condition of a transaction: `stored <order> given`. A missing key has revisions, version and lease of 0, and fails
/// every compare of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    ModRevision {
        key: Bytes,
        order: Ordering,
        revision: Revision,
    },
    CreateRevision {
        key: Bytes,
        order: Ordering,
        revision: Revision,
    },
    Version {
        key: Bytes,
        order: Ordering,
        version: u64,
    },
    Value {
        key: Bytes,
        order: Ordering,
        value: Bytes,
    },
    Lease {
        key: Bytes,
        order: Ordering,
        lease: LeaseId,
    },
    /// The condition holds for every key from its own up to `end` (exclusive; empty has no upper bound). When there is
    /// no such key it counts as for one that is missing.
    All {
        condition: Box<Self>,
        end: Bytes,
    },
}

impl Compare {
    /// The key is still as it was at `revision`; 0: it does not exist.
    pub fn unchanged(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self::ModRevision { key: key.into(), order: Ordering::Equal, revision }
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::unchanged(key, 0)
    }
}

/// One step of a transaction. Steps run in order, and ranges see what those before them did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put {
        key: Bytes,
        value: Bytes,
        lease: LeaseId,
        prev_kv: bool,
    },
    /// Deletes `key`, or with an `end` all of `key..end`.
    Delete {
        key: Bytes,
        end: Option<Bytes>,
        prev_kv: bool,
    },
    Range(RangeRequest),
    /// A put into a key that exists: `None` keeps what is there. Fails the transaction when the key is missing.
    Update {
        key: Bytes,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
        prev_kv: bool,
    },
    /// A transaction inside. Its compares, too, see the state before the outermost one; its durability is ignored.
    Txn(Txn),
}

impl Op {
    /// A put without a lease and without the previous value.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: 0, prev_kv: false }
    }

    /// Deletes one key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into(), end: None, prev_kv: false }
    }

    /// Reads one key.
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::Range(RangeRequest::key(key))
    }
}

/// If every compare holds, `success` runs, else `failure`; all of it at one revision or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
    pub durability: Durability,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResponse {
    /// The store's revision after the transaction; that of its changes, if it made any.
    pub revision: Revision,
    /// Whether the compares held.
    pub succeeded: bool,
    /// One per step that ran.
    pub results: Vec<OpResult>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// The previous version when it was asked for and there was one.
    Put {
        prev: Option<KeyValue>,
    },
    /// How many keys went, and their last versions when asked for.
    Delete {
        deleted: u64,
        prev: Vec<KeyValue>,
    },
    Range(RangeResponse),
    Txn(TxnResponse),
}

/// Reads one key, or `key..end` in key order. An empty `end` has no upper bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    pub key: Bytes,
    /// Exclusive. `None` reads the single key.
    pub end: Option<Bytes>,
    /// `None` reads the newest.
    pub revision: Option<Revision>,
    /// 0 is without limit.
    pub limit: usize,
    pub count_only: bool,
    pub keys_only: bool,
}

impl RangeRequest {
    /// One key at the newest revision.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), ..Self::default() }
    }

    /// All keys that begin with `prefix`, at the newest revision.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let key = prefix.into();
        let end = Some(prefix_end(&key));
        Self { key, end, ..Self::default() }
    }
}

/// The smallest key above every key that begins with `prefix`; empty (no bound) when there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            break;
        }
        end.pop();
    }
    Bytes::from(end)
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// The store's revision when the range was read, whatever revision was asked for.
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// The limit cut the answer short.
    pub more: bool,
    /// Keys in the range, the limit aside.
    pub count: u64,
}

/// Asks for the changes of one key, or of `key..end`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchRequest {
    pub key: Bytes,
    /// Exclusive; empty has no upper bound; `None` watches the single key.
    pub end: Option<Bytes>,
    /// The first revision wanted; 0 starts with the next change.
    pub from: Revision,
    /// Fill [`Event::prev`].
    pub prev_kv: bool,
}

impl WatchRequest {
    /// All keys that begin with `prefix`, from revision `from`.
    pub fn prefix(prefix: impl Into<Bytes>, from: Revision) -> Self {
        let key = prefix.into();
        let end = Some(prefix_end(&key));
        Self { key, end, from, prev_kv: false }
    }
}

/// All matching changes of one revision, in key order. Without events it is progress: nothing older is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    pub revision: Revision,
    pub events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// For a delete: the key and the revision of the deletion, with an empty value.
    pub kv: KeyValue,
    /// The version before, when asked for and not compacted.
    pub prev: Option<KeyValue>,
}

/// A lease as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    pub id: LeaseId,
    pub ttl: Duration,
}

/// A living lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    pub id: LeaseId,
    pub granted_ttl: Duration,
    pub remaining: Duration,
    pub keys: Vec<Bytes>,
}

/// A checksum of everything that can be read at one revision, the same on every member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateHash {
    pub hash: u32,
    /// What was hashed goes up to here.
    pub revision: Revision,
    /// What was compacted when it was computed; hashes of different compactions do not compare.
    pub compacted: Revision,
}

/// Sizes and counters for metrics and status pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub revision: Revision,
    pub compacted: Revision,
    pub keys: u64,
    /// Versions kept, the newest of each key and deletions included.
    pub versions: u64,
    /// Bytes of the keys and values of the newest versions.
    pub live_bytes: u64,
    pub watchers: u64,
    pub leases: u64,
    /// Bytes of log records since the last snapshot.
    pub log_bytes: u64,
    pub fsyncs: u64,
    /// Bytes written to log and snapshots since the store was opened.
    pub written_bytes: u64,
}
