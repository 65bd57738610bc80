//! Uniqueness in lists that are sets or maps (`x-kubernetes-list-type`).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::super::{Body, ListType, Schema};
use super::bad_value;
use crate::field::{BadValue, Errors, Path};

pub(super) fn check(errors: &mut Errors, value: &Value, schema: &Schema, path: &Path<'_>) {
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                // built-in metadata is validated for every kind alike
                let Some(field) = schema.field(name).filter(|f| !matches!(f.body, Body::Definition(_))) else {
                    continue;
                };
                let at = if schema.values().is_some() { path.key(name) } else { path.child(name) };
                check(errors, child, field, &at);
            }
        }
        Value::Array(items) => {
            match schema.list_type() {
                ListType::Atomic => {}
                ListType::Set => set(errors, items, path),
                ListType::Map => map(errors, items, schema, path),
            }
            let Some(schema) = schema.items() else { return };
            for (index, item) in items.iter().enumerate() {
                check(errors, item, schema, &path.index(index));
            }
        }
        _ => {}
    }
}

/// Each value that appears again is reported once, where it appears the second time.
fn set(errors: &mut Errors, items: &[Value], path: &Path<'_>) {
    let mut seen = HashSet::new();
    let mut reported = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let text = item.to_string();
        if !seen.insert(text.clone()) && reported.insert(text) {
            errors.duplicate(&path.index(index), bad_value(item));
        }
    }
}

fn map(errors: &mut Errors, items: &[Value], schema: &Schema, path: &Path<'_>) {
    let mut seen = HashSet::new();
    let mut reported = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let Value::Object(item) = item else { continue };
        let keys = schema.map_keys().iter().filter_map(|key| {
            let value = item.get(key.as_ref()).or_else(|| schema.items()?.field(key)?.default_value())?;
            Some((key.to_string(), value.clone()))
        });
        let keys = Value::Object(Map::from_iter(keys));
        let text = keys.to_string();
        if !seen.insert(text.clone()) && reported.insert(text) {
            errors.duplicate(&path.index(index), BadValue::json(&keys));
        }
    }
}
