//! What clients asked, when, and what they were told; and whether one store in one place could have told them that.
//!
//! Three checks, the cheap one first. [`revisions`] takes the store at its word: revisions order everything, so each answer
//! must be what the history says at its revision, and revisions must never run against real time. [`linear`] believes
//! nothing but values: it searches for an order of the operations that explains every answer (Wing and Gong's method, with
//! the states it has been in remembered, each key on its own). [`watches`] finds gaps, repetitions and disorder in what
//! watchers saw.

pub mod linear;
pub mod revisions;
pub mod watches;

use std::collections::BTreeMap;

use storage::{Event, EventKind, Revision};

/// Every write in a history has a value of its own.
pub type Value = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Put(Value),
    Delete,
    Get,
    /// Puts `new` if the key holds `expected`.
    Swap {
        expected: Option<Value>,
        new: Value,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write is the revision, or, for a deletion of nothing, came after it.
    Written(Revision),
    /// What a read found, and the store's revision then.
    Found(Option<Value>, Revision),
    /// Whether the condition held, and the revision.
    Swapped(bool, Revision),
}

impl Outcome {
    pub fn revision(&self) -> Revision {
        match self {
            Self::Written(revision) | Self::Found(_, revision) | Self::Swapped(_, revision) => *revision,
        }
    }
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: u64,
    pub key: String,
    pub action: Action,
    /// When it was begun. All moments of a history differ.
    pub called: u64,
    /// When it was answered, and how. Nothing if nobody knows what came of it.
    pub returned: Option<(u64, Outcome)>,
}

/// Operations as they happen.
#[derive(Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    now: u64,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// An operation begins; the number is for [`History::end`].
    pub fn begin(&mut self, client: u64, key: &str, action: Action) -> usize {
        let called = self.tick();
        self.operations.push(Operation { client, key: key.to_owned(), action, called, returned: None });
        self.operations.len() - 1
    }

    pub fn end(&mut self, number: usize, outcome: Outcome) {
        let now = self.tick();
        if let Some(operation) = self.operations.get_mut(number) {
            operation.returned = Some((now, outcome));
        }
    }

    /// It is sure that an operation had no effect.
    pub fn refused(&mut self, number: usize) {
        let now = self.tick();
        if let Some(operation) = self.operations.get_mut(number) {
            // A read that nobody answered says nothing.
            operation.action = Action::Get;
            operation.returned = None;
            operation.called = now;
        }
    }

    /// How many were answered so far.
    pub fn acknowledged(&self) -> usize {
        self.operations.iter().filter(|operation| operation.returned.is_some()).count()
    }

    /// Without reads that were not answered: they say nothing.
    pub fn operations(&self) -> Vec<Operation> {
        let says = |operation: &&Operation| operation.returned.is_some() || operation.action != Action::Get;
        self.operations.iter().filter(says).cloned().collect()
    }
}

/// What the store itself says has happened: the changes of each revision.
pub type Truth = BTreeMap<Revision, Changes>;

/// Keys and their values after one revision; nothing for a deleted key.
pub type Changes = Vec<(String, Option<Value>)>;

/// The changes of one revision, as the checks want them. Values are decimal numbers.
pub fn changes(events: &[Event]) -> Changes {
    let change = |event: &Event| {
        let key = String::from_utf8_lossy(&event.kv.key).into_owned();
        let value = std::str::from_utf8(&event.kv.value).ok().and_then(|value| value.parse().ok());
        (key, value.filter(|_| event.kind == EventKind::Put))
    };
    events.iter().map(change).collect()
}

#[cfg(test)]
mod tests;
