//! What can go wrong, as the callers of [`Store`](crate::Store) see it.

use std::io;
use std::path::PathBuf;

use crate::members::Exclusion;
use crate::types::{LeaseId, Revision};

/// Why the data directory could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error("data directory {dir} is in use by another process; stop it first", dir = dir.display())]
    Locked { dir: PathBuf },
    #[error(
        "data directory {dir} has format {found}, written by version {writer}, and this version reads up to format \
         {supported}; run version {writer} or newer, or restore a snapshot into an empty directory",
        dir = dir.display()
    )]
    NewerFormat { dir: PathBuf, found: u32, supported: u32, writer: String },
    #[error("data directory {dir} belongs to member {found}, not to member {expected}", dir = dir.display())]
    WrongNode { dir: PathBuf, found: u64, expected: u64 },
    #[error("data directory {dir} belongs to cluster {found:016x}, not to cluster {expected:016x}", dir = dir.display())]
    WrongCluster { dir: PathBuf, found: u64, expected: u64 },
    #[error(
        "data directory {dir} is of generation {found} of its cluster, which has gone on as generation {expected}; move \
         it aside and join again",
        dir = dir.display()
    )]
    WrongGeneration { dir: PathBuf, found: u64, expected: u64 },
    #[error(
        "{file} is damaged at offset {offset}: {what}; restore a snapshot, or move the data directory aside and start \
         anew",
        file = file.display()
    )]
    Corrupt { file: PathBuf, offset: u64, what: &'static str },
    #[error("cannot use {path}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the Raft core did not start: {0}")]
    Raft(Box<dyn std::error::Error + Send + Sync>),
}

/// Why a write, a lease call or a linearizable read failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing was written; writes work again once there is space.
    #[error("no space left in {dir}: the store is read-only until there is", dir = dir.display())]
    DiskFull { dir: PathBuf },
    #[error("a key of {size} bytes; 1 to {max} are allowed")]
    KeySize { size: usize, max: usize },
    #[error("the request has {size} bytes; at most {max} are allowed")]
    TooLarge { size: usize, max: usize },
    #[error("a transaction may change a key only once")]
    DuplicateKey,
    /// An update of a key that is not there.
    #[error("the key to update does not exist")]
    KeyNotFound,
    #[error("transactions, or conditions, are nested more than {max} deep")]
    TooDeep { max: usize },
    #[error("revision {revision} has been compacted; the oldest is {oldest}")]
    Compacted { revision: Revision, oldest: Revision },
    #[error("revision {revision} is in the future; the newest is {current}")]
    FutureRevision { revision: Revision, current: Revision },
    #[error("lease {0} does not exist")]
    LeaseNotFound(LeaseId),
    #[error("lease {0} exists already")]
    LeaseExists(LeaseId),
    /// Nothing was written.
    #[error("no leader: most of the voters cannot be reached")]
    NoLeader,
    /// The leader, or its disk, did not answer in time: what was asked may or may not have been written. Read before asking
    /// again.
    #[error("the outcome is unknown: the leader did not answer in time")]
    Unknown,
    /// Nothing was written, and this member will never serve again.
    #[error(transparent)]
    Excluded(Exclusion),
    /// The disk failed under the log: what was asked may or may not have been written, and the store must be reopened.
    #[error("the store has stopped after an error of its disk")]
    Failed,
    #[error("the store is closed")]
    Closed,
}

/// Why a range could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("revision {revision} has been compacted; the oldest is {oldest}")]
    Compacted { revision: Revision, oldest: Revision },
    #[error("revision {revision} is in the future; the newest is {current}")]
    Future { revision: Revision, current: Revision },
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Changes since the wanted revision have been compacted away: list again, then watch.
    #[error("revision {revision} has been compacted; the oldest is {oldest}")]
    Compacted { revision: Revision, oldest: Revision },
    /// More changes were pending than the watcher's buffer holds. All before `resume_from` were delivered.
    #[error("the watcher fell behind; it may watch again from revision {resume_from}")]
    TooSlow { resume_from: Revision },
    #[error("the store is closed")]
    Closed,
}

impl From<RangeError> for StoreError {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Compacted { revision, oldest } => Self::Compacted { revision, oldest },
            RangeError::Future { revision, current } => Self::FutureRevision { revision, current },
        }
    }
}
