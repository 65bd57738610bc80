//! Compaction: at once in what may be asked for, step by step in memory.

use super::{Mvcc, size};
use crate::error::StoreError;
use crate::types::Revision;

impl Mvcc {
    /// Forbids reads below `revision`. Memory is freed by [`Mvcc::purge_some`].
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::FutureRevision { revision, current: self.revision });
        }
        if revision < self.compacted {
            return Err(StoreError::Compacted { revision, oldest: self.compacted });
        }
        self.compacted = revision;
        Ok(())
    }

    /// Holds back purging while a snapshot reads the versions of one revision.
    pub(crate) fn pin(&mut self) {
        self.pins += 1;
    }

    pub(crate) fn unpin(&mut self) {
        self.pins = self.pins.saturating_sub(1);
    }

    /// Frees versions that up to `limit` compacted changes have superseded. False when nothing is left to do now.
    pub(crate) fn purge_some(&mut self, limit: usize) -> bool {
        if self.pins > 0 {
            return false;
        }
        for _ in 0..limit {
            match self.history.front() {
                Some(change) if change.revision <= self.compacted => {}
                _ => {
                    self.purged = self.compacted;
                    if self.history.capacity() > 1024 && self.history.len() < self.history.capacity() / 4 {
                        self.history.shrink_to_fit();
                    }
                    return false;
                }
            }
            if let Some(change) = self.history.pop_front() {
                self.purge_key(&change.key);
            }
        }
        true
    }

    /// Keeps what is readable at or after the compacted revision.
    fn purge_key(&mut self, key: &[u8]) {
        let Some(place) = self.keys.find(key) else { return };
        let versions = self.keys.at_mut(place);
        let all = versions.all();
        let at = all.partition_point(|version| version.mod_revision <= self.compacted);
        let newest_kept = at.checked_sub(1).is_some_and(|newest| all[newest].value.is_some());
        let superseded = if newest_kept { at - 1 } else { at };
        self.versions -= superseded as u64;
        self.bytes -= all[..superseded].iter().map(|version| size(key, version)).sum::<u64>();
        if superseded > 0 {
            versions.forget(superseded);
        }
        if versions.all().is_empty() {
            self.keys.remove(key);
        }
    }
}
