//! Definitions of custom kinds: the CRD's own schema with the object envelope put in.

use serde_json::{Map, Value, json};

use super::Dialect;
use super::schemas::{META, gvk, set_text};
use super::texts::{DefinitionTexts, Texts};
use crate::kinds::Kind;

/// The schema of one custom row.
#[derive(Clone, Copy, Debug)]
pub struct CustomSchema<'a> {
    /// [`Kind::schema`] of the row.
    pub definition: &'a str,
    /// `openAPIV3Schema` as the CRD has it.
    pub schema: Option<&'a Value>,
}

/// The definition of which `apiVersion`, `kind` and `metadata` take their descriptions.
const MODEL: &str = "io.k8s.api.core.v1.ConfigMap";
const PRESERVES: &str = "x-kubernetes-preserve-unknown-fields";

pub(super) fn object(dialect: Dialect, kind: &Kind, schema: Option<&Value>, texts: &Texts) -> Value {
    let kinds = json!([gvk(&kind.group, &kind.version, &kind.kind)]);
    // Clients of Swagger 2.0 refuse fields that are not listed: of an object of any fields, none is.
    if dialect == Dialect::V2 && schema.is_none_or(|schema| schema.get(PRESERVES) == Some(&Value::Bool(true))) {
        return json!({"type": "object", "x-kubernetes-group-version-kind": kinds});
    }
    let mut out = match schema {
        Some(Value::Object(map)) => map.clone(),
        _ => Map::from_iter([(PRESERVES.to_owned(), Value::Bool(true))]),
    };
    if dialect == Dialect::V2 {
        simplify(&mut out);
    }
    out.insert("type".into(), "object".into());
    let properties = out.entry("properties").or_insert_with(|| json!({}));
    if let Value::Object(properties) = properties {
        envelope(dialect, properties, "ObjectMeta", &texts.of(MODEL));
    }
    out.insert("x-kubernetes-group-version-kind".into(), kinds);
    Value::Object(out)
}

pub(super) fn list(dialect: Dialect, kind: &Kind, texts: &Texts) -> Value {
    let mut properties = Map::new();
    let text = format!("The {} found.", kind.plural);
    properties.insert(
        "items".into(),
        json!({"description": text, "type": "array", "items": dialect.reference(&kind.schema)}),
    );
    envelope(dialect, &mut properties, "ListMeta", &texts.of(&format!("{MODEL}List")));
    json!({
        "type": "object",
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": [gvk(&kind.group, &kind.version, &kind.list_kind)],
    })
}

fn envelope(dialect: Dialect, properties: &mut Map<String, Value>, meta: &str, texts: &DefinitionTexts<'_>) {
    let reference = dialect.reference(&format!("{META}.{meta}"));
    let metadata = match dialect {
        Dialect::V2 => reference,
        Dialect::V3 => json!({"allOf": [reference]}),
    };
    let fields =
        [("apiVersion", json!({"type": "string"})), ("kind", json!({"type": "string"})), ("metadata", metadata)];
    for (name, mut field) in fields {
        if let Value::Object(field) = &mut field
            && !field.contains_key("$ref")
        {
            set_text(field, texts.field(name));
        }
        properties.insert(name.into(), field);
    }
}

/// What Swagger 2.0 has no words for is left out; a node that loses its meaning that way becomes one of any value.
fn simplify(schema: &mut Map<String, Value>) {
    for key in ["allOf", "anyOf", "oneOf", "not", "nullable", "default", "x-kubernetes-validations"] {
        schema.remove(key);
    }
    if schema.get(PRESERVES) == Some(&Value::Bool(true)) {
        schema.remove("items");
        schema.remove("properties");
    }
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        schema.remove("type");
    }
    for key in ["items", "additionalProperties"] {
        if let Some(Value::Object(child)) = schema.get_mut(key) {
            simplify(child);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().filter_map(Value::as_object_mut).for_each(simplify);
    }
}
