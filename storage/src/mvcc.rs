//! The multi-version map: the deterministic state machine, in memory. No I/O, no clock.
//!
//! Invariants: the versions of a key ascend in `mod_revision`; `history` names every change after `purged`, in revision
//! order; nothing at or below `compacted` is promised, and versions leave memory later, in steps
//! ([`Mvcc::purge_some`]), never while a snapshot reads them ([`Mvcc::pin`]). Driven by the Raft state machine.

mod compact;
mod hash;
mod history;
mod index;
mod lease;
#[cfg(test)]
mod model;
mod range;
mod txn;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::types::{Event, EventKind, KeyValue, LeaseId, Revision};

pub(crate) use hash::Hashing;
use index::Index;
pub(crate) use lease::Lease;
pub(crate) use range::contains;

/// One version of a key, without the key. No value: the key was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) mod_revision: Revision,
    pub(crate) create_revision: Revision,
    pub(crate) version: u64,
    pub(crate) lease: LeaseId,
    pub(crate) value: Option<Bytes>,
}

impl Version {
    fn kv(&self, key: &Bytes) -> Option<KeyValue> {
        self.value.as_ref().map(|value| KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        })
    }

    fn event(&self, key: &Bytes, prev: Option<KeyValue>) -> Event {
        let gone = || KeyValue {
            key: key.clone(),
            value: Bytes::new(),
            create_revision: 0,
            mod_revision: self.mod_revision,
            version: 0,
            lease: 0,
        };
        let kind = if self.value.is_some() { EventKind::Put } else { EventKind::Delete };
        Event { kind, kv: self.kv(key).unwrap_or_else(gone), prev }
    }
}

/// The versions of one key, oldest first. Most keys have one, which needs no allocation; more grow by exact steps.
#[derive(Clone, Debug)]
pub(crate) enum Versions {
    One(Version),
    Many(Vec<Version>),
}

impl Default for Versions {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl PartialEq for Versions {
    fn eq(&self, other: &Self) -> bool {
        self.all() == other.all()
    }
}

impl Eq for Versions {}

impl Versions {
    pub(crate) fn from_vec(mut versions: Vec<Version>) -> Self {
        match versions.pop() {
            Some(only) if versions.is_empty() => Self::One(only),
            last => {
                versions.extend(last);
                Self::Many(versions)
            }
        }
    }

    pub(crate) fn all(&self) -> &[Version] {
        match self {
            Self::One(version) => std::slice::from_ref(version),
            Self::Many(versions) => versions,
        }
    }

    /// What can still be read from a state compacted at `compacted`, up to a revision; the same whatever has been freed.
    pub(crate) fn readable(&self, compacted: Revision, upto: Revision) -> &[Version] {
        let all = self.all();
        let upto = all.partition_point(|version| version.mod_revision <= upto);
        let after = all.partition_point(|version| version.mod_revision <= compacted);
        let kept = after.checked_sub(1).filter(|newest| all[*newest].value.is_some());
        &all[kept.unwrap_or(after).min(upto)..upto]
    }

    fn push(&mut self, version: Version) {
        match self {
            Self::Many(versions) if versions.is_empty() => *self = Self::One(version),
            Self::Many(versions) => {
                if versions.len() == versions.capacity() {
                    versions.reserve_exact((versions.len() / 2).max(1));
                }
                versions.push(version);
            }
            Self::One(_) => {
                if let Self::One(first) = std::mem::take(self) {
                    *self = Self::Many(vec![first, version]);
                }
            }
        }
    }

    /// Drops the oldest ones.
    fn forget(&mut self, oldest: usize) {
        match self {
            Self::One(_) if oldest > 0 => *self = Self::default(),
            Self::One(_) => {}
            Self::Many(versions) => {
                versions.drain(..oldest);
                *self = match std::mem::take(versions) {
                    versions if versions.len() == 1 => Self::from_vec(versions),
                    mut versions => {
                        versions.shrink_to_fit();
                        Self::Many(versions)
                    }
                };
            }
        }
    }

    /// The newest version, unless the key is deleted.
    fn live(&self) -> Option<&Version> {
        self.all().last().filter(|version| version.value.is_some())
    }

    /// The version that was newest at `revision`, unless the key was deleted then.
    fn at(&self, revision: Revision) -> Option<&Version> {
        let all = self.all();
        let after = all.partition_point(|version| version.mod_revision <= revision);
        all[..after].last().filter(|version| version.value.is_some())
    }
}

#[derive(Clone, Debug)]
struct Change {
    revision: Revision,
    key: Bytes,
}

/// Everything that the committed log says.
#[derive(Debug, Default)]
pub(crate) struct Mvcc {
    keys: Index,
    revision: Revision,
    compacted: Revision,
    purged: Revision,
    history: VecDeque<Change>,
    leases: BTreeMap<LeaseId, Lease>,
    pins: usize,
    live_keys: u64,
    live_bytes: u64,
    versions: u64,
    /// Bytes of the keys and values of all versions.
    bytes: u64,
}

impl Mvcc {
    /// The state as a snapshot holds it. `keys` may come in any order.
    pub(crate) fn restore(
        keys: Vec<(Bytes, Versions)>,
        revision: Revision,
        compacted: Revision,
        leases: impl IntoIterator<Item = (LeaseId, u64)>,
    ) -> Self {
        let mut state = Self { revision, compacted, ..Self::default() };
        state.leases = leases.into_iter().map(|(id, ttl_secs)| (id, Lease::new(ttl_secs))).collect();
        let mut history = Vec::new();
        for (key, versions) in &keys {
            state.versions += versions.all().len() as u64;
            state.bytes += versions.all().iter().map(|version| size(key, version)).sum::<u64>();
            if let Some(live) = versions.live() {
                state.live_keys += 1;
                state.live_bytes += size(key, live);
                if let Some(lease) = state.leases.get_mut(&live.lease) {
                    lease.keys.insert(key.clone());
                }
            }
            let kept = versions.all().iter().map(|version| Change { revision: version.mod_revision, key: key.clone() });
            history.extend(kept);
        }
        history.sort_by_key(|change| change.revision);
        state.history = history.into();
        state.keys = Index::from_keys(keys);
        state
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn live(&self) -> (u64, u64) {
        (self.live_keys, self.live_bytes)
    }

    /// Bytes of everything that is kept, superseded versions included: what a snapshot holds, before it is compressed.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn version_count(&self) -> u64 {
        self.versions
    }

    /// Every key above a bound, deleted ones included, in order.
    pub(crate) fn keys_from(&self, from: Bound<&[u8]>) -> impl Iterator<Item = (&Bytes, &Versions)> {
        self.keys.range((from, Bound::Unbounded))
    }

    pub(crate) fn skip(&mut self, revisions: u64) {
        self.revision = self.revision.saturating_add(revisions);
    }

    /// Adds a version at the next revision and returns its event, the previous version included.
    fn write(&mut self, key: &Bytes, value: Option<Bytes>, lease: LeaseId) -> Event {
        let revision = self.revision + 1;
        let place = self.keys.find(key);
        let (shared, previous) = match place.map(|place| self.keys.at(place)) {
            Some((shared, versions)) => (shared.clone(), versions.live().cloned()),
            None => (key.clone(), None),
        };
        let (create_revision, version) = match &previous {
            Some(previous) => (previous.create_revision, previous.version + 1),
            None => (revision, 1),
        };
        let added = Version { mod_revision: revision, create_revision, version, lease, value };
        if let Some(previous) = &previous {
            self.live_keys -= 1;
            self.live_bytes -= size(&shared, previous);
            self.detach(&shared, previous.lease);
        }
        if added.value.is_some() {
            self.live_keys += 1;
            self.live_bytes += size(&shared, &added);
            self.attach(&shared, lease);
        }
        let event = added.event(&shared, previous.and_then(|version| version.kv(&shared)));
        self.history.push_back(Change { revision, key: shared.clone() });
        self.bytes += size(&shared, &added);
        match place {
            Some(place) => self.keys.at_mut(place).push(added),
            None => self.keys.insert(shared, Versions::One(added)),
        }
        self.versions += 1;
        event
    }
}

fn size(key: &[u8], version: &Version) -> u64 {
    (key.len() + version.value.as_ref().map_or(0, Bytes::len)) as u64
}
