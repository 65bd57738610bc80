//! The checks find what is planted, and nothing in a history that is sound.

use super::linear;
use super::revisions::{self, Contradiction};
use super::watches::{self, Flaw, Seen};
use super::*;
use crate::seeded::Seeded;

/// A store in one place, and clients whose operations overlap: each takes effect somewhere between its ends.
fn sound(seed: u64) -> (Vec<Operation>, Truth) {
    let mut random = Seeded::new(seed);
    let (mut history, mut truth) = (History::default(), Truth::new());
    let mut state: BTreeMap<String, Value> = BTreeMap::new();
    let (mut revision, mut next) = (0, 0);
    let mut open: Vec<(usize, String, Action, Option<Outcome>)> = Vec::new();
    while next < 150 || !open.is_empty() {
        let at = random.index(open.len() + 2);
        if at >= open.len() && next < 150 && open.len() < 5 {
            next += 1;
            let key = format!("k{}", random.below(3));
            let expected = state.get(&key).copied().filter(|_| random.chance(70));
            let action = match random.below(5) {
                0 | 1 => Action::Put(next),
                2 => Action::Delete,
                3 => Action::Get,
                _ => Action::Swap { expected, new: next },
            };
            let number = history.begin(open.len() as u64, &key, action);
            open.push((number, key, action, None));
            continue;
        }
        let Some((number, key, action, outcome)) = open.get_mut(at) else { continue };
        if let Some(outcome) = *outcome {
            // Some answers are lost.
            if random.chance(90) {
                history.end(*number, outcome);
            }
            open.remove(at);
            continue;
        }
        let before = state.get(key.as_str()).copied();
        let after = match *action {
            Action::Put(value) => Some(value),
            Action::Delete => None,
            Action::Get => before,
            Action::Swap { expected, new } => {
                if expected == before {
                    Some(new)
                } else {
                    before
                }
            }
        };
        if after != before {
            revision += 1;
            truth.insert(revision, vec![(key.clone(), after)]);
            match after {
                Some(value) => state.insert(key.clone(), value),
                None => state.remove(key.as_str()),
            };
        }
        *outcome = Some(match *action {
            Action::Put(_) | Action::Delete => Outcome::Written(revision),
            Action::Get => Outcome::Found(before, revision),
            Action::Swap { expected, .. } => Outcome::Swapped(expected == before, revision),
        });
    }
    (history.operations(), truth)
}

fn seen(truth: &Truth, from: Revision) -> Seen {
    let upto = truth.keys().next_back().copied().unwrap_or(0);
    let batches = truth.range(from..).map(|(revision, changes)| (*revision, changes.clone())).collect();
    Seen { from, upto, batches }
}

/// The position of an answered operation that fits and that something sound follows.
fn find(operations: &[Operation], fits: impl Fn(&Operation) -> bool) -> usize {
    operations.iter().position(|operation| operation.returned.is_some() && fits(operation)).unwrap()
}

#[test]
fn sound_histories_pass() {
    for seed in 0..300 {
        let (operations, truth) = sound(seed);
        linear::check(&operations).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        revisions::check(&operations, &truth).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        watches::check(&seen(&truth, 1 + seed % 9), &truth).unwrap();
    }
}

#[test]
fn a_stale_read_is_found() {
    let mut history = History::default();
    for (value, revision) in [(1, 1), (2, 2)] {
        let put = history.begin(0, "k", Action::Put(value));
        history.end(put, Outcome::Written(revision));
    }
    let read = history.begin(1, "k", Action::Get);
    history.end(read, Outcome::Found(Some(1), 1));
    let truth = Truth::from([(1, vec![("k".to_owned(), Some(1))]), (2, vec![("k".to_owned(), Some(2))])]);
    assert_eq!(linear::check(&history.operations()).unwrap_err().key, "k");
    let found = revisions::check(&history.operations(), &truth).unwrap_err();
    assert!(matches!(*found, Contradiction::BackInTime { .. }), "{found}");
}

#[test]
fn a_stale_read_among_many_operations_is_found_by_values_alone() {
    let mut found = 0;
    for seed in 0..100 {
        let (mut operations, _) = sound(seed);
        let last = operations.iter().rposition(|operation| matches!(operation.action, Action::Get)).unwrap();
        let key = operations[last].key.clone();
        let called = operations[last].called;
        // A value that was certainly replaced before the read began.
        let mut writes: Vec<_> = operations
            .iter()
            .filter(|operation| operation.key == key)
            .filter_map(|operation| match (operation.action, operation.returned) {
                (Action::Put(value), Some((at, _))) if at < called => Some((at, operation.called, value)),
                _ => None,
            })
            .collect();
        writes.sort_unstable();
        let [first, .., last_write] = &writes[..] else { continue };
        if first.0 < last_write.1 {
            let (at, outcome) = operations[last].returned.unwrap();
            operations[last].returned = Some((at, Outcome::Found(Some(first.2), outcome.revision())));
            assert!(linear::check(&operations).is_err(), "seed {seed}");
            found += 1;
        }
    }
    assert!(found > 50, "only {found} tried");
}

#[test]
fn a_lost_write_and_one_applied_twice_are_found() {
    let (operations, truth) = sound(7);
    let written = find(&operations, |operation| matches!(operation.action, Action::Put(_)));
    let revision = operations[written].returned.unwrap().1.revision();
    let mut lost = truth.clone();
    lost.remove(&revision);
    assert!(revisions::check(&operations, &lost).is_err());
    let mut twice = truth.clone();
    let again = truth.keys().next_back().unwrap() + 1;
    twice.insert(again, truth[&revision].clone());
    let found = revisions::check(&operations, &twice).unwrap_err();
    assert!(matches!(*found, Contradiction::AppliedTwice { .. }), "{found}");
    let mut invented = truth;
    invented.insert(again, vec![("k0".to_owned(), Some(999_999))]);
    assert!(matches!(*revisions::check(&operations, &invented).unwrap_err(), Contradiction::MadeUp { .. }));
}

#[test]
fn a_write_that_vanishes_from_reads_is_found_by_values_alone() {
    let mut history = History::default();
    let put = history.begin(0, "k", Action::Put(5));
    history.end(put, Outcome::Written(1));
    let read = history.begin(0, "k", Action::Get);
    history.end(read, Outcome::Found(None, 1));
    assert!(linear::check(&history.operations()).is_err());
    // Unless it was never answered.
    let mut history = History::default();
    history.begin(0, "k", Action::Put(5));
    let read = history.begin(1, "k", Action::Get);
    history.end(read, Outcome::Found(None, 0));
    let read = history.begin(1, "k", Action::Get);
    history.end(read, Outcome::Found(Some(5), 1));
    linear::check(&history.operations()).unwrap();
    let read = history.begin(1, "k", Action::Get);
    history.end(read, Outcome::Found(None, 1));
    assert!(linear::check(&history.operations()).is_err(), "it cannot be undone");
}

#[test]
fn two_winners_of_one_condition_are_found() {
    let mut history = History::default();
    let first = history.begin(0, "k", Action::Swap { expected: None, new: 1 });
    let second = history.begin(1, "k", Action::Swap { expected: None, new: 2 });
    history.end(first, Outcome::Swapped(true, 1));
    history.end(second, Outcome::Swapped(true, 2));
    assert!(linear::check(&history.operations()).is_err());
    let truth = Truth::from([(1, vec![("k".to_owned(), Some(1))]), (2, vec![("k".to_owned(), Some(2))])]);
    assert!(revisions::check(&history.operations(), &truth).is_err());
}

#[test]
fn gaps_repetitions_and_disorder_of_watches_are_found() {
    let (_, truth) = sound(3);
    let whole = seen(&truth, 2);
    let spoil = |change: fn(&mut Seen)| {
        let mut spoilt = whole.clone();
        change(&mut spoilt);
        watches::check(&spoilt, &truth).unwrap_err()
    };
    assert!(matches!(spoil(|seen| drop(seen.batches.remove(5))), Flaw::Gap(7)));
    assert!(matches!(spoil(|seen| seen.batches.insert(5, seen.batches[4].clone())), Flaw::Repeated(6)));
    assert!(matches!(spoil(|seen| seen.batches.swap(5, 6)), Flaw::Disorder { .. }));
    assert!(matches!(spoil(|seen| seen.batches[3].1.clear()), Flaw::Different(5)));
    assert!(matches!(spoil(|seen| drop(seen.batches.pop())), Flaw::Gap(_)));
}
