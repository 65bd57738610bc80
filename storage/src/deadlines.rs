//! When leases end, by the monotonic clock of this process: a jump of the wall clock or a restart only ever lengthens a
//! lease. Time is a parameter.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::LeaseId;

#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    by_lease: HashMap<LeaseId, (Instant, Duration)>,
    by_time: BTreeSet<(Instant, LeaseId)>,
}

impl Deadlines {
    /// Starts or restarts a lease's full time.
    pub(crate) fn set(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.remove(id);
        let at = now + ttl;
        self.by_lease.insert(id, (at, ttl));
        self.by_time.insert((at, id));
    }

    /// Renews a lease that has not ended. Returns its full time.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> Option<Duration> {
        let (_, ttl) = self.by_lease.get(&id).copied()?;
        self.set(id, ttl, now);
        Some(ttl)
    }

    pub(crate) fn remove(&mut self, id: LeaseId) {
        if let Some((at, _)) = self.by_lease.remove(&id) {
            self.by_time.remove(&(at, id));
        }
    }

    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Leases whose time is over at `now`.
    pub(crate) fn over(&self, now: Instant) -> Vec<LeaseId> {
        self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    pub(crate) fn remaining(&self, id: LeaseId, now: Instant) -> Option<Duration> {
        self.by_lease.get(&id).map(|(at, _)| at.saturating_duration_since(now))
    }
}
