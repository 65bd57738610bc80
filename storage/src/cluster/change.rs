//! Changing the membership, and handing over the leadership.
//!
//! Only the leader changes it, one change at a time, voters by joint consensus. A change that was begun is brought to its
//! end even if its caller is gone; one that a dead leader left half-way is finished by the next.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::metrics::WaitError;
use openraft::{ChangeMembers, RaftMetrics, ServerState};
use tokio::time::Instant;

use super::{Cluster, Lead};
use crate::link::CallError;
use crate::members::{Member, MemberError, MemberId, MemberStatus, Role, Status, list};
use crate::rpc::{Change, Request, Response};

/// Log entries that a learner may lack when it becomes a voter.
const NEARLY: u64 = 64;

/// Ends the pause of proposals, however the hand-over went.
struct HandOver<'a>(&'a Cluster);

impl Drop for HandOver<'_> {
    fn drop(&mut self) {
        self.0.handing_over.store(false, Ordering::Relaxed);
        self.0.handed_over.notify_waiters();
    }
}

/// Entries that a member lacks, in one view of the cluster.
fn lag(metrics: &RaftMetrics<u64, Member>, id: MemberId) -> Option<u64> {
    let matching = metrics.replication.as_ref()?.get(&id).copied().flatten()?;
    Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matching.index))
}

impl Cluster {
    /// Has the leader change the membership.
    pub(crate) async fn change(&self, change: Change) -> Result<(), MemberError> {
        let deadline = Instant::now() + self.timing.answer * 2;
        loop {
            let outcome = match self.lead() {
                Lead::Here => self.change_here(change.clone()).await,
                Lead::There { id, member, .. } => {
                    let limit = self.timing.answer * 4;
                    match self.link.call(id, &member, &Request::Change(change.clone()), limit).await {
                        Ok(Response::Change(outcome)) => outcome,
                        Ok(Response::NotLeader) | Err(CallError::Unreachable | CallError::Refused(_)) => {
                            Err(MemberError::NoLeader)
                        }
                        Ok(_) | Err(CallError::Lost) => Err(MemberError::Unknown),
                    }
                }
                Lead::Nobody => Err(MemberError::NoLeader),
            };
            // Whoever leads then may do it; so it is after this member has handed over in order to be removed.
            if outcome != Err(MemberError::NoLeader) || !self.leader_may_have_changed(deadline).await {
                return outcome;
            }
        }
    }

    /// Changes the membership as its leader.
    pub(super) async fn change_here(&self, change: Change) -> Result<(), MemberError> {
        let _one = self.changing.try_lock().map_err(|_| MemberError::Busy)?;
        match change {
            Change::Add { id, member } => self.add(id, member).await,
            Change::Update { id, member } => self.update(id, member).await,
            Change::Promote(id) => self.promote(id).await,
            Change::Remove(id) => self.remove(id).await,
            Change::Transfer(id) => self.transfer(id).await,
        }
    }

    fn members(&self) -> std::collections::BTreeMap<MemberId, (Member, Role)> {
        list(self.metrics().borrow().membership_config.membership())
    }

    fn check_name(&self, id: MemberId, member: &Member) -> Result<(), MemberError> {
        if id == 0 || member.name.is_empty() || member.addresses.is_empty() {
            return Err(MemberError::Incomplete);
        }
        let members = self.members();
        let mut others = members.iter().filter(|(other, _)| **other != id);
        match others.find(|(_, (known, _))| known.name == member.name) {
            Some((other, _)) => Err(MemberError::NameInUse { name: member.name.clone(), id: *other }),
            None => Ok(()),
        }
    }

    async fn add(&self, id: MemberId, member: Member) -> Result<(), MemberError> {
        self.check_name(id, &member)?;
        match self.members().get(&id) {
            Some((known, _)) if known.name != member.name => {
                return Err(MemberError::IdInUse { id, name: known.name.clone() });
            }
            Some((known, _)) if *known == member => return Ok(()),
            Some(_) => return self.update(id, member).await,
            None => {}
        }
        self.reconfigure(ChangeMembers::AddNodes([(id, member)].into()), true).await
    }

    async fn update(&self, id: MemberId, member: Member) -> Result<(), MemberError> {
        self.check_name(id, &member)?;
        match self.members().get(&id) {
            None => Err(MemberError::NotFound(id)),
            Some((known, _)) if *known == member => Ok(()),
            Some(_) => self.reconfigure(ChangeMembers::SetNodes([(id, member)].into()), true).await,
        }
    }

    /// Entries that a member lacks; nothing as long as it has not been found out.
    fn lag(&self, id: MemberId) -> Option<u64> {
        lag(&self.raft.metrics().borrow(), id)
    }

    /// Waits until a member lacks at most so many entries.
    async fn caught_up(&self, id: MemberId, lag: u64) -> Result<(), MemberError> {
        let deadline = Instant::now() + self.timing.answer * 2;
        let mut metrics = self.raft.metrics();
        loop {
            metrics.borrow_and_update();
            let missing = self.lag(id);
            if missing.is_some_and(|missing| missing <= lag) {
                return Ok(());
            }
            match tokio::time::timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) if self.leading_term().is_some() => {}
                Ok(Ok(())) => return Err(MemberError::NoLeader),
                Ok(Err(_)) => return Err(MemberError::Closed),
                Err(_) => {
                    let all = metrics.borrow().last_log_index.unwrap_or(0) + 1;
                    return Err(MemberError::Behind { id, lag: missing.unwrap_or(all) });
                }
            }
        }
    }

    async fn promote(&self, id: MemberId) -> Result<(), MemberError> {
        match self.members().get(&id) {
            None => return Err(MemberError::NotFound(id)),
            Some((_, Role::Voter)) => return Ok(()),
            Some((_, Role::Learner)) => {}
        }
        self.caught_up(id, NEARLY).await?;
        self.reconfigure(ChangeMembers::AddVoterIds([id].into()), true).await
    }

    async fn remove(&self, id: MemberId) -> Result<(), MemberError> {
        let members = self.members();
        match members.get(&id) {
            None => return Err(MemberError::NotFound(id)),
            Some((_, Role::Learner)) => return self.reconfigure(ChangeMembers::RemoveNodes([id].into()), false).await,
            Some((_, Role::Voter)) => {}
        }
        let voters: BTreeSet<_> =
            members.iter().filter(|(_, (_, role))| *role == Role::Voter).map(|(id, _)| *id).collect();
        let rest: Vec<_> = voters.iter().copied().filter(|voter| *voter != id).collect();
        if rest.is_empty() {
            return Err(MemberError::LastVoter(id));
        }
        let alive = rest.iter().filter(|voter| **voter == self.me() || self.reachable(**voter)).count();
        if alive * 2 <= rest.len() || id != self.me() && !self.has_quorum(None) {
            return Err(MemberError::WouldLoseQuorum { id, alive, voters: rest.len() });
        }
        if id == self.me() {
            let heir = rest.iter().min_by_key(|voter| self.lag(**voter).unwrap_or(u64::MAX)).copied().unwrap_or(id);
            self.transfer(heir).await?;
            return Err(MemberError::NoLeader);
        }
        self.reconfigure(ChangeMembers::RemoveVoters([id].into()), false).await
    }

    fn reachable(&self, id: MemberId) -> bool {
        self.link.heard(id).is_some_and(|since| since < self.timing.election.1)
    }

    /// Proposes a change and sees it through, even if nobody waits for it any more.
    async fn reconfigure(&self, change: ChangeMembers<u64, Member>, retain: bool) -> Result<(), MemberError> {
        let raft = self.raft.clone();
        let changing = tokio::spawn(async move { raft.change_membership(change, retain).await });
        let Ok(changed) = tokio::time::timeout(self.timing.answer, changing).await else {
            return Err(MemberError::Unknown);
        };
        match changed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(MemberError::NoLeader),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => Err(match error {
                ChangeMembershipError::InProgress(_) => MemberError::Busy,
                ChangeMembershipError::EmptyMembership(_) => MemberError::LastVoter(self.me()),
                ChangeMembershipError::LearnerNotFound(error) => MemberError::NotFound(error.node_id),
            }),
            Ok(Err(RaftError::Fatal(_))) | Err(_) => Err(MemberError::Closed),
        }
    }

    /// Waits until this member does not hand over; false if that takes longer.
    pub(super) async fn handed_over(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let over = self.handed_over.notified();
            if !self.handing_over.load(Ordering::Relaxed) {
                return true;
            }
            if tokio::time::timeout_at(deadline, over).await.is_err() {
                return false;
            }
        }
    }

    async fn transfer(&self, to: MemberId) -> Result<(), MemberError> {
        let heir = match self.members().remove(&to) {
            None => return Err(MemberError::NotFound(to)),
            Some((_, Role::Learner)) => return Err(MemberError::NotAVoter(to)),
            Some((member, Role::Voter)) => member,
        };
        if to == self.me() {
            return Ok(());
        }
        self.handing_over.store(true, Ordering::Relaxed);
        let _resumed = HandOver(self);
        self.caught_up(to, 0).await?;
        match self.link.call(to, &heir, &Request::TakeOver, self.timing.heartbeat * 2).await {
            Ok(Response::Done) => {}
            Ok(_) | Err(_) => return Err(MemberError::NotTakenOver(to)),
        }
        let began = Instant::now();
        // Votes are on disk before they count, and how long that takes may show only now.
        while began.elapsed() < self.timing.election.1 + self.files.slowest_flush() * 4 {
            // The heir answers this with its new term, and this member steps down.
            if self.leading_term().is_some() && self.raft.trigger().heartbeat().await.is_err() {
                return Err(MemberError::Closed);
            }
            let wait = self.raft.wait(Some(self.timing.heartbeat / 10));
            match wait.metrics(|metrics| metrics.current_leader == Some(to), "").await {
                Ok(_) => return Ok(()),
                Err(WaitError::Timeout(..)) => {}
                Err(WaitError::ShuttingDown) => return Err(MemberError::Closed),
            }
        }
        Err(MemberError::NotTakenOver(to))
    }

    /// Has another voter lead, if that is quick: this member is about to stop.
    pub(crate) async fn hand_over(&self) {
        if self.alone() || self.leading_term().is_none() {
            return;
        }
        let members = self.members();
        let heirs = members.iter().filter(|(id, (_, role))| *role == Role::Voter && self.reachable(**id));
        let heirs = heirs.filter(|(id, _)| !self.link.is_full(**id));
        let Some(heir) = heirs.map(|(id, _)| *id).min_by_key(|id| self.lag(*id).unwrap_or(u64::MAX)) else { return };
        let handed = tokio::time::timeout(self.timing.election.0, self.change_here(Change::Transfer(heir))).await;
        if !matches!(handed, Ok(Ok(()))) {
            tracing::info!("the leadership was not handed over; the others will notice");
        }
    }

    /// Finishes a change that an earlier leader has left between the old voters and the new.
    pub(super) async fn settle(self: Arc<Self>) {
        let metrics = self.metrics();
        loop {
            let (joint, leading, index) = {
                let metrics = metrics.borrow();
                let config = &metrics.membership_config;
                let joint = config.membership().get_joint_config().len() > 1;
                (joint, metrics.state == ServerState::Leader, config.log_id().map_or(0, |id| id.index))
            };
            if !joint || !leading {
                return;
            }
            if self.shared.wait_applied(index, Instant::now() + self.timing.answer).await {
                let Ok(_one) = self.changing.try_lock() else { return };
                tracing::info!("finishing a change of the membership that was left half-way");
                match self.reconfigure(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await {
                    Ok(()) | Err(MemberError::Closed | MemberError::NoLeader) => return,
                    Err(error) => tracing::warn!(%error, "cannot finish a change of the membership; trying again"),
                }
            }
        }
    }

    /// The cluster as this member sees it.
    pub(crate) fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        // Borrowed once: with the Raft core waiting to write in between, a second time would never come.
        let metrics = metrics.borrow();
        let leads = metrics.state == ServerState::Leader;
        let members =
            list(metrics.membership_config.membership()).into_iter().map(|(id, (member, role))| MemberStatus {
                id,
                member,
                role,
                leader: metrics.current_leader == Some(id),
                lag: if leads && id == self.me() { Some(0) } else { lag(&metrics, id) },
                heard: self.link.heard(id),
            });
        let members = members.collect();
        Status {
            cluster: self.link.cluster,
            id: self.me(),
            leader: metrics.current_leader,
            term: metrics.current_term,
            last: metrics.last_log_index.unwrap_or(0),
            applied: self.shared.applied(),
            members,
            excluded: *self.link.excluded.borrow(),
            recovering: self.files.recovering(),
        }
    }
}
