//! Leases that make Events expire: one for each stretch of time, shared by all Events written in it.

use std::time::{Duration, Instant};

use objects::status::Status;
use storage::{LeaseId, Store};
use tokio::sync::Mutex;

use crate::cache::store_status;

/// Hands out the current lease.
pub(crate) struct TtlLeases {
    store: Store,
    ttl: Duration,
    current: Mutex<Option<(LeaseId, Instant)>>,
}

impl TtlLeases {
    pub(crate) fn new(store: Store, ttl: Duration) -> TtlLeases {
        TtlLeases { store, ttl, current: Mutex::default() }
    }

    /// A lease that ends in not less than the TTL, and at most a tenth later.
    pub(crate) async fn current(&self) -> Result<LeaseId, Status> {
        let mut current = self.current.lock().await;
        let stretch = self.ttl / 10;
        if let Some((id, granted)) = *current
            && granted.elapsed() < stretch
        {
            return Ok(id);
        }
        let grant = self.store.lease_grant(0, self.ttl + stretch).await.map_err(|error| store_status(&error))?;
        *current = Some((grant.id, Instant::now()));
        Ok(grant.id)
    }
    /// A lease that is no longer there is not to be given out again.
    pub(crate) async fn forget(&self, lost: LeaseId) {
        self.current.lock().await.take_if(|(id, _)| *id == lost);
    }
}
