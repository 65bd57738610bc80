//! Checks that custom objects go through; those of built-in kinds are in their strategies.

use objects::{
    schema::{self, Schema},
    status::{Qualified, Status},
};
use serde_json::Value;

use crate::encoded::meta_str;

/// Validates a custom object: its metadata as for any kind, the rest against the CRD's schema.
pub(crate) fn custom(kind: Qualified<'_>, namespaced: bool, schema: &Schema, object: &Value) -> Result<(), Status> {
    let metadata = object.get("metadata").cloned().unwrap_or_default();
    let metadata = objects::decode::decode(metadata)
        .map_err(|error| Status::bad_request(format!("metadata cannot be read: {error}")))?;
    let mut errors = objects::field::Errors::default();
    objects::validation::metadata::validate(&mut errors, &metadata, namespaced, objects::names::subdomain);
    errors.extend(schema::validate(object, schema));
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(kind, meta_str(object, "name"), errors.as_slice())) }
}
