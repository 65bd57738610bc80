//! Ordered reads at a revision.

use std::ops::Bound;

use bytes::Bytes;

use super::{Mvcc, Version, Versions};
use crate::error::RangeError;
use crate::types::{KeyValue, RangeRequest, RangeResponse, Revision};

/// Both ends of a range of keys.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The keys a key and an optional end name, or nothing when the range is empty.
pub(super) fn bounds<'a>(key: &'a [u8], end: Option<&'a [u8]>) -> Option<Bounds<'a>> {
    match end {
        None => Some((Bound::Included(key), Bound::Included(key))),
        Some([]) => Some((Bound::Included(key), Bound::Unbounded)),
        Some(end) if key < end => Some((Bound::Included(key), Bound::Excluded(end))),
        Some(_) => None,
    }
}

/// Whether `candidate` is in the range.
pub(crate) fn contains(key: &[u8], end: Option<&[u8]>, candidate: &[u8]) -> bool {
    match end {
        None => candidate == key,
        Some(end) => candidate >= key && (end.is_empty() || candidate < end),
    }
}

impl Mvcc {
    /// Whether `revision` can be read now.
    pub(super) fn readable(&self, revision: Option<Revision>) -> Result<(), RangeError> {
        match revision {
            Some(revision) if revision > self.revision => Err(RangeError::Future { revision, current: self.revision }),
            Some(revision) if revision < self.compacted => {
                Err(RangeError::Compacted { revision, oldest: self.compacted })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, RangeError> {
        self.readable(request.revision)?;
        Ok(self.read(request, self.revision))
    }

    /// The range, with `current` reported as the store's revision.
    pub(super) fn read(&self, request: &RangeRequest, current: Revision) -> RangeResponse {
        let mut response = RangeResponse { revision: current, ..RangeResponse::default() };
        if request.end.is_none() {
            let found = self.keys.get(&request.key);
            if let Some((key, version)) = found.and_then(|(key, versions)| Some((key, pick(request, versions)?))) {
                response.count = 1;
                // Room for one, where `extend` would take room for four.
                response.kvs = answer(request, key, version).map_or_else(Vec::new, |kv| vec![kv]);
            }
            return response;
        }
        let Some(bounds) = bounds(&request.key, request.end.as_deref()) else { return response };
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        for (key, versions) in self.keys.range(bounds) {
            let Some(version) = pick(request, versions) else { continue };
            response.count += 1;
            if response.kvs.len() < limit {
                response.kvs.extend(answer(request, key, version));
            }
        }
        response.more = !request.count_only && response.count > response.kvs.len() as u64;
        response
    }

    /// The newest version of a key, if it is not deleted.
    pub(super) fn newest(&self, key: &Bytes) -> Option<&Version> {
        self.keys.get(key).and_then(|(_, versions)| versions.live())
    }
}

/// The version that is wanted, if there was one.
fn pick<'a>(request: &RangeRequest, versions: &'a Versions) -> Option<&'a Version> {
    match request.revision {
        None => versions.live(),
        Some(revision) => versions.at(revision),
    }
}

fn answer(request: &RangeRequest, key: &Bytes, version: &Version) -> Option<KeyValue> {
    if request.count_only {
        return None;
    }
    let mut kv = version.kv(key)?;
    if request.keys_only {
        kv.value = Bytes::new();
    }
    Some(kv)
}
