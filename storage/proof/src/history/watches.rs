//! Whether a watch told everything, once, in order.

use storage::Revision;

use super::{Changes, Truth};

/// What one watcher of all keys saw: from which revision on, batch by batch, and up to where it is complete.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub from: Revision,
    pub upto: Revision,
    pub batches: Vec<(Revision, Changes)>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("revision {0} came twice")]
    Repeated(Revision),
    #[error("revision {later} came after {earlier}")]
    Disorder { earlier: Revision, later: Revision },
    #[error("revision {0} did not come")]
    Gap(Revision),
    #[error("revision {0} has other changes than the history")]
    Different(Revision),
}

/// What a watcher of one key must see of it all.
pub fn of_key(truth: &Truth, key: &str) -> Truth {
    let own = |changes: &Changes| changes.iter().filter(|(changed, _)| changed == key).cloned().collect::<Changes>();
    let batches = truth.iter().map(|(revision, changes)| (*revision, own(changes)));
    batches.filter(|(_, changes)| !changes.is_empty()).collect()
}

/// Compares with what the store says has happened.
pub fn check(seen: &Seen, truth: &Truth) -> Result<(), Flaw> {
    let mut last = None;
    for (revision, changes) in &seen.batches {
        match last {
            Some(last) if last == *revision => return Err(Flaw::Repeated(last)),
            Some(last) if last > *revision => return Err(Flaw::Disorder { earlier: last, later: *revision }),
            _ => last = Some(*revision),
        }
        if truth.get(revision) != Some(changes) || *revision < seen.from {
            return Err(Flaw::Different(*revision));
        }
    }
    let expected = truth.range(seen.from..=seen.upto.max(seen.from)).filter(|(revision, _)| **revision <= seen.upto);
    for (revision, _) in expected {
        if !seen.batches.iter().any(|(found, _)| found == revision) {
            return Err(Flaw::Gap(*revision));
        }
    }
    Ok(())
}
