//! The state machine behind openraft's traits: applies committed entries to the multi-version map and feeds the watches,
//! in one critical section per call.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    BasicNode, Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageIOError,
    StoredMembership,
};
use tokio::fs::File;
use tokio::time::Instant;

use super::log_store::LogFiles;
use super::{StorageError, Types};
use crate::command::{Applied, Command, Reply};
use crate::disk::{self, Disk, Mode};
use crate::error::StoreError;
use crate::mvcc::Mvcc;
use crate::snapshot::{self, SnapshotError};
use crate::state::Shared;
use crate::types::Event;

#[derive(Clone, Debug)]
pub(crate) struct StateMachine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Arc<LogFiles>,
    pub(crate) snapshots: PathBuf,
    pub(crate) cluster_id: u64,
}

impl StateMachine {
    fn run(&self, mvcc: &mut Mvcc, command: &Command) -> Result<Reply, StoreError> {
        match command {
            Command::Txn(txn) => {
                let (response, events) = mvcc.txn(txn)?;
                self.publish(mvcc, &events);
                return Ok(Reply::Txn(response));
            }
            Command::Compact(revision) => {
                mvcc.compact(*revision)?;
                self.shared.purge.notify_one();
            }
            Command::LeaseGrant { id, ttl_secs } => {
                mvcc.grant(*id, *ttl_secs)?;
                self.shared.deadlines().set(*id, Duration::from_secs(*ttl_secs), Instant::now());
                self.shared.deadlines_changed.notify_one();
            }
            Command::LeaseRevoke(id) => {
                let events = mvcc.revoke(*id)?;
                self.publish(mvcc, &events);
                self.shared.deadlines().remove(*id);
            }
            Command::Skip(revisions) => mvcc.skip(*revisions),
        }
        Ok(Reply::Done)
    }

    fn publish(&self, mvcc: &Mvcc, events: &[Event]) {
        if !events.is_empty() {
            self.shared.hub().publish(mvcc.revision(), events);
        }
    }

    /// The newest snapshot; writes one if there is none.
    async fn snapshot(&self) -> Result<Snapshot<Types>, StorageError> {
        if let Some(existing) = self.existing().await? {
            return Ok(existing);
        }
        let this = self.clone();
        let write =
            move || snapshot::write(&*this.files.disk, &this.shared, this.cluster_id, &this.snapshots).map(drop);
        blocking(&*self.files.disk, write).await?;
        self.existing().await?.ok_or_else(|| StorageIOError::read_snapshot(None, &SnapshotGone).into())
    }

    async fn existing(&self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let (disk, dir) = (self.files.disk.clone(), self.snapshots.clone());
        let find = move || {
            let Some(path) = snapshot::newest(&*disk, &dir)? else { return Ok(None) };
            Ok(Some((snapshot::read_meta(&*disk, &path)?, path)))
        };
        let Some((meta, path)) = blocking(&*self.files.disk, find).await? else { return Ok(None) };
        let file = File::open(&path).await.map_err(|error| StorageIOError::read_snapshot(None, &error))?;
        Ok(Some(Snapshot { meta: meta.raft(), snapshot: Box::new(file) }))
    }

    fn received(&self) -> PathBuf {
        self.snapshots.join("received.tmp")
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the snapshot that was just written is gone")]
struct SnapshotGone;

#[derive(Debug, thiserror::Error)]
#[error("a snapshot of cluster {found:016x} was offered to cluster {expected:016x}")]
struct ForeignSnapshot {
    found: u64,
    expected: u64,
}

async fn blocking<T: Send + 'static>(
    disk: &dyn Disk,
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, StorageError> {
    match disk::blocking(disk, work).await {
        Ok(done) => Ok(done.map_err(|error| StorageIOError::write_snapshot(None, &error))?),
        Err(error) => Err(StorageIOError::write_snapshot(None, &error).into()),
    }
}

/// Puts a received snapshot in its place; returns once it is on disk.
fn keep(disk: &dyn Disk, received: &Path, dir: &Path, index: u64) -> Result<(), SnapshotError> {
    let path = dir.join(format!("{index:016x}.snap"));
    let placed = disk
        .open(received, Mode::Existing)
        .and_then(|file| file.sync_all())
        .and_then(|()| disk.rename(received, &path))
        .and_then(|()| disk.sync_dir(dir));
    placed.map_err(|source| SnapshotError::Io { path, source })
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        self.snapshot().await
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), StorageError> {
        let state = self.shared.read();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut applied = Vec::new();
        let mut state = self.shared.write();
        for entry in entries {
            state.last = Some(entry.log_id);
            let mut outcomes = Vec::new();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(proposal) => {
                    outcomes.extend(proposal.0.commands.iter().map(|command| self.run(&mut state.mvcc, command)));
                }
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            applied.push(Applied { outcomes });
        }
        let last = state.last;
        drop(state);
        if let Some(last) = last {
            self.files.applied(last.index);
        }
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<File>, StorageError> {
        let mut options = tokio::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(self.received()).await;
        Ok(Box::new(file.map_err(|error| StorageIOError::write_snapshot(None, &error))?))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<File>,
    ) -> Result<(), StorageError> {
        drop(snapshot);
        let (disk, received, dir) = (self.files.disk.clone(), self.received(), self.snapshots.clone());
        let index = meta.last_log_id.map_or(0, |last| last.index);
        let expected = self.cluster_id;
        let load = move || {
            let (found, state) = snapshot::read(&*disk, &received)?;
            if found.cluster_id == expected {
                keep(&*disk, &received, &dir, index)?;
            }
            Ok((found.cluster_id, state))
        };
        let (found, installed) = blocking(&*self.files.disk, load).await?;
        if found != expected {
            let foreign = ForeignSnapshot { found, expected };
            return Err(StorageIOError::write_snapshot(Some(meta.signature()), &foreign).into());
        }
        let mut state = self.shared.write();
        let from = state.mvcc.revision() + 1;
        *state = installed;
        self.shared.hub().reset(from);
        drop(state);
        self.shared.start_leases();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        self.existing().await
    }
}
