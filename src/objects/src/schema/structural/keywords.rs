//! Keywords a CRD's schema may not use, and those that must agree with each other.

use std::collections::HashSet;

use serde_json::Value;

use super::{Json, flag, list, object, text};
use crate::field::{BadValue, Errors, Path};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

pub(super) fn check(errors: &mut Errors, schema: &Json, path: &Path<'_>) {
    unsupported(errors, schema, path);
    map_type(errors, schema, path);
    list_type(errors, schema, path);
    rules(errors, schema, path);
    let pattern = text(schema, "pattern");
    if let Some(error) = regex_lite::Regex::new(pattern).err().filter(|_| !pattern.is_empty()) {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        errors.invalid(&path.child("pattern"), pattern, &why);
    }
    for key in ["items", "additionalProperties", "not"] {
        if let Some(child) = object(schema, key) {
            check(errors, child, &path.child(key));
        }
    }
    let properties = path.child("properties");
    for (name, child) in object(schema, "properties").into_iter().flatten() {
        if let Value::Object(child) = child {
            check(errors, child, &properties.key(name));
        }
    }
    for junction in ["allOf", "anyOf", "oneOf"] {
        let at = path.child(junction);
        for (index, child) in list(schema, junction).iter().enumerate() {
            if let Value::Object(child) = child {
                check(errors, child, &at.index(index));
            }
        }
    }
}

fn unsupported(errors: &mut Errors, schema: &Json, path: &Path<'_>) {
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if schema.contains_key(key) {
            errors.forbidden(&path.child(key), &format!("{key} is not supported"));
        }
    }
    let ty = text(schema, "type");
    if ty == "null" {
        errors.forbidden(&path.child("type"), "type cannot be set to null, use nullable as an alternative");
    } else if !ty.is_empty() && !TYPES.contains(&ty) {
        errors.not_supported(&path.child("type"), ty, &TYPES);
    }
    if schema.get("items").is_some_and(Value::is_array) {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if flag(schema, "uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), why);
    }
    let values = schema.get("additionalProperties");
    if values == Some(&Value::Bool(false)) {
        errors.forbidden(&path.child("additionalProperties"), "additionalProperties cannot be set to false");
    } else if values.is_some() && object(schema, "properties").is_some_and(|p| !p.is_empty()) {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.child("additionalProperties"), why);
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        errors.invalid(&path.child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
}

fn map_type(errors: &mut Errors, schema: &Json, path: &Path<'_>) {
    let kind = text(schema, "x-kubernetes-map-type");
    if kind.is_empty() {
        return;
    }
    of_type(errors, schema, "object", "x-kubernetes-map-type", path);
    if !matches!(kind, "atomic" | "granular") {
        errors.not_supported(&path.child("x-kubernetes-map-type"), kind, &["atomic", "granular"]);
    }
}

fn of_type(errors: &mut Errors, schema: &Json, wanted: &str, extension: &str, path: &Path<'_>) {
    let ty = text(schema, "type");
    let why = format!("must be {wanted} if {extension} is specified");
    if ty.is_empty() {
        errors.required(&path.child("type"), &why);
    } else if ty != wanted {
        errors.invalid(&path.child("type"), ty, &why);
    }
}

fn list_type(errors: &mut Errors, schema: &Json, path: &Path<'_>) {
    let kind = text(schema, "x-kubernetes-list-type");
    let keys = list(schema, "x-kubernetes-list-map-keys");
    if !keys.is_empty() && kind != "map" {
        let at = path.child("x-kubernetes-list-type");
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        if kind.is_empty() { errors.required(&at, why) } else { errors.invalid(&at, kind, why) }
    }
    if kind.is_empty() {
        return;
    }
    of_type(errors, schema, "array", "x-kubernetes-list-type", path);
    match kind {
        "atomic" => {}
        "set" => set_items(errors, schema, path),
        "map" => map_items(errors, schema, keys, path),
        _ => errors.not_supported(&path.child("x-kubernetes-list-type"), kind, &["atomic", "set", "map"]),
    }
}

fn set_items(errors: &mut Errors, schema: &Json, path: &Path<'_>) {
    let Some(items) = object(schema, "items") else { return };
    let at = path.child("items");
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list_type, map_type) = (text(items, "x-kubernetes-list-type"), text(items, "x-kubernetes-map-type"));
    match text(items, "type") {
        "array" if list_type != "atomic" && !list_type.is_empty() => {
            errors.invalid(&at.child("x-kubernetes-list-type"), list_type, why);
        }
        "object" if map_type != "atomic" => {
            let shown = if map_type.is_empty() { BadValue::json(&Value::Null) } else { map_type.into() };
            errors.invalid(&at.child("x-kubernetes-map-type"), shown, why);
        }
        _ => {}
    }
    if flag(items, "nullable") {
        errors.forbidden(&at.child("nullable"), "cannot be nullable when x-kubernetes-list-type is set");
    }
}

fn map_items(errors: &mut Errors, schema: &Json, keys: &[Value], path: &Path<'_>) {
    let keys_at = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.required(&keys_at, "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(items) = object(schema, "items") else {
        errors.required(&path.child("items"), "must have a schema if x-kubernetes-list-type is map");
        return;
    };
    let at = path.child("items");
    let ty = text(items, "type");
    if ty != "object" {
        errors.invalid(&at.child("type"), ty, "must be object if parent array's x-kubernetes-list-type is map");
    }
    if flag(items, "nullable") {
        errors.forbidden(&at.child("nullable"), "cannot be nullable when x-kubernetes-list-type is map");
    }
    let properties = at.child("properties");
    let mut seen = HashSet::new();
    for key in keys.iter().filter_map(Value::as_str) {
        let Some(property) = object(items, "properties").and_then(|p| object(p, key)) else {
            errors.invalid(&keys_at, BadValue::json(&keys), "entries must all be names of item properties");
            continue;
        };
        let at = properties.key(key);
        let ty = text(property, "type");
        if matches!(ty, "array" | "object") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(&at.child("type"), ty, why);
        }
        if !seen.insert(key) {
            errors.invalid(&keys_at, BadValue::json(&keys), "must not contain duplicate entries");
        }
        let required = list(items, "required").iter().any(|r| r.as_str() == Some(key));
        if !required && !property.contains_key("default") {
            let why =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&at.child("default"), why);
        }
        if flag(property, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&at.child("nullable"), why);
        }
    }
}

/// `x-kubernetes-validations`: their form; the rules themselves are for whoever evaluates CEL.
fn rules(errors: &mut Errors, schema: &Json, path: &Path<'_>) {
    const REASONS: [&str; 4] =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let all = path.child("x-kubernetes-validations");
    for (index, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
        let Value::Object(rule) = rule else { continue };
        let at = all.index(index);
        let (source, message) = (text(rule, "rule").trim(), text(rule, "message"));
        if source.is_empty() {
            errors.required(&at.child("rule"), "rule is not specified");
        }
        if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&at.child("message"), message, "must be non-empty if specified");
        } else if message.contains(['\n', '\r']) {
            errors.invalid(&at.child("message"), message, "must not contain line breaks");
        } else if message.is_empty() && source.contains(['\n', '\r']) && !rule.contains_key("messageExpression") {
            errors.required(&at.child("message"), "message must be specified if rule contains line breaks");
        }
        let reason = text(rule, "reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            errors.not_supported(&at.child("reason"), reason, &REASONS);
        }
    }
}
