//! The log: entries in segment files, written once, checksummed, flushed with `fdatasync`.
//!
//! Invariants: indices are contiguous; only the newest segment has bytes that may not be on disk; space is allocated
//! before entries are proposed ([`Log::reserve`]), so that a full disk refuses requests instead of failing the log.
//! Knows entries as bytes only. Used by the Raft log storage, the writer (reserve) and the flusher (coalesced writes).

pub(crate) mod record;
pub(crate) mod segment;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use segment::{SEGMENT_HEADER, Segment};

use crate::disk::{self, Disk, DiskFile};

/// Space that is kept for entries that the Raft core makes itself.
const SLACK: u64 = 16 << 10;
const SPARE: &str = "next.tmp";

#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("cannot use {path}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged at offset {offset}: {what}", path = path.display())]
    Corrupt { path: PathBuf, offset: u64, what: &'static str },
    #[error("entry {index} is not in the log")]
    Missing { index: u64 },
    #[error("entry {index} does not follow entry {last}")]
    Gap { index: u64, last: u64 },
}

/// An entry on its way into the log.
pub(crate) struct Append {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) leader: u64,
    /// Room for the record's header, and the encoded entry, its head included.
    record: Vec<u8>,
}

impl Append {
    /// An entry whose body `write` puts where it will be written from. `buffer` is one that is done with, or a new one.
    pub(crate) fn new<E>(
        index: u64,
        (term, leader): (u64, u64),
        mut buffer: Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Self, E> {
        buffer.clear();
        buffer.resize(record::HEADER, 0);
        write(&mut buffer)?;
        Ok(Self { index, term, leader, record: buffer })
    }

    pub(crate) fn body_len(&self) -> usize {
        self.record.len() - record::HEADER
    }

    /// The buffer, for the next one.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.record
    }
}

/// Syncs the files of a log, one at a time, and none after one that failed.
///
/// The kernel says once that it could not write something, and to one of those who sync the same open file at that time.
/// The others would be told that all is well; and what it could not write it may have dropped.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    turn: Mutex<()>,
    failed: AtomicBool,
}

impl Syncs {
    fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.usable()?;
        file.sync_data().inspect_err(|_| self.fail())
    }

    /// An error once a flush has failed.
    pub(crate) fn usable(&self) -> io::Result<()> {
        if self.failed.load(Ordering::SeqCst) { Err(io::Error::other(EarlierFailure)) } else { Ok(()) }
    }

    /// What was written may never be on disk.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the log could not be flushed before")]
struct EarlierFailure;

/// A flush that was begun: [`Flush::sync`], then tell [`Log::synced`].
#[derive(Debug, Clone)]
pub(crate) struct Flush {
    file: Arc<dyn DiskFile>,
    syncs: Arc<Syncs>,
    segment: u64,
    from: u64,
    upto: u64,
}

impl Flush {
    /// Blocking.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.syncs.sync(&*self.file)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.upto - self.from
    }
}

#[derive(Debug)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cluster_id: u64,
    segment_bytes: u64,
    segments: VecDeque<Segment>,
    spare: Option<Arc<dyn DiskFile>>,
    /// Index of the first entry that counts; those before are purged.
    first: u64,
    pub(crate) written_bytes: u64,
    pub(crate) fsyncs: u64,
    pub(crate) syncs: Arc<Syncs>,
}

impl Log {
    /// Reads and verifies every segment. `purged` is the last index that no longer counts, 0 with `None`.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        cluster_id: u64,
        segment_bytes: u64,
        purged: Option<u64>,
    ) -> Result<Self, LogError> {
        let io = |source| LogError::Io { path: dir.to_owned(), source };
        disk::durable_dir(&*disk, dir).map_err(io)?;
        let mut names = Vec::new();
        for name in disk.list(dir).map_err(io)? {
            match name.to_str() {
                Some(SPARE) => disk.remove(&dir.join(SPARE)).map_err(io)?,
                Some(name) => names.extend(segment::parse_name(name)),
                None => {}
            }
        }
        names.sort_unstable();
        let first = purged.map_or(0, |purged| purged + 1);
        let mut segments: VecDeque<Segment> = VecDeque::new();
        for (position, name) in names.iter().enumerate() {
            let path = dir.join(segment::file_name(*name));
            if names.get(position + 1).is_some_and(|next| *next <= first) {
                disk.remove(&path).map_err(io)?;
                continue;
            }
            let segment = Segment::recover(&*disk, path, cluster_id, position + 1 == names.len())?;
            if segments.back().is_some_and(|before| before.next() != segment.first) {
                let what = "entries are missing before this segment";
                return Err(LogError::Corrupt { path: segment.path, offset: 0, what });
            }
            segments.push_back(segment);
        }
        if segments.front().is_some_and(|oldest| oldest.first > first) {
            let path = segments.front().map(|segment| segment.path.clone()).unwrap_or_default();
            return Err(LogError::Corrupt { path, offset: 0, what: "entries are missing before this segment" });
        }
        if segments.back().is_some_and(|newest| newest.next() < first) {
            for stale in segments.drain(..) {
                disk.remove(&stale.path).map_err(io)?;
            }
        }
        let (dir, spare, syncs) = (dir.to_owned(), None, Arc::default());
        Ok(Self { disk, dir, cluster_id, segment_bytes, segments, spare, first, written_bytes: 0, fsyncs: 0, syncs })
    }

    /// Index of the entry after the last.
    pub(crate) fn next(&self) -> u64 {
        self.segments.back().map_or(self.first, Segment::next).max(self.first)
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Index, term and leader of the last entry that counts.
    pub(crate) fn last(&self) -> Option<(u64, u64, u64)> {
        let index = self.next().checked_sub(1).filter(|last| *last >= self.first)?;
        let newest = self.segments.iter().rev().find_map(|segment| segment.last)?;
        Some((index, newest.0, newest.1))
    }

    /// Indices of the memberships that were in the log when it was opened, the newest first.
    pub(crate) fn memberships(&self) -> impl Iterator<Item = u64> {
        let all = self.segments.iter().rev().flat_map(|segment| segment.memberships.iter().rev().copied());
        all.take_while(|index| *index >= self.first)
    }

    /// Bytes of all entries still in files.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end - SEGMENT_HEADER).sum()
    }

    /// Index of the first entry of the newest segments that together have at most `bytes`.
    pub(crate) fn last_bytes(&self, bytes: u64) -> u64 {
        let mut left = bytes;
        let mut first = self.next();
        for segment in self.segments.iter().rev() {
            let Some(rest) = left.checked_sub(segment.end) else { break };
            (left, first) = (rest, segment.first);
        }
        first
    }

    /// What requests of so many bytes take as one entry, at most.
    pub(crate) fn with_overhead(bytes: usize) -> u64 {
        bytes as u64 + 1024
    }

    /// Makes sure that `bytes` more can be appended, or says that the disk is full.
    pub(crate) fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        let wanted = bytes + SLACK;
        let room = self.segments.back().map_or(0, Segment::room);
        if room >= wanted {
            return Ok(());
        }
        let spare = match &self.spare {
            Some(spare) => spare.len()?.saturating_sub(SEGMENT_HEADER),
            None => 0,
        };
        if spare < wanted {
            let size = self.segment_bytes.max(wanted + SEGMENT_HEADER);
            self.spare = None;
            self.spare = Some(disk::allocated(&*self.disk, &self.dir.join(SPARE), size)?);
        }
        Ok(())
    }

    /// Writes entries; they are on disk once the [`Flush`] is done.
    pub(crate) fn append(&mut self, entries: &mut [Append]) -> Result<(), LogError> {
        for entry in entries {
            if entry.index != self.next() {
                return Err(LogError::Gap { index: entry.index, last: self.next().saturating_sub(1) });
            }
            if entry.body_len() > record::MAX_BODY {
                let (path, source) = (self.dir.clone(), io::ErrorKind::FileTooLarge.into());
                return Err(LogError::Io { path, source });
            }
            let size = (record::OVERHEAD + entry.body_len()) as u64;
            if self.segments.back().is_none_or(|newest| newest.room() < size) {
                self.roll(size)?;
            }
            let Some(newest) = self.segments.back_mut() else { return Err(LogError::Missing { index: entry.index }) };
            record::seal(&mut entry.record, newest.end, newest.synced);
            let written = newest.append(&entry.record, entry.term, entry.leader);
            self.written_bytes += written.map_err(|source| LogError::Io { path: newest.path.clone(), source })?;
        }
        Ok(())
    }

    /// Starts a new segment, after the one before it is on disk.
    fn roll(&mut self, size: u64) -> Result<(), LogError> {
        let io = |source| LogError::Io { path: self.dir.clone(), source };
        if let Some(newest) = self.segments.back_mut() {
            self.syncs.sync(&*newest.file).map_err(io)?;
            newest.synced = newest.end;
            newest.offsets.shrink_to_fit();
            self.fsyncs += 1;
        }
        let spare_path = self.dir.join(SPARE);
        let spare = match self.spare.take() {
            Some(spare) if spare.len().map_err(io)? >= size + SEGMENT_HEADER => spare,
            _ => {
                disk::allocated(&*self.disk, &spare_path, self.segment_bytes.max(size + SEGMENT_HEADER)).map_err(io)?
            }
        };
        let first = self.next();
        let path = self.dir.join(segment::file_name(first));
        let segment = Segment::begin(path.clone(), spare, self.cluster_id, first).map_err(io)?;
        self.disk.rename(&spare_path, &path).and_then(|()| self.disk.sync_dir(&self.dir)).map_err(io)?;
        self.fsyncs += 2;
        self.segments.push_back(segment);
        Ok(())
    }

    /// What is left to flush.
    pub(crate) fn flush(&self) -> Option<Flush> {
        let newest = self.segments.back().filter(|newest| newest.synced < newest.end)?;
        let (file, syncs) = (newest.file.clone(), self.syncs.clone());
        Some(Flush { file, syncs, segment: newest.first, from: newest.synced, upto: newest.end })
    }

    /// The flush is done.
    pub(crate) fn synced(&mut self, flush: &Flush) {
        self.fsyncs += 1;
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.first == flush.segment) {
            segment.synced = segment.synced.max(flush.upto.min(segment.end));
        }
    }

    /// The body of one entry.
    pub(crate) fn read(&self, index: u64) -> Result<Vec<u8>, LogError> {
        let position = self.segments.partition_point(|segment| segment.first <= index);
        let segment = position.checked_sub(1).and_then(|position| self.segments.get(position));
        segment.filter(|_| index >= self.first).ok_or(LogError::Missing { index })?.read(index)
    }

    /// Drops the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) -> Result<(), LogError> {
        while let Some(newest) = self.segments.back_mut() {
            if newest.first < index {
                return newest.truncate(index);
            }
            let io = |source| LogError::Io { path: newest.path.clone(), source };
            self.disk.remove(&newest.path).and_then(|()| self.disk.sync_dir(&self.dir)).map_err(io)?;
            self.segments.pop_back();
        }
        Ok(())
    }

    /// No entry counts any more: the log goes on after `index`, which is beyond all that it should hold. The caller has
    /// recorded it.
    pub(crate) fn supersede(&mut self, index: u64) -> Result<(), LogError> {
        self.truncate(0)?;
        self.first = index + 1;
        Ok(())
    }

    /// The entries up to `index` no longer count; frees the files that hold only such. The caller has recorded it.
    pub(crate) fn purge(&mut self, index: u64) -> Result<(), LogError> {
        self.first = self.first.max(index + 1);
        while self.segments.front().is_some_and(|oldest| oldest.next() <= self.first) {
            // The newest segment stays while it can take more, unless the log jumps ahead of it.
            if self.segments.len() == 1 && self.segments[0].next() == self.first {
                break;
            }
            let Some(oldest) = self.segments.pop_front() else { break };
            let io = |source| LogError::Io { path: oldest.path.clone(), source };
            self.disk.remove(&oldest.path).map_err(io)?;
        }
        Ok(())
    }
}
