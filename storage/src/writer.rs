//! The writer: one task that turns the requests that wait into one proposal, thus one log entry and one flush.
//!
//! While a proposal is on its way the next requests gather, so the batch grows with the load by itself. Space for the
//! entry is taken before it is proposed: a full disk refuses the requests and leaves the Raft core alone.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::command::{Batch, Command, Proposal, Reply};
use crate::error::StoreError;
use crate::raft::Raft;
use crate::raft::log_store::LogFiles;
use crate::state::Shared;

/// Requests that share one entry at most; keeps the time in the state's write lock short.
const MAX_BATCH: usize = 1024;
const MAX_BATCH_BYTES: usize = 1 << 20;

/// A request that waits for its turn.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) command: Command,
    pub(crate) size: usize,
    pub(crate) reply: oneshot::Sender<Result<Reply, StoreError>>,
}

pub(crate) struct Writer {
    pub(crate) raft: Raft,
    pub(crate) files: Arc<LogFiles>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) dir: PathBuf,
    pub(crate) snapshot_after: u64,
    pub(crate) snapshot_due: Arc<Notify>,
    pub(crate) requests: mpsc::Receiver<Pending>,
    pub(crate) closing: watch::Receiver<bool>,
}

impl Writer {
    /// Runs until the store closes; what was accepted before is still answered.
    pub(crate) async fn run(mut self) {
        loop {
            let first = tokio::select! {
                first = self.requests.recv() => first,
                _ = self.closing.wait_for(|closing| *closing), if !self.requests.is_closed() => {
                    self.requests.close();
                    continue;
                }
            };
            let Some(first) = first else { return };
            let batch = self.gather(first);
            self.propose(batch).await;
        }
    }

    fn gather(&mut self, first: Pending) -> Vec<Pending> {
        let mut size = first.size;
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH && size < MAX_BATCH_BYTES {
            let Ok(next) = self.requests.try_recv() else { break };
            size += next.size;
            batch.push(next);
        }
        batch
    }

    async fn propose(&self, batch: Vec<Pending>) {
        let size: usize = batch.iter().map(|pending| pending.size).sum();
        let (commands, replies): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|pending| (pending.command, pending.reply)).unzip();
        let outcomes = match self.reserve(size) {
            Ok(()) => {
                let synced = commands.iter().any(Command::synced);
                self.write(Batch { synced, commands }).await
            }
            Err(error) => Err(error),
        };
        match outcomes {
            Ok(outcomes) => replies.into_iter().zip(outcomes).for_each(|(reply, outcome)| answer(reply, outcome)),
            Err(error) => replies.into_iter().for_each(|reply| answer(reply, Err(error.clone()))),
        }
        self.consider_snapshot();
    }

    fn reserve(&self, size: usize) -> Result<(), StoreError> {
        match self.files.log().reserve(size as u64 + 1024) {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => Err(StoreError::DiskFull { dir: self.dir.clone() }),
            Err(error) => {
                tracing::error!(%error, "cannot allocate a log segment");
                Err(StoreError::Failed)
            }
        }
    }

    async fn write(&self, batch: Batch) -> Result<Vec<Result<Reply, StoreError>>, StoreError> {
        match self.raft.client_write(Proposal(Arc::new(batch))).await {
            Ok(written) => Ok(written.data.outcomes),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(StoreError::NoLeader),
            Err(RaftError::APIError(error)) => {
                tracing::error!(%error, "a proposal was refused");
                Err(StoreError::Failed)
            }
            Err(RaftError::Fatal(error)) => {
                tracing::error!(%error, "the raft core has stopped");
                Err(StoreError::Failed)
            }
        }
    }

    fn consider_snapshot(&self) {
        let live = self.shared.read().mvcc.live().1;
        if self.files.since_snapshot.load(Ordering::Relaxed) > self.snapshot_after.max(live) {
            self.snapshot_due.notify_one();
        }
    }
}

/// The caller may be gone; its request counts all the same.
fn answer(reply: oneshot::Sender<Result<Reply, StoreError>>, outcome: Result<Reply, StoreError>) {
    drop(reply.send(outcome));
}

/// No space, or no more allowed by a quota.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
