//! Transactions: compare, then run one branch at one revision.

use bytes::Bytes;

use super::Mvcc;
use super::range::bounds;
use crate::error::StoreError;
use crate::types::{Compare, Event, Op, OpResult, Ordering, Revision, Txn, TxnResponse};

impl Mvcc {
    /// Runs a transaction. On error nothing has changed.
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<(TxnResponse, Vec<Event>), StoreError> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        self.check(ops)?;
        let mut events = Vec::new();
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(self.run(op, &mut events));
        }
        if !events.is_empty() {
            self.revision += 1;
        }
        by_key(&mut events);
        for result in &mut results {
            if let OpResult::Range(range) = result {
                range.revision = self.revision;
            }
        }
        Ok((TxnResponse { revision: self.revision, succeeded, results }, events))
    }

    /// A transaction that only reads, run without the log.
    pub(crate) fn read_only(&self, txn: &Txn) -> Result<TxnResponse, StoreError> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            if let Op::Range(range) = op {
                results.push(OpResult::Range(self.range(range)?));
            }
        }
        Ok(TxnResponse { revision: self.revision, succeeded, results })
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision { key, order, revision } => {
                relates(*order, &self.newest(key).map_or(0, |version| version.mod_revision), revision)
            }
            Compare::CreateRevision { key, order, revision } => {
                relates(*order, &self.newest(key).map_or(0, |version| version.create_revision), revision)
            }
            Compare::Version { key, order, version } => {
                relates(*order, &self.newest(key).map_or(0, |newest| newest.version), version)
            }
            Compare::Lease { key, order, lease } => {
                relates(*order, &self.newest(key).map_or(0, |version| version.lease), lease)
            }
            Compare::Value { key, order, value } => {
                let stored = self.newest(key).and_then(|version| version.value.as_ref());
                stored.is_some_and(|stored| relates(*order, stored, value))
            }
        }
    }

    /// What can fail, before anything is changed.
    fn check(&self, ops: &[Op]) -> Result<(), StoreError> {
        for op in ops {
            match op {
                Op::Put { lease, .. } if *lease != 0 && !self.leases.contains_key(lease) => {
                    return Err(StoreError::LeaseNotFound(*lease));
                }
                Op::Range(range) => self.readable(range.revision)?,
                Op::Put { .. } | Op::Delete { .. } => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, op: &Op, events: &mut Vec<Event>) -> OpResult {
        match op {
            Op::Put { key, value, lease, prev_kv } => {
                let event = self.write(key, Some(value.clone()), *lease);
                let prev = event.prev.clone().filter(|_| *prev_kv);
                events.push(event);
                OpResult::Put { prev }
            }
            Op::Delete { key, end, prev_kv } => {
                let mut prev = Vec::new();
                let mut deleted = 0;
                for key in self.live_keys_in(key, end.as_deref()) {
                    let event = self.write(&key, None, 0);
                    deleted += 1;
                    if *prev_kv {
                        prev.extend(event.prev.clone());
                    }
                    events.push(event);
                }
                OpResult::Delete { deleted, prev }
            }
            Op::Range(range) => OpResult::Range(self.read(range, self.revision)),
        }
    }

    fn live_keys_in(&self, key: &[u8], end: Option<&[u8]>) -> Vec<Bytes> {
        let Some(bounds) = bounds(key, end) else { return Vec::new() };
        let range = self.keys.range::<[u8], _>(bounds);
        range.filter(|(_, versions)| versions.live().is_some()).map(|(key, _)| key.clone()).collect()
    }

    /// Deletes keys at one new revision, if any of them exists.
    pub(super) fn delete_all(&mut self, keys: impl IntoIterator<Item = Bytes>) -> (Revision, Vec<Event>) {
        let mut events: Vec<_> = keys.into_iter().map(|key| self.write(&key, None, 0)).collect();
        if !events.is_empty() {
            self.revision += 1;
        }
        by_key(&mut events);
        (self.revision, events)
    }
}

/// Events of one revision come in key order, live and from the history alike: a snapshot does not keep another.
pub(super) fn by_key(events: &mut [Event]) {
    events.sort_by(|one, other| one.kv.key.cmp(&other.kv.key));
}

fn relates<T: Ord>(order: Ordering, stored: &T, given: &T) -> bool {
    match order {
        Ordering::Equal => stored == given,
        Ordering::NotEqual => stored != given,
        Ordering::Greater => stored > given,
        Ordering::Less => stored < given,
    }
}
