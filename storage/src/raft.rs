//! The openraft side: its types, our log and state machine behind its traits, and the network.

pub(crate) mod beside;
pub(crate) mod honest;
pub(crate) mod log_store;
pub(crate) mod network;
mod runtime;
pub(crate) mod state_machine;

use std::sync::Arc;

use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Membership};

use crate::codec::{DecodeError, put_u64};
use crate::command::{Applied, Batch};
use crate::disk::DiskFile;
use crate::log::Log;
use crate::log::record::{Head, MEMBERSHIP};
use crate::members::Member;
use crate::proposal::Proposal;

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = Member,
        Entry = Entry<Types>,
        SnapshotData = SnapshotFile,
        AsyncRuntime = runtime::Quiet,
);

/// A snapshot as the Raft core passes it around.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile(pub(crate) Arc<dyn DiskFile>);

pub(crate) type Raft = openraft::Raft<Types>;
/// What the Raft core says of a proposal.
pub(crate) type Outcome = openraft::raft::ClientWriteResult<Types>;
pub(crate) type StorageError = openraft::StorageError<u64>;

/// The last entry in a log.
pub(crate) fn last_log_id(log: &Log) -> Option<LogId<u64>> {
    log.last().map(|(index, term, leader)| LogId::new(CommittedLeaderId::new(term, leader), index))
}

const BLANK: u8 = 0;
const NORMAL: u8 = 1;

/// Whether an entry must be on disk before it counts as appended.
fn is_synced(entry: &Entry<Types>) -> bool {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.batch().synced,
        EntryPayload::Blank | EntryPayload::Membership(_) => true,
    }
}

/// An upper bound of the space that an entry takes in the log.
pub(crate) fn size(entry: &Entry<Types>) -> usize {
    128 + match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.batch().size(),
        EntryPayload::Blank => 0,
        EntryPayload::Membership(membership) => serde_json::to_vec(membership).map_or(0, |json| json.len()),
    }
}

pub(crate) fn encode(entry: &Entry<Types>) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    encode_into(entry, &mut out)?;
    Ok(out)
}

pub(crate) fn encode_into(entry: &Entry<Types>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    put_u64(out, entry.log_id.index);
    put_u64(out, entry.log_id.leader_id.term);
    put_u64(out, entry.log_id.leader_id.node_id);
    match &entry.payload {
        EntryPayload::Blank => out.push(BLANK),
        EntryPayload::Normal(proposal) => {
            out.reserve(proposal.batch().size());
            out.push(NORMAL);
            proposal.batch().encode(out);
        }
        EntryPayload::Membership(membership) => {
            out.push(MEMBERSHIP);
            serde_json::to_writer(out, membership)?;
        }
    }
    Ok(())
}

pub(crate) fn decode(body: &[u8]) -> Result<Entry<Types>, DecodeError> {
    let head = Head::decode(body)?;
    let payload = match head.kind {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Proposal::of(Batch::decode(head.body)?)),
        MEMBERSHIP => {
            let membership: Membership<u64, Member> =
                serde_json::from_slice(head.body).map_err(|_| DecodeError("membership"))?;
            EntryPayload::Membership(membership)
        }
        _ => return Err(DecodeError("entry kind")),
    };
    Ok(Entry { log_id: LogId::new(CommittedLeaderId::new(head.term, head.leader), head.index), payload })
}
