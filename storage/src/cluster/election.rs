//! Elections and signs of life: the timers of a member that has peers.
//!
//! A voter that hears no leader for a while first asks the others whether they would vote for it. They would not while
//! they hear a leader themselves, so a member that was cut off, or was removed, does not disturb the others when it is
//! back. Only then does it stand for election, which begins a new term. Time is monotonic.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Cluster;
use crate::command::Command;
use crate::members::MemberId;
use crate::rpc::{Request, Response};

/// Tries to win when a leader hands over; the others may still be loyal to it for a heartbeat or two.
const TAKE_OVER_TRIES: u32 = 40;

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
enum Duty {
    /// Nothing before something changes.
    Rest,
    /// The only voter needs nobody's vote.
    ElectMyself,
    SendSigns,
    Listen,
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
        if !voter
            || self.files.recovering()
            || self.link.excluded.borrow().is_some()
            || metrics.state == ServerState::Shutdown
        {
            return Duty::Rest;
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
        let mut leading = false;
        let mut settling = JoinSet::new();
        loop {
            self.news.notify_waiters();
            let now_leading = metrics.borrow_and_update().state == ServerState::Leader;
            if now_leading != leading {
                leading = now_leading;
                self.shared.lead(leading);
                self.hear_leader();
                settling.abort_all();
                if leading {
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
                    Some(Instant::now() + self.timing.heartbeat)
                }
                Duty::Listen => {
                    let due = *self.heard_leader() + patience;
                    if Instant::now() < due {
                        Some(due)
                    } else {
                        self.campaign().await;
                        patience = self.patience();
                        // Not won yet: try again soon, but not in step with others.
                        Some(Instant::now() + self.timing.heartbeat.mul_f64(0.5 + self.chance()))
                    }
                }
            };
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

    /// Stands for election if a quorum would vote for this member.
    async fn campaign(&self) {
        if self.files.recovering() {
            return;
        }
        if !self.would_win().await || *self.heard_leader() + self.timing.election.0 > Instant::now() {
            return;
        }
        tracing::info!(member = self.me(), "no leader is heard; standing for election");
        self.stand().await;
        let wait = self.raft.wait(Some(self.timing.heartbeat * 2));
        drop(
            wait.metrics(|metrics| metrics.state != ServerState::Candidate && metrics.current_leader.is_some(), "")
                .await,
        );
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

    /// Whether this member would vote for one whose log ends with `last`.
    pub(super) fn would_vote(&self, last: Option<openraft::LogId<u64>>) -> bool {
        let silent = self.leading_term().is_none() && self.heard_leader().elapsed() >= self.timing.election.0 * 9 / 10;
        silent && !self.files.recovering() && last >= self.last_log_id()
    }

    /// The leader has asked this member to lead. The first try makes it step down; until the others notice they may
    /// refuse their votes.
    async fn take_over(&self) {
        for _ in 0..TAKE_OVER_TRIES {
            if self.files.recovering() || self.leading_term().is_some() {
                return;
            }
            self.stand().await;
            let wait = self.raft.wait(Some(self.timing.heartbeat / 5));
            if wait.state(ServerState::Leader, "").await.is_ok() {
                return;
            }
        }
    }

    /// A leader has spoken.
    pub(super) fn hear_leader(&self) {
        *self.heard_leader() = Instant::now();
    }
}
