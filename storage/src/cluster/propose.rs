//! Carrying requests to whoever leads: into the own log, or to the leader.
//!
//! Invariant: a batch goes to a second place only when it is certain that the first did not take it. When that is not
//! certain its outcome is [`StoreError::Unknown`], and the caller must look before it asks again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Cluster, Lead};
use crate::command::{Batch, Reply};
use crate::error::StoreError;
use crate::link::CallError;
use crate::log::Log;
use crate::members::{Member, MemberId};
use crate::proposal::{Lane, Pending, Proposal, answer};
use crate::raft;
use crate::rpc::{Forward, Request, Response};
use crate::writer::is_full;

/// Least time between two attempts of a leader without space to have another one lead.
const BETWEEN_HAND_OVERS: Duration = Duration::from_secs(5);

/// Tells what the Raft core made of a proposal.
pub(crate) type Written = oneshot::Receiver<raft::Outcome>;
type Outcomes = Vec<Result<Reply, StoreError>>;

/// What came of one attempt.
enum Attempt {
    Done(Outcomes),
    /// The others may fare better elsewhere: nothing has happened.
    NotTaken,
    Failed(StoreError),
}

impl Cluster {
    /// Gets a batch into the log of the cluster and answers its requests.
    pub(crate) async fn carry_out(&self, pending: Vec<Pending>) {
        let size: usize = pending.iter().map(|pending| pending.size).sum();
        let here_only = pending.iter().any(|pending| pending.here_only);
        let arrived = pending.iter().map(|pending| pending.arrived).min().unwrap_or_else(Instant::now);
        let (commands, replies): (Vec<_>, Vec<_>) =
            pending.into_iter().map(|pending| (pending.command, pending.reply)).unzip();
        let synced = commands.iter().any(crate::command::Command::synced);
        let proposal = Proposal::of(Batch { synced, commands });
        match self.attempt_until_taken(&proposal, size, arrived, here_only).await {
            Ok(outcomes) if outcomes.len() == replies.len() => {
                replies.into_iter().zip(outcomes).for_each(|(reply, outcome)| answer(reply, outcome));
            }
            Ok(_) => replies.into_iter().for_each(|reply| answer(reply, Err(StoreError::Unknown))),
            Err(error) => replies.into_iter().for_each(|reply| answer(reply, Err(error.clone()))),
        }
    }

    async fn attempt_until_taken(
        &self,
        proposal: &Proposal,
        size: usize,
        arrived: Instant,
        here_only: bool,
    ) -> Result<Outcomes, StoreError> {
        // What is coalesced may have been held back here, and may be where it is forwarded to.
        let held = if proposal.batch().synced { Duration::ZERO } else { self.timing.hold };
        let arrived = arrived + held;
        let deadline = arrived + self.timing.request;
        loop {
            if let Some(exclusion) = *self.link.excluded.borrow() {
                return Err(StoreError::Excluded(exclusion));
            }
            let attempt = match self.lead() {
                Lead::Here => self.propose(proposal, size, deadline).await,
                Lead::There { .. } | Lead::Nobody if here_only => return Err(StoreError::NoLeader),
                Lead::There { id, member, term } => self.forward(id, &member, term, proposal.batch(), deadline).await,
                Lead::Nobody => Attempt::NotTaken,
            };
            match attempt {
                Attempt::Done(outcomes) => return Ok(outcomes),
                Attempt::Failed(error) => return Err(error),
                Attempt::NotTaken if self.raft_has_ended() => return Err(StoreError::Failed),
                Attempt::NotTaken => {
                    if !self.leader_may_have_changed(self.hopes_until(arrived)).await {
                        return Err(StoreError::NoLeader);
                    }
                }
            }
        }
    }

    /// Proposes a batch that is open until it is written, for a member that leads alone; `first` comes first in it. What
    /// comes back tells what became of the proposal, for those who wait that was not told by then.
    pub(crate) async fn propose_open(&self, first: Pending, lane: &Arc<Lane>) -> Option<(Proposal, Written)> {
        if let Err(error) = self.reserve(first.size) {
            answer(first.reply, Err(error));
            return None;
        }
        let size = first.size;
        lane.put_back(first);
        let proposal = Proposal::open(lane.clone());
        match self.raft.client_write_ff(proposal.clone()).await {
            Ok(written) => Some((proposal, written)),
            Err(error) => {
                tracing::error!(%error, "the raft core has stopped");
                for first in lane.gather(|total| total == size) {
                    answer(first.reply, Err(StoreError::Failed));
                }
                None
            }
        }
    }

    /// Whether this member leads alone, and takes requests.
    pub(crate) fn leads_alone(&self) -> bool {
        self.alone() && self.leading_term().is_some() && self.link.excluded.borrow().is_none() && !self.raft_has_ended()
    }

    fn raft_has_ended(&self) -> bool {
        self.raft.metrics().borrow().running_state.is_err()
    }

    fn reserve(&self, size: usize) -> Result<(), StoreError> {
        match self.files.log().reserve(Log::with_overhead(size)) {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => Err(StoreError::DiskFull { dir: self.dir.clone() }),
            Err(error) => {
                tracing::error!(%error, "cannot allocate a log segment");
                Err(StoreError::Failed)
            }
        }
    }

    async fn propose(&self, proposal: &Proposal, size: usize, deadline: Instant) -> Attempt {
        if let Err(error) = self.reserve(size) {
            return self.without_space(error).await;
        }
        if self.alone() {
            let written = tokio::time::timeout(self.timing.answer, self.write(proposal)).await;
            return written.unwrap_or(Attempt::Failed(StoreError::Unknown));
        }
        if let Some(dir) = self.others_without_space() {
            return Attempt::Failed(StoreError::DiskFull { dir });
        }
        if !self.handed_over(deadline.saturating_duration_since(Instant::now())).await || !self.has_quorum(None) {
            return Attempt::NotTaken;
        }
        match tokio::time::timeout_at(deadline, self.write(proposal)).await {
            Ok(attempt) => attempt,
            Err(_) => Attempt::Failed(StoreError::Unknown),
        }
    }

    /// A leader that cannot write has another member lead, if there is one that can.
    async fn without_space(&self, error: StoreError) -> Attempt {
        if self.alone() || !matches!(error, StoreError::DiskFull { .. }) {
            return Attempt::Failed(error);
        }
        let first = {
            let mut gave_up = self.gave_up.lock().unwrap_or_else(PoisonError::into_inner);
            let first = gave_up.is_none_or(|at| at.elapsed() > BETWEEN_HAND_OVERS);
            if first {
                *gave_up = Some(Instant::now());
            }
            first
        };
        if first {
            tracing::warn!(%error, "having another member lead");
            self.hand_over().await;
        } else {
            self.handed_over(self.timing.election.0).await;
        }
        if self.leading_term().is_none() { Attempt::NotTaken } else { Attempt::Failed(error) }
    }

    /// Whose full disks keep a quorum from writing.
    fn others_without_space(&self) -> Option<PathBuf> {
        let metrics = self.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let full = |id: &&MemberId| self.link.is_full(**id);
        let blocked = |voters: &BTreeSet<MemberId>| voters.iter().filter(full).count() * 2 >= voters.len();
        let configs = membership.get_joint_config();
        let voters = configs.iter().find(|voters| blocked(voters))?;
        let name = |id: &MemberId| membership.get_node(id).map(|member| member.name.clone());
        let names: Vec<_> = voters.iter().filter(full).filter_map(name).collect();
        Some(PathBuf::from(format!("the data directories of {}", names.join(", "))))
    }

    async fn write(&self, proposal: &Proposal) -> Attempt {
        match self.raft.client_write(proposal.clone()).await {
            Ok(written) => Attempt::Done(written.data.outcomes),
            // Refused at once, or cut from the log by a new leader: it has not happened.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Attempt::NotTaken,
            Err(RaftError::APIError(error)) => {
                tracing::error!(%error, "a proposal was refused");
                Attempt::Failed(StoreError::Failed)
            }
            Err(RaftError::Fatal(error)) => {
                tracing::error!(%error, "the raft core has stopped");
                Attempt::Failed(StoreError::Failed)
            }
        }
    }

    /// Passes a batch on. The answer comes when this member has applied it as well, so that it can read what it wrote.
    async fn forward(&self, leader: MemberId, member: &Member, term: u64, batch: &Batch, deadline: Instant) -> Attempt {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let commands = batch.commands.clone();
        let request = Request::Forward(Forward { term, session: self.session, sequence, commands });
        // The leader knows best what came of it, and has as much time: it is given a little more to say so.
        let deadline = deadline + self.timing.heartbeat;
        let limit = deadline.saturating_duration_since(Instant::now());
        match self.link.call(leader, member, &request, limit).await {
            Ok(Response::Outcomes { index, outcomes }) => {
                // It is written, whether or not this member learns of it in time.
                self.has_applied(index, deadline).await;
                Attempt::Done(outcomes)
            }
            Ok(Response::NotLeader) | Err(CallError::Unreachable | CallError::Refused(_)) => Attempt::NotTaken,
            Ok(_) | Err(CallError::Lost) => Attempt::Failed(StoreError::Unknown),
        }
    }
}
