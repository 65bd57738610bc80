//! What members say to each other, and how it is written.
//!
//! A request is `magic, version | crc of the rest | cluster, generation, from, to, session, process | kind, body`, an answer
//! `magic, version | crc of the rest | kind, body`. Decoding is total: whatever comes in gives a message or an error.
//! Written by `link`, read by `cluster::serve`.

pub(crate) mod frame;
pub(crate) mod outcome;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{CommittedLeaderId, LogId, SnapshotMeta, Vote};

use crate::codec::{DecodeError, Decoder, put_bytes, put_i64, put_u64};
use crate::command::{Command, Reply};
use crate::error::StoreError;
use crate::members::{Member, MemberError, MemberId};
use crate::raft::{self, Types};

/// Whether bytes are a request that another member could have sent: well framed, and of a kind that is known here.
pub fn is_request(bytes: &[u8]) -> bool {
    frame::open_request(bytes).is_ok_and(|(_, body)| Request::decode(&mut Decoder::new(body)).is_ok())
}

/// A snapshot on its way: told apart from others, so that a cut transfer is taken up where it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) vote: Vote<u64>,
    pub(crate) meta: SnapshotMeta<u64, Member>,
    pub(crate) size: u64,
    /// Of the whole file.
    pub(crate) crc: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add { id: MemberId, member: Member },
    Update { id: MemberId, member: Member },
    Promote(MemberId),
    Remove(MemberId),
    Transfer(MemberId),
}

/// Transactions that a follower passes on. Valid for one leader in one term, so that a late copy cannot run twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) term: u64,
    /// Grows each time the sender starts.
    pub(crate) session: u64,
    /// Grows with each request of a session.
    pub(crate) sequence: u64,
    pub(crate) commands: Vec<Command>,
}

#[derive(Debug)]
pub(crate) enum Request {
    Vote(VoteRequest<u64>),
    /// Would you vote for me? Changes nothing.
    PreVote {
        last: Option<LogId<u64>>,
    },
    Append(AppendEntriesRequest<Types>),
    Offer(Box<Offer>),
    Chunk {
        crc: u32,
        offset: u64,
        data: Bytes,
    },
    Install {
        crc: u32,
    },
    Forward(Forward),
    ReadIndex,
    KeepAlive {
        lease: i64,
    },
    Change(Change),
    /// The leader hands over to the receiver.
    TakeOver,
    /// The leader lives, though a flush keeps it or the receiver from saying anything else.
    Alive {
        vote: Vote<u64>,
    },
    /// Where do clients reach you?
    Describe,
    /// How long does a lease have yet?
    TimeLeft {
        lease: i64,
    },
}

/// Why a request was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it cannot be read")]
    Malformed,
    #[error("it is of protocol version {0}, which is not known here")]
    Version(u8),
    #[error("this member belongs to cluster {0:016x}")]
    OtherCluster(u64),
    #[error("it was meant for another member; this is {0:016x}")]
    OtherMember(MemberId),
    /// With the log index of the membership that says so.
    #[error("the sender is not a member")]
    NotAMember(u64),
    #[error("the cluster went on without the sender, as generation {0}")]
    Forked(u64),
    #[error("this member was left behind when the cluster went on, and must join again")]
    LeftBehind,
    #[error("the sender's certificate is not that of the member it claims to be")]
    WrongIdentity,
    #[error("this member has stopped")]
    Stopped,
    #[error("no space is left on this member's disk")]
    DiskFull,
    #[error("another process speaks as this member")]
    Twin,
}

#[derive(Debug)]
pub(crate) enum Response {
    Refused(Refusal),
    Vote(VoteResponse<u64>),
    PreVote(bool),
    Append(AppendEntriesResponse<u64>),
    /// How much of the snapshot is there and on disk.
    Have {
        vote: Vote<u64>,
        offset: u64,
    },
    Installed(Vote<u64>),
    /// The snapshot was damaged on its way, or is unknown: begin again.
    Restart,
    NotLeader,
    /// Outcomes of forwarded transactions, and the log index by which they are applied.
    Outcomes {
        index: u64,
        outcomes: Vec<Result<Reply, StoreError>>,
    },
    Index(u64),
    Lease(Result<u64, StoreError>),
    Change(Result<(), MemberError>),
    Done,
    /// Where clients reach the member.
    Described(Vec<String>),
}

fn put_log_id(out: &mut Vec<u8>, id: Option<LogId<u64>>) {
    match id {
        None => out.push(0),
        Some(id) => {
            out.push(1);
            put_u64(out, id.leader_id.term);
            put_u64(out, id.leader_id.node_id);
            put_u64(out, id.index);
        }
    }
}

fn log_id(input: &mut Decoder<'_>) -> Result<Option<LogId<u64>>, DecodeError> {
    if !input.bool()? {
        return Ok(None);
    }
    let leader = CommittedLeaderId::new(input.u64()?, input.u64()?);
    Ok(Some(LogId::new(leader, input.u64()?)))
}

fn put_vote(out: &mut Vec<u8>, vote: &Vote<u64>) {
    put_u64(out, vote.leader_id.term);
    put_u64(out, vote.leader_id.node_id);
    out.push(u8::from(vote.committed));
}

/// No cluster gets there by elections, and one more must still be a number.
const MAX_TERM: u64 = u64::MAX / 4;

fn vote(input: &mut Decoder<'_>) -> Result<Vote<u64>, DecodeError> {
    let (term, node) = (input.u64()?, input.u64()?);
    if term > MAX_TERM {
        return Err(DecodeError("term"));
    }
    Ok(if input.bool()? { Vote::new_committed(term, node) } else { Vote::new(term, node) })
}

fn put_member(out: &mut Vec<u8>, id: MemberId, member: &Member) {
    put_u64(out, id);
    put_bytes(out, member.name.as_bytes());
    put_texts(out, &member.addresses);
}

fn put_texts(out: &mut Vec<u8>, texts: &[String]) {
    put_u64(out, texts.len() as u64);
    texts.iter().for_each(|text| put_bytes(out, text.as_bytes()));
}

fn texts(input: &mut Decoder<'_>) -> Result<Vec<String>, DecodeError> {
    (0..input.len()?).map(|_| text(input)).collect()
}

fn text(input: &mut Decoder<'_>) -> Result<String, DecodeError> {
    String::from_utf8(input.bytes()?.to_vec()).map_err(|_| DecodeError("text"))
}

fn member(input: &mut Decoder<'_>) -> Result<(MemberId, Member), DecodeError> {
    let (id, name) = (input.u64()?, text(input)?);
    Ok((id, Member { name, addresses: texts(input)? }))
}

impl Request {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Self::Vote(request) => {
                out.push(0);
                put_vote(out, &request.vote);
                put_log_id(out, request.last_log_id);
            }
            Self::PreVote { last } => {
                out.push(1);
                put_log_id(out, *last);
            }
            Self::Append(request) => {
                out.push(2);
                put_vote(out, &request.vote);
                put_log_id(out, request.prev_log_id);
                put_log_id(out, request.leader_commit);
                put_u64(out, request.entries.len() as u64);
                for entry in &request.entries {
                    put_bytes(out, &raft::encode(entry)?);
                }
            }
            Self::Offer(offer) => {
                out.push(3);
                put_vote(out, &offer.vote);
                put_bytes(out, &serde_json::to_vec(&offer.meta)?);
                put_u64(out, offer.size);
                put_u64(out, u64::from(offer.crc));
            }
            Self::Chunk { crc, offset, data } => {
                out.push(4);
                put_u64(out, u64::from(*crc));
                put_u64(out, *offset);
                put_bytes(out, data);
            }
            Self::Install { crc } => {
                out.push(5);
                put_u64(out, u64::from(*crc));
            }
            Self::Forward(forward) => {
                out.push(6);
                put_u64(out, forward.term);
                put_u64(out, forward.session);
                put_u64(out, forward.sequence);
                put_u64(out, forward.commands.len() as u64);
                forward.commands.iter().for_each(|command| command.encode(out));
            }
            Self::ReadIndex => out.push(7),
            Self::KeepAlive { lease } => {
                out.push(8);
                put_i64(out, *lease);
            }
            Self::Change(change) => {
                out.push(9);
                put_change(out, change);
            }
            Self::TakeOver => out.push(10),
            Self::Alive { vote } => {
                out.push(11);
                put_vote(out, vote);
            }
            Self::Describe => out.push(12),
            Self::TimeLeft { lease } => {
                out.push(13);
                put_i64(out, *lease);
            }
        }
        Ok(())
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let request = match input.u8()? {
            0 => Self::Vote(VoteRequest { vote: vote(input)?, last_log_id: log_id(input)? }),
            1 => Self::PreVote { last: log_id(input)? },
            2 => {
                let (vote, prev_log_id, leader_commit) = (vote(input)?, log_id(input)?, log_id(input)?);
                let entry = |input: &mut Decoder<'_>| raft::decode(input.slice()?);
                let entries = (0..input.len()?).map(|_| entry(input)).collect::<Result<Vec<_>, _>>()?;
                contiguous(prev_log_id, entries.iter().map(|entry| entry.log_id.index))?;
                Self::Append(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
            }
            3 => {
                let vote = vote(input)?;
                let meta = serde_json::from_slice(input.slice()?).map_err(|_| DecodeError("snapshot description"))?;
                Self::Offer(Box::new(Offer { vote, meta, size: input.u64()?, crc: crc(input)? }))
            }
            4 => Self::Chunk { crc: crc(input)?, offset: input.u64()?, data: input.bytes()? },
            5 => Self::Install { crc: crc(input)? },
            6 => {
                let (term, session, sequence) = (input.u64()?, input.u64()?, input.u64()?);
                let commands = (0..input.len()?).map(|_| Command::decode(input)).collect::<Result<_, _>>()?;
                Self::Forward(Forward { term, session, sequence, commands })
            }
            7 => Self::ReadIndex,
            8 => Self::KeepAlive { lease: input.i64()? },
            9 => Self::Change(change(input)?),
            10 => Self::TakeOver,
            11 => Self::Alive { vote: vote(input)? },
            12 => Self::Describe,
            13 => Self::TimeLeft { lease: input.i64()? },
            _ => return Err(DecodeError("request")),
        };
        if input.is_empty() { Ok(request) } else { Err(DecodeError("request")) }
    }
}

/// Entries follow each other and what is before them; the Raft core takes that for granted.
fn contiguous(prev: Option<LogId<u64>>, indices: impl Iterator<Item = u64>) -> Result<(), DecodeError> {
    let mut next = prev.map_or(Some(0), |prev| prev.index.checked_add(1));
    for index in indices {
        if next != Some(index) {
            return Err(DecodeError("order of entries"));
        }
        next = index.checked_add(1);
    }
    Ok(())
}

fn crc(input: &mut Decoder<'_>) -> Result<u32, DecodeError> {
    u32::try_from(input.u64()?).map_err(|_| DecodeError("checksum"))
}

fn put_change(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Add { id, member } => {
            out.push(0);
            put_member(out, *id, member);
        }
        Change::Update { id, member } => {
            out.push(1);
            put_member(out, *id, member);
        }
        Change::Promote(id) => {
            out.push(2);
            put_u64(out, *id);
        }
        Change::Remove(id) => {
            out.push(3);
            put_u64(out, *id);
        }
        Change::Transfer(id) => {
            out.push(4);
            put_u64(out, *id);
        }
    }
}

fn change(input: &mut Decoder<'_>) -> Result<Change, DecodeError> {
    Ok(match input.u8()? {
        0 => {
            let (id, member) = member(input)?;
            Change::Add { id, member }
        }
        1 => {
            let (id, member) = member(input)?;
            Change::Update { id, member }
        }
        2 => Change::Promote(input.u64()?),
        3 => Change::Remove(input.u64()?),
        4 => Change::Transfer(input.u64()?),
        _ => return Err(DecodeError("change")),
    })
}

impl Refusal {
    fn encode(self, out: &mut Vec<u8>) {
        let (kind, value) = match self {
            Self::Malformed => (0, 0),
            Self::Version(version) => (1, u64::from(version)),
            Self::OtherCluster(id) => (2, id),
            Self::OtherMember(id) => (3, id),
            Self::NotAMember(index) => (4, index),
            Self::Forked(generation) => (5, generation),
            Self::LeftBehind => (6, 0),
            Self::WrongIdentity => (7, 0),
            Self::Stopped => (8, 0),
            Self::DiskFull => (9, 0),
            Self::Twin => (10, 0),
        };
        out.push(kind);
        put_u64(out, value);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (kind, value) = (input.u8()?, input.u64()?);
        Ok(match kind {
            0 => Self::Malformed,
            1 => Self::Version(u8::try_from(value).map_err(|_| DecodeError("version"))?),
            2 => Self::OtherCluster(value),
            3 => Self::OtherMember(value),
            4 => Self::NotAMember(value),
            5 => Self::Forked(value),
            6 => Self::LeftBehind,
            7 => Self::WrongIdentity,
            8 => Self::Stopped,
            9 => Self::DiskFull,
            10 => Self::Twin,
            _ => return Err(DecodeError("refusal")),
        })
    }
}

impl Response {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Refused(refusal) => {
                out.push(0);
                refusal.encode(out);
            }
            Self::Vote(response) => {
                out.push(1);
                put_vote(out, &response.vote);
                out.push(u8::from(response.vote_granted));
                put_log_id(out, response.last_log_id);
            }
            Self::PreVote(granted) => out.extend([2, u8::from(*granted)]),
            Self::Append(response) => {
                out.push(3);
                match response {
                    AppendEntriesResponse::Success => out.push(0),
                    AppendEntriesResponse::PartialSuccess(upto) => {
                        out.push(1);
                        put_log_id(out, *upto);
                    }
                    AppendEntriesResponse::Conflict => out.push(2),
                    AppendEntriesResponse::HigherVote(vote) => {
                        out.push(3);
                        put_vote(out, vote);
                    }
                }
            }
            Self::Have { vote, offset } => {
                out.push(4);
                put_vote(out, vote);
                put_u64(out, *offset);
            }
            Self::Installed(vote) => {
                out.push(5);
                put_vote(out, vote);
            }
            Self::Restart => out.push(6),
            Self::NotLeader => out.push(7),
            Self::Outcomes { index, outcomes } => {
                out.push(8);
                put_u64(out, *index);
                put_u64(out, outcomes.len() as u64);
                outcomes.iter().for_each(|outcome| outcome::put(out, outcome));
            }
            Self::Index(index) => {
                out.push(9);
                put_u64(out, *index);
            }
            Self::Lease(outcome) => {
                out.push(10);
                outcome::put_lease(out, outcome);
            }
            Self::Change(outcome) => {
                out.push(11);
                outcome::put_change(out, outcome);
            }
            Self::Done => out.push(12),
            Self::Described(urls) => {
                out.push(13);
                put_texts(out, urls);
            }
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let response = match input.u8()? {
            0 => Self::Refused(Refusal::decode(input)?),
            1 => {
                let (vote, vote_granted) = (vote(input)?, input.bool()?);
                Self::Vote(VoteResponse { vote, vote_granted, last_log_id: log_id(input)? })
            }
            2 => Self::PreVote(input.bool()?),
            3 => Self::Append(match input.u8()? {
                0 => AppendEntriesResponse::Success,
                1 => AppendEntriesResponse::PartialSuccess(log_id(input)?),
                2 => AppendEntriesResponse::Conflict,
                3 => AppendEntriesResponse::HigherVote(vote(input)?),
                _ => return Err(DecodeError("append answer")),
            }),
            4 => Self::Have { vote: vote(input)?, offset: input.u64()? },
            5 => Self::Installed(vote(input)?),
            6 => Self::Restart,
            7 => Self::NotLeader,
            8 => {
                let index = input.u64()?;
                let outcomes = (0..input.len()?).map(|_| outcome::get(input)).collect::<Result<_, _>>()?;
                Self::Outcomes { index, outcomes }
            }
            9 => Self::Index(input.u64()?),
            10 => Self::Lease(outcome::lease(input)?),
            11 => Self::Change(outcome::change(input)?),
            12 => Self::Done,
            13 => Self::Described(texts(input)?),
            _ => return Err(DecodeError("answer")),
        };
        if input.is_empty() { Ok(response) } else { Err(DecodeError("answer")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::ClusterId;

    fn framed(request: &Request) -> Bytes {
        let cluster = ClusterId { id: 7, generation: 1 };
        let envelope = frame::Envelope { cluster, from: 2, to: 3, session: 4, process: 5 };
        let bytes = frame::request(&envelope, request).unwrap();
        assert_eq!(frame::open_request(&bytes).unwrap().0, envelope);
        bytes
    }

    fn requests() -> Vec<Request> {
        let id = |index| LogId::new(CommittedLeaderId::new(3, 2), index);
        let entry = |index| openraft::Entry { log_id: id(index), payload: openraft::EntryPayload::Blank };
        let append = |entries| AppendEntriesRequest {
            vote: Vote::new_committed(3, 2),
            prev_log_id: Some(id(8)),
            entries,
            leader_commit: Some(id(7)),
        };
        let member = Member { name: "m".to_owned(), addresses: vec!["a".to_owned(), "b".to_owned()] };
        let vote = Vote::new(4, 2);
        vec![
            Request::Vote(VoteRequest { vote, last_log_id: Some(id(9)) }),
            Request::PreVote { last: None },
            Request::Append(append(vec![entry(9), entry(10)])),
            Request::Offer(Box::new(Offer { vote, meta: SnapshotMeta::default(), size: 9, crc: 5 })),
            Request::Chunk { crc: 5, offset: 3, data: Bytes::from_static(b"part") },
            Request::Install { crc: 5 },
            Request::Forward(Forward { term: 3, session: 1, sequence: 2, commands: vec![Command::Compact(4)] }),
            Request::ReadIndex,
            Request::KeepAlive { lease: -1 },
            Request::Change(Change::Add { id: 4, member: member.clone() }),
            Request::Change(Change::Update { id: 4, member }),
            Request::Change(Change::Transfer(4)),
            Request::TakeOver,
            Request::Alive { vote: Vote::new_committed(4, 2) },
            Request::Describe,
            Request::TimeLeft { lease: 5 },
        ]
    }

    #[test]
    fn requests_come_back_and_nothing_less_or_other_is_read() {
        for request in requests() {
            let bytes = framed(&request);
            let (_, body) = frame::open_request(&bytes).unwrap();
            let read = Request::decode(&mut Decoder::new(body)).unwrap();
            assert_eq!(format!("{read:?}"), format!("{request:?}"));
            for cut in 0..body.len() {
                assert!(Request::decode(&mut Decoder::new(&body[..cut])).is_err(), "{request:?} cut at {cut} was read");
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_request(&flipped), "{request:?} with bit {bit} flipped was read");
            }
        }
    }

    #[test]
    fn a_description_comes_back() {
        let mut bytes = Vec::new();
        Response::Described(vec!["https://a:1".to_owned(), "b".to_owned()]).encode(&mut bytes);
        let Ok(Response::Described(urls)) = Response::decode(&mut Decoder::new(&bytes)) else { unreachable!() };
        assert_eq!(urls, ["https://a:1", "b"]);
        for cut in 0..bytes.len() {
            assert!(Response::decode(&mut Decoder::new(&bytes[..cut])).is_err(), "cut at {cut} was read");
        }
    }

    #[test]
    fn entries_out_of_order_and_endless_terms_are_refused() {
        let id = |index| LogId::new(CommittedLeaderId::new(3, 2), index);
        let entry = openraft::Entry { log_id: id(5), payload: openraft::EntryPayload::Blank };
        let vote = Vote::new_committed(3, 2);
        let gap = AppendEntriesRequest { vote, prev_log_id: Some(id(2)), entries: vec![entry], leader_commit: None };
        assert!(!is_request(&framed(&Request::Append(gap))));
        let vote = VoteRequest { vote: Vote::new(u64::MAX, 2), last_log_id: None };
        assert!(!is_request(&framed(&Request::Vote(vote))));
    }
}
