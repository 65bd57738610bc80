//! When leases end, by the monotonic clock of this process: a jump of the wall clock or a restart only ever lengthens a
//! lease. Time is a parameter.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::LeaseId;

#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    ttl: Duration,
    /// Its time is over, and its end is on the way: perhaps in the log already, so there is no going back.
    ending: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    by_lease: HashMap<LeaseId, Deadline>,
    by_time: BTreeSet<(Instant, LeaseId)>,
}

impl Deadlines {
    /// Starts or restarts a lease's full time.
    pub(crate) fn set(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.remove(id);
        let at = now + ttl;
        self.by_lease.insert(id, Deadline { at, ttl, ending: false });
        self.by_time.insert((at, id));
    }

    /// Renews a lease that has not ended. Returns its full time.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> Option<Duration> {
        let Deadline { ttl, .. } = self.by_lease.get(&id).copied().filter(|deadline| !deadline.ending)?;
        self.set(id, ttl, now);
        Some(ttl)
    }

    pub(crate) fn remove(&mut self, id: LeaseId) {
        if let Some(deadline) = self.by_lease.remove(&id) {
            self.by_time.remove(&(deadline.at, id));
        }
    }

    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Leases whose time is over at `now`. Whoever is told has to end them; they cannot be renewed any more.
    pub(crate) fn end(&mut self, now: Instant) -> Vec<LeaseId> {
        let over: Vec<_> = self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        for id in &over {
            self.by_lease.entry(*id).and_modify(|deadline| deadline.ending = true);
        }
        over
    }

    /// Ending a lease has failed, as far as is known. It is tried again after a while.
    pub(crate) fn end_later(&mut self, id: LeaseId, pause: Duration, now: Instant) {
        let Some(deadline) = self.by_lease.get_mut(&id) else { return };
        self.by_time.remove(&(deadline.at, id));
        deadline.at = now + pause;
        self.by_time.insert((deadline.at, id));
    }

    pub(crate) fn remaining(&self, id: LeaseId, now: Instant) -> Option<Duration> {
        self.by_lease.get(&id).map(|deadline| deadline.at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    /// Found by the simulation: a renewal while the end of the lease was on its way to a slow disk was acknowledged, and the
    /// lease ended all the same.
    #[tokio::test]
    async fn a_lease_that_is_ending_cannot_be_renewed() {
        let (mut deadlines, now) = (Deadlines::default(), Instant::now());
        deadlines.set(1, TTL, now);
        assert_eq!(deadlines.renew(1, now + TTL / 2), Some(TTL));
        assert!(deadlines.end(now + TTL).is_empty());
        assert_eq!(deadlines.end(now + TTL * 2), [1]);
        assert_eq!(deadlines.renew(1, now + TTL * 2), None);
        deadlines.end_later(1, TTL / 10, now + TTL * 2);
        assert_eq!((deadlines.renew(1, now + TTL * 2), deadlines.earliest()), (None, Some(now + TTL * 21 / 10)));
        assert_eq!(deadlines.end(now + TTL * 3), [1]);
        // A new leader grants the full time.
        deadlines.set(1, TTL, now + TTL * 3);
        assert_eq!(deadlines.renew(1, now + TTL * 3), Some(TTL));
    }
}
