//! The state machine behind openraft's traits: applies committed entries to the multi-version map and feeds the watches,
//! in one critical section per call.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageIOError, StoredMembership,
};
use tokio::time::Instant;

use super::log_store::LogFiles;
use super::{SnapshotFile, StorageError, Types};
use crate::command::{Applied, Command, Reply};
use crate::disk::{self, Disk, Mode};
use crate::error::StoreError;
use crate::members::Member;
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
    /// `events` is for the changes of one command at a time.
    fn run(&self, mvcc: &mut Mvcc, command: &Command, events: &mut Vec<Event>) -> Result<Reply, StoreError> {
        match command {
            Command::Txn(txn) => {
                let response = mvcc.txn(txn, events)?;
                if command.synced() && !events.is_empty() {
                    self.shared.set_changed(mvcc.revision());
                }
                self.publish(mvcc, events);
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

    /// Applies entries that are committed, in one critical section: those that are applied beside the Raft core, or the
    /// others, which come after all of those before them.
    fn apply_all(&self, entries: &[Entry<Types>], beside: bool) -> Vec<Applied> {
        let mut applied = Vec::with_capacity(entries.len());
        let mut events = Vec::new();
        let mut state = self.shared.write();
        for entry in entries {
            let applied_beside =
                matches!(&entry.payload, EntryPayload::Normal(proposal) if proposal.is_applied_beside());
            if applied_beside != beside {
                applied.push(Applied::default());
                continue;
            }
            state.last = Some(entry.log_id);
            let mut outcomes = Vec::new();
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(proposal) => {
                    let commands = &proposal.batch().commands;
                    outcomes.extend(commands.iter().map(|command| self.run(&mut state.mvcc, command, &mut events)));
                }
                EntryPayload::Membership(membership) => {
                    self.files.committed_membership(entry.log_id.index, membership);
                    state.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                }
            }
            applied.push(Applied { outcomes });
        }
        let last = state.last;
        self.shared.consider_snapshot(self.files.since_snapshot.load(Ordering::Relaxed), &state.mvcc);
        drop(state);
        if let Some(last) = last {
            self.shared.set_applied(last.index);
        }
        for (entry, applied) in entries.iter().zip(&mut applied) {
            if let EntryPayload::Normal(proposal) = &entry.payload
                && !applied.outcomes.is_empty()
            {
                applied.outcomes = proposal.answer(std::mem::take(&mut applied.outcomes));
            }
        }
        applied
    }

    /// Applies entries of a sole member, which are as durable as they ask to be. The Raft core, which goes through two more
    /// tasks to find out that it may, leaves them alone.
    pub(super) fn apply_beside(&self, entries: &[Entry<Types>]) {
        self.apply_all(entries, true);
    }

    fn publish(&self, mvcc: &Mvcc, events: &[Event]) {
        if !events.is_empty() {
            self.shared.hub().publish(mvcc.revision(), events);
        }
    }

    /// The newest snapshot of what is applied; writes one if there is none.
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
        let (disk, dir, applied) = (self.files.disk.clone(), self.snapshots.clone(), self.shared.applied());
        let find = move || {
            loop {
                // One that has come in lies there before it is installed.
                let Some(path) = snapshot::newest_upto(&*disk, &dir, applied)? else { return Ok(None) };
                let opened = snapshot::read_meta(&*disk, &path).and_then(|meta| {
                    let file = disk.open(&path, Mode::Existing);
                    Ok((meta, file.map_err(|source| SnapshotError::Io { path: path.clone(), source })?))
                });
                match opened {
                    // A newer one has taken its place meanwhile.
                    Err(SnapshotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                    opened => return opened.map(Some),
                }
            }
        };
        let found = blocking(&*self.files.disk, find).await?;
        Ok(found.map(|(meta, file)| Snapshot { meta: meta.raft(), snapshot: Box::new(SnapshotFile(file)) }))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the snapshot that was just written is gone")]
struct SnapshotGone;

/// Snapshots come in by `cluster::receive`, and whole.
#[derive(Debug, thiserror::Error)]
#[error("the Raft core wants to take a snapshot in by itself")]
struct NotInPieces;

async fn blocking<T: Send + 'static>(
    disk: &dyn Disk,
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, StorageError> {
    match disk::blocking(disk, work).await {
        Ok(done) => Ok(done.map_err(|error| StorageIOError::write_snapshot(None, &error))?),
        Err(error) => Err(StorageIOError::write_snapshot(None, &error).into()),
    }
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        self.snapshot().await
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Member>), StorageError> {
        let state = self.shared.read();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let applied = self.apply_all(&entries, false);
        if let Some(last) = entries.last() {
            self.files.applied(last.log_id.index);
        }
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        Err(StorageIOError::write_snapshot(None, &NotInPieces).into())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Member>,
        snapshot: Box<SnapshotFile>,
    ) -> Result<(), StorageError> {
        drop(snapshot);
        let index = meta.last_log_id.map_or(0, |last| last.index);
        let installed = match self.shared.prepared().filter(|(last, _)| *last == meta.last_log_id) {
            Some((_, prepared)) => prepared,
            // Whoever sent it has given up meanwhile, and another one has come in. It lies in its place.
            None => {
                let (disk, path) = (self.files.disk.clone(), self.snapshots.join(snapshot::file_name(index)));
                blocking(&*self.files.disk, move || snapshot::read(&*disk, &path)).await?.1
            }
        };
        let mut state = self.shared.write();
        let from = state.mvcc.revision() + 1;
        *state = installed;
        self.shared.snapshot_held.store(state.mvcc.bytes(), Ordering::Relaxed);
        self.shared.hub().reset(from);
        self.files.committed_membership(index, state.membership.membership());
        drop(state);
        self.files.applied(index);
        self.shared.set_changed(from - 1);
        self.shared.start_leases();
        self.shared.set_applied(index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        self.existing().await
    }
}
