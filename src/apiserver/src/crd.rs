//! CustomResourceDefinitions: rows, schemas and strategies made at run time, so that custom objects take the same
//! path through the generic verbs as built-in ones.

mod columns;
pub(crate) mod registrar;
mod rows;
pub(crate) mod strategy;

use serde_json::Value;

/// What a row made from a CustomResourceDefinition knows beyond a built-in row.
pub(crate) struct CustomResource {
    /// Name of the definition, `plural.group`.
    pub(crate) definition: String,
    /// UID and generation of the definition the row was made from.
    pub(crate) mark: String,
    /// The version's `openAPIV3Schema` as it was given, for OpenAPI documents.
    pub(crate) open_api: Value,
}
