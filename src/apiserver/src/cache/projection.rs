//! The small part of an object that selectors look at, taken from its bytes once, when it enters the cache.

use std::{borrow::Cow, collections::BTreeMap};

use objects::{
    kinds::KINDS,
    strategy::{SelectableField, for_kind},
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
        Projector { fields: fields.iter().filter(|f| !in_key(f.label)).copied().collect() }
    }

    /// The projector of the built-in kind stored under `prefix`.
    pub(crate) fn of_built_in(prefix: &str) -> Projector {
        let row = KINDS.iter().find(|kind| kind.storage_prefix == prefix);
        let strategy = row.and_then(for_kind);
        strategy.map(|strategy| Projector::new(strategy.selectable_fields())).unwrap_or_default()
    }

    /// The position of a field's value in a projection.
    pub(crate) fn position(&self, label: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.label == label)
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
