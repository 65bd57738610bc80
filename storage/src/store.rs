//! The [`Store`] handle: the only way into this crate.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::error::RaftError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::command::{Command, Reply};
use crate::disk::{self, Disk, Files};
use crate::error::{OpenError, RangeError, StoreError, WatchError};
use crate::open::{self, Opened};
use crate::raft::Raft;
use crate::raft::log_store::LogFiles;
use crate::request;
use crate::state::Shared;
use crate::types::{
    LeaseGrant, LeaseId, LeaseStatus, RangeRequest, RangeResponse, Revision, StateHash, Stats, Txn, TxnResponse,
    WatchRequest,
};
use crate::upkeep::{self, Snapshots};
use crate::watch::Watcher;
use crate::writer::{Pending, Writer};

/// Requests that may wait for the writer; more wait in their callers.
const QUEUE: usize = 4096;
/// More than can have been acknowledged from memory and lost.
const SKIPPED_REVISIONS: u64 = 1_000_000;
const MAX_LEASE_SECS: u64 = 10 * 365 * 24 * 3600;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory; made when missing.
    pub dir: PathBuf,
    /// What the directory lies on.
    pub disk: Arc<dyn Disk>,
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
            disk: Arc::new(Files),
            node_id,
            coalesce_for: Duration::from_secs(10),
            watch_buffer: 4096,
            segment_bytes: 8 << 20,
            snapshot_after_bytes: 16 << 20,
        }
    }
}

/// Where a member stands in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) term: u64,
    pub(crate) leader: Option<u64>,
    pub(crate) last: u64,
    pub(crate) applied: u64,
}

/// The way into the writer.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    sender: mpsc::Sender<Pending>,
}

impl Requests {
    pub(crate) async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        let size = request::check(&command)?;
        let (reply, answered) = oneshot::channel();
        self.sender.send(Pending { command, size, reply }).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

struct Inner {
    shared: Arc<Shared>,
    files: Arc<LogFiles>,
    raft: Raft,
    requests: Requests,
    closing: watch::Sender<bool>,
    writer: Mutex<Option<JoinHandle<()>>>,
    upkeep: Vec<AbortHandle>,
    dir: PathBuf,
    cluster_id: u64,
    node_id: u64,
    watch_buffer: usize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.hub().close();
        self.closing.send_replace(true);
        self.upkeep.iter().for_each(AbortHandle::abort);
    }
}

/// An open store. Cheap to clone. [`Store::shutdown`] releases the data directory; when the last clone is dropped
/// instead, that happens soon after, and the next start counts as one after a crash.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("node_id", &self.inner.node_id).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the data directory, recovers what was acknowledged, and returns once this member can write.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let Opened { shared, files, raft, cluster_id, snapshots, power_cut } = open::open(&config).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (closing, closed) = watch::channel(false);
        let snapshot_due = Arc::new(Notify::new());
        let writer = Writer {
            raft: raft.clone(),
            files: files.clone(),
            shared: shared.clone(),
            dir: config.dir.clone(),
            snapshot_after: config.snapshot_after_bytes,
            snapshot_due: snapshot_due.clone(),
            requests: receiver,
            closing: closed,
        };
        let requests = Requests { sender };
        let snapshots = Snapshots {
            shared: shared.clone(),
            files: files.clone(),
            raft: raft.clone(),
            dir: snapshots,
            cluster_id,
            due: snapshot_due,
        };
        let upkeep = vec![
            tokio::spawn(upkeep::flush_coalesced(files.clone(), config.coalesce_for)).abort_handle(),
            tokio::spawn(upkeep::purge(shared.clone())).abort_handle(),
            tokio::spawn(upkeep::expire_leases(shared.clone(), requests.clone())).abort_handle(),
            tokio::spawn(snapshots.run()).abort_handle(),
        ];
        let writer = Mutex::new(Some(tokio::spawn(writer.run())));
        let (node_id, watch_buffer) = (config.node_id, config.watch_buffer);
        let dir = config.dir;
        let inner =
            Inner { shared, files, raft, requests, closing, writer, upkeep, dir, cluster_id, node_id, watch_buffer };
        let store = Self { inner: Arc::new(inner) };
        if power_cut {
            tracing::info!("the machine went down while the store was open; skipping revisions");
            let skipped = store.submit(Command::Skip(SKIPPED_REVISIONS)).await;
            skipped.map_err(|error| OpenError::Raft(Box::new(error)))?;
        }
        store.inner.shared.purge.notify_one();
        Ok(store)
    }

    async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        if *self.inner.closing.borrow() {
            return Err(StoreError::Closed);
        }
        self.inner.requests.submit(command).await
    }

    /// Runs a transaction; returns when it is as durable as it asks to be.
    ///
    /// A transaction that only reads is linearizable and does not touch the disk. After [`StoreError::Failed`] or
    /// [`StoreError::Closed`] the transaction may or may not have happened; after any other error it has not.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        if request::only_reads(&txn) {
            self.read_barrier().await?;
            return self.inner.shared.read().mvcc.read_only(&txn);
        }
        match self.submit(Command::Txn(txn)).await? {
            Reply::Txn(response) => Ok(response),
            Reply::Done => Err(StoreError::Failed),
        }
    }

    /// Reads from memory: what this member has applied.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, RangeError> {
        self.inner.shared.read().mvcc.range(request)
    }

    /// Returns once this member has applied everything that was acknowledged before the call; a [`Store::range`] after
    /// it is linearizable. The revision is this member's then.
    pub async fn read_barrier(&self) -> Result<Revision, StoreError> {
        if *self.inner.closing.borrow() {
            return Err(StoreError::Closed);
        }
        // A sole voter acknowledges nothing before it has applied it, and nobody else can.
        let (sole, revision) = {
            let state = self.inner.shared.read();
            let mut voters = state.membership.membership().voter_ids();
            (voters.next() == Some(self.inner.node_id) && voters.next().is_none(), state.mvcc.revision())
        };
        if sole {
            return Ok(revision);
        }
        match self.inner.raft.ensure_linearizable().await {
            Ok(_) => Ok(self.revision()),
            Err(RaftError::APIError(_)) => Err(StoreError::NoLeader),
            Err(RaftError::Fatal(_)) => Err(StoreError::Failed),
        }
    }

    /// Watches a key or range. Registering never misses or repeats a change.
    pub fn watch(&self, request: WatchRequest) -> Result<Watcher, WatchError> {
        Watcher::open(self.inner.shared.clone(), request, self.inner.watch_buffer)
    }

    /// Forgets versions superseded at or before `revision`; ranges below it, and watches from it or below, fail from
    /// then on.
    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.submit(Command::Compact(revision)).await.map(drop)
    }

    /// Grants a lease of whole seconds, one at least; `id` 0 lets the store choose.
    pub async fn lease_grant(&self, id: LeaseId, ttl: Duration) -> Result<LeaseGrant, StoreError> {
        let id = if id == 0 { rand::random_range(1..LeaseId::MAX) } else { id };
        let ttl_secs = ttl.as_secs().clamp(1, MAX_LEASE_SECS);
        self.submit(Command::LeaseGrant { id, ttl_secs }).await?;
        Ok(LeaseGrant { id, ttl: Duration::from_secs(ttl_secs) })
    }

    /// Ends a lease and deletes its keys.
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.submit(Command::LeaseRevoke(id)).await.map(drop)
    }

    /// Renews a lease to its full time, from memory. Returns that time.
    pub fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        let renewed = self.inner.shared.deadlines().renew(id, Instant::now());
        renewed.ok_or(StoreError::LeaseNotFound(id))
    }

    /// A lease's times and keys.
    pub fn lease_status(&self, id: LeaseId) -> Option<LeaseStatus> {
        let state = self.inner.shared.read();
        let lease = state.mvcc.lease(id)?;
        let remaining = self.inner.shared.deadlines().remaining(id, Instant::now()).unwrap_or_default();
        let keys = lease.keys.iter().cloned().collect();
        Some(LeaseStatus { id, granted_ttl: Duration::from_secs(lease.ttl_secs), remaining, keys })
    }

    /// Every living lease.
    pub fn leases(&self) -> Vec<LeaseId> {
        self.inner.shared.read().mvcc.leases().map(|(id, _)| id).collect()
    }

    /// The newest revision that this member has applied.
    pub fn revision(&self) -> Revision {
        self.inner.shared.read().mvcc.revision()
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        self.inner.shared.read().mvcc.compacted()
    }

    /// Leaves out revision 0, at which a fresh store stands, for readers to whom 0 means something else.
    pub(crate) async fn leave_zero(&self) -> Result<(), StoreError> {
        if self.revision() == 0 { self.submit(Command::Skip(1)).await.map(drop) } else { Ok(()) }
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.inner.dir
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// The Raft core's place.
    pub(crate) fn position(&self) -> Position {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        Position {
            term: metrics.current_term,
            leader: metrics.current_leader,
            last: metrics.last_log_index.unwrap_or(0),
            applied: metrics.last_applied.map_or(0, |last| last.index),
        }
    }

    /// Chosen at random when the cluster was made.
    pub fn cluster_id(&self) -> u64 {
        self.inner.cluster_id
    }

    /// This member's id.
    pub fn node_id(&self) -> u64 {
        self.inner.node_id
    }

    /// A checksum of what can be read at `revision`, or at the newest.
    pub async fn hash(&self, revision: Option<Revision>) -> Result<StateHash, StoreError> {
        let shared = self.inner.shared.clone();
        let hashed = tokio::task::spawn_blocking(move || crate::state::hash(&shared, revision)).await;
        hashed.map_err(|_| StoreError::Failed)?.map_err(Into::into)
    }

    /// Frees the memory of what was compacted, as far as no snapshot is reading it. Without this call that happens soon
    /// after a compaction, too.
    pub async fn purge(&self) {
        upkeep::purge_all(&self.inner.shared).await;
    }

    /// Sizes and counters.
    pub fn stats(&self) -> Stats {
        let Inner { shared, files, .. } = &*self.inner;
        let (fsyncs, log_written) = {
            let log = files.log();
            (log.fsyncs, log.written_bytes)
        };
        let state = shared.read();
        let (keys, live_bytes) = state.mvcc.live();
        Stats {
            revision: state.mvcc.revision(),
            compacted: state.mvcc.compacted(),
            keys,
            versions: state.mvcc.version_count(),
            live_bytes,
            watchers: shared.hub().watchers(),
            leases: state.mvcc.leases().count() as u64,
            log_bytes: files.since_snapshot.load(Ordering::Relaxed),
            fsyncs,
            written_bytes: log_written + shared.snapshot_bytes.load(Ordering::Relaxed),
        }
    }

    /// Answers what was accepted, ends all watches, and releases the data directory. Further calls find it closed.
    pub async fn shutdown(&self) {
        self.inner.closing.send_replace(true);
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return };
        report("the writer", writer.await);
        self.inner.upkeep.iter().for_each(AbortHandle::abort);
        report("the raft core", self.inner.raft.shutdown().await);
        self.inner.shared.hub().close();
        let files = self.inner.files.clone();
        let released = disk::blocking(&*self.inner.files.disk, move || files.release()).await;
        if let Ok(released) = released {
            report("the record of an orderly end", released);
        }
    }
}

/// Logs what went wrong on the way out: there is nobody left to tell.
fn report<T, E: std::fmt::Display>(what: &str, outcome: Result<T, E>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "{what} failed");
    }
}
