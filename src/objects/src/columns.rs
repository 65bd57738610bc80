//! Table columns and cells, as upstream's printers make them for `kubectl get`.

pub mod cluster;
pub mod core;
pub mod network;
pub mod pods;
pub mod policy;
pub mod workloads;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::Value;

use crate::duration;
use crate::strategy::deletion::rfc3339;

/// One column of a Table (`metav1.TableColumnDefinition`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `boolean`, `number`, `date`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 only by `-o wide`.
    pub priority: i32,
}

impl Column {
    pub const fn new(name: &'static str, kind: &'static str) -> Self {
        Self { name, kind, format: "", description: "", priority: 0 }
    }

    pub const fn wide(name: &'static str, kind: &'static str) -> Self {
        Self { priority: 1, ..Self::new(name, kind) }
    }

    pub const NAME: Self = Self { format: "name", ..Self::new("Name", "string") };
    pub const AGE: Self = Self::new("Age", "string");
}

/// Columns of kinds that upstream has no printer for.
pub const NAME_AND_CREATED: &[Column] = &[Column::NAME, Column::new("Created At", "date")];

pub fn name_and_created(meta: &ObjectMeta) -> Vec<Value> {
    let created = meta.creation_timestamp.as_ref().map(|time| rfc3339(time.0));
    vec![name(meta), created.unwrap_or_default().into()]
}

pub(crate) fn name(meta: &ObjectMeta) -> Value {
    meta.name.clone().unwrap_or_default().into()
}

pub(crate) fn age(meta: &ObjectMeta, now: Timestamp) -> Value {
    since(meta.creation_timestamp.as_ref(), now).into()
}

/// Time since `time`, `<unknown>` when it is not known.
pub(crate) fn since(time: Option<&Time>, now: Timestamp) -> String {
    time.map_or_else(|| "<unknown>".to_owned(), |time| duration::age(time.0, now))
}

pub(crate) fn none_if_empty(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Go's `True`, `False`, or `<unset>`.
pub(crate) fn bool_or_unset(value: Option<bool>) -> Value {
    match value {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    }
    .into()
}
