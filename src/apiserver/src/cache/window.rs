//! The last changes of a kind, for watches to read at their own pace. Bounded: a reader that falls out of the window
//! is told so and goes back to the store's log; nobody else waits for it.

use std::{collections::VecDeque, sync::Arc};

use storage::Revision;

use super::Entry;

const MAX_CHANGES: usize = 4096;
const MAX_BYTES: usize = 4 << 20;
/// Kept whatever their size.
const MIN_CHANGES: usize = 128;

/// One object's change from `before` to `after`; one of them is there.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) before: Option<Arc<Entry>>,
    pub(crate) after: Option<Arc<Entry>>,
}

impl Change {
    fn size(&self) -> usize {
        self.after.as_ref().or(self.before.as_ref()).map_or(0, |entry| entry.value.len())
    }
}

/// The reader's place is no longer in the window.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expired;

/// A ring of changes. Each has a sequence number, one more than the one before.
#[derive(Debug)]
pub(crate) struct Window {
    changes: VecDeque<Change>,
    /// Sequence number of the first change held.
    first: u64,
    /// All changes with a higher revision than this are held.
    complete_after: Revision,
    bytes: usize,
}

impl Window {
    /// An empty window that is complete from `revision` on; sequence numbers continue at `first`.
    pub(crate) fn new(revision: Revision, first: u64) -> Window {
        Window { changes: VecDeque::new(), first, complete_after: revision, bytes: 0 }
    }

    /// Sequence number that the next change will get.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.bytes += change.size();
        self.changes.push_back(change);
        while self.changes.len() > MAX_CHANGES || (self.bytes > MAX_BYTES && self.changes.len() > MIN_CHANGES) {
            self.drop_first();
        }
    }

    /// Drops changes of revisions up to `revision`.
    pub(crate) fn trim(&mut self, revision: Revision) {
        while self.changes.front().is_some_and(|change| change.revision <= revision) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(change) = self.changes.pop_front() {
            self.bytes -= change.size();
            self.first += 1;
            self.complete_after = change.revision;
        }
    }

    /// Sequence number of the first change behind `revision`.
    pub(crate) fn after(&self, revision: Revision) -> Result<u64, Expired> {
        if revision < self.complete_after {
            return Err(Expired);
        }
        let at = self.changes.partition_point(|change| change.revision <= revision);
        Ok(self.first + at as u64)
    }

    /// About `max` changes from sequence number `from` on: those of one revision come together.
    pub(crate) fn read(&self, from: u64, max: usize) -> Result<impl Iterator<Item = &Change>, Expired> {
        let skip = from.checked_sub(self.first).ok_or(Expired)?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let last = max.checked_sub(1).and_then(|last| self.changes.get(skip.checked_add(last)?));
        let last = last.map_or(Revision::MAX, |change| change.revision);
        Ok(self.changes.iter().skip(skip).take_while(move |change| change.revision <= last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: Revision) -> Change {
        Change { revision, before: None, after: None }
    }

    #[test]
    fn a_reader_resumes_behind_its_revision() {
        let mut window = Window::new(10, 0);
        for revision in [11, 11, 13] {
            window.push(change(revision));
        }
        let from = window.after(11).unwrap();
        assert_eq!(window.read(from, 9).unwrap().map(|c| c.revision).collect::<Vec<_>>(), [13]);
        assert_eq!(window.after(9), Err(Expired));
        assert_eq!(window.after(99), Ok(window.next()));
    }

    #[test]
    fn changes_of_one_revision_come_together() {
        let mut window = Window::new(10, 0);
        [11, 12, 12, 13].into_iter().for_each(|revision| window.push(change(revision)));
        let read = |max| window.read(0, max).unwrap().map(|c| c.revision).collect::<Vec<_>>();
        assert_eq!(read(1), [11]);
        assert_eq!(read(2), [11, 12, 12]);
        assert_eq!(read(9), [11, 12, 12, 13]);
    }

    #[test]
    fn a_reader_that_fell_out_is_told() {
        let mut window = Window::new(0, 0);
        for revision in 1..=(MAX_CHANGES as u64 + 5) {
            window.push(change(revision));
        }
        assert!(window.read(0, 1).is_err());
        assert!(window.after(4).is_err());
        assert!(window.after(5).is_ok());
    }

    #[test]
    fn trimming_moves_the_oldest_revision() {
        let mut window = Window::new(0, 0);
        (1..=5).for_each(|revision| window.push(change(revision)));
        window.trim(3);
        assert!(window.after(2).is_err());
        assert_eq!(window.after(3), Ok(3));
        assert_eq!(window.next(), 5);
    }
}
