//! Elections and signs of life: the timers of a member that has peers.
//!
//! A voter that hears no leader for a while first asks the others whether they would vote for it. They would not while
//! they hear a leader themselves, so a member that was cut off, or was removed, does not disturb the others when it is
//! back. Only then does it stand for election, which begins a new term. Time is monotonic.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use openraft::metrics::WaitError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Cluster;
use crate::command::Command;
use crate::members::{Member, MemberId};
use crate::rpc::{Request, Response};
use crate::writer::is_full;

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
enum Duty {
    /// Nothing before something changes.
    Rest,
    /// The only voter needs nobody's vote.
    ElectMyself,
    SendSigns,
    Listen,
    /// One that is no voter, or that must not stand, asks whether it is still a member when it hears nobody.
    Wonder,
}

impl Cluster {
    fn duty(&self) -> Duty {
        let metrics = self.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let others = membership.nodes().any(|(id, _)| *id != self.me());
        if metrics.state == ServerState::Leader {
            return if others { Duty::SendSigns } else { Duty::Rest };
        }
        let voter = membership.voter_ids().any(|id| id == self.me());
        if self.link.excluded.borrow().is_some() || metrics.state == ServerState::Shutdown {
            return Duty::Rest;
        }
        if !voter || self.files.recovering() {
            return if others { Duty::Wonder } else { Duty::Rest };
        }
        if membership.voter_ids().count() == 1 { Duty::ElectMyself } else { Duty::Listen }
    }

    /// In 0..1.
    fn chance(&self) -> f64 {
        f64::from(u32::try_from(self.files.disk.random() >> 32).unwrap_or(0)) / 4_294_967_296.0
    }

    fn patience(&self) -> Duration {
        let (least, most) = self.timing.election;
        least + most.saturating_sub(least).mul_f64(self.chance())
    }

    /// Runs until the Raft core ends.
    pub(crate) async fn watch_over_elections(self: Arc<Self>) {
        let mut metrics = self.metrics();
        let mut excluded = self.link.excluded.subscribe();
        let mut patience = self.patience();
        let mut leading = None;
        let mut lost = 0;
        let mut asked = None;
        let mut settling = JoinSet::new();
        loop {
            self.news.notify_waiters();
            self.forget_others();
            metrics.borrow_and_update();
            let now_leading = self.leading_term();
            if now_leading != leading {
                // Between two terms of this member another one may have led, and renewed leases.
                if leading.is_some() {
                    self.shared.lead(false);
                }
                leading = now_leading;
                self.shared.lead(leading.is_some());
                self.hear_leader();
                settling.abort_all();
                if leading.is_some() {
                    settling.spawn(self.clone().settle());
                }
            }
            let until = match self.duty() {
                Duty::Rest => None,
                Duty::ElectMyself => {
                    if metrics.borrow().state != ServerState::Candidate {
                        self.stand().await;
                    }
                    Some(Instant::now() + self.timing.heartbeat)
                }
                Duty::SendSigns => {
                    if self.raft.trigger().heartbeat().await.is_err() {
                        return;
                    }
                    self.show_life();
                    Some(Instant::now() + self.timing.heartbeat)
                }
                Duty::Wonder => {
                    let due = *self.heard_leader() + patience;
                    if Instant::now() < due {
                        Some(due)
                    } else {
                        self.ask_whether_still_a_member();
                        patience = self.patience();
                        Some(Instant::now() + patience)
                    }
                }
                Duty::Listen => {
                    let due = *self.heard_leader() + patience;
                    if Instant::now() < due {
                        Some(due)
                    } else {
                        lost = if self.campaign(lost).await { 0 } else { lost + 1 };
                        patience = self.patience();
                        // Not won yet: try again soon, but not in step with others.
                        let soon = self.timing.heartbeat.max(self.election_time(lost) / 2);
                        Some(Instant::now() + soon.mul_f64(0.5 + self.chance()))
                    }
                }
            };
            let until =
                self.ask_if_leaving(&mut asked).map_or(until, |again| Some(until.map_or(again, |due| due.min(again))));
            let pause = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = metrics.changed() => if changed.is_err() { return },
                _ = excluded.changed() => {}
                () = self.taking_over.notified() => self.take_over().await,
                () = pause => {}
            }
        }
    }

    /// Ends the recovery from damage: an entry that was proposed after the start has come back through a leader's log.
    pub(crate) async fn make_up_for_damage(self: Arc<Self>) {
        while self.files.recovering() {
            let proposed = self.requests.submit(Command::Skip(0)).await.is_ok();
            if proposed && self.barrier().await.is_ok() {
                match self.files.recovered() {
                    Ok(()) => tracing::info!("what was damaged has been made up for"),
                    Err(error) => tracing::warn!(%error, "cannot remember that the damage is made up for"),
                }
            }
            if self.link.excluded.borrow().is_some() {
                return;
            }
            tokio::time::sleep(self.timing.heartbeat).await;
        }
    }

    async fn stand(&self) {
        if let Err(error) = self.raft.trigger().elect().await {
            tracing::debug!(%error, "the raft core is gone");
        }
    }

    /// Stands for election if a quorum would vote for this member. False if nobody was elected.
    async fn campaign(&self, lost: u32) -> bool {
        // While its own vote is not on disk yet, it has stood already.
        if self.files.recovering() || self.files.flushing_for().is_some() {
            return true;
        }
        // A leader must write at once; without space for that the Raft core would end.
        if self.files.log().reserve(0).is_err_and(|error| is_full(&error)) {
            return true;
        }
        if !self.would_win().await || *self.heard_leader() + self.timing.election.0 > Instant::now() {
            return true;
        }
        tracing::info!(member = self.me(), "no leader is heard; standing for election");
        let before = self.raft.metrics().borrow().current_term;
        self.standing.store(true, Ordering::Relaxed);
        self.stand().await;
        // Until its vote is on disk, this member is what it was before.
        let elected = |metrics: &openraft::RaftMetrics<u64, Member>| {
            let decided = metrics.state != ServerState::Candidate && metrics.current_leader.is_some();
            decided && metrics.current_term > before
        };
        let began = Instant::now();
        let won = loop {
            // It grows while this member's own vote is on its way to the disk.
            let left = self.election_time(lost).saturating_sub(began.elapsed());
            if left.is_zero() {
                break false;
            }
            match self.raft.wait(Some(left)).metrics(elected, "").await {
                Ok(_) => break true,
                Err(WaitError::Timeout(..)) => {}
                Err(WaitError::ShuttingDown) => break false,
            }
        };
        self.standing.store(false, Ordering::Relaxed);
        won
    }

    /// How long an election may take. Votes are on disk before they count, here and there; perhaps there it takes longer
    /// than is known here, so it is more after each one that was lost.
    fn election_time(&self, lost: u32) -> Duration {
        let usual = (self.timing.heartbeat * 2).max(self.files.slowest_flush() * 3);
        usual.saturating_mul(2_u32.saturating_pow(lost.saturating_sub(1).min(8))).min(self.timing.answer)
    }

    /// Says to those that a leader lives whom its heartbeats do not reach, because a flush keeps it or them from speaking;
    /// and asks those who had no space whether they have some. A leader whose disk hangs for good is not one.
    fn show_life(&self) {
        let flushing = self.files.flushing_for();
        if flushing.is_some_and(|since| since > self.timing.answer) {
            return;
        }
        let vote = self.metrics().borrow().vote;
        for (id, member) in self.others() {
            let silent = self.link.heard(id).is_none_or(|since| since > self.timing.heartbeat * 2);
            if silent || flushing.is_some() || self.link.is_full(id) {
                let (link, limit) = (self.link.clone(), self.timing.heartbeat * 2);
                tokio::spawn(async move { link.call(id, &member, &Request::Alive { vote }, limit).await });
            }
        }
    }

    /// Nobody replicates to one who was removed, so it would never know. Whoever is asked for a vote that is not to be
    /// cast says so; the link takes it from there.
    fn ask_whether_still_a_member(&self) {
        let (last, limit) = (self.last_log_id(), self.timing.heartbeat * 2);
        for (id, member) in self.others() {
            let link = self.link.clone();
            tokio::spawn(async move { link.call(id, &member, &Request::PreVote { last }, limit).await });
        }
    }

    /// One that is being taken out gets the first half of the change, and nothing after it: what is under way here waits
    /// for entries that never come, so it asks soon whether it is out. Says when to ask again.
    fn ask_if_leaving(&self, asked: &mut Option<Instant>) -> Option<Instant> {
        let leaving = {
            let metrics = self.metrics();
            let metrics = metrics.borrow();
            let configs = metrics.membership_config.membership().get_joint_config();
            let has_me = |voters: &BTreeSet<MemberId>| voters.contains(&self.me());
            let goes = configs.iter().any(has_me) && !configs.last().is_some_and(has_me);
            goes && metrics.state != ServerState::Leader && self.link.excluded.borrow().is_none()
        };
        let pause = self.timing.heartbeat / 5;
        if !leaving {
            *asked = None;
            return None;
        }
        let now = Instant::now();
        let due = asked.map_or(now, |last| last + pause);
        if due > now {
            return Some(due);
        }
        if asked.replace(now).is_some() {
            self.ask_whether_still_a_member();
        }
        Some(now + pause)
    }

    fn others(&self) -> Vec<(MemberId, Member)> {
        let metrics = self.metrics();
        let metrics = metrics.borrow();
        let others = metrics.membership_config.membership().nodes().filter(|(id, _)| **id != self.me());
        others.map(|(id, member)| (*id, member.clone())).collect()
    }

    /// What is remembered of members goes with them.
    fn forget_others(&self) {
        let members: BTreeSet<MemberId> = {
            let metrics = self.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.membership().nodes().map(|(id, _)| *id).collect()
        };
        self.link.forget_others(&members);
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| members.contains(id));
    }

    async fn would_win(&self) -> bool {
        let (configs, peers) = {
            let metrics = self.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let voters: BTreeSet<MemberId> = membership.voter_ids().filter(|id| *id != self.me()).collect();
            let nodes = membership.nodes().filter(|(id, _)| voters.contains(id));
            let peers: Vec<_> = nodes.map(|(id, member)| (*id, member.clone())).collect();
            (membership.get_joint_config().clone(), peers)
        };
        let won = |granted: &BTreeSet<MemberId>| {
            configs.iter().all(|voters| voters.intersection(granted).count() * 2 > voters.len())
        };
        let last = self.last_log_id();
        let limit = self.timing.heartbeat * 2;
        let mut asked = JoinSet::new();
        for (id, member) in peers {
            let link = self.link.clone();
            asked.spawn(async move { (id, link.call(id, &member, &Request::PreVote { last }, limit).await) });
        }
        let mut granted = BTreeSet::from([self.me()]);
        while let Some(answer) = asked.join_next().await {
            if let Ok((id, Ok(Response::PreVote(true)))) = answer {
                granted.insert(id);
            }
            if won(&granted) {
                return true;
            }
        }
        won(&granted)
    }

    /// Whether this member would vote for one whose log ends with `last`. While it stands itself it would not: of two who
    /// stand at a time neither may win, and where disks are slow they would do so again and again.
    pub(super) fn would_vote(&self, last: Option<openraft::LogId<u64>>) -> bool {
        let silent = self.leading_term().is_none() && self.heard_leader().elapsed() >= self.timing.election.0 * 9 / 10;
        silent && !self.standing.load(Ordering::Relaxed) && !self.files.recovering() && last >= self.last_log_id()
    }

    /// The leader has asked this member to lead. The first try makes it step down; until the others notice they are loyal,
    /// and refuse their votes at once. After that a vote counts as soon as it is on disk, here and there, and a further
    /// try would only undo it.
    async fn take_over(&self) {
        let (began, term) = (Instant::now(), self.raft.metrics().borrow().current_term);
        let mut lost = 0;
        while began.elapsed() < self.timing.election.1 * 2 {
            if self.files.recovering() || self.leading_term().is_some() || self.another_leads_since(term) {
                return;
            }
            self.stand().await;
            let patience = if began.elapsed() < self.timing.heartbeat * 2 {
                (self.timing.heartbeat / 5).max(self.files.slowest_flush() * 3)
            } else {
                lost += 1;
                self.election_time(lost)
            };
            match self.raft.wait(Some(patience)).state(ServerState::Leader, "").await {
                Err(WaitError::Timeout(..)) => {}
                Ok(_) | Err(WaitError::ShuttingDown) => return,
            }
        }
    }

    fn another_leads_since(&self, term: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.current_term > term && metrics.current_leader.is_some_and(|leader| leader != self.me())
    }

    /// A leader has spoken.
    pub(super) fn hear_leader(&self) {
        *self.heard_leader() = Instant::now();
    }
}
