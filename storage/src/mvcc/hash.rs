//! A checksum of everything that can be read at one revision: the same on every member that has compacted as far,
//! whatever each has freed of its memory. Taken in steps, with the versions pinned, so that writers do not wait.

use std::ops::Bound;

use bytes::Bytes;

use super::{Mvcc, Version};
use crate::error::RangeError;
use crate::types::{Revision, StateHash};

/// A checksum on its way.
#[derive(Debug)]
pub(crate) struct Hashing {
    hasher: crc32fast::Hasher,
    revision: Revision,
    compacted: Revision,
    after: Option<Bytes>,
}

impl Hashing {
    /// Begins a checksum at `revision`, or at the newest. The caller holds a pin until it is done.
    pub(crate) fn begin(mvcc: &Mvcc, revision: Option<Revision>) -> Result<Self, RangeError> {
        mvcc.readable(revision)?;
        let revision = revision.unwrap_or(mvcc.revision);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&mvcc.compacted.to_le_bytes());
        Ok(Self { hasher, revision, compacted: mvcc.compacted, after: None })
    }

    /// Takes in about `bytes` more; the checksum once all is in.
    pub(crate) fn step(&mut self, mvcc: &Mvcc, bytes: usize) -> Option<StateHash> {
        let after = self.after.take();
        let from = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_ref()));
        let mut taken = 0;
        for (key, versions) in mvcc.keys_from(from) {
            for version in versions.readable(self.compacted, self.revision) {
                taken += update(&mut self.hasher, key, version);
            }
            if taken >= bytes {
                self.after = Some(key.clone());
                return None;
            }
        }
        let hash = self.hasher.clone().finalize();
        Some(StateHash { hash, revision: self.revision, compacted: self.compacted })
    }
}

/// Lengths stand before what they measure, so that no two states look alike.
fn update(hasher: &mut crc32fast::Hasher, key: &[u8], version: &Version) -> usize {
    let value = version.value.as_deref();
    for number in [
        key.len() as u64,
        version.mod_revision,
        version.create_revision,
        version.version,
        version.lease.cast_unsigned(),
        value.map_or(u64::MAX, |value| value.len() as u64),
    ] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(key);
    hasher.update(value.unwrap_or_default());
    48 + key.len() + value.map_or(0, <[u8]>::len)
}
