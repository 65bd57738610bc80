//! Strict field validation: which fields of an object its schema does not know, worded as kube-apiserver words them.

use serde_json::Value;

use super::{Schema, Type};

/// Upstream reports at most this many problems of one document.
pub(super) const LIMIT: usize = 100;

/// One `unknown field "spec.containers[0].foo"` per field the schema does not specify; empty when all are known.
/// Used for `fieldValidation=Strict` (see [`strict_error`]) and, one warning each, for `fieldValidation=Warn`.
pub fn unknown_fields(value: &Value, schema: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    walk(value, schema, &mut String::new(), &mut found);
    found
}

/// The text of the error that lists all strict decoding problems of one request.
pub fn strict_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

fn walk(value: &Value, schema: &Schema, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match value {
        Value::Object(map) if matches!(schema.ty(), Type::Any | Type::Object | Type::Map) => {
            for (name, child) in map {
                if found.len() >= LIMIT {
                    return;
                }
                push_name(path, name);
                match schema.field(name) {
                    Some(field) => walk(child, field, path, found),
                    None if schema.preserves_unknown() => {}
                    None => found.push(format!("unknown field \"{path}\"")),
                }
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items() else { return };
            for (index, item) in items.iter().enumerate() {
                push_index(path, index);
                walk(item, schema, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

pub(super) fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

pub(super) fn push_index(path: &mut String, index: usize) {
    path.push('[');
    path.push_str(&index.to_string());
    path.push(']');
}
