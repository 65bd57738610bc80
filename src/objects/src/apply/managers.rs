//! `metadata.managedFields`: one entry per manager, operation, version and subresource.

use super::Writer;
use super::paths::FieldSet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Entries for updates beyond this many are folded into one, so that the field stays bounded.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// Who an entry is of, as conflicts name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Owner {
    #[serde(default)]
    manager: String,
    operation: Operation,
    #[serde(default)]
    api_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    subresource: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(formatter, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == Operation::Update {
            write!(formatter, " using {}", self.api_version)?;
            if let Some(time) = self.time {
                write!(formatter, " at {time}")?;
            }
        }
        Ok(())
    }
}

impl Owner {
    fn is(&self, writer: &Writer<'_>, operation: Operation) -> bool {
        self.manager == writer.manager && self.operation == operation && self.subresource == writer.subresource
    }
}

#[derive(Debug, Clone)]
struct Entry {
    owner: Owner,
    fields: FieldSet,
}

/// The wire form of an entry.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(flatten)]
    owner: Owner,
    #[serde(default)]
    fields_type: String,
    #[serde(default)]
    fields_v1: Value,
}

/// All entries of an object.
#[derive(Debug, Clone, Default)]
pub(super) struct Managers {
    entries: Vec<Entry>,
}

impl Managers {
    /// Reads them off an object. An entry that cannot be read owns nothing.
    pub(super) fn of(object: &Value) -> Self {
        let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        let read = |entry: &Value| {
            let wire: Wire = Wire::deserialize(entry).ok().filter(|wire: &Wire| wire.fields_type == "FieldsV1")?;
            Some(Entry { owner: wire.owner, fields: FieldSet::from_json(&wire.fields_v1) })
        };
        Self { entries: entries.map(|entries| entries.iter().filter_map(read).collect()).unwrap_or_default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes them into an object, oldest first.
    pub(super) fn store(mut self, object: &mut Value) {
        self.entries.retain(|entry| !entry.fields.is_empty());
        self.fold_ancient();
        self.entries.sort_by(|a, b| {
            (a.owner.operation as u8, a.owner.time, &a.owner.manager).cmp(&(
                b.owner.operation as u8,
                b.owner.time,
                &b.owner.manager,
            ))
        });
        let wire = |entry: Entry| {
            let wire = Wire { owner: entry.owner, fields_type: "FieldsV1".into(), fields_v1: entry.fields.to_json() };
            serde_json::to_value(wire).ok()
        };
        let entries: Vec<_> = self.entries.into_iter().filter_map(wire).collect();
        if entries.is_empty() {
            clear(object);
        } else if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("managedFields".to_owned(), Value::Array(entries));
        }
    }

    fn fold_ancient(&mut self) {
        let updaters =
            |entries: &[Entry]| entries.iter().filter(|entry| entry.owner.operation == Operation::Update).count();
        while updaters(&self.entries) > MAX_UPDATERS {
            self.entries.sort_by_key(|entry| (entry.owner.operation == Operation::Apply, entry.owner.time));
            let oldest = self.entries.remove(0);
            let next = &mut self.entries[0];
            next.fields.extend(&oldest.fields);
            ANCIENT.clone_into(&mut next.owner.manager);
        }
    }

    /// Gives an object that had no managers yet to a first one, so that an apply can conflict with it.
    pub(super) fn adopt(&mut self, fields: FieldSet, api_version: &str, writer: &Writer<'_>) {
        let owner = Owner {
            manager: BEFORE_FIRST_APPLY.to_owned(),
            operation: Operation::Update,
            api_version: api_version.to_owned(),
            time: Some(seconds(writer.now)),
            subresource: String::new(),
        };
        self.entries.push(Entry { owner, fields });
    }

    /// Sets what `writer` applied; returns what it had applied before.
    pub(super) fn replace_applied(
        &mut self,
        writer: &Writer<'_>,
        api_version: &str,
        fields: FieldSet,
    ) -> Option<FieldSet> {
        let former = self.entries.iter().position(|entry| entry.owner.is(writer, Operation::Apply));
        let former = former.map(|index| self.entries.remove(index));
        let unchanged =
            former.as_ref().filter(|former| former.fields == fields && former.owner.api_version == api_version);
        let time = unchanged.and_then(|former| former.owner.time).unwrap_or(seconds(writer.now));
        let owner = Owner {
            manager: writer.manager.to_owned(),
            operation: Operation::Apply,
            api_version: api_version.to_owned(),
            time: Some(time),
            subresource: writer.subresource.to_owned(),
        };
        self.entries.push(Entry { owner, fields });
        former.map(|former| former.fields)
    }

    /// Adds to what `writer` owns by updating.
    pub(super) fn extend_updated(&mut self, writer: &Writer<'_>, api_version: &str, fields: &FieldSet) {
        let known = self
            .entries
            .iter_mut()
            .find(|entry| entry.owner.is(writer, Operation::Update) && entry.owner.api_version == api_version);
        let time = Some(seconds(writer.now));
        if let Some(entry) = known {
            entry.fields.extend(fields);
            entry.owner.time = time;
            return;
        }
        let owner = Owner {
            manager: writer.manager.to_owned(),
            operation: Operation::Update,
            api_version: api_version.to_owned(),
            time,
            subresource: writer.subresource.to_owned(),
        };
        self.entries.push(Entry { owner, fields: fields.clone() });
    }

    /// What others than `writer` own of `fields`.
    pub(super) fn conflicts(&self, writer: &Writer<'_>, fields: &FieldSet) -> Vec<(Owner, FieldSet)> {
        let own = |owner: &Owner| owner.is(writer, Operation::Apply) || owner.is(writer, Operation::Update);
        let others = self.entries.iter().filter(|entry| !own(&entry.owner));
        let shared = others.map(|entry| (entry.owner.clone(), entry.fields.intersection(fields)));
        shared.filter(|(_, shared)| !shared.is_empty()).collect()
    }

    pub(super) fn take_away(&mut self, owner: Owner, fields: &FieldSet) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.owner == owner) {
            entry.fields.subtract(fields);
        }
    }

    /// Nobody owns what is gone.
    pub(super) fn forget_removed(&mut self, removed: &FieldSet) {
        self.entries.iter_mut().for_each(|entry| entry.fields.subtract(removed));
    }

    pub(super) fn union(&self) -> FieldSet {
        let mut all = FieldSet::default();
        self.entries.iter().for_each(|entry| all.extend(&entry.fields));
        all
    }
}

/// Removes `metadata.managedFields`.
pub(super) fn clear(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// API times have whole seconds.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
