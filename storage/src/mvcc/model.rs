//! The map against a naive model that keeps every revision as a whole copy of the state.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Mvcc, Version, Versions};
use crate::command::Command;
use crate::error::StoreError;
use crate::types::{
    Compare, Event, EventKind, KeyValue, LeaseId, Op, OpResult, Ordering, RangeRequest, RangeResponse, Revision, Txn,
    TxnResponse,
};

type Live = BTreeMap<u8, KeyValue>;

#[derive(Clone, Debug)]
enum Step {
    Txn(Branches),
    Grant(LeaseId),
    Revoke(LeaseId),
    Compact(u64),
    Purge(usize),
    Reload,
}

#[derive(Clone, Debug)]
struct Branches {
    guards: Vec<Guard>,
    success: Vec<Act>,
    failure: Vec<Act>,
}

/// A compare of one key, or with a width of a range.
#[derive(Clone, Copy, Debug)]
struct Guard {
    target: u8,
    order: Ordering,
    key: u8,
    width: u8,
    number: u8,
}

#[derive(Clone, Debug)]
enum Act {
    Put(u8, u8, LeaseId),
    Update(u8, Option<u8>, Option<LeaseId>),
    Delete(u8, u8),
    Read(u8, u8, usize),
    Nested(Branches),
}

fn name(key: u8) -> Bytes {
    Bytes::from(vec![b'k', key])
}

fn value(value: u8) -> Bytes {
    Bytes::from(vec![value])
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..6u8, any::<u8>(), 0..3i64).prop_map(|(key, value, lease)| Act::Put(key, value, lease)),
        1 => (0..6u8, any::<Option<u8>>(), prop::option::of(0..3i64))
            .prop_map(|(key, value, lease)| Act::Update(key, value, lease)),
        2 => (0..6u8, 1..3u8).prop_map(|(key, width)| Act::Delete(key, width)),
        1 => (0..6u8, 1..6u8, 0..3usize).prop_map(|(key, width, limit)| Act::Read(key, width, limit)),
    ]
}

fn guard() -> impl Strategy<Value = Guard> {
    let order = prop::sample::select(vec![Ordering::Equal, Ordering::NotEqual, Ordering::Greater, Ordering::Less]);
    (0..5u8, order, 0..6u8, 0..4u8, 0..20u8).prop_map(|(target, order, key, width, number)| Guard {
        target,
        order,
        key,
        width,
        number,
    })
}

fn branches() -> impl Strategy<Value = Branches> {
    let flat =
        (prop::collection::vec(guard(), 0..2), prop::collection::vec(act(), 0..3), prop::collection::vec(act(), 0..3))
            .prop_map(|(guards, success, failure)| Branches { guards, success, failure });
    flat.prop_recursive(3, 12, 3, |inner| {
        let acts = || prop::collection::vec(prop_oneof![3 => act(), 1 => inner.clone().prop_map(Act::Nested)], 0..3);
        (prop::collection::vec(guard(), 0..3), acts(), acts()).prop_map(|(guards, success, failure)| Branches {
            guards,
            success,
            failure,
        })
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => branches().prop_map(Step::Txn),
        1 => (1..3i64).prop_map(Step::Grant),
        1 => (1..3i64).prop_map(Step::Revoke),
        1 => any::<u64>().prop_map(Step::Compact),
        1 => (0..20usize).prop_map(Step::Purge),
        1 => Just(Step::Reload),
    ]
}

impl Guard {
    fn compare(self) -> Compare {
        let Self { target, order, key, width, number } = self;
        let (from, number) = (name(key), u64::from(number));
        let condition = match target {
            0 => Compare::ModRevision { key: from, order, revision: number },
            1 => Compare::CreateRevision { key: from, order, revision: number },
            2 => Compare::Version { key: from, order, version: number },
            3 => Compare::Value { key: from, order, value: value(self.number) },
            _ => Compare::Lease { key: from, order, lease: i64::from(self.number) },
        };
        if width == 0 { condition } else { Compare::All { condition: Box::new(condition), end: name(key + width) } }
    }

    fn holds(self, live: &Live) -> bool {
        let found: Vec<_> = live.range(self.key..self.key + self.width.max(1)).map(|(_, kv)| kv).collect();
        let related = |ordering: std::cmp::Ordering| match self.order {
            Ordering::Equal => ordering.is_eq(),
            Ordering::NotEqual => ordering.is_ne(),
            Ordering::Greater => ordering.is_gt(),
            Ordering::Less => ordering.is_lt(),
        };
        let of = |stored: [u64; 4]| {
            let at = usize::from(if self.target == 4 { 3 } else { self.target });
            related(stored[at].cmp(&u64::from(self.number)))
        };
        if found.is_empty() {
            return self.target != 3 && of([0; 4]);
        }
        found.into_iter().all(|kv| match self.target {
            3 => related(kv.value.cmp(&value(self.number))),
            _ => of([kv.mod_revision, kv.create_revision, kv.version, kv.lease.unsigned_abs()]),
        })
    }
}

fn txn(branches: &Branches) -> Txn {
    let compares = branches.guards.iter().map(|guard| guard.compare()).collect();
    let ops = |acts: &[Act]| acts.iter().map(op).collect();
    Txn { compares, success: ops(&branches.success), failure: ops(&branches.failure), ..Txn::default() }
}

fn op(act: &Act) -> Op {
    match act {
        Act::Put(key, new, lease) => Op::Put { key: name(*key), value: value(*new), lease: *lease, prev_kv: true },
        Act::Update(key, new, lease) => {
            Op::Update { key: name(*key), value: new.map(value), lease: *lease, prev_kv: true }
        }
        Act::Delete(key, width) => Op::Delete { key: name(*key), end: Some(name(key + width)), prev_kv: true },
        Act::Read(key, width, limit) => Op::Range(RangeRequest {
            key: name(*key),
            end: Some(name(key + width)),
            limit: *limit,
            ..RangeRequest::default()
        }),
        Act::Nested(inner) => Op::Txn(txn(inner)),
    }
}

#[derive(Default)]
struct Model {
    /// The state at each revision, the empty one first.
    states: Vec<Live>,
    events: Vec<(Revision, Vec<Event>)>,
    compacted: Revision,
    leases: BTreeSet<LeaseId>,
}

/// A transaction on its way.
struct Run<'a> {
    before: &'a Live,
    live: Live,
    leases: &'a BTreeSet<LeaseId>,
    revision: Revision,
    events: Vec<Event>,
}

impl Run<'_> {
    fn txn(&mut self, branches: &Branches) -> Option<TxnResponse> {
        let succeeded = branches.guards.iter().all(|guard| guard.holds(self.before));
        let acts = if succeeded { &branches.success } else { &branches.failure };
        let results = acts.iter().map(|act| self.act(act)).collect::<Option<_>>()?;
        Some(TxnResponse { revision: 0, succeeded, results })
    }

    /// Nothing when the transaction is to be refused.
    fn act(&mut self, act: &Act) -> Option<OpResult> {
        Some(match act {
            Act::Put(key, new, lease) => self.put(*key, value(*new), *lease)?,
            Act::Update(key, new, lease) => {
                let found = self.before.get(key)?;
                self.put(*key, new.map_or(found.value.clone(), value), lease.unwrap_or(found.lease))?
            }
            Act::Delete(key, width) => {
                let gone: Vec<_> = (*key..key + width).filter_map(|key| self.live.remove(&key)).collect();
                for prev in &gone {
                    let kv = KeyValue {
                        key: prev.key.clone(),
                        value: Bytes::new(),
                        create_revision: 0,
                        mod_revision: self.revision,
                        version: 0,
                        lease: 0,
                    };
                    self.events.push(Event { kind: EventKind::Delete, kv, prev: Some(prev.clone()) });
                }
                OpResult::Delete { deleted: gone.len() as u64, prev: gone }
            }
            Act::Read(key, width, limit) => {
                let all: Vec<_> = self.live.range(*key..key + width).map(|(_, kv)| kv.clone()).collect();
                let shown = if *limit == 0 { all.len() } else { all.len().min(*limit) };
                let (count, more) = (all.len() as u64, shown < all.len());
                OpResult::Range(RangeResponse { revision: 0, kvs: all[..shown].to_vec(), more, count })
            }
            Act::Nested(inner) => OpResult::Txn(self.txn(inner)?),
        })
    }

    fn put(&mut self, key: u8, value: Bytes, lease: LeaseId) -> Option<OpResult> {
        if lease != 0 && !self.leases.contains(&lease) {
            return None;
        }
        let prev = self.live.get(&key).cloned();
        let kv = KeyValue {
            key: name(key),
            value,
            create_revision: prev.as_ref().map_or(self.revision, |prev| prev.create_revision),
            mod_revision: self.revision,
            version: prev.as_ref().map_or(1, |prev| prev.version + 1),
            lease,
        };
        self.live.insert(key, kv.clone());
        self.events.push(Event { kind: EventKind::Put, kv, prev: prev.clone() });
        Some(OpResult::Put { prev })
    }
}

impl Model {
    fn new() -> Self {
        Self { states: vec![Live::new()], ..Self::default() }
    }

    fn revision(&self) -> Revision {
        self.states.len() as u64 - 1
    }

    fn newest(&self) -> &Live {
        &self.states[self.states.len() - 1]
    }

    fn run(&mut self, branches: &Branches) -> Option<(TxnResponse, Vec<Event>)> {
        let (before, revision) = (self.newest().clone(), self.revision() + 1);
        let leases = self.leases.clone();
        let mut run = Run { before: &before, live: before.clone(), leases: &leases, revision, events: Vec::new() };
        let mut response = run.txn(branches)?;
        let Run { live, events, .. } = run;
        let events = self.keep(live, events);
        settle(&mut response, self.revision());
        Some((response, events))
    }

    fn keep(&mut self, live: Live, mut events: Vec<Event>) -> Vec<Event> {
        if !events.is_empty() {
            events.sort_by(|one, other| one.kv.key.cmp(&other.kv.key));
            self.states.push(live);
            self.events.push((self.revision(), events.clone()));
        }
        events
    }

    fn revoke(&mut self, id: LeaseId) -> Option<Vec<Event>> {
        if !self.leases.remove(&id) {
            return None;
        }
        let (before, revision) = (self.newest().clone(), self.revision() + 1);
        let leases = BTreeSet::new();
        let mut run = Run { before: &before, live: before.clone(), leases: &leases, revision, events: Vec::new() };
        for (key, kv) in &before {
            if kv.lease == id {
                run.act(&Act::Delete(*key, 1))?;
            }
        }
        let Run { live, events, .. } = run;
        Some(self.keep(live, events))
    }
}

fn settle(response: &mut TxnResponse, revision: Revision) {
    response.revision = revision;
    for result in &mut response.results {
        match result {
            OpResult::Range(range) => range.revision = revision,
            OpResult::Txn(inner) => settle(inner, revision),
            OpResult::Put { .. } | OpResult::Delete { .. } => {}
        }
    }
}

/// As a snapshot would carry it.
fn reload(mvcc: &Mvcc) -> Mvcc {
    let copy = |(key, versions): (&Bytes, &Versions)| (key.clone(), versions.clone());
    let keys = mvcc.keys_from(std::ops::Bound::Unbounded).map(copy).collect();
    let leases: Vec<_> = mvcc.leases().map(|(id, lease)| (id, lease.ttl_secs)).collect();
    Mvcc::restore(keys, mvcc.revision(), mvcc.compacted(), leases)
}

fn agree(mvcc: &Mvcc, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(mvcc.revision(), model.revision());
    for revision in model.compacted..=model.revision() {
        let wanted: Vec<&KeyValue> = model.states[usize::try_from(revision).unwrap_or(0)].values().collect();
        for limit in [0, 2] {
            let request = RangeRequest { revision: Some(revision), limit, ..RangeRequest::prefix("k") };
            let Ok(found) = mvcc.range(&request) else { return Err(TestCaseError::fail("not readable")) };
            let shown = if limit == 0 { wanted.len() } else { limit.min(wanted.len()) };
            prop_assert_eq!(found.kvs.iter().collect::<Vec<_>>(), &wanted[..shown]);
            prop_assert_eq!((found.count, found.more), (wanted.len() as u64, shown < wanted.len()));
        }
    }
    let now = mvcc.range(&RangeRequest::prefix("k")).map(|found| found.kvs);
    prop_assert_eq!(now, Ok(model.newest().values().cloned().collect::<Vec<_>>()));
    prop_assert_eq!(mvcc.live().0, model.newest().len() as u64);
    let kept = mvcc.keys_from(Bound::Unbounded).flat_map(|(key, versions)| {
        let value = |version: &Version| version.value.as_ref().map_or(0, Bytes::len);
        versions.all().iter().map(move |version| (key.len() + value(version)) as u64)
    });
    prop_assert_eq!(mvcc.bytes(), kept.sum::<u64>());
    prop_assert!(model.compacted == 0 || mvcc.replay(b"k", Some(b"l"), model.compacted, 9).is_err());
    let mut next = model.compacted + 1;
    let mut seen = Vec::new();
    while next <= model.revision() {
        let Ok(replay) = mvcc.replay(b"k", Some(b"l"), next, 3) else { return Err(TestCaseError::fail("no replay")) };
        seen.extend(replay.batches);
        next = replay.next;
    }
    let wanted: Vec<_> = model.events.iter().filter(|(revision, _)| *revision > model.compacted).collect();
    prop_assert_eq!(seen.len(), wanted.len());
    for (batch, (revision, events)) in seen.iter().zip(wanted) {
        prop_assert_eq!(batch.revision, *revision);
        prop_assert_eq!(batch.events.len(), events.len());
        for (found, wanted) in batch.events.iter().zip(events) {
            prop_assert_eq!((&found.kind, &found.kv), (&wanted.kind, &wanted.kv));
            // A previous version that was superseded at or before the compaction may be gone already.
            prop_assert!(found.prev.is_none() || found.prev == wanted.prev);
        }
    }
    Ok(())
}

fn transact(mvcc: &mut Mvcc, model: &mut Model, branches: &Branches) -> Result<(), TestCaseError> {
    let command = Command::Txn(txn(branches));
    let Command::Txn(txn) = &command else { return Ok(()) };
    if let Err(error) = crate::request::check(&command) {
        prop_assert!(matches!(error, StoreError::DuplicateKey), "{}", error);
        return Ok(());
    }
    let before = (mvcc.revision(), mvcc.live(), mvcc.version_count());
    let read = crate::request::only_reads(txn).then(|| mvcc.read_only(txn).ok());
    let mut events = Vec::new();
    match (mvcc.txn(txn, &mut events), model.run(branches)) {
        (Ok(response), Some((wanted, changes))) => {
            prop_assert_eq!(&response, &wanted);
            prop_assert_eq!(events, changes);
            prop_assert!(read.is_none_or(|read| read == Some(wanted)));
        }
        (Err(error), None) => {
            prop_assert!(matches!(error, StoreError::KeyNotFound | StoreError::LeaseNotFound(_)), "{}", error);
            prop_assert_eq!((mvcc.revision(), mvcc.live(), mvcc.version_count()), before);
        }
        (found, wanted) => return Err(TestCaseError::fail(format!("{found:?} instead of {wanted:?}"))),
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_readable_revision_and_change_is_as_in_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let (mut mvcc, mut model) = (Mvcc::default(), Model::new());
        for step in steps {
            match step {
                Step::Txn(branches) => transact(&mut mvcc, &mut model, &branches)?,
                Step::Grant(id) => prop_assert_eq!(mvcc.grant(id, 9).is_ok(), model.leases.insert(id)),
                Step::Revoke(id) => prop_assert_eq!(mvcc.revoke(id).ok(), model.revoke(id)),
                Step::Compact(pick) => {
                    let span = model.revision() - model.compacted + 1;
                    model.compacted += pick % span;
                    prop_assert!(mvcc.compact(model.compacted).is_ok());
                }
                Step::Purge(limit) => {
                    mvcc.purge_some(limit);
                }
                Step::Reload => mvcc = reload(&mvcc),
            }
            agree(&mvcc, &model)?;
        }
        while mvcc.purge_some(1) {}
        agree(&mvcc, &model)?;
        let kept: usize = mvcc.keys_from(std::ops::Bound::Unbounded).map(|(_, versions)| versions.all().len()).sum();
        prop_assert_eq!(mvcc.version_count(), kept as u64);
    }
}
