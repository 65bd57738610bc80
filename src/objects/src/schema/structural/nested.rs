//! `allOf`, `anyOf`, `oneOf` and `not`: they may restrict values, never add structure.

use serde_json::{Value, json};

use super::{Json, flag, list, object, text};
use crate::field::{Errors, Path};

const JUNCTIONS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

pub(super) fn check(errors: &mut Errors, schema: &Json, path: &Path<'_>) {
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    for junction in JUNCTIONS {
        let at = path.child(junction);
        if int_or_string && junction == "anyOf" && is_integer_or_string(schema.get("anyOf")) {
            continue;
        }
        for (index, part) in list(schema, junction).iter().enumerate() {
            let Value::Object(part) = part else { continue };
            let at = at.index(index);
            let pattern = int_or_string && junction == "allOf" && index == 0 && is_integer_or_string(part.get("anyOf"));
            if !pattern {
                forbidden(errors, part, &at);
            }
            complete(errors, schema, part, path, &at);
        }
    }
    if let Some(part) = object(schema, "not") {
        let at = path.child("not");
        forbidden(errors, part, &at);
        complete(errors, schema, part, path, &at);
    }
}

fn is_integer_or_string(value: Option<&Value>) -> bool {
    value == Some(&json!([{"type": "integer"}, {"type": "string"}]))
}

/// What would add structure inside a value validation.
fn forbidden(errors: &mut Errors, part: &Json, path: &Path<'_>) {
    let mut refuse = |key: &str, why: &str| errors.forbidden(&path.child(key), why);
    for key in ["type", "title", "description"] {
        if !text(part, key).is_empty() {
            refuse(key, "must be empty to be structural");
        }
    }
    for key in ["additionalProperties", "default", "x-kubernetes-list-type", "x-kubernetes-map-type"] {
        if part.contains_key(key) {
            refuse(key, "must be undefined to be structural");
        }
    }
    let flags = [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ];
    for key in flags {
        if flag(part, key) {
            refuse(key, "must be false to be structural");
        }
    }
    for key in ["x-kubernetes-list-map-keys", "x-kubernetes-validations"] {
        if !list(part, key).is_empty() {
            refuse(key, "must be empty to be structural");
        }
    }
    let properties = path.child("properties");
    for (name, property) in object(part, "properties").into_iter().flatten() {
        if name == "metadata" {
            errors.forbidden(&properties.key(name), "must not be specified in a nested context");
        }
        if let Value::Object(property) = property {
            forbidden(errors, property, &properties.key(name));
        }
    }
    for key in ["items", "not"] {
        if let Some(child) = object(part, key) {
            forbidden(errors, child, &path.child(key));
        }
    }
    for junction in JUNCTIONS {
        let at = path.child(junction);
        for (index, child) in list(part, junction).iter().enumerate() {
            if let Value::Object(child) = child {
                forbidden(errors, child, &at.index(index));
            }
        }
    }
}

/// Every field a value validation speaks of must be specified in the structure too.
fn complete(errors: &mut Errors, schema: &Json, part: &Json, schema_path: &Path<'_>, part_path: &Path<'_>) {
    let (schema_fields, part_fields) = (schema_path.child("properties"), part_path.child("properties"));
    for (name, property) in object(part, "properties").into_iter().flatten() {
        let (specified, used) = (schema_fields.key(name), part_fields.key(name));
        let structure = object(schema, "properties").and_then(|p| object(p, name));
        match (structure, property) {
            (Some(structure), Value::Object(property)) => complete(errors, structure, property, &specified, &used),
            (None, _) => errors.required(&specified, &format!("because it is defined in {used}")),
            _ => {}
        }
    }
    if let Some(items) = object(part, "items") {
        let (specified, used) = (schema_path.child("items"), part_path.child("items"));
        match object(schema, "items") {
            Some(structure) => complete(errors, structure, items, &specified, &used),
            None => errors.required(&specified, &format!("because it is defined in {used}")),
        }
    }
    for junction in JUNCTIONS {
        let at = part_path.child(junction);
        for (index, child) in list(part, junction).iter().enumerate() {
            if let Value::Object(child) = child {
                complete(errors, schema, child, schema_path, &at.index(index));
            }
        }
    }
    if let Some(child) = object(part, "not") {
        complete(errors, schema, child, schema_path, &part_path.child("not"));
    }
}
