//! A backup in etcd's own format: what `etcdctl snapshot save` asks for, `snapshot status` verifies and `snapshot restore`
//! turns into the data directory of an etcd.
//!
//! It is a bbolt file with the buckets that etcd expects, followed by a SHA-256 of it. Written to an unnamed file in the
//! data directory from pinned versions, so that writers do not wait, and streamed from there.

mod bolt;

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::mvcc::{Mvcc, Version};
use crate::state::{Pinned, Shared};
use crate::store::Store;
use crate::types::{LeaseId, Revision};

use super::wire;
use bolt::{Bucket, Writer};

/// Bytes of one message.
const CHUNK: usize = 256 << 10;
/// Versions that are collected while the state's lock is held.
const STEP: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot write a backup")]
    Io(#[from] io::Error),
    #[error("the task that writes a backup failed")]
    Task(#[from] tokio::task::JoinError),
}

/// A backup that is being read.
pub(super) struct Backup {
    pub(super) revision: Revision,
    file: tokio::fs::File,
    left: u64,
    /// Until it has been handed out.
    hash: Option<Sha256>,
}

impl Backup {
    /// The next bytes, and how many of the database follow them.
    pub(super) async fn read(&mut self) -> Result<Option<(Bytes, u64)>, BackupError> {
        if self.left == 0 {
            return Ok(self.hash.take().map(|hash| (Bytes::copy_from_slice(&hash.finalize()), 0)));
        }
        let length = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = vec![0; length];
        self.file.read_exact(&mut chunk).await?;
        self.left -= length as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(&chunk);
        }
        Ok(Some((chunk.into(), self.left)))
    }
}

/// Writes a backup of the present state.
pub(super) async fn write(store: &Store, members: Vec<wire::Member>) -> Result<Backup, BackupError> {
    let (shared, dir) = (store.shared().clone(), store.dir().to_owned());
    let written = tokio::task::spawn_blocking(move || write_file(&shared, &dir, &members)).await?;
    let (revision, file, left) = written?;
    Ok(Backup { revision, file: tokio::fs::File::from_std(file), left, hash: Some(Sha256::new()) })
}

/// Everything that a backup holds.
struct Content {
    revision: Revision,
    compacted: Revision,
    applied: u64,
    leases: Vec<(LeaseId, u64)>,
    versions: Vec<(Bytes, Version)>,
}

fn collect(shared: &Shared) -> Content {
    let (mut content, _pinned) = {
        let mut state = shared.write();
        state.mvcc.pin();
        let mvcc = &state.mvcc;
        let content = Content {
            revision: mvcc.revision(),
            compacted: mvcc.compacted(),
            applied: state.last.map_or(0, |last| last.index),
            leases: mvcc.leases().map(|(id, lease)| (id, lease.ttl_secs)).collect(),
            versions: Vec::new(),
        };
        (content, Pinned(shared))
    };
    let mut after = None;
    loop {
        after = content.take(&shared.read().mvcc, after.as_ref());
        if after.is_none() {
            break;
        }
    }
    // Changes of one revision in the order of their keys, as watches show them.
    content.versions.sort_by(|(key, version), (other_key, other)| {
        version.mod_revision.cmp(&other.mod_revision).then_with(|| key.cmp(other_key))
    });
    content
}

impl Content {
    /// Takes versions of the keys that follow `after`. Returns the last key, or nothing at the end.
    fn take(&mut self, mvcc: &Mvcc, after: Option<&Bytes>) -> Option<Bytes> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_ref()));
        let full = self.versions.len() + STEP;
        for (key, versions) in mvcc.keys_from(from) {
            let kept = versions.readable(self.compacted, self.revision);
            self.versions.extend(kept.iter().map(|version| (key.clone(), version.clone())));
            if self.versions.len() >= full {
                return Some(key.clone());
            }
        }
        None
    }
}

fn write_file(shared: &Shared, dir: &Path, members: &[wire::Member]) -> io::Result<(Revision, File, u64)> {
    let content = collect(shared);
    let path = dir.join(format!("backup-{:016x}.tmp", rand::random::<u64>()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    // The file lives for as long as it is open.
    std::fs::remove_file(&path)?;
    let mut writer = Writer::new(file)?;
    let roots = vec![
        ("alarm", Bucket::new().finish(&mut writer)?),
        ("auth", Bucket::new().finish(&mut writer)?),
        ("authRoles", Bucket::new().finish(&mut writer)?),
        ("authUsers", Bucket::new().finish(&mut writer)?),
        ("cluster", Bucket::new().finish(&mut writer)?),
        ("key", write_versions(&mut writer, &content)?),
        ("lease", write_leases(&mut writer, &content)?),
        ("members", write_members(&mut writer, members)?),
        ("members_removed", Bucket::new().finish(&mut writer)?),
        ("meta", write_meta(&mut writer, &content)?),
    ];
    let (file, size) = writer.finish(&roots)?;
    Ok((content.revision, file, size))
}

/// etcd's key of a change: its revision, and its place among those of that revision.
fn revision_key(revision: Revision, place: u64, tombstone: bool) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.extend(revision.to_be_bytes());
    key.push(b'_');
    key.extend(place.to_be_bytes());
    if tombstone {
        key.push(b't');
    }
    key
}

fn write_versions(writer: &mut Writer, content: &Content) -> io::Result<u64> {
    let mut bucket = Bucket::new();
    let (mut revision, mut place) = (0, 0);
    for (key, version) in &content.versions {
        place = if version.mod_revision == revision { place + 1 } else { 0 };
        revision = version.mod_revision;
        let mut kv = wire::KeyValue { key: key.clone(), ..Default::default() };
        if let Some(value) = &version.value {
            kv.create_revision = version.create_revision.cast_signed();
            kv.mod_revision = version.mod_revision.cast_signed();
            kv.version = version.version.cast_signed();
            kv.value = value.clone();
            kv.lease = version.lease;
        }
        let name = revision_key(revision, place, version.value.is_none());
        bucket.add(writer, name, &kv.encode_to_vec())?;
    }
    bucket.finish(writer)
}

/// As etcd keeps a lease.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct StoredLease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
}

fn write_leases(writer: &mut Writer, content: &Content) -> io::Result<u64> {
    let mut rows: Vec<_> = content.leases.iter().map(|(id, ttl)| (id.to_be_bytes(), (*id, *ttl))).collect();
    rows.sort_unstable();
    let mut bucket = Bucket::new();
    for (key, (id, ttl)) in rows {
        bucket.add(writer, key.to_vec(), &StoredLease { id, ttl: ttl.cast_signed() }.encode_to_vec())?;
    }
    bucket.finish(writer)
}

fn write_members(writer: &mut Writer, members: &[wire::Member]) -> io::Result<u64> {
    let mut rows: Vec<_> = members.iter().map(|member| (format!("{:x}", member.id), member)).collect();
    rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let mut bucket = Bucket::new();
    for (key, member) in rows {
        let value = serde_json::json!({
            "id": member.id, "peerURLs": member.peer_urls, "name": member.name, "clientURLs": member.client_urls,
        });
        bucket.add(writer, key.into_bytes(), value.to_string().as_bytes())?;
    }
    bucket.finish(writer)
}

fn write_meta(writer: &mut Writer, content: &Content) -> io::Result<u64> {
    let mut bucket = Bucket::new();
    bucket.add(writer, b"consistent_index".to_vec(), &content.applied.to_be_bytes())?;
    if content.compacted > 0 {
        let revision = revision_key(content.compacted, 0, false);
        bucket.add(writer, b"finishedCompactRev".to_vec(), &revision)?;
        bucket.add(writer, b"scheduledCompactRev".to_vec(), &revision)?;
    }
    bucket.finish(writer)
}
