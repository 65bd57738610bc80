//! Changes of the past: what a watch that starts at an old revision is fed from.

use bytes::Bytes;

use super::Mvcc;
use super::range::contains;
use super::txn::by_key;
use crate::error::WatchError;
use crate::types::{Event, Revision, WatchBatch};

/// Matching changes, and the revision from which to go on.
pub(crate) struct Replay {
    pub(crate) batches: Vec<WatchBatch>,
    pub(crate) next: Revision,
}

fn sorted(mut batches: Vec<WatchBatch>) -> Vec<WatchBatch> {
    batches.iter_mut().for_each(|batch| by_key(&mut batch.events));
    batches
}

impl Mvcc {
    /// Changes of `key..end` from revision `from` on; looks at `limit` changes at most, whole revisions only.
    pub(crate) fn replay(
        &self,
        key: &[u8],
        end: Option<&[u8]>,
        from: Revision,
        limit: usize,
    ) -> Result<Replay, WatchError> {
        if from <= self.compacted {
            return Err(WatchError::Compacted { revision: from, oldest: self.compacted + 1 });
        }
        let start = self.history.partition_point(|change| change.revision < from);
        let mut batches: Vec<WatchBatch> = Vec::new();
        let mut last = 0;
        for (seen, change) in self.history.range(start..).enumerate() {
            if seen >= limit && change.revision != last {
                return Ok(Replay { batches: sorted(batches), next: change.revision });
            }
            last = change.revision;
            if !contains(key, end, &change.key) {
                continue;
            }
            let Some(event) = self.event_at(&change.key, change.revision) else { continue };
            match batches.last_mut().filter(|batch| batch.revision == change.revision) {
                Some(batch) => batch.events.push(event),
                None => batches.push(WatchBatch { revision: change.revision, events: vec![event] }),
            }
        }
        Ok(Replay { batches: sorted(batches), next: from.max(self.revision + 1) })
    }

    fn event_at(&self, key: &Bytes, revision: Revision) -> Option<Event> {
        let versions = self.keys.get(key)?.1.all();
        let index = versions.binary_search_by_key(&revision, |version| version.mod_revision).ok()?;
        let prev = index.checked_sub(1).and_then(|before| versions[before].kv(key));
        Some(versions[index].event(key, prev))
    }
}
