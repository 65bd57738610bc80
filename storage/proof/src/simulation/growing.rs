//! A cluster that begins as one member, grows and shrinks. A sole member flushes and applies beside its Raft core, one with
//! others does not; here it becomes the one and the other again and again, under load, with trouble of its disk.

use std::time::Duration;

use storage::{MemberId, Role, Store};

use super::Run;
use crate::disk::Fault;

/// For a change of the membership while all members are well.
const LIMIT: Duration = Duration::from_secs(60);
const MOST: usize = 3;

impl Run {
    pub(super) async fn grow(&mut self, coalescing: bool) -> Result<(), String> {
        self.begin(1).await?;
        let tasks = self.clients(coalescing);
        for _ in 0..self.random.between(6, 16) {
            let ids = self.members.ids();
            match self.random.below(12) {
                0..5 if ids.len() < MOST => {
                    self.tried.membership_changes += 1;
                    let voter = self.random.chance(60);
                    // Of two voters neither may be without space.
                    for id in ids {
                        self.disk(id)?.set_full(false);
                    }
                    self.join_as(voter).await?;
                }
                0..7 if ids.len() > 1 => self.leave().await?,
                7 if !coalescing => {
                    let (victim, after) = (ids[self.random.index(ids.len())], self.random.below(60));
                    self.disk(victim)?.arm(after, Fault::PowerCut);
                }
                7 | 8 => {
                    self.tried.crashes += 1;
                    let victim = ids[self.random.index(ids.len())];
                    self.members.crash(victim, false);
                }
                9 | 10 => {
                    self.tried.slow_disks += 1;
                    let (victim, flush) = (ids[self.random.index(ids.len())], self.random.between(1, 400));
                    self.disk(victim)?.set_slow(Duration::from_millis(flush));
                }
                _ => {
                    self.tried.full_disks += 1;
                    let victim = ids[self.random.index(ids.len())];
                    self.disk(victim)?.set_full(true);
                }
            }
            let pause = self.random.between(5, 3000);
            self.pass(Duration::from_millis(pause)).await?;
            if self.random.chance(40) {
                self.members.mend_disks();
            }
            let down = self.members.down();
            self.restart(&down).await?;
        }
        self.heal().await?;
        self.pass(Duration::from_secs(8)).await?;
        drop(tasks);
        self.conclude().await
    }

    /// A member is taken out, perhaps the leader.
    async fn leave(&mut self) -> Result<(), String> {
        self.members.mend_disks();
        let voters: Vec<MemberId> =
            self.members.running.stores().iter().filter(|store| votes(store)).map(Store::node_id).collect();
        let all = self.members.ids();
        let victim = all[self.random.index(all.len())];
        let Some(by) = voters.into_iter().find(|id| *id != victim) else { return Ok(()) };
        self.take_out(victim, by, LIMIT).await.map(drop)
    }
}

fn votes(store: &Store) -> bool {
    store.members().iter().any(|member| member.id == store.node_id() && member.role == Role::Voter)
}
