//! Ranges as etcd has them: what the store reads, and the filters and orders that only etcd knows, applied to its answer.

use std::cmp::Ordering;

use crate::types::{self, Bytes, KeyValue};

use super::status::Status;
use super::wire::{self, SortOrder, SortTarget};

/// The end of a range in the store's terms: none for a single key, empty for no bound.
pub(super) fn end(range_end: Vec<u8>) -> Option<Bytes> {
    match range_end.as_slice() {
        [] => None,
        [0] => Some(Bytes::new()),
        _ => Some(range_end.into()),
    }
}

/// Whether an answer may have more than one key's value.
pub(super) fn may_be_large(request: &wire::RangeRequest) -> bool {
    !request.range_end.is_empty() && !request.count_only
}

/// What is done to the store's answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    mod_revisions: (u64, u64),
    create_revisions: (u64, u64),
    sort: Option<(SortTarget, SortOrder)>,
    /// When the store must not apply it, since something else comes before it.
    limit: usize,
    keys_only: bool,
}

fn bounds(min: i64, max: i64) -> (u64, u64) {
    let upper = if max == 0 { u64::MAX } else { u64::try_from(max).unwrap_or(0) };
    (u64::try_from(min).unwrap_or(0), upper)
}

/// Splits a request into the store's part and the rest.
pub(super) fn split(request: wire::RangeRequest) -> Result<(types::RangeRequest, Shape), Status> {
    if request.key.is_empty() {
        return Err(Status::empty_key());
    }
    let invalid = |_| Status::invalid("etcdserver: invalid sort option");
    let order = SortOrder::try_from(request.sort_order).map_err(invalid)?;
    let target = SortTarget::try_from(request.sort_target).map_err(invalid)?;
    let sort = match (target, order) {
        // The store's own order.
        (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => None,
        (target, SortOrder::None) => Some((target, SortOrder::Ascend)),
        sort => Some(sort),
    };
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let mod_revisions = bounds(request.min_mod_revision, request.max_mod_revision);
    let create_revisions = bounds(request.min_create_revision, request.max_create_revision);
    let everything = (0, u64::MAX);
    let shaped = sort.is_some() || mod_revisions != everything || create_revisions != everything;
    let read = types::RangeRequest {
        key: request.key.into(),
        end: end(request.range_end),
        revision: u64::try_from(request.revision).ok().filter(|revision| *revision > 0),
        limit: if shaped { 0 } else { limit },
        count_only: request.count_only,
        keys_only: request.keys_only && !shaped,
    };
    let limit = if shaped { limit } else { 0 };
    Ok((read, Shape { mod_revisions, create_revisions, sort, limit, keys_only: request.keys_only }))
}

fn order(target: SortTarget, one: &KeyValue, other: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => one.key.cmp(&other.key),
        SortTarget::Version => one.version.cmp(&other.version),
        SortTarget::Create => one.create_revision.cmp(&other.create_revision),
        SortTarget::Mod => one.mod_revision.cmp(&other.mod_revision),
        SortTarget::Value => one.value.cmp(&other.value),
    }
}

impl Shape {
    /// Leaves the store's answer as it is.
    pub(super) const PLAIN: Self =
        Self { mod_revisions: (0, u64::MAX), create_revisions: (0, u64::MAX), sort: None, limit: 0, keys_only: false };

    /// Filters, sorts and cuts; the count stays that of the whole range, as etcd has it.
    pub(super) fn apply(&self, mut response: types::RangeResponse) -> wire::RangeResponse {
        let within = |(min, max): (u64, u64), revision: u64| (min..=max).contains(&revision);
        response.kvs.retain(|kv| {
            within(self.mod_revisions, kv.mod_revision) && within(self.create_revisions, kv.create_revision)
        });
        if let Some((target, direction)) = self.sort {
            // Both ways stable: equal ones stay in the order of their keys.
            match direction {
                SortOrder::Descend => response.kvs.sort_by(|one, other| order(target, other, one)),
                SortOrder::None | SortOrder::Ascend => response.kvs.sort_by(|one, other| order(target, one, other)),
            }
        }
        if self.limit > 0 && response.kvs.len() > self.limit {
            response.kvs.truncate(self.limit);
            response.more = true;
        }
        if self.keys_only {
            response.kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        wire::RangeResponse {
            header: None,
            kvs: response.kvs.into_iter().map(Into::into).collect(),
            more: response.more,
            count: response.count.cast_signed(),
        }
    }
}

impl From<KeyValue> for wire::KeyValue {
    fn from(kv: KeyValue) -> Self {
        Self {
            key: kv.key,
            create_revision: kv.create_revision.cast_signed(),
            mod_revision: kv.mod_revision.cast_signed(),
            version: kv.version.cast_signed(),
            value: kv.value,
            lease: kv.lease,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &'static str, value: &'static str, revision: u64) -> KeyValue {
        let (key, value) = (Bytes::from(key), Bytes::from(value));
        KeyValue { key, value, create_revision: revision, mod_revision: revision + 1, version: revision % 2, lease: 0 }
    }

    fn shaped(change: impl FnOnce(&mut wire::RangeRequest)) -> (Vec<String>, bool, i64) {
        let mut request = wire::RangeRequest { key: b"a".to_vec(), range_end: vec![0], ..Default::default() };
        change(&mut request);
        let (_, shape) = split(request).unwrap();
        let kvs = vec![kv("a", "3", 5), kv("b", "1", 4), kv("c", "2", 3)];
        let response = shape.apply(types::RangeResponse { revision: 9, kvs, more: false, count: 3 });
        let keys = response.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect();
        (keys, response.more, response.count)
    }

    #[test]
    fn every_order_is_known_both_ways() {
        let sorted = |target: SortTarget, order: SortOrder| {
            let found = shaped(|request| (request.sort_target, request.sort_order) = (target as i32, order as i32));
            found.0.concat()
        };
        for (target, up, down) in [
            (SortTarget::Key, "abc", "cba"),
            (SortTarget::Version, "bac", "acb"),
            (SortTarget::Create, "cba", "abc"),
            (SortTarget::Mod, "cba", "abc"),
            (SortTarget::Value, "bca", "acb"),
        ] {
            assert_eq!(sorted(target, SortOrder::Ascend), up, "{target:?}");
            assert_eq!(sorted(target, SortOrder::Descend), down, "{target:?}");
        }
        assert_eq!(sorted(SortTarget::Value, SortOrder::None), "bca");
        assert!(split(wire::RangeRequest { key: vec![1], sort_order: 3, ..Default::default() }).is_err());
    }

    #[test]
    fn filters_come_before_the_limit_and_leave_the_count() {
        let found = shaped(|request| {
            request.min_mod_revision = 5;
            request.max_create_revision = 5;
            request.limit = 1;
        });
        assert_eq!(found, (vec!["a".to_owned()], true, 3));
        assert_eq!(shaped(|request| request.max_mod_revision = 4), (vec!["c".to_owned()], false, 3));
    }

    #[test]
    fn only_the_store_limits_what_needs_no_shaping() {
        let request = wire::RangeRequest { key: vec![1], limit: 7, keys_only: true, ..Default::default() };
        let (read, _) = split(request.clone()).unwrap();
        assert_eq!((read.limit, read.keys_only), (7, true));
        let (read, _) = split(wire::RangeRequest { sort_target: 4, ..request }).unwrap();
        assert_eq!((read.limit, read.keys_only), (0, false));
    }
}
