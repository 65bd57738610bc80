//! The [`Store`] handle: the only way into this crate.

mod membership;

use std::path::PathBuf;
use std::sync::atomic;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::archive::{self, ArchiveError, Label, Manifest};
use crate::cluster::{Cluster, Lead, Parts, Timing};
use crate::command::{Command, Reply};
use crate::disk::{self, Disk, Files};
use crate::error::{OpenError, RangeError, StoreError, WatchError};
use crate::link::CallError;
use crate::members::{ClusterId, Member};
use crate::open::{self, Opened};
use crate::proposal::{Awaited, Gathering, Pending};
use crate::raft::Raft;
use crate::raft::log_store::LogFiles;
use crate::request;
use crate::rpc::{Request, Response};
use crate::state::Shared;
use crate::transport::Transport;
use crate::types::{
    Bytes, Compare, LeaseGrant, LeaseId, LeaseStatus, Ordering, RangeRequest, RangeResponse, Revision, StateHash,
    Stats, Txn, TxnResponse, WatchRequest,
};
use crate::upkeep::{self, Snapshots};
use crate::watch::{Ready, Watcher};
use crate::writer::Writer;

pub use membership::{LeaderChanges, MemberChanges};

/// Requests that may wait for the writer; more wait in their callers.
const QUEUE: usize = 4096;
/// More than can have been acknowledged from memory and lost.
const SKIPPED_REVISIONS: u64 = 1_000_000;
pub(crate) const MAX_LEASE_SECS: u64 = 10 * 365 * 24 * 3600;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory; made when missing.
    pub dir: PathBuf,
    /// What the directory lies on.
    pub disk: Arc<dyn Disk>,
    /// This member's id; 0: the one in the directory, or a random one when that is new.
    pub node_id: u64,
    /// How this member is called and reached when it begins a cluster; one that joins is told to the others by
    /// [`Store::add_member`].
    pub member: Member,
    /// The cluster that a new directory is to join; without one it begins a cluster of its own.
    pub join: Option<ClusterId>,
    /// The way to other members.
    pub transport: Option<Arc<dyn Transport>>,
    pub timing: Timing,
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
            member: Member::default(),
            join: None,
            transport: None,
            timing: Timing::default(),
            coalesce_for: Duration::from_secs(10),
            watch_buffer: 4096,
            segment_bytes: 8 << 20,
            snapshot_after_bytes: 16 << 20,
        }
    }
}

/// The way into the writer.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    sender: mpsc::Sender<Pending>,
    gathering: Arc<Gathering>,
}

impl Requests {
    pub(crate) async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        self.enqueue(command).await?.await.map_err(|_| StoreError::Closed)?
    }

    /// Queues a request; what is returned waits for its outcome.
    pub(crate) async fn enqueue(&self, command: Command) -> Result<Awaited, StoreError> {
        self.send(command, false).await
    }

    /// Only if this member leads.
    pub(crate) async fn submit_here(&self, command: Command) -> Result<Reply, StoreError> {
        self.send(command, true).await?.await.map_err(|_| StoreError::Closed)?
    }

    async fn send(&self, command: Command, here_only: bool) -> Result<Awaited, StoreError> {
        // Before it waits for room.
        let size = request::check(&command)?;
        let permit = self.sender.reserve().await.map_err(|_| StoreError::Closed)?;
        Ok(Slot { permit, requests: self }.take(command, size, here_only))
    }
}

/// Room for one request that waits for the writer.
pub(crate) struct Slot<'a> {
    permit: mpsc::Permit<'a, Pending>,
    requests: &'a Requests,
}

impl Slot<'_> {
    /// Queues a request; what is returned waits for its outcome.
    pub(crate) fn submit(self, command: Command) -> Result<Awaited, StoreError> {
        let size = request::check(&command)?;
        Ok(self.take(command, size, false))
    }

    fn take(self, command: Command, size: usize, here_only: bool) -> Awaited {
        let (reply, answered) = oneshot::channel();
        self.permit.send(Pending { command, size, here_only, arrived: Instant::now(), reply });
        let sender = &self.requests.sender;
        self.requests.gathering.grew(sender.max_capacity() - sender.capacity());
        answered
    }
}

struct Inner {
    shared: Arc<Shared>,
    files: Arc<LogFiles>,
    raft: Raft,
    requests: Requests,
    cluster: Arc<Cluster>,
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
    /// Opens or creates the data directory and recovers what was acknowledged.
    ///
    /// A member without peers can write when this returns. One with peers takes part as soon as its transport hands over
    /// what arrives; until a leader is known its requests wait.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let Opened { shared, files, raft, link, snapshots, session, power_cut } = open::open(&config).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (closing, closed) = watch::channel(false);
        let gathering = Arc::new(Gathering::default());
        let requests = Requests { sender, gathering: gathering.clone() };
        let (cluster_id, node_id) = (link.cluster.id, link.me);
        let (cluster, reads) = Cluster::new(Parts {
            link,
            raft: raft.clone(),
            shared: shared.clone(),
            files: files.clone(),
            requests: requests.clone(),
            timing: config.timing,
            dir: config.dir.clone(),
            snapshots: snapshots.clone(),
            session,
        });
        shared.serve(config.snapshot_after_bytes);
        let snapshots =
            Snapshots { cluster: cluster.clone(), dir: snapshots, cluster_id, keep_bytes: config.snapshot_after_bytes };
        let upkeep = vec![
            tokio::spawn(upkeep::flush_coalesced(files.clone(), config.coalesce_for)).abort_handle(),
            tokio::spawn(upkeep::purge(shared.clone())).abort_handle(),
            tokio::spawn(upkeep::expire_leases(shared.clone(), requests.clone())).abort_handle(),
            tokio::spawn(snapshots.run()).abort_handle(),
            tokio::spawn(cluster.clone().watch_over_elections()).abort_handle(),
            tokio::spawn(cluster.clone().serve_reads(reads)).abort_handle(),
            tokio::spawn(cluster.clone().make_up_for_damage()).abort_handle(),
        ];
        let writer = Writer::new(cluster.clone(), receiver, gathering, closed);
        let writer = Mutex::new(Some(tokio::spawn(writer.run())));
        let (dir, watch_buffer) = (config.dir, config.watch_buffer);
        let inner = Inner {
            shared,
            files,
            raft,
            requests,
            cluster,
            closing,
            writer,
            upkeep,
            dir,
            cluster_id,
            node_id,
            watch_buffer,
        };
        let store = Self { inner: Arc::new(inner) };
        if power_cut {
            tracing::info!("the machine went down while the store was open; skipping revisions");
            let skipped = store.submit(Command::Skip(SKIPPED_REVISIONS)).await;
            skipped.map_err(|error| OpenError::Raft(Box::new(error)))?;
            let files = store.inner.files.clone();
            let recorded =
                disk::blocking(&*config.disk, move || files.record_boot()).await.map_err(std::io::Error::from);
            recorded.flatten().map_err(|source| OpenError::Io { path: store.inner.dir.clone(), source })?;
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
    /// A transaction that only reads is linearizable and does not touch the disk. After [`StoreError::Failed`],
    /// [`StoreError::Closed`] or [`StoreError::Unknown`] the transaction may or may not have happened; after any other error
    /// it has not.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        if request::only_reads(&txn) {
            self.read_barrier().await?;
            return self.inner.shared.read().mvcc.read_only(&txn);
        }
        self.submit(Command::Txn(txn)).await?.txn()
    }

    /// How many requests the writer has not taken yet.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        let sender = &self.inner.requests.sender;
        sender.max_capacity() - sender.capacity()
    }

    /// Room for a request, when there is some at once.
    pub(crate) fn slot(&self) -> Option<Slot<'_>> {
        let requests = &self.inner.requests;
        let permit = requests.sender.try_reserve().ok().filter(|_| !*self.inner.closing.borrow())?;
        Some(Slot { permit, requests })
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
        if !self.inner.cluster.alone() {
            self.inner.cluster.barrier().await?;
        }
        Ok(self.revision())
    }

    /// Watches a key or range. Registering never misses or repeats a change.
    pub fn watch(&self, request: WatchRequest) -> Result<Watcher, WatchError> {
        Watcher::open(self.inner.shared.clone(), request, self.inner.watch_buffer)
    }

    /// One of many watches of a reader.
    pub(crate) fn watch_among(
        &self,
        request: WatchRequest,
        ready: &Arc<Ready>,
        token: u64,
    ) -> Result<Watcher, WatchError> {
        Watcher::among(self.inner.shared.clone(), request, self.inner.watch_buffer, ready, token)
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

    /// Renews a lease to its full time, from memory. Returns that time. In a cluster of several members only the leader
    /// can; [`Store::lease_renew`] asks it.
    pub fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        if !self.is_leader() {
            return Err(StoreError::NoLeader);
        }
        let renewed = self.inner.shared.deadlines().renew(id, Instant::now());
        renewed.ok_or(StoreError::LeaseNotFound(id))
    }

    /// Has the leader renew a lease to its full time. Returns that time.
    pub async fn lease_renew(&self, id: LeaseId) -> Result<Duration, StoreError> {
        let cluster = &self.inner.cluster;
        self.of_leader(Request::KeepAlive { lease: id }, cluster.keep_alive_here(id)).await
    }

    /// Asks the leader, whose clock alone counts, for the whole seconds that a lease has yet.
    pub async fn lease_time_left(&self, id: LeaseId) -> Result<Duration, StoreError> {
        let cluster = &self.inner.cluster;
        self.of_leader(Request::TimeLeft { lease: id }, cluster.time_left_here(id)).await
    }

    /// What the leader says of a lease, in seconds: here, or there.
    async fn of_leader(
        &self,
        request: Request,
        here: impl Future<Output = Result<u64, StoreError>>,
    ) -> Result<Duration, StoreError> {
        let cluster = &self.inner.cluster;
        let outcome = match cluster.lead() {
            Lead::Here => here.await,
            Lead::There { id: leader, member, .. } => {
                match cluster.link.call(leader, &member, &request, cluster.timing.request).await {
                    Ok(Response::Lease(outcome)) => outcome,
                    Ok(_) | Err(CallError::Unreachable | CallError::Refused(_)) => Err(StoreError::NoLeader),
                    Err(CallError::Lost) => Err(StoreError::Unknown),
                }
            }
            Lead::Nobody => Err(StoreError::NoLeader),
        };
        outcome.map(Duration::from_secs)
    }

    /// A lease's times and keys. The time it has yet is this member's guess unless it leads: see
    /// [`Store::lease_time_left`].
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

    /// The newest revision that is worth a copy elsewhere: that of the newest change that was not coalesced, as far as
    /// this member knows since it was opened, or one after it.
    pub fn changed(&self) -> Revision {
        self.inner.shared.changed()
    }

    /// Writes everything to a file that [`restore`](crate::archive::restore) takes; writers do not wait.
    pub async fn save(&self, target: PathBuf, label: Label) -> Result<Manifest, ArchiveError> {
        let Inner { shared, files, cluster, .. } = &*self.inner;
        let (shared, disk, cluster) = (shared.clone(), files.disk.clone(), cluster.link.cluster);
        disk::blocking(&*files.disk, move || archive::save(&*disk, &shared, cluster, &target, label)).await?
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        self.inner.shared.read().mvcc.compacted()
    }

    /// Leaves out revision 0, at which a fresh store stands, for readers to whom 0 means something else.
    pub(crate) async fn leave_zero(&self) -> Result<(), StoreError> {
        // A member that has just joined may only not have heard yet.
        if self.revision() == 0 && self.read_barrier().await? == 0 {
            self.submit(Command::Skip(1)).await?;
        }
        Ok(())
    }

    /// Finds out whether writes of `size` bytes are taken, by one that changes nothing.
    pub(crate) async fn probe(&self, size: usize) -> Result<(), StoreError> {
        let condition = Compare::Value { key: Bytes::new(), order: Ordering::Equal, value: vec![0; size].into() };
        self.submit(Command::Txn(Txn { compares: vec![condition], ..Txn::default() })).await.map(drop)
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.inner.dir
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn timing(&self) -> Timing {
        self.inner.cluster.timing
    }

    pub(crate) fn term(&self) -> u64 {
        self.inner.raft.metrics().borrow().current_term
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
            log_bytes: files.since_snapshot.load(atomic::Ordering::Relaxed),
            fsyncs,
            written_bytes: log_written + shared.snapshot_bytes.load(atomic::Ordering::Relaxed),
        }
    }

    /// Hands over the leadership, answers what was accepted, ends all watches, and releases the data directory. Further
    /// calls find it closed.
    pub async fn shutdown(&self) {
        if !*self.inner.closing.borrow() {
            self.inner.cluster.hand_over().await;
        }
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
