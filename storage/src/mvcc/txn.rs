//! Transactions: compare, then run one branch at one revision.

use bytes::Bytes;

use super::range::bounds;
use super::{Mvcc, Version};
use crate::error::StoreError;
use crate::types::{Compare, Event, LeaseId, Op, OpResult, Ordering, Revision, Txn, TxnResponse};

/// The way that a transaction takes, decided before any step of it runs.
struct Plan<'a> {
    succeeded: bool,
    ops: &'a [Op],
    /// One per transaction among `ops`, in their order.
    inner: Vec<Plan<'a>>,
}

impl Mvcc {
    /// Runs a transaction, and puts its changes in place of what `events` has. On error nothing has changed.
    pub(crate) fn txn(&mut self, txn: &Txn, events: &mut Vec<Event>) -> Result<TxnResponse, StoreError> {
        events.clear();
        let plan = self.plan(txn)?;
        let mut response = self.carry_out(&plan, events);
        if !events.is_empty() {
            self.revision += 1;
        }
        by_key(events);
        stamp(&mut response, self.revision);
        Ok(response)
    }

    /// A transaction that only reads, run without the log.
    pub(crate) fn read_only(&self, txn: &Txn) -> Result<TxnResponse, StoreError> {
        let plan = self.plan(txn)?;
        Ok(self.read_along(&plan))
    }

    fn read_along(&self, plan: &Plan<'_>) -> TxnResponse {
        let mut inner = plan.inner.iter();
        let mut results = Vec::with_capacity(plan.ops.len());
        for op in plan.ops {
            match op {
                Op::Range(range) => results.push(OpResult::Range(self.read(range, self.revision))),
                Op::Txn(_) => results.extend(inner.next().map(|plan| OpResult::Txn(self.read_along(plan)))),
                Op::Put { .. } | Op::Update { .. } | Op::Delete { .. } => {}
            }
        }
        TxnResponse { revision: self.revision, succeeded: plan.succeeded, results }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let key = match compare {
            Compare::All { condition, end } => return self.all_hold(condition, end),
            Compare::ModRevision { key, .. }
            | Compare::CreateRevision { key, .. }
            | Compare::Version { key, .. }
            | Compare::Value { key, .. }
            | Compare::Lease { key, .. } => key,
        };
        satisfies(compare, self.newest(key))
    }

    fn all_hold(&self, condition: &Compare, end: &Bytes) -> bool {
        let (Compare::ModRevision { key, .. }
        | Compare::CreateRevision { key, .. }
        | Compare::Version { key, .. }
        | Compare::Value { key, .. }
        | Compare::Lease { key, .. }) = condition
        else {
            return false;
        };
        let mut none = true;
        if let Some(bounds) = bounds(key, Some(end)) {
            for version in self.keys.range(bounds).filter_map(|(_, versions)| versions.live()) {
                none = false;
                if !satisfies(condition, Some(version)) {
                    return false;
                }
            }
        }
        !none || satisfies(condition, None)
    }

    /// Chooses the branches and refuses what can fail, before anything is changed.
    fn plan<'a>(&self, txn: &'a Txn) -> Result<Plan<'a>, StoreError> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let mut inner = Vec::new();
        for op in ops {
            match op {
                Op::Put { lease, .. } => self.granted(*lease)?,
                Op::Update { key, lease, .. } => {
                    self.granted(lease.unwrap_or(0))?;
                    self.newest(key).ok_or(StoreError::KeyNotFound)?;
                }
                Op::Range(range) => self.readable(range.revision)?,
                Op::Txn(txn) => inner.push(self.plan(txn)?),
                Op::Delete { .. } => {}
            }
        }
        Ok(Plan { succeeded, ops, inner })
    }

    fn granted(&self, lease: LeaseId) -> Result<(), StoreError> {
        if lease == 0 || self.leases.contains_key(&lease) { Ok(()) } else { Err(StoreError::LeaseNotFound(lease)) }
    }

    fn carry_out(&mut self, plan: &Plan<'_>, events: &mut Vec<Event>) -> TxnResponse {
        let mut inner = plan.inner.iter();
        let mut results = Vec::with_capacity(plan.ops.len());
        for op in plan.ops {
            match op {
                Op::Txn(_) => results.extend(inner.next().map(|plan| OpResult::Txn(self.carry_out(plan, events)))),
                op => results.extend(self.run(op, events)),
            }
        }
        TxnResponse { revision: self.revision, succeeded: plan.succeeded, results }
    }

    fn run(&mut self, op: &Op, events: &mut Vec<Event>) -> Option<OpResult> {
        Some(match op {
            Op::Put { key, value, lease, prev_kv } => self.put(key, value.clone(), *lease, *prev_kv, events),
            Op::Update { key, value, lease, prev_kv } => {
                let (kept, attached) =
                    self.newest(key).map_or((None, 0), |version| (version.value.clone(), version.lease));
                let value = value.clone().or(kept).unwrap_or_default();
                self.put(key, value, lease.unwrap_or(attached), *prev_kv, events)
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
            Op::Txn(_) => return None,
        })
    }

    fn put(&mut self, key: &Bytes, value: Bytes, lease: LeaseId, prev_kv: bool, events: &mut Vec<Event>) -> OpResult {
        let event = self.write(key, Some(value), lease);
        let prev = event.prev.clone().filter(|_| prev_kv);
        events.push(event);
        OpResult::Put { prev }
    }

    fn live_keys_in(&self, key: &[u8], end: Option<&[u8]>) -> Vec<Bytes> {
        let Some(bounds) = bounds(key, end) else { return Vec::new() };
        let range = self.keys.range(bounds);
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

/// Whether one version, or the lack of one, fulfils a condition on a single key.
fn satisfies(condition: &Compare, stored: Option<&Version>) -> bool {
    match condition {
        Compare::ModRevision { order, revision, .. } => {
            relates(*order, &stored.map_or(0, |version| version.mod_revision), revision)
        }
        Compare::CreateRevision { order, revision, .. } => {
            relates(*order, &stored.map_or(0, |version| version.create_revision), revision)
        }
        Compare::Version { order, version, .. } => relates(*order, &stored.map_or(0, |newest| newest.version), version),
        Compare::Lease { order, lease, .. } => relates(*order, &stored.map_or(0, |version| version.lease), lease),
        Compare::Value { order, value, .. } => {
            stored.and_then(|version| version.value.as_ref()).is_some_and(|stored| relates(*order, stored, value))
        }
        Compare::All { .. } => false,
    }
}

/// Tells every answer in a response the revision that the whole transaction led to.
fn stamp(response: &mut TxnResponse, revision: Revision) {
    response.revision = revision;
    for result in &mut response.results {
        match result {
            OpResult::Range(range) => range.revision = revision,
            OpResult::Txn(inner) => stamp(inner, revision),
            OpResult::Put { .. } | OpResult::Delete { .. } => {}
        }
    }
}

fn relates<T: Ord>(order: Ordering, stored: &T, given: &T) -> bool {
    match order {
        Ordering::Equal => stored == given,
        Ordering::NotEqual => stored != given,
        Ordering::Greater => stored > given,
        Ordering::Less => stored < given,
    }
}
