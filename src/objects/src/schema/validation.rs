//! Value validation of custom objects against their schema, with the messages kube-apiserver gives.

mod bounds;
mod lists;

use serde_json::Value;

use super::{Body, Extra, Format, Schema, Type, format};
use crate::field::{BadValue, Errors, Path};

/// Everything about `value` that its schema refuses. `metadata` is looked at only for the constraints the schema
/// itself puts on it: the API machinery validates it for every kind alike.
pub fn validate(value: &Value, schema: &Schema) -> Errors {
    let mut outcome = Outcome::default();
    outcome.check(value, schema, &Path::root(""));
    lists::check(&mut outcome.errors, value, schema, &Path::root(""));
    outcome.errors
}

/// Errors found, and how many checks held: of several alternatives that all fail, the one that holds most is reported.
#[derive(Default)]
struct Outcome {
    errors: Errors,
    held: u32,
}

impl Outcome {
    fn check(&mut self, value: &Value, schema: &Schema, path: &Path<'_>) {
        if self.check_type(value, schema, path) {
            self.held += 1;
        }
        if let Some(extra) = schema.extra() {
            self.check_junctions(value, extra, path);
        }
        bounds::check(&mut self.errors, value, schema, path);
        if let Value::String(text) = value {
            self.check_format(text, schema, path);
        }
        if let Some(extra) = schema.extra().filter(|e| !e.enumeration.is_empty()) {
            self.check_enumeration(value, extra, path);
        }
        match value {
            Value::Object(map) => self.check_object(map, schema, path),
            Value::Array(items) => {
                let Some(schema) = schema.items() else { return };
                for (index, item) in items.iter().enumerate() {
                    self.check(item, schema, &path.index(index));
                }
            }
            _ => {}
        }
    }

    fn check_type(&mut self, value: &Value, schema: &Schema, path: &Path<'_>) -> bool {
        let actual = json_type(value);
        if value.is_null() && (schema.is_nullable() || schema.ty() == Type::Any) {
            return true;
        }
        let (fits, wanted) = match schema.ty() {
            Type::Any => (true, ""),
            Type::String => (value.is_string(), "string"),
            Type::Integer => (is_integer(value), "integer"),
            Type::Number => (value.is_number(), "number"),
            Type::Boolean => (value.is_boolean(), "boolean"),
            Type::Object | Type::Map => (value.is_object(), "object"),
            Type::List => (value.is_array(), "array"),
            Type::IntOrString => (value.is_string() || is_integer(value), "integer,string"),
            Type::Quantity => (value.is_string() || value.is_number(), "string"),
        };
        if !fits {
            let detail = format!("{path} in body must be of type {wanted}: \"{actual}\"");
            self.errors.type_invalid(path, actual, &detail);
        }
        fits
    }

    fn check_junctions(&mut self, value: &Value, extra: &Extra, path: &Path<'_>) {
        // upstream loses the path of a composite error
        let nowhere = Path::root("<nil>");
        let attempt = |schema: &Schema| {
            let mut outcome = Self::default();
            outcome.check(value, schema, path);
            outcome
        };
        if !extra.any_of.is_empty() {
            let tried: Vec<Self> = extra.any_of.iter().map(attempt).collect();
            if tried.iter().all(|o| !o.errors.is_empty()) {
                let message = format!("\"{path}\" must validate at least one schema (anyOf)");
                self.errors.invalid(&nowhere, "", &message);
                self.take_best(tried);
            }
        }
        if !extra.one_of.is_empty() {
            let tried: Vec<Self> = extra.one_of.iter().map(attempt).collect();
            let valid = tried.iter().filter(|o| o.errors.is_empty()).count();
            if valid != 1 {
                let found =
                    if valid == 0 { "Found none valid".into() } else { format!("Found {valid} valid alternatives") };
                let message = format!("\"{path}\" must validate one and only one schema (oneOf). {found}");
                self.errors.invalid(&nowhere, "", &message);
                if valid == 0 {
                    self.take_best(tried);
                }
            }
        }
        if !extra.all_of.is_empty() {
            let tried: Vec<Self> = extra.all_of.iter().map(attempt).collect();
            let valid = tried.iter().filter(|o| o.errors.is_empty()).count();
            let total = tried.len();
            tried.into_iter().for_each(|outcome| self.errors.extend(outcome.errors));
            if valid != total {
                let more = if valid == 0 { ". None validated" } else { "" };
                let message = format!("\"{path}\" must validate all the schemas (allOf){more}");
                self.errors.invalid(&nowhere, "", &message);
            }
        }
        if extra.not.as_ref().is_some_and(|schema| attempt(schema).errors.is_empty()) {
            self.errors.invalid(&nowhere, "", &format!("\"{path}\" must not validate the schema (not)"));
        }
        self.held += 1;
    }

    fn take_best(&mut self, tried: Vec<Self>) {
        // the first of those that hold equally much
        if let Some(best) = tried.into_iter().rev().max_by_key(|o| o.held) {
            self.errors.extend(best.errors);
        }
    }

    fn check_format(&mut self, text: &str, schema: &Schema, path: &Path<'_>) {
        let name = match schema.format() {
            Format::Byte => "byte",
            Format::DateTime => "date-time",
            Format::Other(name) => name,
            Format::None | Format::Int32 | Format::Int64 | Format::Double => return,
        };
        if matches!(schema.ty(), Type::String | Type::Any) && format::matches(name, text) == Some(false) {
            let detail = format!("{path} in body must be of type {}: {}", name, crate::status::quote(text));
            self.errors.type_invalid(path, text, &detail);
        }
    }

    fn check_enumeration(&mut self, value: &Value, extra: &Extra, path: &Path<'_>) {
        if extra.enumeration.iter().any(|allowed| same(allowed, value)) {
            return;
        }
        let shown = |allowed: &Value| match allowed {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let allowed: Vec<String> = extra.enumeration.iter().map(shown).collect();
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        self.errors.not_supported(path, bad_value(value), &allowed);
    }

    fn check_object(&mut self, map: &serde_json::Map<String, Value>, schema: &Schema, path: &Path<'_>) {
        for (name, child) in map {
            let Some(field) = schema.field(name) else { continue };
            if matches!(field.body, Body::Definition(_)) {
                // the injected ObjectMeta: only the CRD's own constraints on it
                if let Some(extra) = field.extra.as_deref() {
                    self.check_junctions(child, extra, &path.child(name));
                }
                continue;
            }
            self.check(child, field, &path.child(name));
        }
        if schema.is_embedded_resource() {
            for name in ["apiVersion", "kind"] {
                if map.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
                    self.errors.required(&path.child(name), "must not be empty");
                }
            }
        }
        for name in schema.required() {
            if !map.contains_key(name.as_ref()) {
                self.errors.required(&path.child(name), "");
            }
        }
    }
}

/// Equality of values, numbers by worth: 1 and 1.0 are the same.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn bad_value(value: &Value) -> BadValue {
    match value {
        Value::String(text) => text.into(),
        other => BadValue::json(other),
    }
}
