//! The log behind openraft's log traits.
//!
//! Entries that are not applied yet are also kept in memory, so that applying them neither reads the disk nor copies
//! values. In a cluster of one voter every entry in the log is committed, so a restart applies all of them at once.
#![expect(clippy::result_large_err, reason = "openraft fixes the error type")]

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{Entry, EntryPayload, LogId, LogState, OptionalSend, RaftLogReader, StorageIOError, Vote};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::beside::{self, Beside};
use super::state_machine::StateMachine;
use super::{StorageError, Types, decode, encode_into, is_synced, size};
use crate::data_dir::DataDir;
use crate::disk::{self, Disk};
use crate::error::StoreError;
use crate::hard_state::HardStateFile;
use crate::log::record::Head;
use crate::log::{Append, Flush, Log, LogError, Syncs};
use crate::members::{self, Membership};
use crate::proposal::Proposal;

/// Bytes of entries in one request to a peer, unless a single one is larger.
const REPLICATED_AT_ONCE: usize = 2 << 20;

/// Larger ones are freed: an idle store needs little memory.
const BUFFER_KEPT: usize = 256 << 10;

/// Flushes that take this long or less, on average, and have few bytes are not worth another thread.
const QUICK_FLUSH: Duration = Duration::from_millis(1);
const QUICK_BYTES: u64 = 32 << 10;

/// The log's files, shared by the Raft core, the writer and the flusher.
#[derive(Debug)]
pub(crate) struct LogFiles {
    pub(crate) disk: Arc<dyn Disk>,
    log: Mutex<Log>,
    hard_state: Mutex<HardStateFile>,
    recent: Mutex<VecDeque<Entry<Types>>>,
    /// What the last entry was encoded in.
    buffer: Mutex<Vec<u8>>,
    /// There is something that no synced write has flushed.
    pub(crate) unsynced: Notify,
    /// Bytes of entries that no snapshot covers.
    pub(crate) since_snapshot: AtomicU64,
    /// Held for as long as anything may write.
    dir: Mutex<Option<DataDir>>,
    me: u64,
    /// By the newest membership in the log this member is the only voter. Then all of the log is committed, and
    /// coalesced writes need no flush: there is nobody else who could count on them.
    sole_voter: AtomicBool,
    /// By that membership there are other members, voters or not, who are sent entries.
    peers: AtomicBool,
    /// Index of the newest membership in the log.
    membership: AtomicU64,
    recovering: AtomicBool,
    syncs: Arc<Syncs>,
    flushes: Mutex<Flushes>,
    pub(super) beside: Beside,
}

/// How long flushes take, for those who wait for them.
#[derive(Debug)]
struct Flushes {
    /// When the one began that runs now.
    began: Option<Instant>,
    /// The slowest lately, and when it ended.
    slowest: Option<(Instant, Duration)>,
    /// Over all, the newest counting an eighth.
    average: Duration,
}

impl Default for Flushes {
    fn default() -> Self {
        // A disk is slow until it has shown that it is quick.
        Self { began: None, slowest: None, average: QUICK_FLUSH * 2 }
    }
}

/// A slow flush is remembered for so long.
const LATELY: Duration = Duration::from_secs(120);

impl Flushes {
    fn end(&mut self) {
        let Some(began) = self.began.take() else { return };
        let (now, took) = (Instant::now(), began.elapsed());
        self.average = (self.average * 7 + took) / 8;
        if self.slowest.is_none_or(|(at, slowest)| took >= slowest || now - at > LATELY) {
            self.slowest = Some((now, took));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogFiles {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: DataDir,
        log: Log,
        hard_state: HardStateFile,
        me: u64,
        sole_voter: bool,
    ) -> Self {
        let since_snapshot = AtomicU64::new(log.bytes());
        let recovering = hard_state.state.recovering;
        let syncs = log.syncs.clone();
        Self {
            disk,
            log: Mutex::new(log),
            hard_state: Mutex::new(hard_state),
            recent: Mutex::default(),
            buffer: Mutex::default(),
            unsynced: Notify::new(),
            since_snapshot,
            dir: Mutex::new(Some(dir)),
            me,
            sole_voter: AtomicBool::new(sole_voter),
            peers: AtomicBool::new(!sole_voter),
            membership: AtomicU64::new(0),
            recovering: AtomicBool::new(recovering),
            syncs,
            flushes: Mutex::default(),
            beside: Beside::default(),
        }
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    pub(crate) fn hard_state(&self) -> MutexGuard<'_, HardStateFile> {
        lock(&self.hard_state)
    }

    pub(crate) fn vote(&self) -> Option<Vote<u64>> {
        self.hard_state().state.vote
    }

    pub(crate) fn last_log_id(&self) -> Option<LogId<u64>> {
        let last = super::last_log_id(&self.log());
        last.or_else(|| self.hard_state().state.purged)
    }

    /// Who made an entry that is in the log; for the few that come a second time.
    pub(crate) fn log_id(&self, index: u64) -> Option<LogId<u64>> {
        let body = self.log().read(index).ok()?;
        let head = Head::decode(&body).ok()?;
        Some(LogId::new(openraft::CommittedLeaderId::new(head.term, head.leader), head.index))
    }

    /// The member has lost a part of its log to damage and must not vote before it has caught up.
    pub(crate) fn recovering(&self) -> bool {
        self.recovering.load(Ordering::Relaxed)
    }

    /// Whether this member is the only voter by the newest membership in its log, and knows its log to be whole.
    pub(crate) fn alone(&self) -> bool {
        self.sole_voter.load(Ordering::Relaxed) && !self.recovering()
    }

    /// Whether what this member appends is committed as soon as it is durable, and nobody else is told of it before: there
    /// is no other member, and it leads.
    fn counts_alone(&self, entries: &[Entry<Types>]) -> bool {
        let ours = |entry: &Entry<Types>| {
            let open = matches!(&entry.payload, EntryPayload::Normal(proposal) if proposal.lane().is_some());
            open && entry.log_id.leader_id.node_id == self.me
        };
        self.alone() && !self.peers.load(Ordering::Relaxed) && entries.iter().all(ours)
    }

    /// Waits until everything that is written beside the Raft core is applied.
    pub(crate) async fn done_beside(&self) {
        self.beside.done().await;
    }

    /// Closes open batches, with what waits and has room in the log.
    pub(super) fn seal(&self, entries: &[Entry<Types>]) {
        for proposal in proposals(entries) {
            proposal.seal(|size| self.log().reserve(Log::with_overhead(size)).is_ok());
        }
    }

    /// A membership is committed: a sole voter may be one again.
    pub(crate) fn committed_membership(&self, index: u64, membership: &Membership) {
        if index >= self.membership.load(Ordering::Relaxed) && !self.recovering() {
            let alone = members::alone(membership, self.me);
            self.note_peers(!alone);
            self.sole_voter.store(alone, Ordering::Relaxed);
        }
    }

    /// Remembers on disk whether there are other voters; known before the member acts on it.
    fn note_peers(&self, peers: bool) {
        let mut hard_state = self.hard_state();
        if hard_state.state.peers != peers
            && let Err(error) = hard_state.update(|state| state.peers = peers)
        {
            tracing::warn!(%error, "cannot remember whether there are other members");
        }
    }

    /// The member has made up for what it had lost, and may vote again.
    pub(crate) fn recovered(&self) -> io::Result<()> {
        self.hard_state().update(|state| state.recovering = false)?;
        self.recovering.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// A membership is in the log, and in effect.
    pub(crate) fn new_membership(&self, index: u64, membership: &Membership) {
        self.membership.store(index, Ordering::Relaxed);
        self.peers.store(membership.nodes().any(|(id, _)| *id != self.me), Ordering::Relaxed);
        if !members::alone(membership, self.me) {
            self.sole_voter.store(false, Ordering::Relaxed);
        }
    }

    /// The entries up to `index` are applied and need not stay in memory.
    pub(crate) fn applied(&self, index: u64) {
        let mut recent = lock(&self.recent);
        while recent.front().is_some_and(|entry| entry.log_id.index <= index) {
            recent.pop_front();
        }
        if recent.is_empty() && recent.capacity() > 256 {
            recent.shrink_to_fit();
        }
    }

    /// An error once a flush has failed.
    pub(super) fn usable(&self) -> io::Result<()> {
        self.syncs.usable()
    }

    /// What is left to flush. Once a flush has failed all do.
    pub(super) fn begin_flush(&self) -> io::Result<Option<Flush>> {
        self.usable()?;
        let flush = self.log().flush();
        if flush.is_some() {
            lock(&self.flushes).began = Some(Instant::now());
        }
        Ok(flush)
    }

    pub(super) fn end_flush(&self, flush: &Flush, synced: io::Result<()>) -> io::Result<()> {
        lock(&self.flushes).end();
        synced?;
        self.log().synced(flush);
        Ok(())
    }

    /// Something has gone wrong on the way of entries to disk and into the state.
    pub(super) fn fail(&self) {
        self.syncs.fail();
    }

    /// Whether a flush is not worth another thread: waking it, and being woken by it, takes about as long on a good disk.
    pub(super) fn is_quick(&self, flush: &Flush) -> bool {
        let average = lock(&self.flushes).average;
        !self.disk.is_instant() && average <= QUICK_FLUSH && flush.bytes() <= QUICK_BYTES
    }

    /// Puts everything appended so far on disk. Once it has failed it fails for good.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        let Some(flush) = self.begin_flush()? else { return Ok(()) };
        let synced = if self.is_quick(&flush) {
            flush.sync()
        } else {
            let flush = flush.clone();
            disk::blocking(&*self.disk, move || flush.sync()).await.map_err(io::Error::from).flatten()
        };
        self.end_flush(&flush, synced)
    }

    /// How long the flush takes that runs now. The Raft core answers nothing before it ends.
    pub(crate) fn flushing_for(&self) -> Option<Duration> {
        lock(&self.flushes).began.map(|began| began.elapsed())
    }

    /// How long the slowest flush of late has taken, or the one that runs now.
    pub(crate) fn slowest_flush(&self) -> Duration {
        let flushes = lock(&self.flushes);
        let now = flushes.began.map_or(Duration::ZERO, |began| began.elapsed());
        flushes.slowest.map_or(now, |(_, took)| took.max(now))
    }

    /// Records an orderly end and lets others have the directory.
    pub(crate) fn release(&self) -> io::Result<()> {
        let dir = lock(&self.dir).take();
        self.usable()?;
        let flush: Option<Flush> = self.log().flush();
        if let Some(flush) = flush {
            flush.sync()?;
            self.log().synced(&flush);
        }
        self.hard_state().update(|state| state.open_in_boot.clear())?;
        drop(dir);
        Ok(())
    }

    /// What the power cut may have taken is made up for; the next power cut counts from here.
    pub(crate) fn record_boot(&self) -> io::Result<()> {
        let boot = self.disk.boot_id();
        self.hard_state().update(|state| state.open_in_boot = boot)
    }

    fn entry(&self, index: u64) -> Result<Entry<Types>, StorageError> {
        let recent = lock(&self.recent);
        let slot = recent.front().and_then(|first| index.checked_sub(first.log_id.index));
        let kept = slot.and_then(|slot| usize::try_from(slot).ok()).and_then(|slot| recent.get(slot));
        if let Some(entry) = kept {
            return Ok(entry.clone());
        }
        drop(recent);
        let body = self.log().read(index).map_err(|error| StorageIOError::read_log_at_index(index, &error))?;
        Ok(decode(&body).map_err(|error| StorageIOError::read_log_at_index(index, &error))?)
    }

    pub(super) fn append(&self, entries: &[Entry<Types>]) -> Result<bool, StorageError> {
        let mut appends = Vec::with_capacity(entries.len());
        let mut synced = false;
        for entry in entries {
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.new_membership(entry.log_id.index, membership);
            }
            // What other members count on, or are sent, must be on disk.
            synced |= is_synced(entry) || !self.alone() || self.peers.load(Ordering::Relaxed);
            let leader = entry.log_id.leader_id;
            let buffer = std::mem::take(&mut *lock(&self.buffer));
            let write = |out: &mut Vec<u8>| encode_into(entry, out);
            let append = Append::new(entry.log_id.index, (leader.term, leader.node_id), buffer, write);
            appends.push(append.map_err(|error| StorageIOError::write_log_entry(entry.log_id, &error))?);
        }
        let bytes: u64 = appends.iter().map(|append| append.body_len() as u64).sum();
        self.log().append(&mut appends).map_err(|error| StorageIOError::write_logs(&error))?;
        self.since_snapshot.fetch_add(bytes, Ordering::Relaxed);
        if let Some(last) = appends.pop() {
            let mut buffer = last.into_buffer();
            buffer.clear();
            buffer.shrink_to(BUFFER_KEPT);
            *lock(&self.buffer) = buffer;
        }
        lock(&self.recent).extend(entries.iter().cloned());
        Ok(synced)
    }
}

pub(super) fn proposals(entries: &[Entry<Types>]) -> impl Iterator<Item = &Proposal> {
    entries.iter().filter_map(|entry| match &entry.payload {
        EntryPayload::Normal(proposal) => Some(proposal),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    })
}

/// What openraft is given; clones read the same log.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    pub(crate) files: Arc<LogFiles>,
    /// Where entries of a sole voter are applied at once.
    pub(crate) machine: StateMachine,
}

impl LogStore {
    /// Appends entries, and waits until they are as durable as they ask to be.
    async fn write(&self, entries: &[Entry<Types>]) -> Result<(), StorageError> {
        // What was to be flushed before may not be applied, so nothing after it may be.
        self.files.usable().map_err(|error| beside::failed(&error))?;
        self.files.seal(entries);
        if self.files.append(entries)? {
            self.files.flush().await.map_err(|error| StorageIOError::write_logs(&error))?;
        } else {
            self.files.unsynced.notify_one();
        }
        Ok(())
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, StorageError> {
        let (first, next) = {
            let log = self.files.log();
            (log.first(), log.next())
        };
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        (start.max(first)..end.min(next)).map(|index| self.files.entry(index)).collect()
    }

    /// As much as fits into one request to a peer, one entry at least.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<Types>>, StorageError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let (start, end) = {
            let log = self.files.log();
            (start.max(log.first()), end.min(log.next()))
        };
        for index in start..end {
            let entry = self.files.entry(index)?;
            bytes += size(&entry);
            entries.push(entry);
            if bytes > REPLICATED_AT_ONCE {
                break;
            }
        }
        Ok(entries)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let last_purged_log_id = self.files.hard_state().state.purged;
        Ok(LogState { last_purged_log_id, last_log_id: self.files.last_log_id() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let (files, vote) = (self.files.clone(), *vote);
        let write = move || files.hard_state().update(|state| state.vote = Some(vote));
        lock(&self.files.flushes).began = Some(Instant::now());
        let written = disk::blocking(&*self.files.disk, write).await.map_err(io::Error::from).flatten();
        lock(&self.files.flushes).end();
        Ok(written.map_err(|error| StorageIOError::write_vote(&error))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        Ok(self.files.hard_state().state.vote)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError> {
        if self.files.alone() {
            return Ok(self.files.last_log_id());
        }
        // Nobody proposes a membership before the one before it is committed. What more is committed the leader says.
        let before_last = self.files.log().memberships().nth(1);
        Ok(before_last.and_then(|index| self.files.log_id(index)))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let beside = &self.files.beside;
        let written = if self.files.counts_alone(&entries) && beside.follows(self.machine.shared.applied()) {
            self.write_alone(&entries).await
        } else {
            beside.done().await;
            entries.last().into_iter().for_each(|last| beside.leave(last.log_id.index));
            self.write(&entries).await
        };
        if written.is_err() {
            proposals(&entries).for_each(|proposal| proposal.fail(&StoreError::Failed));
        }
        written?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError> {
        lock(&self.files.recent).retain(|entry| entry.log_id.index < log_id.index);
        Ok(self.files.log().truncate(log_id.index).map_err(|error| StorageIOError::write_logs(&error))?)
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError> {
        let files = self.files.clone();
        let purge = move || -> Result<(), LogError> {
            let mut hard_state = files.hard_state();
            let path = hard_state.path().to_owned();
            hard_state.update(|state| state.purged = Some(log_id)).map_err(|source| LogError::Io { path, source })?;
            drop(hard_state);
            files.log().purge(log_id.index)
        };
        match disk::blocking(&*self.files.disk, purge).await {
            Ok(purged) => Ok(purged.map_err(|error| StorageIOError::write_logs(&error))?),
            Err(error) => Err(StorageIOError::write_logs(&error).into()),
        }
    }
}
