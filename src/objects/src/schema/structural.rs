//! Whether a CRD's `openAPIV3Schema` is one a CRD may have: structural, complete, and free of unsupported keywords.
//!
//! The rules are those of KEP-1155 (structural schemas) and of the CustomResourceDefinition API's own validation.

mod keywords;
mod nested;

use serde_json::{Map, Value};

use super::Schema;
use crate::field::{BadValue, Errors, Path};

type Json = Map<String, Value>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

/// Checks one version's schema; `path` is where it stands in the CRD, e.g.
/// `spec.versions[0].schema.openAPIV3Schema`.
pub fn check_structural(schema: &Value, path: &Path<'_>) -> Errors {
    let mut errors = Errors::default();
    let Value::Object(root) = schema else {
        errors.invalid(path, BadValue::json(schema), "must be an object");
        return errors;
    };
    if flag(root, "nullable") {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    node(&mut errors, root, Level::Root, path);
    keywords::check(&mut errors, root, path);
    if errors.is_empty() {
        match Schema::from_crd(schema) {
            Ok(parsed) => defaults(&mut errors, root, &parsed, path),
            Err(error) => errors.invalid(path, "", &error.to_string()),
        }
    }
    errors
}

fn flag(map: &Json, key: &str) -> bool {
    map.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn text<'a>(map: &'a Json, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or("")
}

fn object<'a>(map: &'a Json, key: &str) -> Option<&'a Json> {
    map.get(key).and_then(Value::as_object)
}

fn list<'a>(map: &'a Json, key: &str) -> &'a [Value] {
    map.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn node(errors: &mut Errors, schema: &Json, level: Level, path: &Path<'_>) {
    if text(schema, "type") == "array" && !schema.contains_key("items") {
        errors.required(&path.child("items"), "must be specified");
    }
    if let Some(items) = object(schema, "items") {
        node(errors, items, Level::Item, &path.child("items"));
    }
    let properties = path.child("properties");
    for (name, property) in object(schema, "properties").into_iter().flatten() {
        let Value::Object(property) = property else { continue };
        let at = properties.key(name);
        if level == Level::Root && name == "metadata" {
            root_metadata(errors, property, &at);
        } else {
            node(errors, property, Level::Field, &at);
        }
    }
    if let Some(values) = schema.get("additionalProperties") {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.forbidden(&at, "must not be used at the root");
        }
        if let Value::Object(values) = values {
            node(errors, values, Level::Field, &at);
        }
    }
    types(errors, schema, level, path);
    extensions(errors, schema, level, path);
    nested::check(errors, schema, path);
}

fn types(errors: &mut Errors, schema: &Json, level: Level, path: &Path<'_>) {
    let ty = text(schema, "type");
    let at = path.child("type");
    if flag(schema, "x-kubernetes-embedded-resource") && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        if ty.is_empty() { errors.required(&at, why) } else { errors.invalid(&at, ty, why) }
    } else if ty.is_empty()
        && !flag(schema, "x-kubernetes-int-or-string")
        && !flag(schema, "x-kubernetes-preserve-unknown-fields")
    {
        errors.required(
            &at,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.invalid(&at, ty, "must be object at the root");
    }
}

fn extensions(errors: &mut Errors, schema: &Json, level: Level, path: &Path<'_>) {
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    if embedded && schema.contains_key("additionalProperties") {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&path.child("additionalProperties"), why);
    }
    if embedded && !preserve && object(schema, "properties").is_none_or(Map::is_empty) {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                   x-kubernetes-preserve-unknown-fields";
        errors.required(&path.child("properties"), why);
    }
    if int_or_string && preserve {
        let why = "must be false if x-kubernetes-int-or-string is true";
        errors.invalid(&path.child("x-kubernetes-preserve-unknown-fields"), true, why);
    }
    if int_or_string && embedded {
        let why = "must be false if x-kubernetes-int-or-string is true";
        errors.invalid(&path.child("x-kubernetes-embedded-resource"), true, why);
    }
    if embedded || level == Level::Root {
        let properties = path.child("properties");
        for name in ["kind", "apiVersion"] {
            let property = object(schema, "properties").and_then(|p| object(p, name));
            if let Some(ty) = property.map(|p| text(p, "type")).filter(|ty| *ty != "string") {
                errors.invalid(&properties.key(name).child("type"), ty, "must be string");
            }
        }
    }
}

fn root_metadata(errors: &mut Errors, schema: &Json, path: &Path<'_>) {
    let ty = text(schema, "type");
    if ty != "object" {
        errors.invalid(&path.child("type"), ty, "must be object");
    }
    let known = |name: &String| name == "name" || name == "generateName";
    let names_only = object(schema, "properties").is_none_or(|p| p.keys().all(known));
    let structure = |key: &String| {
        !matches!(
            key.as_str(),
            "type" | "properties" | "required" | "description" | "allOf" | "anyOf" | "oneOf" | "not"
        )
    };
    if !names_only || schema.keys().any(structure) {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(path, why);
    }
}

/// A default must be valid by the very schema it stands in, and hold no unknown fields.
fn defaults(errors: &mut Errors, raw: &Json, parsed: &Schema, path: &Path<'_>) {
    if let Some(wanted) = parsed.default_value() {
        let at = path.child("default");
        let mut value = wanted.clone();
        super::default(&mut value, parsed);
        for error in super::validate(&value, parsed).into_vec() {
            errors.invalid(&at.child(&error.field), BadValue::json(wanted), &error.body);
        }
        let mut pruned = wanted.clone();
        super::prune(&mut pruned, parsed);
        if pruned != *wanted {
            errors.invalid(&at, BadValue::json(wanted), "must not have unknown fields");
        }
    }
    let properties = path.child("properties");
    for (name, property) in object(raw, "properties").into_iter().flatten() {
        let metadata = parsed.field(name).is_none_or(|f| f.definition_name().is_some());
        if let (Value::Object(raw), Some(field), false) = (property, parsed.field(name), metadata) {
            defaults(errors, raw, field, &properties.key(name));
        }
    }
    if let (Some(raw), Some(items)) = (object(raw, "items"), parsed.items()) {
        defaults(errors, raw, items, &path.child("items"));
    }
    if let (Some(raw), Some(values)) = (object(raw, "additionalProperties"), parsed.values()) {
        defaults(errors, raw, values, &path.child("additionalProperties"));
    }
}
