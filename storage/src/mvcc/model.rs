//! The map against a naive model that keeps every revision as a whole copy of the state.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Mvcc, Versions};
use crate::types::{Compare, Event, EventKind, KeyValue, Op, OpResult, Ordering, RangeRequest, Revision, Txn};

type Live = BTreeMap<u8, KeyValue>;

#[derive(Clone, Debug)]
enum Step {
    Txn { guard: (u8, u64), ops: Vec<Act>, otherwise: Vec<Act> },
    Compact(u64),
    Purge(usize),
    Reload,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Put(u8, u8),
    Delete(u8, u8),
}

fn name(key: u8) -> Bytes {
    Bytes::from(vec![b'k', key])
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..6u8, any::<u8>()).prop_map(|(key, value)| Act::Put(key, value)),
        2 => (0..6u8, 1..3u8).prop_map(|(key, width)| Act::Delete(key, width)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let acts = || prop::collection::vec(act(), 0..3);
    prop_oneof![
        8 => ((0..6u8, 0..3u64), acts(), acts())
            .prop_map(|(guard, ops, otherwise)| Step::Txn { guard, ops, otherwise }),
        1 => any::<u64>().prop_map(Step::Compact),
        1 => (0..20usize).prop_map(Step::Purge),
        1 => Just(Step::Reload),
    ]
}

/// Drops what the store refuses before the log: two changes of one key.
fn valid(acts: &[Act]) -> Vec<Act> {
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    for act in acts {
        let keys: Vec<u8> = match act {
            Act::Put(key, _) => vec![*key],
            Act::Delete(key, width) => (*key..key + width).collect(),
        };
        if keys.iter().all(|key| !seen.contains(key)) {
            seen.extend(keys);
            kept.push(*act);
        }
    }
    kept
}

fn ops(acts: &[Act]) -> Vec<Op> {
    let op = |act: &Act| match act {
        Act::Put(key, value) => Op::Put { key: name(*key), value: Bytes::from(vec![*value]), lease: 0, prev_kv: true },
        Act::Delete(key, width) => Op::Delete { key: name(*key), end: Some(name(key + width)), prev_kv: true },
    };
    acts.iter().map(op).collect()
}

#[derive(Default)]
struct Model {
    /// The state at each revision, the empty one first.
    states: Vec<Live>,
    events: Vec<(Revision, Vec<Event>)>,
    compacted: Revision,
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

    /// Returns the changes.
    fn run(&mut self, acts: &[Act]) -> Vec<Event> {
        let revision = self.revision() + 1;
        let mut live = self.newest().clone();
        let mut events = Vec::new();
        for act in acts {
            match act {
                Act::Put(key, value) => {
                    let prev = live.get(key).cloned();
                    let kv = KeyValue {
                        key: name(*key),
                        value: Bytes::from(vec![*value]),
                        create_revision: prev.as_ref().map_or(revision, |prev| prev.create_revision),
                        mod_revision: revision,
                        version: prev.as_ref().map_or(1, |prev| prev.version + 1),
                        lease: 0,
                    };
                    live.insert(*key, kv.clone());
                    events.push(Event { kind: EventKind::Put, kv, prev });
                }
                Act::Delete(key, width) => {
                    for key in *key..key + width {
                        let Some(prev) = live.remove(&key) else { continue };
                        let kv = KeyValue {
                            key: name(key),
                            value: Bytes::new(),
                            create_revision: 0,
                            mod_revision: revision,
                            version: 0,
                            lease: 0,
                        };
                        events.push(Event { kind: EventKind::Delete, kv, prev: Some(prev) });
                    }
                }
            }
        }
        if !events.is_empty() {
            events.sort_by(|one: &Event, other| one.kv.key.cmp(&other.kv.key));
            self.states.push(live);
            self.events.push((revision, events.clone()));
        }
        events
    }
}

/// As a snapshot would carry it.
fn reload(mvcc: &Mvcc) -> Mvcc {
    let copy = |(key, versions): (&Bytes, &Versions)| (key.clone(), versions.clone());
    let keys = mvcc.keys_from(std::ops::Bound::Unbounded).map(copy).collect();
    Mvcc::restore(keys, mvcc.revision(), mvcc.compacted(), [])
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

fn transact(mvcc: &mut Mvcc, model: &mut Model, guard: (u8, u64), acts: [&[Act]; 2]) -> Result<(), TestCaseError> {
    let (key, version) = guard;
    let [success, failure] = acts.map(valid);
    let compares = vec![Compare::Version { key: name(key), order: Ordering::Greater, version }];
    let txn = Txn { compares, success: ops(&success), failure: ops(&failure), ..Txn::default() };
    let holds = model.newest().get(&key).map_or(0, |kv| kv.version) > version;
    let wanted = model.run(if holds { &success } else { &failure });
    let Ok((response, events)) = mvcc.txn(&txn) else { return Err(TestCaseError::fail("refused")) };
    prop_assert_eq!((response.succeeded, response.revision), (holds, model.revision()));
    prop_assert_eq!(&events, &wanted);
    let mut prevs = Vec::new();
    for result in response.results {
        match result {
            OpResult::Put { prev } => prevs.push(prev),
            OpResult::Delete { deleted, prev } => {
                prop_assert_eq!(deleted, prev.len() as u64);
                prevs.extend(prev.into_iter().map(Some));
            }
            OpResult::Range(_) => {}
        }
    }
    let mut wanted: Vec<_> = wanted.into_iter().map(|event| event.prev).collect();
    let order = |prev: &Option<KeyValue>| prev.as_ref().map(|kv| kv.key.clone());
    prevs.sort_by_key(order);
    wanted.sort_by_key(order);
    prop_assert_eq!(prevs, wanted);
    Ok(())
}

proptest! {
    #[test]
    fn every_readable_revision_and_change_is_as_in_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let (mut mvcc, mut model) = (Mvcc::default(), Model::new());
        for step in steps {
            match step {
                Step::Txn { guard, ops, otherwise } => transact(&mut mvcc, &mut model, guard, [&ops, &otherwise])?,
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
