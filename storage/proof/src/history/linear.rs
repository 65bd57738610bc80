//! Whether some order of the operations explains every answer.

use std::collections::{BTreeMap, HashSet};

use super::{Action, Operation, Outcome, Value};

type State = Option<Value>;

/// Operations on one key that no order explains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no order explains the {} operations on {key}; at best all but these: {left:#?}", operations.len())]
pub struct NotLinearizable {
    pub key: String,
    pub operations: Vec<Operation>,
    /// What the longest explanation leaves over.
    pub left: Vec<Operation>,
}

/// Checks each key on its own: a store is linearizable if every key is.
pub fn check(operations: &[Operation]) -> Result<(), NotLinearizable> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, operations) in keys {
        if let Err(left) = search(&operations) {
            let own = |operations: Vec<&Operation>| operations.into_iter().cloned().collect();
            return Err(NotLinearizable { key: key.to_owned(), operations: own(operations), left: own(left) });
        }
    }
    Ok(())
}

/// The state after an operation, if its answer fits the state before. Without an answer every one fits.
fn step(state: State, operation: &Operation) -> Option<State> {
    let outcome = operation.returned.map(|(_, outcome)| outcome);
    match (operation.action, outcome) {
        (Action::Put(value), _) => Some(Some(value)),
        (Action::Delete, _) => Some(None),
        (Action::Get, Some(Outcome::Found(found, _))) => (found == state).then_some(state),
        (Action::Get, _) => Some(state),
        (Action::Swap { expected, new }, Some(Outcome::Swapped(swapped, _))) => {
            let holds = expected == state;
            (holds == swapped).then_some(if holds { Some(new) } else { state })
        }
        (Action::Swap { expected, new }, _) => Some(if expected == state { Some(new) } else { state }),
    }
}

/// Beginnings and ends in order of time, as a list that entries can be taken from and put back to.
struct Moments {
    /// The operation, and whether it begins.
    entries: Vec<(usize, bool)>,
    next: Vec<usize>,
    before: Vec<usize>,
    /// Where an operation begins and ends in `entries`.
    begins: Vec<usize>,
    ends: Vec<Option<usize>>,
}

impl Moments {
    /// Entry 0 is the head of the list; the list ends in 0.
    fn new(operations: &[&Operation]) -> Self {
        let mut moments: Vec<(u64, usize, bool)> = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            moments.push((operation.called, number, true));
            moments.extend(operation.returned.map(|(at, _)| (at, number, false)));
        }
        moments.sort_unstable_by_key(|(at, _, begins)| (*at, !begins));
        let mut entries = vec![(usize::MAX, true)];
        entries.extend(moments.into_iter().map(|(_, number, begins)| (number, begins)));
        let count = entries.len();
        let (mut begins, mut ends) = (vec![0; operations.len()], vec![None; operations.len()]);
        for (at, (number, begin)) in entries.iter().enumerate().skip(1) {
            if *begin { begins[*number] = at } else { ends[*number] = Some(at) }
        }
        let next = (1..=count).map(|next| next % count).collect();
        let before = (0..count).map(|at| (at + count - 1) % count).collect();
        Self { entries, next, before, begins, ends }
    }

    fn unlink(&mut self, at: usize) {
        let (before, next) = (self.before[at], self.next[at]);
        self.next[before] = next;
        self.before[next] = before;
    }

    fn link(&mut self, at: usize) {
        let (before, next) = (self.before[at], self.next[at]);
        self.next[before] = at;
        self.before[next] = at;
    }

    fn take(&mut self, number: usize) {
        self.unlink(self.begins[number]);
        if let Some(end) = self.ends[number] {
            self.unlink(end);
        }
    }

    fn put_back(&mut self, number: usize) {
        if let Some(end) = self.ends[number] {
            self.link(end);
        }
        self.link(self.begins[number]);
    }
}

/// The operations that are left over if no order explains all.
fn search<'a>(operations: &[&'a Operation]) -> Result<(), Vec<&'a Operation>> {
    let mut moments = Moments::new(operations);
    let mut done = vec![0u64; operations.len().div_ceil(64)];
    let mut seen: HashSet<(Vec<u64>, State)> = HashSet::new();
    let mut taken: Vec<(usize, State)> = Vec::new();
    let mut best: (usize, Vec<u64>) = (0, done.clone());
    let mut state = None;
    let mut at = moments.next[0];
    while at != 0 {
        let (number, begins) = moments.entries[at];
        if begins {
            let mut with = done.clone();
            with[number / 64] |= 1 << (number % 64);
            let fits = step(state, operations[number]);
            if let Some(after) = fits.filter(|after| seen.insert((with.clone(), *after))) {
                taken.push((number, state));
                done = with;
                state = after;
                moments.take(number);
                if taken.len() > best.0 {
                    best = (taken.len(), done.clone());
                }
                at = moments.next[0];
            } else {
                at = moments.next[at];
            }
            continue;
        }
        // This one ended before those behind it began, so one that was taken must be another.
        let Some((last, earlier)) = taken.pop() else {
            let left = |number: &usize| best.1[number / 64] >> (number % 64) & 1 == 0;
            return Err((0..operations.len()).filter(left).map(|number| operations[number]).collect());
        };
        done[last / 64] &= !(1 << (last % 64));
        state = earlier;
        moments.put_back(last);
        at = moments.next[moments.begins[last]];
    }
    Ok(())
}
