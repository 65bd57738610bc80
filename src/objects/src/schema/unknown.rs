//! Strict field validation: which fields of an object its schema does not know, worded as kube-apiserver words them.

use serde_json::Value;

use super::{ListType, Schema, Type};

/// Upstream reports at most this many problems of one document.
pub(super) const LIMIT: usize = 100;

/// One `unknown field "spec.containers[0].foo"` per field the schema does not specify; empty when all are known.
/// Used for `fieldValidation=Strict` (see [`strict_error`]) and, one warning each, for `fieldValidation=Warn`.
pub fn unknown_fields(value: &Value, schema: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    walk(Style::Decoder, value, schema, &mut String::new(), &mut found);
    found
}

/// As [`unknown_fields`], worded as server-side apply words it, which takes no undeclared field however lenient the
/// request: one `.spec.containers[name="a"].foo: field not declared in schema` each.
pub fn undeclared_fields(value: &Value, schema: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    walk(Style::Apply, value, schema, &mut String::new(), &mut found);
    found
}

/// Whose wording.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Decoder,
    Apply,
}

impl Style {
    fn problem(self, path: &str) -> String {
        match self {
            Self::Decoder => format!("unknown field \"{path}\""),
            Self::Apply => format!(".{path}: field not declared in schema"),
        }
    }

    /// Appends the step to an item of a list.
    fn push_item(self, path: &mut String, list: &Schema, index: usize, item: &Value) {
        let keys = list.map_keys();
        if self == Self::Decoder || list.list_type() != ListType::Map || keys.is_empty() {
            return push_index(path, index);
        }
        let keys = keys.iter().filter_map(|key| Some(format!("{key}={}", item.get(key.as_ref())?)));
        path.push('[');
        path.push_str(&keys.collect::<Vec<_>>().join(","));
        path.push(']');
    }
}

/// The text of the error that lists all strict decoding problems of one request.
pub fn strict_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

fn walk(style: Style, value: &Value, schema: &Schema, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match value {
        Value::Object(map) if matches!(schema.ty(), Type::Any | Type::Object | Type::Map) => {
            for (name, child) in map {
                if found.len() >= LIMIT {
                    return;
                }
                push_name(path, name);
                match schema.field(name) {
                    Some(field) => walk(style, child, field, path, found),
                    None if schema.preserves_unknown() => {}
                    None => found.push(style.problem(path)),
                }
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            let Some(of_items) = schema.items() else { return };
            for (index, item) in items.iter().enumerate() {
                style.push_item(path, schema, index, item);
                walk(style, item, of_items, path, found);
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
