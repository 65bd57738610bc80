//! Removal of what a schema does not know: the lenient half of field validation, and every write of a custom object.

use serde_json::Value;

use super::{Schema, Type};

/// Removes fields `schema` does not specify. What is of another type than the schema says is left for validation.
pub fn prune(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) if matches!(schema.ty(), Type::Any | Type::Object | Type::Map) => {
            let keep = schema.preserves_unknown();
            map.retain(|name, child| match schema.field(name) {
                Some(field) => {
                    prune(child, field);
                    true
                }
                None => keep,
            });
        }
        Value::Array(items) => {
            if let Some(schema) = schema.items() {
                items.iter_mut().for_each(|item| prune(item, schema));
            }
        }
        _ => {}
    }
}
