//! Answering other members.
//!
//! Whatever arrives is checked before it is looked at: frame, cluster, generation, receiver, sender. A sender that has no
//! part in the cluster any more is told why.

use std::collections::BTreeSet;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use openraft::Vote;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteResponse};

use super::Cluster;
use crate::codec::Decoder;
use crate::error::StoreError;
use crate::members::Exclusion;
use crate::raft::{self, Types, honest};
use crate::rpc::frame::{self, Envelope};
use crate::rpc::{Forward, Refusal, Request, Response};
use crate::transport::PeerIdentity;
use crate::writer::is_full;

/// Forwarded requests of one member that are remembered, so that a copy made on the way does not run again.
const REMEMBERED: u64 = 1 << 16;
/// Room in the log that a member must have to count as one with space.
const PROBED: u64 = 64 << 10;

/// The requests that one member has forwarded to this one.
#[derive(Debug, Default)]
pub(super) struct Window {
    session: u64,
    /// All below have been seen, or count as such.
    floor: u64,
    seen: BTreeSet<u64>,
}

impl Window {
    /// Whether a request is here for the first time.
    fn admit(&mut self, session: u64, sequence: u64) -> bool {
        if session < self.session {
            return false;
        }
        if session > self.session {
            *self = Self { session, ..Self::default() };
        }
        if sequence < self.floor || !self.seen.insert(sequence) {
            return false;
        }
        while self.seen.remove(&self.floor) {
            self.floor += 1;
        }
        // Requests that went to another leader leave gaps for ever.
        let newest = self.seen.last().copied().unwrap_or(self.floor);
        if newest - self.floor > REMEMBERED {
            self.floor = newest - REMEMBERED / 2;
            self.seen = self.seen.split_off(&self.floor);
        }
        true
    }
}

impl Cluster {
    /// Answers what another member asks. Never fails: what is wrong is the answer.
    pub(crate) async fn handle(&self, bytes: &[u8], peer: &PeerIdentity) -> Bytes {
        let response = match frame::open_request(bytes) {
            Ok((envelope, body)) => match self.admit(&envelope, peer) {
                Ok(()) => match Request::decode(&mut Decoder::new(body)) {
                    Ok(request) if honest::speaks_for_itself(envelope.from, self.me(), &request) => {
                        self.respond(&envelope, request).await
                    }
                    Ok(_) => {
                        tracing::warn!(from = envelope.from, "a member says what only another could say");
                        Response::Refused(Refusal::Malformed)
                    }
                    Err(error) => {
                        tracing::warn!(from = envelope.from, %error, "a member sent what cannot be read");
                        Response::Refused(Refusal::Malformed)
                    }
                },
                Err(refusal) => Response::Refused(refusal),
            },
            Err(refusal) => Response::Refused(refusal),
        };
        frame::response(&response)
    }

    fn admit(&self, envelope: &Envelope, peer: &PeerIdentity) -> Result<(), Refusal> {
        let mine = self.link.cluster;
        if envelope.cluster.id != mine.id {
            return Err(Refusal::OtherCluster(mine.id));
        }
        if envelope.to != self.me() {
            return Err(Refusal::OtherMember(self.me()));
        }
        if envelope.cluster.generation < mine.generation {
            return Err(Refusal::Forked(mine.generation));
        }
        if envelope.cluster.generation > mine.generation {
            self.link.exclude(Exclusion::Forked { generation: envelope.cluster.generation });
            return Err(Refusal::LeftBehind);
        }
        let metrics = self.metrics();
        let metrics = metrics.borrow();
        let known = metrics.membership_config.membership().get_node(&envelope.from);
        match (known, &peer.name) {
            (Some(member), Some(name)) if !member.name.is_empty() && member.name != *name => {
                return Err(Refusal::WrongIdentity);
            }
            (None, _) => return Ok(()),
            (Some(_), _) => {}
        }
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = processes.entry(envelope.from).or_insert((envelope.session, envelope.process));
        if *known == (envelope.session, envelope.process) {
            return Ok(());
        }
        if envelope.session <= known.0 {
            tracing::warn!(member = envelope.from, "two processes speak as one member; the older one is refused");
            return Err(Refusal::Twin);
        }
        *known = (envelope.session, envelope.process);
        Ok(())
    }

    /// Refuses one who is no member, as the one who leads knows it.
    fn check_member(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let metrics = self.metrics();
        let metrics = metrics.borrow();
        let config = &metrics.membership_config;
        match config.membership().get_node(&envelope.from) {
            Some(_) => Ok(()),
            None => Err(Refusal::NotAMember(config.log_id().map_or(0, |id| id.index))),
        }
    }

    async fn respond(&self, envelope: &Envelope, request: Request) -> Response {
        match request {
            Request::Vote(request) => self.vote(request).await,
            Request::PreVote { last } => self.pre_vote(envelope, last),
            Request::Append(request) => self.append(request).await,
            Request::Offer(offer) => self.offered(*offer).await,
            Request::Chunk { crc, offset, data } => self.chunk(crc, offset, data).await,
            Request::Install { crc } => self.install(crc).await,
            Request::Alive { vote } => self.alive(&vote),
            Request::TakeOver => {
                self.taking_over.notify_one();
                Response::Done
            }
            Request::Describe => Response::Described(self.advertised()),
            Request::Forward(_)
            | Request::ReadIndex
            | Request::KeepAlive { .. }
            | Request::TimeLeft { .. }
            | Request::Change(_) => {
                let Some(term) = self.leading_term() else { return Response::NotLeader };
                match self.check_member(envelope) {
                    Ok(()) => self.lead_for(envelope, term, request).await,
                    Err(refusal) => Response::Refused(refusal),
                }
            }
        }
    }

    /// What only the leader does for others.
    async fn lead_for(&self, envelope: &Envelope, term: u64, request: Request) -> Response {
        match request {
            Request::Forward(forward) => self.forwarded(envelope, term, forward).await,
            Request::ReadIndex => match self.read_index().await {
                Ok(index) => Response::Index(index),
                Err(_) => Response::NotLeader,
            },
            Request::KeepAlive { lease } => Response::Lease(self.keep_alive_here(lease).await),
            Request::TimeLeft { lease } => Response::Lease(self.time_left_here(lease).await),
            Request::Change(change) => Response::Change(self.change_here(change).await),
            _ => Response::Refused(Refusal::Malformed),
        }
    }

    /// Hears the leader, before the Raft core does: a flush may keep that busy for seconds.
    fn hear(&self, vote: &Vote<u64>) -> bool {
        let follows = vote.committed && *vote >= self.metrics().borrow().vote;
        if follows {
            self.hear_leader();
        }
        follows
    }

    /// A sign of life, and the question whether there is space.
    fn alive(&self, vote: &Vote<u64>) -> Response {
        if !self.hear(vote) {
            return Response::NotLeader;
        }
        match self.files.log().reserve(PROBED) {
            Err(error) if is_full(&error) => Response::Refused(Refusal::DiskFull),
            Ok(()) | Err(_) => Response::Done,
        }
    }

    /// Whether entries, or what is before them, contradict what this member has applied. No leader of this cluster sends
    /// such.
    fn contradicts(&self, request: &AppendEntriesRequest<Types>) -> bool {
        let applied = self.shared.applied();
        if let Some(prev) = request.prev_log_id.filter(|prev| prev.index <= applied) {
            let known = self.files.log_id(prev.index);
            let purged = || self.files.last_log_id().is_none_or(|last| prev <= last);
            if !known.map_or_else(purged, |known| known == prev) {
                return true;
            }
        }
        let known = request.entries.iter().take_while(|entry| entry.log_id.index <= applied);
        known.into_iter().any(|entry| self.files.log_id(entry.log_id.index).is_some_and(|known| known != entry.log_id))
    }

    async fn append(&self, request: AppendEntriesRequest<Types>) -> Response {
        if self.contradicts(&request) {
            tracing::error!(leader = %request.vote, "a member sends other entries than those that are applied here");
            return Response::Refused(Refusal::Malformed);
        }
        self.hear(&request.vote);
        // Space is taken first: the Raft core must never see an append fail for lack of it.
        let size: usize = request.entries.iter().map(raft::size).sum();
        if size > 0
            && let Err(error) = self.files.log().reserve(size as u64)
        {
            return self.refuse(&error, "no space for what the leader sends");
        }
        match self.raft.append_entries(request).await {
            Ok(response) => {
                if size > 0 && self.full.swap(false, Ordering::Relaxed) {
                    tracing::info!("there is space again");
                }
                if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                    self.hear_leader();
                }
                Response::Append(response)
            }
            Err(_) => Response::Refused(Refusal::Stopped),
        }
    }

    /// Nothing could be kept. A leader asks again and again; it is said once.
    pub(super) fn refuse(&self, error: &io::Error, what: &'static str) -> Response {
        if !is_full(error) {
            tracing::error!(%error, "{what}");
            return Response::Refused(Refusal::Stopped);
        }
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, dir = %self.dir.display(), "{what}; it is asked for again until there is space");
        }
        Response::Refused(Refusal::DiskFull)
    }

    async fn vote(&self, request: openraft::raft::VoteRequest<u64>) -> Response {
        if self.files.recovering() {
            let vote = self.files.vote().unwrap_or_default();
            return Response::Vote(VoteResponse { vote, vote_granted: false, last_log_id: self.files.last_log_id() });
        }
        match self.raft.vote(request).await {
            Ok(response) => {
                if response.vote_granted {
                    // The winner is given time to say so.
                    self.hear_leader();
                }
                Response::Vote(response)
            }
            Err(_) => Response::Refused(Refusal::Stopped),
        }
    }

    fn pre_vote(&self, envelope: &Envelope, last: Option<openraft::LogId<u64>>) -> Response {
        // A removal counts once it is committed: before, it may still be undone.
        let in_effect = self.check_member(envelope).is_ok();
        let removed = {
            let state = self.shared.read();
            let known = in_effect || state.membership.membership().get_node(&envelope.from).is_some();
            (!known).then(|| state.membership.log_id().map_or(0, |id| id.index))
        };
        match removed {
            Some(index) => Response::Refused(Refusal::NotAMember(index)),
            None => Response::PreVote(self.would_vote(last)),
        }
    }

    async fn forwarded(&self, envelope: &Envelope, term: u64, forward: Forward) -> Response {
        let Forward { term: wanted, session, sequence, commands } = forward;
        if wanted != term {
            return Response::NotLeader;
        }
        let first = {
            let mut windows = self.forwarded.lock().unwrap_or_else(PoisonError::into_inner);
            windows.entry(envelope.from).or_default().admit(session, sequence)
        };
        if !first {
            // The first copy is answered with what came of it; which of the two answers is seen is not known here.
            let outcomes = commands.iter().map(|_| Err(StoreError::Unknown)).collect();
            return Response::Outcomes { index: 0, outcomes };
        }
        let mut waiting = Vec::with_capacity(commands.len());
        for command in commands {
            waiting.push(self.requests.enqueue(command).await);
        }
        let mut outcomes = Vec::with_capacity(waiting.len());
        for answer in waiting {
            outcomes.push(match answer {
                Ok(answer) => answer.await.unwrap_or(Err(StoreError::Unknown)),
                Err(error) => Err(error),
            });
        }
        Response::Outcomes { index: self.shared.applied(), outcomes }
    }

    /// Whole seconds that a lease has yet, by the clock of the one who leads.
    pub(crate) async fn time_left_here(&self, lease: i64) -> Result<u64, StoreError> {
        if !self.alone() {
            self.barrier().await?;
        }
        let left = self.shared.deadlines().remaining(lease, tokio::time::Instant::now());
        left.map(|left| left.as_secs()).ok_or(StoreError::LeaseNotFound(lease))
    }

    /// Renews a lease once it is certain that this member still leads.
    pub(crate) async fn keep_alive_here(&self, lease: i64) -> Result<u64, StoreError> {
        if !self.alone() {
            self.barrier().await?;
        }
        let renewed = self.shared.deadlines().renew(lease, tokio::time::Instant::now());
        renewed.map(|ttl| ttl.as_secs()).ok_or(StoreError::LeaseNotFound(lease))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarded_request_is_admitted_once() {
        let mut window = Window::default();
        assert!(window.admit(5, 0) && window.admit(5, 1) && window.admit(5, 3));
        assert!(!window.admit(5, 1) && !window.admit(5, 0) && !window.admit(5, 3));
        assert!(window.admit(5, 2) && !window.admit(5, 2));
        assert!(window.admit(6, 0), "a new session begins anew");
        assert!(!window.admit(5, 9), "a session that is over stays over");
        assert!(window.admit(6, 3 * REMEMBERED) && !window.admit(6, 7), "too old to be told from a copy");
        assert!(window.seen.len() < 3);
    }
}
