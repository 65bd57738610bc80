//! Keys and their versions: a tree for order, and beside it a hash table, since most reads and all writes name one key.
//!
//! A tree of so many keys is half a dozen nodes deep, and each comparison on the way follows a pointer out of the
//! processor's caches; the table needs one. It holds positions only, thus five bytes or so for a key.
//!
//! Invariants: `order`, `table` and the slots in use name the same keys; a slot that is not in use is in `free`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;

use bytes::Bytes;
use hashbrown::HashTable;

use super::Versions;

#[derive(Debug, Default)]
struct Slot {
    key: Bytes,
    versions: Versions,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    slots: Vec<Slot>,
    free: Vec<u32>,
    order: BTreeMap<Bytes, u32>,
    table: HashTable<u32>,
    hasher: RandomState,
}

/// Where a key's versions are; good until a key is removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(u32);

impl Index {
    /// More keys than this are not kept: positions have 32 bits. Memory ends long before.
    fn position(at: usize) -> u32 {
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    pub(super) fn from_keys(keys: Vec<(Bytes, Versions)>) -> Self {
        let order = keys.iter().enumerate().map(|(at, (key, _))| (key.clone(), Self::position(at))).collect();
        let mut index = Self { order, ..Self::default() };
        index.table.reserve(keys.len(), |_| 0);
        index.slots.reserve_exact(keys.len());
        for (at, (key, versions)) in keys.into_iter().enumerate() {
            let hash = index.hasher.hash_one(&key[..]);
            index.slots.push(Slot { key, versions });
            let (slots, hasher) = (&index.slots, &index.hasher);
            index.table.insert_unique(hash, Self::position(at), |at| hasher.hash_one(&slots[*at as usize].key[..]));
        }
        index
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<Place> {
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |at| self.slots[*at as usize].key == key).map(|at| Place(*at))
    }

    pub(super) fn at(&self, place: Place) -> (&Bytes, &Versions) {
        let slot = &self.slots[place.0 as usize];
        (&slot.key, &slot.versions)
    }

    pub(super) fn at_mut(&mut self, place: Place) -> &mut Versions {
        &mut self.slots[place.0 as usize].versions
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<(&Bytes, &Versions)> {
        self.find(key).map(|place| self.at(place))
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, key: Bytes, versions: Versions) {
        let hash = self.hasher.hash_one(&key[..]);
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            Self::position(self.slots.len() - 1)
        });
        self.slots[at as usize] = Slot { key: key.clone(), versions };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.table.insert_unique(hash, at, |at| hasher.hash_one(&slots[*at as usize].key[..]));
        self.order.insert(key, at);
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        let Some(at) = self.order.remove(key) else { return };
        if let Ok(entry) = self.table.find_entry(self.hasher.hash_one(key), |other| *other == at) {
            entry.remove();
        }
        self.slots[at as usize] = Slot::default();
        self.free.push(at);
    }

    /// In the order of the keys.
    pub(super) fn range(&self, bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> impl Iterator<Item = (&Bytes, &Versions)> {
        self.order.range::<[u8], _>(bounds).map(|(key, at)| (key, &self.slots[*at as usize].versions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_is_gone_from_all_parts_and_its_slot_is_used_again() {
        let keys = || (0..1000u32).map(|number| Bytes::from(number.to_string()));
        let mut index = Index::from_keys(keys().map(|key| (key, Versions::default())).collect());
        for key in keys().filter(|key| key.ends_with(b"7")) {
            index.remove(&key);
            index.remove(&key);
            assert!(index.get(&key).is_none());
        }
        index.insert(Bytes::from("new"), Versions::default());
        assert_eq!(index.slots.len(), 1000);
        let all: Vec<_> = index.range((Bound::Unbounded, Bound::Unbounded)).map(|(key, _)| key.clone()).collect();
        let mut expected: Vec<_> = keys().filter(|key| !key.ends_with(b"7")).chain([Bytes::from("new")]).collect();
        expected.sort();
        assert_eq!(all, expected);
        assert!(expected.iter().all(|key| index.get(key).is_some_and(|(found, _)| found == key)));
    }
}
