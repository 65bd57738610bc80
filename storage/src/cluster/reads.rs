//! Reads that are never stale: the leader makes sure that it still leads, and says up to where the log was committed then.
//!
//! One round serves all who wait when it begins; those who come later wait for the next. On a follower the round is one
//! question to the leader, which joins a round there.

use std::sync::Arc;

use openraft::error::RaftError;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Cluster, Lead, ReadRequest};
use crate::error::StoreError;
use crate::rpc::{Request, Response};

/// Readers that may wait for a round; more wait in their callers.
pub(super) const QUEUE: usize = 4096;

impl Cluster {
    /// Index of a log entry by which everything acknowledged before the call is applied.
    pub(crate) async fn read_index(&self) -> Result<u64, StoreError> {
        let (reply, answered) = oneshot::channel();
        self.reads.send(reply).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Waits until this member has applied everything acknowledged before the call.
    pub(crate) async fn barrier(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.timing.request;
        let index = tokio::time::timeout_at(deadline, self.read_index()).await.unwrap_or(Err(StoreError::NoLeader))?;
        if self.has_applied(index, deadline).await {
            return Ok(());
        }
        let excluded = *self.link.excluded.borrow();
        Err(excluded.map_or(StoreError::NoLeader, StoreError::Excluded))
    }

    /// Waits until this member has applied an entry; false when it has not in time, or is shut out and never will.
    pub(super) async fn has_applied(&self, index: u64, deadline: Instant) -> bool {
        let mut excluded = self.link.excluded.subscribe();
        tokio::select! {
            biased;
            applied = self.shared.wait_applied(index, deadline) => applied,
            _ = excluded.wait_for(Option::is_some) => false,
        }
    }

    /// Runs until the store closes.
    pub(crate) async fn serve_reads(self: Arc<Self>, mut requests: mpsc::Receiver<ReadRequest>) {
        while let Some(first) = requests.recv().await {
            let mut waiting = vec![first];
            while let Ok(next) = requests.try_recv() {
                waiting.push(next);
            }
            let outcome = self.round().await;
            for reply in waiting {
                // The reader may be gone.
                drop(reply.send(outcome.clone()));
            }
        }
    }

    async fn round(&self) -> Result<u64, StoreError> {
        let begun = Instant::now();
        loop {
            if let Some(exclusion) = *self.link.excluded.borrow() {
                return Err(StoreError::Excluded(exclusion));
            }
            let index = match self.lead() {
                Lead::Here => match self.raft.get_read_log_id().await {
                    Ok((index, _)) => Some(index.map_or(0, |id| id.index)),
                    Err(RaftError::APIError(_)) => None,
                    Err(RaftError::Fatal(_)) => return Err(StoreError::Failed),
                },
                Lead::There { id, member, .. } => {
                    match self.link.call(id, &member, &Request::ReadIndex, self.timing.heartbeat * 4).await {
                        Ok(Response::Index(index)) => Some(index),
                        Ok(_) | Err(_) => None,
                    }
                }
                Lead::Nobody => None,
            };
            if let Some(index) = index {
                return Ok(index);
            }
            if !self.leader_may_have_changed(self.hopes_until(begun)).await {
                return Err(StoreError::NoLeader);
            }
        }
    }
}
