//! The small part of an object that selectors look at, taken from its bytes once, when it enters the cache.

use std::{borrow::Cow, collections::BTreeMap};

use objects::{
    kinds::KINDS,
    strategy::{SelectableField, fields_of, for_kind},
};
use serde::Deserialize;
use serde_json::Value;

/// Labels and selectable fields of one object.
#[derive(Debug, Default)]
pub(crate) struct Projection {
    pub(crate) uid: Box<str>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Values of the projector's fields, in its order.
    pub(crate) fields: Box<[Box<str>]>,
    pub(crate) terminating: bool,
}

/// Takes projections of one kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Projector {
    /// Selectable fields besides `metadata.name` and `metadata.namespace`, which are in the key.
    fields: Vec<SelectableField>,
    /// Other names of fields: those that another kind over the same stored objects has for them.
    aliases: Vec<(&'static str, usize)>,
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow, default)]
    metadata: Meta<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(borrow)]
    deletion_timestamp: Option<Cow<'a, str>>,
}

impl Projector {
    /// A projector for a kind with these selectable fields.
    pub(crate) fn new(fields: &[SelectableField]) -> Projector {
        let in_key = |label: &str| matches!(label, "metadata.name" | "metadata.namespace");
        let mut projector = Projector::default();
        for field in fields.iter().filter(|f| !in_key(f.label)) {
            match projector.fields.iter().position(|known| known.path == field.path) {
                Some(at) if projector.fields[at].label != field.label => projector.aliases.push((field.label, at)),
                Some(_) => {}
                None => projector.fields.push(*field),
            }
        }
        projector
    }

    /// The projector of the built-in kinds stored under `prefix`, the one they are stored as first.
    pub(crate) fn of_built_in(prefix: &str) -> Projector {
        let rows = || KINDS.iter().filter(|kind| kind.storage_prefix == prefix);
        let stored = rows().take(1).filter_map(for_kind).map(|strategy| strategy.selectable_fields());
        let fields: Vec<SelectableField> = stored.chain(rows().map(fields_of)).flatten().copied().collect();
        Projector::new(&fields)
    }

    /// The position of a field's value in a projection.
    pub(crate) fn position(&self, label: &str) -> Option<usize> {
        let alias = || self.aliases.iter().find(|(name, _)| *name == label).map(|(_, at)| *at);
        self.fields.iter().position(|field| field.label == label).or_else(alias)
    }

    /// Projects stored bytes. What cannot be parsed has no labels and no fields.
    pub(crate) fn project(&self, stored: &[u8]) -> Projection {
        if self.fields.is_empty() {
            let header: Header<'_> = serde_json::from_slice(stored).unwrap_or(Header { metadata: Meta::default() });
            return Projection {
                uid: header.metadata.uid.into(),
                labels: header.metadata.labels.unwrap_or_default(),
                fields: Box::default(),
                terminating: header.metadata.deletion_timestamp.is_some(),
            };
        }
        let object: Value = serde_json::from_slice(stored).unwrap_or_default();
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
        Projection {
            uid: crate::encoded::meta_str(&object, "uid").into(),
            labels: labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
            fields: self.fields.iter().map(|field| field.value(&object).into()).collect(),
            terminating: crate::encoded::is_terminating(&object),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_found_by_the_field_names_of_both_their_apis() {
        let projector = Projector::of_built_in("events");
        let stored = json!({"involvedObject": {"kind": "Pod"}, "reportingComponent": "watcher", "source": {}});
        let projection = projector.project(stored.to_string().as_bytes());
        let value = |label: &str| &*projection.fields[projector.position(label).unwrap()];
        assert_eq!((value("involvedObject.kind"), value("regarding.kind")), ("Pod", "Pod"));
        assert_eq!((value("reportingComponent"), value("reportingController")), ("watcher", "watcher"));
        assert_eq!(value("source"), "watcher");
    }
}
