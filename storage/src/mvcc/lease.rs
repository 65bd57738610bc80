//! Leases as the log knows them: their granted time and keys. When they end is the clock's business, in `leases`.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Mvcc;
use crate::error::StoreError;
use crate::types::{Event, LeaseId};

#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    pub(crate) ttl_secs: u64,
    pub(crate) keys: BTreeSet<Bytes>,
}

impl Lease {
    pub(super) fn new(ttl_secs: u64) -> Self {
        Self { ttl_secs, keys: BTreeSet::new() }
    }
}

impl Mvcc {
    pub(crate) fn leases(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    pub(crate) fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(crate) fn grant(&mut self, id: LeaseId, ttl_secs: u64) -> Result<(), StoreError> {
        if self.leases.contains_key(&id) {
            return Err(StoreError::LeaseExists(id));
        }
        self.leases.insert(id, Lease::new(ttl_secs));
        Ok(())
    }

    /// Ends a lease; its keys go at one revision.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<Vec<Event>, StoreError> {
        let lease = self.leases.remove(&id).ok_or(StoreError::LeaseNotFound(id))?;
        Ok(self.delete_all(lease.keys).1)
    }

    pub(super) fn attach(&mut self, key: &Bytes, lease: LeaseId) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.insert(key.clone());
        }
    }

    pub(super) fn detach(&mut self, key: &Bytes, lease: LeaseId) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.remove(key);
        }
    }
}
