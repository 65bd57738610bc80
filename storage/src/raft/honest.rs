//! What an honest member can say. The Raft core takes some of it for granted, and would panic, or count what is not there,
//! if it heard anything else; a peer that is broken, or speaks for another, is turned away here, at the door.
//!
//! Called by `cluster::serve` with requests and by `raft::network` with answers.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteResponse};
use openraft::{LogId, Vote};

use super::Types;
use crate::members::MemberId;
use crate::rpc::Request;

/// What of an append request its answer must fit.
#[derive(Debug)]
pub(crate) struct Sent {
    vote: Vote<u64>,
    prev: Option<LogId<u64>>,
    last: Option<LogId<u64>>,
}

impl From<&AppendEntriesRequest<Types>> for Sent {
    fn from(request: &AppendEntriesRequest<Types>) -> Self {
        let prev = request.prev_log_id;
        Self { vote: request.vote, prev, last: request.entries.last().map(|entry| entry.log_id).or(prev) }
    }
}

/// Whether a vote was really heard of: it is newer, and not this member's own, which knows them all.
fn newer(heard: &Vote<u64>, known: &Vote<u64>, me: MemberId) -> bool {
    heard > known && heard.leader_id.node_id != me
}

impl Sent {
    pub(crate) fn fits(&self, response: &AppendEntriesResponse<u64>, me: MemberId) -> bool {
        match response {
            AppendEntriesResponse::Success => true,
            AppendEntriesResponse::PartialSuccess(upto) => *upto >= self.prev && *upto <= self.last,
            // Nothing is before the first entry that could be different.
            AppendEntriesResponse::Conflict => self.prev.is_some(),
            AppendEntriesResponse::HigherVote(vote) => newer(vote, &self.vote, me),
        }
    }
}

pub(crate) fn vote_fits(asked: &Vote<u64>, response: &VoteResponse<u64>, me: MemberId) -> bool {
    let own = response.vote.leader_id.node_id == me;
    if response.vote_granted { response.vote == *asked } else { !own || response.vote <= *asked }
}

/// Whether who sends a request may say what is in it: votes are asked for oneself, and who replicates leads.
pub(crate) fn speaks_for_itself(from: MemberId, me: MemberId, request: &Request) -> bool {
    if from == me {
        return false;
    }
    match request {
        Request::Vote(request) => request.vote.leader_id.node_id == from && !request.vote.committed,
        Request::Append(request) => leads(&request.vote, from) && in_order(request),
        Request::Offer(offer) => leads(&offer.vote, from) && offer.meta.last_log_id <= Some(end(&offer.vote)),
        Request::Alive { vote } => leads(vote, from),
        _ => true,
    }
}

fn leads(vote: &Vote<u64>, from: MemberId) -> bool {
    vote.leader_id.node_id == from && vote.committed
}

/// What no entry of a vote's term comes after.
fn end(vote: &Vote<u64>) -> LogId<u64> {
    LogId::new(openraft::CommittedLeaderId::new(vote.leader_id.term, u64::MAX), u64::MAX)
}

/// Terms never go back along a log, and none is of a term to come. That indices follow each other is checked when the
/// request is read.
fn in_order(request: &AppendEntriesRequest<Types>) -> bool {
    let mut last = request.prev_log_id;
    for entry in &request.entries {
        if Some(entry.log_id) <= last {
            return false;
        }
        last = Some(entry.log_id);
    }
    last <= Some(end(&request.vote))
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, Entry, EntryPayload};

    use super::*;

    fn id(term: u64, index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    fn request(prev: Option<LogId<u64>>, entries: &[LogId<u64>]) -> AppendEntriesRequest<Types> {
        let entry = |log_id: &LogId<u64>| Entry { log_id: *log_id, payload: EntryPayload::Blank };
        let entries = entries.iter().map(entry).collect();
        AppendEntriesRequest { vote: Vote::new_committed(5, 1), prev_log_id: prev, entries, leader_commit: None }
    }

    #[test]
    fn answers_that_no_honest_member_gives_do_not_fit() {
        let sent = Sent::from(&request(Some(id(4, 7)), &[id(5, 8), id(5, 9)]));
        for (fits, answer) in [
            (true, AppendEntriesResponse::Success),
            (true, AppendEntriesResponse::Conflict),
            (true, AppendEntriesResponse::PartialSuccess(Some(id(5, 8)))),
            (false, AppendEntriesResponse::PartialSuccess(Some(id(5, 10)))),
            (false, AppendEntriesResponse::PartialSuccess(Some(id(4, 6)))),
            (false, AppendEntriesResponse::PartialSuccess(None)),
            (true, AppendEntriesResponse::HigherVote(Vote::new(6, 2))),
            (false, AppendEntriesResponse::HigherVote(Vote::new(4, 2))),
            (false, AppendEntriesResponse::HigherVote(Vote::new_committed(9, 1))),
        ] {
            assert_eq!(sent.fits(&answer, 1), fits, "{answer:?}");
        }
        assert!(!Sent::from(&request(None, &[id(5, 0)])).fits(&AppendEntriesResponse::Conflict, 1));
        let asked = Vote::new(6, 1);
        let answer = |vote, vote_granted| VoteResponse { vote, vote_granted, last_log_id: None };
        assert!(vote_fits(&asked, &answer(asked, true), 1) && vote_fits(&asked, &answer(Vote::new(8, 2), false), 1));
        assert!(!vote_fits(&asked, &answer(Vote::new(8, 2), true), 1));
        assert!(!vote_fits(&asked, &answer(Vote::new(8, 1), false), 1));
    }

    #[test]
    fn nobody_speaks_for_another() {
        let append = |prev, entries: &[LogId<u64>]| Request::Append(request(prev, entries));
        assert!(speaks_for_itself(1, 2, &append(Some(id(4, 7)), &[id(5, 8)])));
        assert!(!speaks_for_itself(3, 2, &append(Some(id(4, 7)), &[id(5, 8)])), "another leads");
        assert!(!speaks_for_itself(1, 1, &append(Some(id(4, 7)), &[id(5, 8)])), "from oneself");
        assert!(!speaks_for_itself(1, 2, &append(Some(id(4, 7)), &[id(6, 8)])), "of a term to come");
        assert!(!speaks_for_itself(1, 2, &append(Some(id(6, 7)), &[])), "after a term to come");
        assert!(!speaks_for_itself(1, 2, &append(Some(id(4, 7)), &[id(5, 8), id(4, 9)])), "the terms go back");
        let vote = |vote| Request::Vote(openraft::raft::VoteRequest { vote, last_log_id: None });
        assert!(speaks_for_itself(1, 2, &vote(Vote::new(6, 1))) && !speaks_for_itself(1, 2, &vote(Vote::new(6, 3))));
        assert!(!speaks_for_itself(1, 2, &vote(Vote::new_committed(6, 1))));
    }
}
