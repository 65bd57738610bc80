//! Who belongs to the cluster: what a member is called and where it is reached, and what may be asked of the membership.
//!
//! Members are replicated with the log, addresses included, so that they find each other after a restart. The shapes
//! here are what [`Store`](crate::Store) takes and returns; changing the membership is the business of `cluster::change`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Names a member. Chosen at random when its data directory is made, and never used again. 0 means none.
pub type MemberId = u64;

/// A member as all members know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Unique in the cluster; empty until the member has been given one.
    #[serde(default)]
    pub name: String,
    /// Where its transport reaches it; opaque to the store.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// Which cluster a member is to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterId {
    pub id: u64,
    /// Grows each time a survivor was made a cluster of its own.
    pub generation: u64,
}

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}/{}", self.id, self.generation)
    }
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Counts for elections and for what is acknowledged.
    Voter,
    /// Receives everything and counts for nothing.
    Learner,
}

/// One member of the cluster, as this member sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    pub id: MemberId,
    pub member: Member,
    pub role: Role,
    pub leader: bool,
    /// Log entries that it does not have yet; only the leader knows.
    pub lag: Option<u64>,
    /// Time since it last answered this member; nothing for itself and for one that never did.
    pub heard: Option<Duration>,
}

/// The cluster as this member sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub cluster: ClusterId,
    pub id: MemberId,
    pub leader: Option<MemberId>,
    pub term: u64,
    /// Index of the last log entry.
    pub last: u64,
    /// Index of the last applied log entry.
    pub applied: u64,
    pub members: Vec<MemberStatus>,
    /// Why this member has no part in the cluster any more.
    pub excluded: Option<Exclusion>,
    /// The member lost a part of its log to damage and does not vote before it has caught up.
    pub recovering: bool,
}

/// Why a member was shut out by the others. It must be started anew: as a member that joins, in an empty directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exclusion {
    #[error("this member was removed from the cluster; move its data directory aside and join again")]
    Removed,
    #[error(
        "the cluster went on without this member after it had lost its quorum (generation {generation}); move its data \
         directory aside and join again"
    )]
    Forked { generation: u64 },
    #[error(
        "another process has come up as this very member, with a copy of its data directory; stop one of them, move its \
         directory aside and join again"
    )]
    Twin,
}

/// Why the membership was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    #[error("member id {id:016x} belongs to {name:?}; a member that joins anew needs an empty data directory")]
    IdInUse { id: MemberId, name: String },
    #[error("a member {name:?} exists already, with id {id:016x}; remove it first, or choose another name")]
    NameInUse { name: String, id: MemberId },
    #[error("a member needs a name and an address")]
    Incomplete,
    #[error("there is no member with id {0:016x}")]
    NotFound(MemberId),
    #[error("member {0:016x} is the only voter; add another one first")]
    LastVoter(MemberId),
    #[error(
        "without member {id:016x} only {alive} of {voters} voters can be reached, too few to go on; repair or remove \
         those that cannot be reached first"
    )]
    WouldLoseQuorum { id: MemberId, alive: usize, voters: usize },
    #[error("member {id:016x} has not caught up in time: {lag} entries are missing; try again")]
    Behind { id: MemberId, lag: u64 },
    #[error("member {0:016x} is a learner; only a voter can lead")]
    NotAVoter(MemberId),
    #[error("member {0:016x} has not taken over the leadership in time; try again")]
    NotTakenOver(MemberId),
    #[error("another change of the membership is under way; try again")]
    Busy,
    #[error("no leader")]
    NoLeader,
    /// It may still come into effect.
    #[error("whether the membership has changed is unknown: the leader did not answer in time")]
    Unknown,
    #[error("the store has stopped, or is closed")]
    Closed,
}

pub(crate) type Membership = openraft::Membership<u64, Member>;

/// The members of a membership with their roles.
pub(crate) fn list(membership: &Membership) -> BTreeMap<u64, (Member, Role)> {
    let voters: Vec<u64> = membership.voter_ids().collect();
    let role = |id: &u64| if voters.contains(id) { Role::Voter } else { Role::Learner };
    membership.nodes().map(|(id, member)| (*id, (member.clone(), role(id)))).collect()
}

/// Whether `me` is the one voter there is.
pub(crate) fn alone(membership: &Membership, me: u64) -> bool {
    let mut voters = membership.voter_ids();
    voters.next() == Some(me) && voters.next().is_none()
}
