//! The member in its cluster: what replication needs beside the Raft core.
//!
//! openraft keeps the log in step; here are elections ([`election`], with a vote before the vote), carrying requests to
//! whoever leads ([`propose`]), reads that are never stale ([`reads`]), answering other members ([`serve`]), taking in
//! snapshots ([`receive`]), changing the membership ([`change`]) and what members tell of themselves ([`describe`]). openraft's own timers are off: a member without
//! peers must not wake up when idle.

pub(crate) mod change;
pub(crate) mod describe;
pub(crate) mod election;
pub(crate) mod propose;
pub(crate) mod reads;
pub(crate) mod receive;
pub(crate) mod serve;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::metrics::RaftServerMetrics;
use openraft::{LogId, ServerState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::error::StoreError;
use crate::link::Link;
use crate::members::{Member, MemberId};
use crate::raft::Raft;
use crate::raft::log_store::LogFiles;
use crate::state::Shared;
use crate::store::Requests;

/// How patient a member is with the others. The defaults suit slow disks and a local network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Pause between two signs of life of the leader.
    pub heartbeat: Duration,
    /// Silence after which a voter stands for election: a random time between these two. The shorter one should be four
    /// heartbeats or more.
    pub election: (Duration, Duration),
    /// How long a request of a client may take in all, from its arrival on. One that is coalesced may be held back before.
    pub request: Duration,
    /// How long another member's answer, or a flush, may take before it counts as never coming.
    pub answer: Duration,
    /// With several voters: the least time between two log entries that hold nothing but coalesced writes.
    pub hold: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            election: (Duration::from_millis(2000), Duration::from_millis(2500)),
            request: Duration::from_secs(7),
            answer: Duration::from_secs(10),
            hold: Duration::from_secs(5),
        }
    }
}

/// Who proposes to the log now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    Here,
    There { id: MemberId, member: Member, term: u64 },
    Nobody,
}

pub(crate) type ReadRequest = oneshot::Sender<Result<u64, StoreError>>;

pub(crate) struct Cluster {
    pub(crate) link: Arc<Link>,
    pub(crate) raft: Raft,
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Arc<LogFiles>,
    pub(crate) requests: Requests,
    pub(crate) reads: mpsc::Sender<ReadRequest>,
    pub(crate) timing: Timing,
    pub(crate) dir: PathBuf,
    pub(crate) snapshots: PathBuf,
    /// Grows each time the store is opened.
    pub(crate) session: u64,
    pub(crate) sequence: AtomicU64,
    /// When a leader was last heard of.
    heard_leader: Mutex<Instant>,
    /// Set once this member has said that it has no space.
    full: AtomicBool,
    /// Set while this member stands for election.
    standing: AtomicBool,
    forwarded: Mutex<HashMap<MemberId, serve::Window>>,
    /// The session and process that each member was last heard as.
    processes: Mutex<HashMap<MemberId, (u64, u64)>>,
    /// When this member last gave up the leadership for want of space.
    gave_up: Mutex<Option<Instant>>,
    receiving: tokio::sync::Mutex<Option<receive::Receiving>>,
    /// One change of the membership at a time.
    changing: tokio::sync::Mutex<()>,
    /// Set while the leader hands over; proposals wait.
    handing_over: AtomicBool,
    /// The leader has handed over, or has failed to. Wakes in the order of arrival.
    handed_over: tokio::sync::Notify,
    /// Role, leader or membership may have changed. Wakes in the order of arrival, unlike the channel they come by.
    news: tokio::sync::Notify,
    /// Set by a leader that hands over to this member.
    taking_over: tokio::sync::Notify,
    /// Where clients reach this member, for others who ask.
    advertised: Mutex<Vec<String>>,
}

/// What a cluster is made of.
pub(crate) struct Parts {
    pub(crate) link: Arc<Link>,
    pub(crate) raft: Raft,
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Arc<LogFiles>,
    pub(crate) requests: Requests,
    pub(crate) timing: Timing,
    pub(crate) dir: PathBuf,
    pub(crate) snapshots: PathBuf,
    pub(crate) session: u64,
}

impl Cluster {
    pub(crate) fn new(parts: Parts) -> (Arc<Self>, mpsc::Receiver<ReadRequest>) {
        let Parts { link, raft, shared, files, requests, timing, dir, snapshots, session } = parts;
        let (reads, receiver) = mpsc::channel(reads::QUEUE);
        let cluster = Self {
            link,
            raft,
            shared,
            files,
            requests,
            reads,
            timing,
            dir,
            snapshots,
            session,
            sequence: AtomicU64::new(0),
            heard_leader: Mutex::new(Instant::now()),
            full: AtomicBool::new(false),
            standing: AtomicBool::new(false),
            forwarded: Mutex::default(),
            processes: Mutex::default(),
            gave_up: Mutex::default(),
            receiving: tokio::sync::Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            handing_over: AtomicBool::new(false),
            handed_over: tokio::sync::Notify::new(),
            news: tokio::sync::Notify::new(),
            taking_over: tokio::sync::Notify::new(),
            advertised: Mutex::default(),
        };
        (Arc::new(cluster), receiver)
    }

    pub(crate) fn me(&self) -> MemberId {
        self.link.me
    }

    /// Role, leader and effective membership, as a channel that changes with them.
    pub(crate) fn metrics(&self) -> watch::Receiver<RaftServerMetrics<u64, Member>> {
        self.raft.server_metrics()
    }

    /// Whether this member is the only voter, so that nobody else can acknowledge anything.
    pub(crate) fn alone(&self) -> bool {
        self.files.alone()
    }

    /// Whether there are other members.
    pub(crate) fn has_peers(&self) -> bool {
        self.metrics().borrow().membership_config.nodes().count() > 1
    }

    /// A leader that has not been heard for so long that there may be another one counts as none: what is sent to it may
    /// get no answer, and then nobody would know what came of it.
    pub(crate) fn lead(&self) -> Lead {
        let metrics = self.metrics();
        let metrics = metrics.borrow();
        if metrics.state == ServerState::Leader {
            return Lead::Here;
        }
        let heard = self.heard_leader().elapsed() < self.timing.election.1;
        let leader = metrics.current_leader.filter(|id| *id != self.me() && heard);
        let found = leader.and_then(|id| Some((id, metrics.membership_config.membership().get_node(&id)?)));
        match found {
            Some((id, member)) => Lead::There { id, member: member.clone(), term: metrics.vote.leader_id.term },
            None => Lead::Nobody,
        }
    }

    /// The term that this member leads in.
    fn leading_term(&self) -> Option<u64> {
        let metrics = self.metrics();
        let metrics = metrics.borrow();
        (metrics.state == ServerState::Leader).then_some(metrics.vote.leader_id.term)
    }

    fn last_log_id(&self) -> Option<LogId<u64>> {
        self.files.last_log_id()
    }

    fn heard_leader(&self) -> MutexGuard<'_, Instant> {
        self.heard_leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many voters have answered lately that something can be agreed on.
    pub(crate) fn has_quorum(&self, except: Option<MemberId>) -> bool {
        let metrics = self.metrics();
        let metrics = metrics.borrow();
        let lately = self.timing.election.1;
        let alive = |id: &MemberId| {
            *id == self.me() || Some(*id) != except && self.link.heard(*id).is_some_and(|since| since < lately)
        };
        let configs = metrics.membership_config.membership().get_joint_config();
        configs.iter().all(|voters| voters.iter().filter(|id| alive(id)).count() * 2 > voters.len())
    }

    /// Time since this member was last in touch with who leads; for one that leads, with a quorum.
    fn out_of_touch(&self) -> Duration {
        let metrics = self.metrics();
        let metrics = metrics.borrow();
        if metrics.state != ServerState::Leader {
            return self.heard_leader().elapsed();
        }
        let silence = |id: &MemberId| match *id == self.me() {
            true => Duration::ZERO,
            false => self.link.heard(*id).unwrap_or(Duration::MAX),
        };
        let configs = metrics.membership_config.membership().get_joint_config();
        let quorums = configs.iter().map(|voters| {
            let mut silences: Vec<_> = voters.iter().map(silence).collect();
            silences.sort_unstable();
            silences.get(voters.len() / 2).copied().unwrap_or_default()
        });
        quorums.max().unwrap_or_default()
    }

    /// Until when a request that `arrived` then, and that nobody has taken, waits for a leader. Long enough for an election
    /// that is lost and one that is won; where that time has passed already, a heartbeat.
    fn hopes_until(&self, arrived: Instant) -> Instant {
        let hope = (self.timing.election.1 * 2).saturating_sub(self.out_of_touch());
        (arrived + self.timing.request).min((Instant::now() + hope).max(arrived + self.timing.heartbeat))
    }

    /// Waits until who leads may have changed, at most until `deadline`; false when it is over.
    async fn leader_may_have_changed(&self, deadline: Instant) -> bool {
        let pause = deadline.min(Instant::now() + self.timing.heartbeat / 5);
        // Also by time: an answer may be ahead of the metrics.
        drop(tokio::time::timeout_at(pause, self.news.notified()).await);
        Instant::now() < deadline
    }
}
