//! Snapshot files: the whole state at one log entry, in compressed, checksummed blocks.
//!
//! `magic | meta length, crc | meta (JSON) | blocks | end block`. A block is `raw length, stored length, crc | zstd`. The
//! end block has a raw length of 0 and holds the number of keys, so that a short file is noticed. A file gets its name
//! only when it is on disk. Written in steps from a pinned state, so writers never wait for it.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use openraft::{LogId, SnapshotMeta, StoredMembership};
use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Decoder, put_bytes, put_i64, put_option, put_u64};
use crate::disk::{self, Disk, Mode, Sequential};
use crate::members::Member;
use crate::mvcc::{Mvcc, Version, Versions};
use crate::state::{Applied, Pinned, Shared};
use crate::types::{LeaseId, Revision};

pub(crate) const MAGIC: [u8; 8] = *b"rksnap\0\x01";
const BLOCK: usize = 256 << 10;
/// No block is larger: one key's versions are never split, and a record has a bounded size.
const MAX_BLOCK: u32 = 1 << 30;
const LEVEL: i32 = 1;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("cannot use {path}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged at offset {offset}: {what}", path = path.display())]
    Corrupt { path: PathBuf, offset: u64, what: &'static str },
}

/// What a snapshot says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) cluster_id: u64,
    pub(crate) last: Option<LogId<u64>>,
    pub(crate) membership: StoredMembership<u64, Member>,
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) leases: Vec<(LeaseId, u64)>,
}

impl Meta {
    pub(crate) fn of(cluster_id: u64, state: &Applied) -> Self {
        Self {
            cluster_id,
            last: state.last,
            membership: state.membership.clone(),
            revision: state.mvcc.revision(),
            compacted: state.mvcc.compacted(),
            leases: state.mvcc.leases().map(|(id, lease)| (id, lease.ttl_secs)).collect(),
        }
    }

    pub(crate) fn raft(&self) -> SnapshotMeta<u64, Member> {
        let snapshot_id =
            self.last.map_or_else(|| "empty".to_owned(), |last| format!("{}-{}", last.leader_id.term, last.index));
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone(), snapshot_id }
    }

    pub(crate) fn file_name(&self) -> String {
        file_name(self.last.map_or(0, |last| last.index))
    }
}

/// The name of the snapshot at a log index.
pub(crate) fn file_name(index: u64) -> String {
    format!("{index:016x}.snap")
}

/// Writes a snapshot of the present state into `dir` and removes older ones. Blocking.
pub(crate) fn write(disk: &dyn Disk, shared: &Shared, cluster_id: u64, dir: &Path) -> Result<Meta, SnapshotError> {
    let io = |source| SnapshotError::Io { path: dir.to_owned(), source };
    disk.create_dir_all(dir).map_err(io)?;
    let meta = {
        let mut state = shared.write();
        state.mvcc.pin();
        shared.snapshot_held.store(state.mvcc.bytes(), Ordering::Relaxed);
        Meta::of(cluster_id, &state)
    };
    let pin = Pinned(shared);
    let partial = dir.join("partial.tmp");
    let size = write_file(disk, shared, &meta, &partial).inspect_err(|_| drop(disk.remove(&partial))).map_err(io)?;
    drop(pin);
    let name = meta.file_name();
    disk.rename(&partial, &dir.join(&name)).and_then(|()| disk.sync_dir(dir)).map_err(io)?;
    shared.snapshot_bytes.fetch_add(size, Ordering::Relaxed);
    // Older ones only: a newer one may have come in from another member meanwhile.
    let index = meta.last.map_or(0, |last| last.index);
    for (_, path) in list(disk, dir)?.into_iter().filter(|(older, _)| *older < index) {
        disk.remove(&path).map_err(io)?;
    }
    Ok(meta)
}

fn write_file(disk: &dyn Disk, shared: &Shared, meta: &Meta, path: &Path) -> io::Result<u64> {
    let mut out = BufWriter::new(Sequential::new(disk.open(path, Mode::Fresh)?));
    let mut size = write_head(&mut out, MAGIC, meta)?;
    size += write_state(&mut out, shared, meta.revision)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.into_file().sync_all()?;
    Ok(size)
}

/// Writes what stands before the blocks.
pub(crate) fn write_head(out: &mut impl Write, magic: [u8; 8], head: &impl Serialize) -> io::Result<u64> {
    let body = serde_json::to_vec(head)?;
    out.write_all(&magic)?;
    out.write_all(&length(body.len())?.to_le_bytes())?;
    out.write_all(&crc32fast::hash(&body).to_le_bytes())?;
    out.write_all(&body)?;
    Ok(16 + body.len() as u64)
}

/// Writes the blocks of a state that is pinned.
pub(crate) fn write_state(out: &mut impl Write, shared: &Shared, revision: Revision) -> io::Result<u64> {
    let mut blocks = Blocks::new(out);
    let mut after = None;
    loop {
        after = blocks.fill(&shared.read().mvcc, after.as_ref(), revision);
        // Not under the lock: compressing takes a while, and so may the disk.
        blocks.end_block()?;
        if after.is_none() {
            return blocks.finish();
        }
    }
}

/// Keys on their way into blocks.
pub(crate) struct Blocks<'a, W> {
    out: &'a mut W,
    raw: Vec<u8>,
    keys: u64,
    size: u64,
}

impl<'a, W: Write> Blocks<'a, W> {
    pub(crate) fn new(out: &'a mut W) -> Self {
        Self { out, raw: Vec::with_capacity(BLOCK + BLOCK / 8), keys: 0, size: 0 }
    }

    /// Encodes keys that follow `after` until a block is full. Returns the last key, or nothing at the end of the map.
    fn fill(&mut self, mvcc: &Mvcc, after: Option<&Bytes>, upto: Revision) -> Option<Bytes> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_ref()));
        for (key, versions) in mvcc.keys_from(from) {
            let wanted = versions.all().partition_point(|version| version.mod_revision <= upto);
            if wanted > 0 {
                self.push(key, &versions.all()[..wanted]);
            }
            if self.raw.len() >= BLOCK {
                return Some(key.clone());
            }
        }
        None
    }

    fn push(&mut self, key: &Bytes, versions: &[Version]) {
        self.keys += 1;
        put_bytes(&mut self.raw, key);
        put_u64(&mut self.raw, versions.len() as u64);
        versions.iter().for_each(|version| encode(&mut self.raw, version));
    }

    /// Adds a key with some of its versions; a full block is written.
    pub(crate) fn add(&mut self, key: &Bytes, versions: &[Version]) -> io::Result<()> {
        self.push(key, versions);
        if self.raw.len() >= BLOCK { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            let stored = zstd::bulk::compress(&self.raw, LEVEL)?;
            self.size += write_block(self.out, self.raw.len(), &stored)?;
            self.raw.clear();
        }
        Ok(())
    }

    /// Returns the bytes written.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.end_block()?;
        self.size += write_block(self.out, 0, &self.keys.to_le_bytes())?;
        Ok(self.size)
    }
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}

fn write_block(out: &mut impl Write, raw: usize, stored: &[u8]) -> io::Result<u64> {
    out.write_all(&length(raw)?.to_le_bytes())?;
    out.write_all(&length(stored.len())?.to_le_bytes())?;
    out.write_all(&crc32fast::hash(stored).to_le_bytes())?;
    out.write_all(stored)?;
    Ok(12 + stored.len() as u64)
}

fn encode(out: &mut Vec<u8>, version: &Version) {
    put_u64(out, version.mod_revision);
    put_u64(out, version.create_revision);
    put_u64(out, version.version);
    put_i64(out, version.lease);
    put_option(out, version.value.as_ref());
}

fn decode(input: &mut Decoder<'_>) -> Result<(Bytes, Versions), DecodeError> {
    let key = input.bytes()?;
    // The count is only a claim, and a version takes more room than it does in a file.
    let mut versions: Vec<Version> = Vec::new();
    for _ in 0..input.len()? {
        let mod_revision = input.u64()?;
        if versions.last().is_some_and(|before| before.mod_revision >= mod_revision) {
            return Err(DecodeError("order of versions"));
        }
        versions.push(Version {
            mod_revision,
            create_revision: input.u64()?,
            version: input.u64()?,
            lease: input.i64()?,
            value: input.option()?,
        });
    }
    Ok((key, Versions::from_vec(versions)))
}

/// The log index of the snapshot that a file's name announces.
pub(crate) fn index_of(path: &Path) -> Option<u64> {
    let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".snap"));
    stem.and_then(|stem| u64::from_str_radix(stem, 16).ok())
}

/// Snapshots in a directory, oldest first.
fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<(u64, PathBuf)>, SnapshotError> {
    let io = |source| SnapshotError::Io { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for name in disk.list(dir).map_err(io)? {
        let path = dir.join(name);
        if let Some(index) = index_of(&path) {
            found.push((index, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest snapshot's file.
pub(crate) fn newest(disk: &dyn Disk, dir: &Path) -> Result<Option<PathBuf>, SnapshotError> {
    newest_upto(disk, dir, u64::MAX)
}

/// The file of the newest snapshot at a log index of at most `index`.
pub(crate) fn newest_upto(disk: &dyn Disk, dir: &Path, index: u64) -> Result<Option<PathBuf>, SnapshotError> {
    disk::durable_dir(disk, dir).map_err(|source| SnapshotError::Io { path: dir.to_owned(), source })?;
    let found = list(disk, dir)?.into_iter().rfind(|(of, _)| *of <= index);
    Ok(found.map(|(_, path)| path))
}

/// Puts a snapshot that has come in, and is on disk, among the others; returns once it is there to stay.
pub(crate) fn place(disk: &dyn Disk, received: &Path, dir: &Path, meta: &Meta) -> io::Result<PathBuf> {
    let path = dir.join(meta.file_name());
    disk.rename(received, &path)?;
    disk.sync_dir(dir)?;
    Ok(path)
}

/// Reads what [`write_head`] and [`Blocks`] wrote, and trusts none of it.
pub(crate) struct Reader<R> {
    pub(crate) path: PathBuf,
    pub(crate) input: R,
    pub(crate) offset: u64,
    keys: u64,
}

impl Reader<BufReader<Sequential>> {
    fn open(disk: &dyn Disk, path: &Path) -> Result<Self, SnapshotError> {
        let io = |source| SnapshotError::Io { path: path.to_owned(), source };
        let file = disk.open(path, Mode::Existing).map_err(io)?;
        Ok(Self::new(path, BufReader::new(Sequential::new(file))))
    }

    fn meta(&mut self) -> Result<Meta, SnapshotError> {
        if self.take(8)? != MAGIC {
            self.offset = 0;
            return Err(self.damaged("it is not a snapshot"));
        }
        let body = self.head(MAX_BLOCK)?;
        serde_json::from_slice(&body).map_err(|_| self.damaged("its description is malformed"))
    }
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(path: &Path, input: R) -> Self {
        Self { path: path.to_owned(), input, offset: 0, keys: 0 }
    }

    pub(crate) fn damaged(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Corrupt { path: self.path.clone(), offset: self.offset, what }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(length as u64).read_to_end(&mut bytes);
        match read {
            Ok(read) if read == length => {
                self.offset += length as u64;
                Ok(bytes)
            }
            Ok(_) => Err(self.damaged("the file ends early")),
            Err(source) => Err(SnapshotError::Io { path: self.path.clone(), source }),
        }
    }

    fn word(&mut self) -> Result<u32, SnapshotError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn checked(&mut self, length: u32, crc: u32) -> Result<Vec<u8>, SnapshotError> {
        let at = self.offset;
        let bytes = self.take(length as usize)?;
        if crc32fast::hash(&bytes) != crc {
            self.offset = at;
            return Err(self.damaged("a block fails its checksum"));
        }
        Ok(bytes)
    }

    /// The description, after the magic.
    pub(crate) fn head(&mut self, most: u32) -> Result<Vec<u8>, SnapshotError> {
        let (length, crc) = (self.word()?, self.word()?);
        if length > most {
            return Err(self.damaged("its description is too large"));
        }
        self.checked(length, crc)
    }

    /// Decodes one block into `keys`; false at the end block.
    pub(crate) fn block(&mut self, keys: &mut Vec<(Bytes, Versions)>) -> Result<bool, SnapshotError> {
        let (raw, stored, crc) = (self.word()?, self.word()?, self.word()?);
        if raw.max(stored) > MAX_BLOCK {
            return Err(self.damaged("a block is too large"));
        }
        let stored = self.checked(stored, crc)?;
        if raw == 0 {
            let complete = stored == self.keys.to_le_bytes();
            return if complete { Ok(false) } else { Err(self.damaged("keys are missing")) };
        }
        let raw =
            zstd::bulk::decompress(&stored, raw as usize).map_err(|_| self.damaged("a block does not decompress"))?;
        let mut input = Decoder::new(&raw);
        while !input.is_empty() {
            keys.push(decode(&mut input).map_err(|_| self.damaged("a key is malformed"))?);
            self.keys += 1;
        }
        Ok(true)
    }
}

/// What a snapshot says about itself, without reading the rest.
pub(crate) fn read_meta(disk: &dyn Disk, path: &Path) -> Result<Meta, SnapshotError> {
    Reader::open(disk, path)?.meta()
}

/// Reads and verifies a whole snapshot. Blocking.
pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Result<(Meta, Applied), SnapshotError> {
    let mut reader = Reader::open(disk, path)?;
    let meta = reader.meta()?;
    let mut keys = Vec::new();
    while reader.block(&mut keys)? {}
    let mvcc = Mvcc::restore(keys, meta.revision, meta.compacted, meta.leases.iter().copied());
    let applied = Applied { mvcc, last: meta.last, membership: meta.membership.clone() };
    Ok((meta, applied))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few kilobytes in a file can be a gigabyte of such.
    #[test]
    fn versions_that_do_not_follow_each_other_are_refused_at_once() {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, b"key");
        put_u64(&mut bytes, 1 << 20);
        bytes.resize(bytes.len() + (1 << 20), 0);
        let mut input = Decoder::new(&bytes);
        assert_eq!(decode(&mut input).unwrap_err(), DecodeError("order of versions"));
        assert!(input.rest().len() > (1 << 20) - 10, "nothing more was read");
    }
}
