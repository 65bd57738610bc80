//! Archives: the whole state in one file, to be kept elsewhere and restored into any data directory.
//!
//! The form is that of a snapshot (its head, blocks and end block; see `snapshot`) with a magic of its own, more in the
//! head, and a SHA-256 of everything before it at the very end. The head is JSON and says what the file is without
//! reading the rest. A file gets its name only when it is on disk. Values are in it as they are: who must not see them
//! must not get the file. [`Store::save`](crate::Store::save), [`save_offline`] and [`restore`] are the ways in and out.

mod read;
mod restore;
mod save;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, Files};
use crate::error::OpenError;
use crate::members::MemberId;
use crate::snapshot::{self, SnapshotError};
use crate::types::Revision;

pub use restore::{Restored, restore};
pub(crate) use save::save;
pub use save::save_offline;

/// The newest form that this version reads and writes.
pub const FORMAT: u8 = 1;
const MAGIC: [u8; 7] = *b"rksave\0";
/// Heads hold what callers attach, and a few bytes of each lease.
const MAX_HEAD: u32 = 256 << 20;

/// Why an archive could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    #[error("cannot use {path}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is not a snapshot of rk", path = path.display())]
    Foreign { path: PathBuf },
    #[error(
        "{path} has format {found}, written by version {writer}, and this version reads up to format {FORMAT}; use \
         version {writer} or newer",
        path = path.display()
    )]
    Newer { path: PathBuf, found: u8, writer: String },
    #[error("{path} is damaged at offset {offset}: {what}; use another snapshot", path = path.display())]
    Damaged { path: PathBuf, offset: u64, what: &'static str },
    #[error("there is no store in {dir}", dir = dir.display())]
    NoStore { dir: PathBuf },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the task that writes it failed")]
    Task(#[from] tokio::task::JoinError),
}

impl From<SnapshotError> for ArchiveError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io { path, source } => Self::Io { path, source },
            SnapshotError::Corrupt { path, offset, what } => Self::Damaged { path, offset, what },
        }
    }
}

/// What the caller says of an archive that is to be written.
#[derive(Clone, Debug, Default)]
pub struct Label {
    /// Seconds since 1970.
    pub created: i64,
    /// Which program writes it.
    pub written_by: String,
    /// Anything; it comes back as it is.
    pub about: serde_json::Value,
}

/// What an archive says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub format: u8,
    pub written_by: String,
    /// Seconds since 1970.
    pub created: i64,
    pub cluster: crate::ClusterId,
    /// Voters when it was written.
    pub members: Vec<MemberId>,
    pub revision: Revision,
    /// See [`Store::changed`](crate::Store::changed).
    pub changed: Revision,
    /// Living keys, and the bytes of them and their values.
    pub keys: u64,
    pub bytes: u64,
    pub leases: u64,
    pub about: serde_json::Value,
}

/// The head as it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    written_by: String,
    created: i64,
    generation: u64,
    changed: Revision,
    keys: u64,
    bytes: u64,
    about: serde_json::Value,
    state: snapshot::Meta,
}

impl Head {
    fn manifest(&self) -> Manifest {
        let Self { written_by, created, generation, changed, keys, bytes, about, state } = self;
        Manifest {
            format: FORMAT,
            written_by: written_by.clone(),
            created: *created,
            cluster: crate::ClusterId { id: state.cluster_id, generation: *generation },
            members: state.membership.membership().voter_ids().collect(),
            revision: state.revision,
            changed: *changed,
            keys: *keys,
            bytes: *bytes,
            leases: state.leases.len() as u64,
            about: about.clone(),
        }
    }
}

/// Whether a process holds the data directory. Blocking.
pub fn in_use(dir: &Path) -> Result<bool, ArchiveError> {
    let lock = dir.join("LOCK");
    if !lock.exists() {
        return Ok(false);
    }
    match Files.lock(&lock) {
        Ok(held) => {
            drop(held);
            Ok(false)
        }
        Err(std::fs::TryLockError::WouldBlock) => Ok(true),
        Err(std::fs::TryLockError::Error(source)) => Err(ArchiveError::Io { path: lock, source }),
    }
}

/// What a file says about itself; nothing after the head is looked at. Blocking.
pub fn describe(path: &Path) -> Result<Manifest, ArchiveError> {
    read::Archive::open(&Files, path).map(|archive| archive.head.manifest())
}

/// The same of the first bytes of a file that is elsewhere; `name` is for errors.
pub fn describe_bytes(name: &Path, beginning: &[u8]) -> Result<Manifest, ArchiveError> {
    read::Archive::read(name, beginning).map(|archive| archive.head.manifest())
}

/// How many bytes from the beginning [`describe_bytes`] needs, if this is the beginning of an archive.
pub fn head_bytes(beginning: &[u8]) -> Option<u64> {
    let (magic, rest) = beginning.split_first_chunk::<8>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    (magic.starts_with(&MAGIC) && length <= MAX_HEAD).then_some(16 + u64::from(length))
}

/// Compares a file with its own checksum. Blocking.
pub fn check(path: &Path) -> Result<Manifest, ArchiveError> {
    let archive = read::Archive::open(&Files, path)?;
    let manifest = archive.head.manifest();
    archive.check()?;
    Ok(manifest)
}

/// Reads and verifies every block. Blocking.
pub fn verify(path: &Path) -> Result<Manifest, ArchiveError> {
    let archive = read::Archive::open(&Files, path)?;
    let manifest = archive.head.manifest();
    archive.verify(|_| Ok(()))?;
    Ok(manifest)
}
