//! From a CRD's `openAPIV3Schema` (JSON schema with `x-kubernetes-*` extensions) to [`Schema`] nodes.
//!
//! Parsing takes any JSON schema; whether it is one a CRD may have is [`super::check_structural`]'s question.

use serde_json::{Map, Value};
use thiserror::Error;

use super::{Body, Extra, Format, Limits, ListBody, ListType, MapType, ObjectBody, Rule, Schema, Text, Type, table};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Deeper schemas are refused: walkers recurse.
const MAX_DEPTH: usize = 128;

/// Why a CRD's schema could not be read at all.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CrdSchemaError {
    #[error("{path}: must be an object")]
    NotAnObject { path: String },
    #[error("{path}: is nested too deeply")]
    TooDeep { path: String },
    #[error("{path}: {message}")]
    Pattern { path: String, message: String },
}

pub(super) fn root(schema: &Value) -> Result<Schema, CrdSchemaError> {
    let mut root = parse(schema, &mut Vec::new())?;
    add_envelope(&mut root);
    Ok(root)
}

pub(super) fn preserve_all() -> Schema {
    let mut root = Schema { ty: Type::Object, preserve_unknown: true, ..Schema::default() };
    add_envelope(&mut root);
    root
}

/// Adds what every object has, whatever its schema says. A schema may only restrict `metadata.name` and
/// `metadata.generateName`, so its own idea of `metadata` survives as value constraints alone.
fn add_envelope(schema: &mut Schema) {
    let body = match &mut schema.body {
        Body::Object(body) => body,
        other => {
            *other = Body::Object(Box::default());
            let Body::Object(body) = other else { return };
            body
        }
    };
    let string = || Schema { ty: Type::String, ..Schema::default() };
    set_field(body, "apiVersion", string());
    set_field(body, "kind", string());
    set_field(body, "metadata", table::reference(OBJECT_META));
}

fn set_field(body: &mut ObjectBody, name: &'static str, schema: Schema) {
    match body.fields.binary_search_by(|(n, _)| n.as_ref().cmp(name)) {
        Ok(at) if name == "metadata" => {
            // keep the schema's constraints on the name; the fields are ObjectMeta's
            let constraints = std::mem::take(&mut body.fields[at].1);
            body.fields[at].1 = Schema {
                extra: Some(Box::new(Extra { all_of: vec![loosened(constraints)], ..Extra::default() })),
                ..schema
            };
        }
        Ok(_) => {}
        Err(at) => body.fields.insert(at, (Text::Borrowed(name), schema)),
    }
}

fn loosened(mut schema: Schema) -> Schema {
    if schema.ty == Type::Object {
        schema.preserve_unknown = true;
    }
    schema
}

/// `at` is the path of JSON keys from the root, for messages.
fn parse(value: &Value, at: &mut Vec<String>) -> Result<Schema, CrdSchemaError> {
    let Value::Object(map) = value else {
        return Err(CrdSchemaError::NotAnObject { path: at.join(".") });
    };
    if at.len() > MAX_DEPTH {
        return Err(CrdSchemaError::TooDeep { path: at.join(".") });
    }
    let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
    let mut schema = Schema {
        nullable: flag("nullable"),
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded_resource: flag("x-kubernetes-embedded-resource"),
        format: format(map),
        list_type: list_type(map),
        map_type: text(map, "x-kubernetes-map-type")
            .map(|t| if t == "atomic" { MapType::Atomic } else { MapType::Granular }),
        ..Schema::default()
    };
    set_shape(&mut schema, map, at)?;
    schema.extra = extra(map, at)?;
    if schema.embedded_resource {
        add_envelope(&mut schema);
    }
    Ok(schema)
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Value::as_str)
}

fn format(map: &Map<String, Value>) -> Format {
    match text(map, "format").unwrap_or("") {
        "" => Format::None,
        "int32" => Format::Int32,
        "int64" => Format::Int64,
        "double" => Format::Double,
        "byte" => Format::Byte,
        "date-time" => Format::DateTime,
        other => Format::Other(other.into()),
    }
}

fn list_type(map: &Map<String, Value>) -> ListType {
    match text(map, "x-kubernetes-list-type") {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map,
        _ => ListType::Atomic,
    }
}

fn set_shape(schema: &mut Schema, map: &Map<String, Value>, at: &mut Vec<String>) -> Result<(), CrdSchemaError> {
    let int_or_string = map.get("x-kubernetes-int-or-string").and_then(Value::as_bool).unwrap_or(false);
    schema.ty = match text(map, "type") {
        Some("string") => Type::String,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        Some("object") => Type::Object,
        Some("array") => Type::List,
        _ if int_or_string => Type::IntOrString,
        _ => Type::Any,
    };
    if let Some(Value::Object(properties)) = map.get("properties") {
        schema.body = Body::Object(Box::new(ObjectBody {
            fields: fields(properties, at)?,
            required: texts(map.get("required")),
        }));
    } else if let Some(values) = map.get("additionalProperties").filter(|v| **v != Value::Bool(false)) {
        let values = match values {
            Value::Bool(_) => Schema::default(),
            schema => child(schema, "additionalProperties", at)?,
        };
        schema.body = Body::Map(Box::new(values));
        if schema.ty == Type::Object {
            schema.ty = Type::Map;
        }
    } else if let Some(items) = map.get("items") {
        schema.body = Body::List(Box::new(ListBody {
            items: child(items, "items", at)?,
            map_keys: texts(map.get("x-kubernetes-list-map-keys")),
            merge_key: None,
        }));
    }
    if matches!(schema.body, Body::None) && map.contains_key("required") {
        let required = texts(map.get("required"));
        schema.body = Body::Object(Box::new(ObjectBody { fields: Vec::new(), required }));
    }
    Ok(())
}

fn fields(properties: &Map<String, Value>, at: &mut Vec<String>) -> Result<Vec<(Text, Schema)>, CrdSchemaError> {
    let mut fields = Vec::with_capacity(properties.len());
    for (name, value) in properties {
        fields.push((Text::Owned(name.clone()), child(value, name, at)?));
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(fields)
}

fn child(value: &Value, name: &str, at: &mut Vec<String>) -> Result<Schema, CrdSchemaError> {
    at.push(name.to_owned());
    let schema = parse(value, at)?;
    at.pop();
    Ok(schema)
}

fn texts(list: Option<&Value>) -> Vec<Text> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(|s| Text::Owned(s.to_owned())).collect()
}

fn extra(map: &Map<String, Value>, at: &mut Vec<String>) -> Result<Option<Box<Extra>>, CrdSchemaError> {
    const KEYS: &[&str] = &[
        "default",
        "enum",
        "minimum",
        "maximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "pattern",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "x-kubernetes-validations",
    ];
    if !KEYS.iter().any(|key| map.contains_key(*key)) {
        return Ok(None);
    }
    let not = map.get("not").map(|schema| child(schema, "not", at)).transpose()?;
    Ok(Some(Box::new(Extra {
        default: map.get("default").filter(|v| !v.is_null()).cloned(),
        enumeration: map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
        limits: limits(map, at)?,
        all_of: junction(map, "allOf", at)?,
        any_of: junction(map, "anyOf", at)?,
        one_of: junction(map, "oneOf", at)?,
        not,
        rules: rules(map),
    })))
}

fn junction(map: &Map<String, Value>, key: &str, at: &mut Vec<String>) -> Result<Vec<Schema>, CrdSchemaError> {
    let parts = map.get(key).and_then(Value::as_array).into_iter().flatten();
    parts.map(|part| child(part, key, at)).collect()
}

fn limits(map: &Map<String, Value>, at: &[String]) -> Result<Limits, CrdSchemaError> {
    let number = |key: &str| map.get(key).and_then(Value::as_f64);
    let count = |key: &str| map.get(key).and_then(Value::as_u64);
    let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
    let pattern = match text(map, "pattern").filter(|p| !p.is_empty()) {
        Some(pattern) => Some(
            regex_lite::Regex::new(pattern)
                .map_err(|error| CrdSchemaError::Pattern { path: at.join("."), message: error.to_string() })?,
        ),
        None => None,
    };
    Ok(Limits {
        minimum: number("minimum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        maximum: number("maximum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        pattern,
        min_items: count("minItems"),
        max_items: count("maxItems"),
        unique_items: flag("uniqueItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
    })
}

fn rules(map: &Map<String, Value>) -> Vec<Rule> {
    let entries = map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
    entries
        .filter_map(Value::as_object)
        .filter_map(|entry| {
            let string = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            Some(Rule {
                rule: string("rule")?,
                message: string("message"),
                message_expression: string("messageExpression"),
                reason: string("reason"),
                field_path: string("fieldPath"),
            })
        })
        .collect()
}
