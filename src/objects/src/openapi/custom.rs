//! Definitions of custom kinds: the CRD's own schema with the object envelope put in.

use serde_json::{Map, Value, json};

use super::Dialect;
use super::schemas::{META, gvk};
use crate::kinds::Kind;

/// The schema of one custom row.
#[derive(Clone, Copy, Debug)]
pub struct CustomSchema<'a> {
    /// [`Kind::schema`] of the row.
    pub definition: &'a str,
    /// `openAPIV3Schema` as the CRD has it.
    pub schema: Option<&'a Value>,
}

pub(super) fn object(dialect: Dialect, kind: &Kind, schema: Option<&Value>) -> Value {
    let mut out = match schema {
        Some(Value::Object(map)) => map.clone(),
        _ => Map::from_iter([("x-kubernetes-preserve-unknown-fields".to_owned(), Value::Bool(true))]),
    };
    if dialect == Dialect::V2 {
        simplify(&mut out);
    }
    out.insert("type".into(), "object".into());
    let properties = out.entry("properties").or_insert_with(|| json!({}));
    if let Value::Object(properties) = properties {
        envelope(dialect, properties, "ObjectMeta");
    }
    out.insert("x-kubernetes-group-version-kind".into(), json!([gvk(&kind.group, &kind.version, &kind.kind)]));
    Value::Object(out)
}

pub(super) fn list(dialect: Dialect, kind: &Kind) -> Value {
    let mut properties = Map::new();
    let text = format!("The {} found.", kind.plural);
    properties.insert(
        "items".into(),
        json!({"description": text, "type": "array", "items": dialect.reference(&kind.schema)}),
    );
    envelope(dialect, &mut properties, "ListMeta");
    json!({
        "type": "object",
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": [gvk(&kind.group, &kind.version, &kind.list_kind)],
    })
}

fn envelope(dialect: Dialect, properties: &mut Map<String, Value>, meta: &str) {
    let metadata = dialect.reference(&format!("{META}.{meta}"));
    let metadata = match dialect {
        Dialect::V2 => metadata,
        Dialect::V3 => json!({"description": "What every object has: name, labels and the like.", "allOf": [metadata]}),
    };
    let text = |text: &str| json!({"type": "string", "description": text});
    properties.insert("apiVersion".into(), text("Group and version of this representation of the object."));
    properties.insert("kind".into(), text("Kind of the object, in CamelCase."));
    properties.insert("metadata".into(), metadata);
}

/// What Swagger 2.0 has no words for is left out; a node that loses its meaning that way becomes one of any value.
fn simplify(schema: &mut Map<String, Value>) {
    for key in ["allOf", "anyOf", "oneOf", "not", "nullable", "default", "x-kubernetes-validations"] {
        schema.remove(key);
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
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
