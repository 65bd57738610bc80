//! The cluster side of [`Store`]: what members say to each other comes in here, and who is a member is asked here.

use bytes::Bytes;
use openraft::ServerState;
use tokio::sync::watch;

use super::Store;
use crate::members::{ClusterId, Exclusion, Member, MemberError, MemberId, MemberStatus, Status};
use crate::rpc::Change;
use crate::transport::PeerIdentity;

/// Tells who leads, each time that changes.
#[derive(Clone, Debug)]
pub struct LeaderChanges {
    metrics: watch::Receiver<openraft::metrics::RaftServerMetrics<u64, Member>>,
    told: Option<Option<MemberId>>,
}

impl LeaderChanges {
    /// Who leads now.
    pub fn current(&self) -> Option<MemberId> {
        let metrics = self.metrics.borrow();
        // A voter that stands for election follows nobody.
        metrics.current_leader.filter(|leader| *leader != metrics.id || metrics.state == ServerState::Leader)
    }

    /// The next leader, or that there is none; the first call returns at once. Nothing once the store has closed.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Option<MemberId>> {
        loop {
            self.metrics.borrow_and_update();
            let current = self.current();
            if self.told != Some(current) {
                self.told = Some(current);
                return Some(current);
            }
            self.metrics.changed().await.ok()?;
        }
    }
}

/// Tells who is a member, each time that changes.
#[derive(Clone, Debug)]
pub struct MemberChanges {
    metrics: watch::Receiver<openraft::metrics::RaftServerMetrics<u64, Member>>,
    told: Option<Vec<MemberId>>,
}

impl MemberChanges {
    /// The ids of all members, voters and learners, in order; none for a member that knows nothing of its cluster yet.
    pub fn current(&self) -> Vec<MemberId> {
        self.metrics.borrow().membership_config.nodes().map(|(id, _)| *id).collect()
    }

    /// The members after the next change; the first call returns at once. Nothing once the store has closed.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<MemberId>> {
        loop {
            self.metrics.borrow_and_update();
            let current = self.current();
            if self.told.as_ref() != Some(&current) {
                self.told = Some(current.clone());
                return Some(current);
            }
            self.metrics.changed().await.ok()?;
        }
    }
}

impl Store {
    /// Answers what another member sent; the transport calls it for each request that arrives, and sends back what it
    /// returns. Bytes that are no request are answered as such.
    pub async fn handle(&self, request: Bytes, peer: &PeerIdentity) -> Bytes {
        self.inner.cluster.handle(&request, peer).await
    }

    /// The cluster, with what tells it from others that have come from the same beginnings.
    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster.link.cluster
    }

    /// All members, this one included.
    pub fn members(&self) -> Vec<MemberStatus> {
        self.inner.cluster.status().members
    }

    /// The cluster as this member sees it.
    pub fn status(&self) -> Status {
        self.inner.cluster.status()
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.inner.raft.server_metrics().borrow().state == ServerState::Leader
    }

    /// Role, leader and membership, as a channel that changes with them.
    pub(crate) fn metrics(&self) -> watch::Receiver<openraft::metrics::RaftServerMetrics<u64, Member>> {
        self.inner.raft.server_metrics()
    }

    /// Whether there are other members.
    pub(crate) fn has_peers(&self) -> bool {
        self.inner.cluster.has_peers()
    }

    /// Tells who leads, each time that changes.
    pub fn leader_changes(&self) -> LeaderChanges {
        LeaderChanges { metrics: self.inner.raft.server_metrics(), told: None }
    }

    /// Tells who is a member, each time that changes.
    pub fn member_changes(&self) -> MemberChanges {
        MemberChanges { metrics: self.inner.raft.server_metrics(), told: None }
    }

    /// Whether this is the only member, learners counted: nobody else serves what is in here.
    pub fn is_sole_member(&self) -> bool {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow();
        let mut members = metrics.membership_config.nodes();
        members.next().is_some_and(|(id, _)| *id == metrics.id) && members.next().is_none()
    }

    /// Who leads, if this member is in touch with it: nothing for one that is cut off from the others, though it may
    /// still serve what it has applied.
    pub fn reachable_leader(&self) -> Option<MemberId> {
        self.inner.cluster.reachable_leader()
    }

    /// Sets where clients reach this member, for other members that ask.
    pub fn advertise(&self, urls: Vec<String>) {
        self.inner.cluster.advertise(urls);
    }

    /// Asks a member where clients reach it; nothing when it does not answer soon.
    pub async fn advertised_by(&self, id: MemberId) -> Option<Vec<String>> {
        self.inner.cluster.advertised_by(id).await
    }

    /// Waits until this member is shut out of the cluster, and says why.
    pub async fn excluded(&self) -> Exclusion {
        let mut excluded = self.inner.cluster.link.excluded.subscribe();
        loop {
            if let Some(exclusion) = *excluded.borrow_and_update() {
                return exclusion;
            }
            if excluded.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Takes a member in as a learner, or corrects the addresses of one that has that id and name. It may be asked for
    /// again after [`MemberError::Unknown`].
    pub async fn add_member(&self, id: MemberId, member: Member) -> Result<(), MemberError> {
        self.inner.cluster.change(Change::Add { id, member }).await
    }

    /// Corrects name and addresses of a member.
    pub async fn update_member(&self, id: MemberId, member: Member) -> Result<(), MemberError> {
        self.inner.cluster.change(Change::Update { id, member }).await
    }

    /// Makes a learner a voter once it has caught up.
    pub async fn promote(&self, id: MemberId) -> Result<(), MemberError> {
        self.inner.cluster.change(Change::Promote(id)).await
    }

    /// Takes a member out. One that leads hands over first. It is told when it next speaks to the others.
    pub async fn remove_member(&self, id: MemberId) -> Result<(), MemberError> {
        self.inner.cluster.change(Change::Remove(id)).await
    }

    /// Has another voter lead, if this member does and that is quick: it is about to stop. The transport must still carry
    /// requests both ways; [`Store::shutdown`] does the same when it is not too late for that.
    pub async fn hand_over(&self) {
        self.inner.cluster.hand_over().await;
    }

    /// Has a voter lead.
    pub async fn transfer_leader(&self, id: MemberId) -> Result<(), MemberError> {
        self.inner.cluster.change(Change::Transfer(id)).await
    }
}
