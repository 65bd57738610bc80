//! Whether every answer is what the store's own history says at its revision, and revisions follow real time.

use std::collections::{BTreeMap, BTreeSet};

use storage::Revision;

use super::{Action, Operation, Outcome, Truth, Value};

/// What does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    #[error("an acknowledged write is not in the history: {0:?}")]
    LostWrite(Operation),
    #[error("value {value} was written at revision {first} and again at {second}")]
    AppliedTwice { value: Value, first: Revision, second: Revision },
    #[error("value {value} of revision {revision} was never written")]
    MadeUp { value: Value, revision: Revision },
    #[error("the answer is not what the history says, which is {expected:?}: {operation:?}")]
    WrongAnswer { operation: Operation, expected: Option<Value> },
    #[error(
        "an operation answered with an older revision than one that had ended before it began: {later:?} after {earlier:?}"
    )]
    BackInTime { earlier: Operation, later: Operation },
}

/// The value of each key at a revision.
struct States {
    /// Changes of each key, by revision.
    keys: BTreeMap<String, BTreeMap<Revision, Option<Value>>>,
}

impl States {
    fn at(&self, key: &str, revision: Revision) -> Option<Value> {
        self.keys.get(key)?.range(..=revision).next_back().and_then(|(_, value)| *value)
    }
}

/// Checks operations against what the store says has happened.
pub fn check(operations: &[Operation], truth: &Truth) -> Result<(), Box<Contradiction>> {
    let mut states = States { keys: BTreeMap::new() };
    let mut written: BTreeMap<Value, Revision> = BTreeMap::new();
    let asked: BTreeSet<Value> = operations.iter().filter_map(value).collect();
    for (revision, changes) in truth {
        for (key, value) in changes {
            states.keys.entry(key.clone()).or_default().insert(*revision, *value);
            let Some(value) = *value else { continue };
            if !asked.contains(&value) {
                return Err(Box::new(Contradiction::MadeUp { value, revision: *revision }));
            }
            if let Some(first) = written.insert(value, *revision) {
                return Err(Box::new(Contradiction::AppliedTwice { value, first, second: *revision }));
            }
        }
    }
    for operation in operations {
        answer(operation, &states, &written)?;
    }
    real_time(operations)
}

fn value(operation: &Operation) -> Option<Value> {
    match operation.action {
        Action::Put(value) | Action::Swap { new: value, .. } => Some(value),
        Action::Delete | Action::Get => None,
    }
}

fn answer(
    operation: &Operation,
    states: &States,
    written: &BTreeMap<Value, Revision>,
) -> Result<(), Box<Contradiction>> {
    let Some((_, outcome)) = operation.returned else { return Ok(()) };
    let revision = outcome.revision();
    let wrong = |expected| Err(Box::new(Contradiction::WrongAnswer { operation: operation.clone(), expected }));
    let now = states.at(&operation.key, revision);
    let happened = |value: &Value| written.get(value) == Some(&revision);
    match (operation.action, outcome) {
        (Action::Put(value), _) if !happened(&value) => Err(Box::new(Contradiction::LostWrite(operation.clone()))),
        (Action::Delete, _) if now.is_some() => wrong(now),
        (Action::Get, Outcome::Found(found, _)) if found != now => wrong(now),
        (Action::Swap { expected, new }, Outcome::Swapped(swapped, _)) => {
            let before = states.at(&operation.key, if swapped { revision.saturating_sub(1) } else { revision });
            if swapped && !happened(&new) {
                return Err(Box::new(Contradiction::LostWrite(operation.clone())));
            }
            if swapped == (before == expected) && (swapped || !written.contains_key(&new)) {
                Ok(())
            } else {
                wrong(before)
            }
        }
        _ => Ok(()),
    }
}

/// What began after something had ended must not be before it.
fn real_time(operations: &[Operation]) -> Result<(), Box<Contradiction>> {
    let mut ended: Vec<(u64, &Operation)> =
        operations.iter().filter_map(|operation| Some((operation.returned?.0, operation))).collect();
    ended.sort_unstable_by_key(|(at, _)| *at);
    let mut begun: Vec<&Operation> = ended.iter().map(|(_, operation)| *operation).collect();
    begun.sort_unstable_by_key(|operation| operation.called);
    let revision = |operation: &Operation| operation.returned.map_or(0, |(_, outcome)| outcome.revision());
    let mut newest: Option<&Operation> = None;
    let mut ended = ended.into_iter().peekable();
    for later in begun {
        while let Some((_, earlier)) = ended.next_if(|(at, _)| *at < later.called) {
            if newest.is_none_or(|newest| revision(newest) < revision(earlier)) {
                newest = Some(earlier);
            }
        }
        if let Some(earlier) = newest.filter(|earlier| revision(earlier) > revision(later)) {
            let (earlier, later) = (earlier.clone(), later.clone());
            return Err(Box::new(Contradiction::BackInTime { earlier, later }));
        }
    }
    Ok(())
}
