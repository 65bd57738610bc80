//! Defaults of a CRD's schema, and the nulls that stand for "not set".

use serde_json::Value;

use super::Schema;

/// Sets defaults for absent fields, and for null fields that are not nullable; a null without default in a field
/// that is not nullable is dropped. Goes into present objects, map values and list items only, but into a default
/// just set as well.
pub fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            map.retain(|name, child| {
                !child.is_null() || schema.field(name).is_none_or(|f| accepts_null(f) || f.default_value().is_some())
            });
            for (name, field) in schema.fields() {
                let Some(wanted) = field.default_value() else { continue };
                let unset = map.get(name.as_ref()).is_none_or(|v| v.is_null() && !field.is_nullable());
                if unset {
                    map.insert(name.to_string(), wanted.clone());
                }
            }
            for (name, child) in map.iter_mut() {
                let Some(field) = schema.field(name) else { continue };
                if let (true, false, Some(wanted)) = (child.is_null(), field.is_nullable(), field.default_value()) {
                    *child = wanted.clone();
                }
                default(child, field);
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items() else { return };
            for item in items {
                if let (true, false, Some(wanted)) = (item.is_null(), schema.is_nullable(), schema.default_value()) {
                    *item = wanted.clone();
                }
                default(item, schema);
            }
        }
        _ => {}
    }
}

fn accepts_null(field: &Schema) -> bool {
    field.is_nullable() || field.preserves_unknown()
}
