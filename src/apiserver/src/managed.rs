//! Managed fields: who set which field, for server-side apply. Every write goes through here once.

use jiff::Timestamp;
use objects::{
    apply::{Writer, apply, track},
    status::Status,
};
use serde_json::Value;

use crate::{
    convert,
    encoded::{meta_str, metadata_mut},
    registry::Resource,
    rest::options::WriteOptions,
};

/// What an endpoint resets, and so nobody can own through it.
fn resets(resource: &Resource, subresource: &str) -> &'static [&'static str] {
    match subresource {
        "status" | "approval" => &["spec"],
        "" if resource.kind.subresource("status").is_some() => &["status"],
        _ => &[],
    }
}

fn writer<'w>(resource: &Resource, manager: &'w str, subresource: &'w str) -> Writer<'w> {
    Writer { manager, subresource, now: Timestamp::now(), resets: resets(resource, subresource) }
}

/// Notes the creator as the manager of all fields of a new object.
pub(crate) fn record_create(resource: &Resource, object: &mut Value, manager: &str, subresource: &str) {
    if is_applied(object, manager) {
        return;
    }
    track(None, object, &resource.schema, &writer(resource, manager, subresource));
}

/// Whether an apply has made this object and noted so already.
fn is_applied(object: &Value, manager: &str) -> bool {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten();
    entries.into_iter().any(|entry| entry["operation"] == "Apply" && entry["manager"] == manager)
}

/// Notes the manager of what an update changed.
pub(crate) fn record_update(resource: &Resource, new: &mut Value, old: &Value, manager: &str, subresource: &str) {
    track(Some(old), new, &resource.schema, &writer(resource, manager, subresource));
}

/// The object that an apply of something missing creates.
pub(crate) fn apply_new(
    resource: &Resource,
    applied: &Value,
    name: &str,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let mut applied = applied.clone();
    let given = meta_str(&applied, "name");
    if !given.is_empty() && given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    metadata_mut(&mut applied).insert("name".into(), name.into());
    let writer = writer(resource, &options.field_manager, "");
    let object = apply(None, applied, &resource.schema, &writer, options.force)?;
    convert::to_stored(resource, object)
}

/// The object that an apply makes of what is there.
pub(crate) fn apply_to(
    resource: &Resource,
    old: &Value,
    applied: &Value,
    options: &WriteOptions,
    subresource: &str,
) -> Result<Value, Status> {
    let live = convert::from_stored(resource, old.clone())?;
    let writer = writer(resource, &options.field_manager, subresource);
    let object = apply(Some(&live), applied.clone(), &resource.schema, &writer, options.force)?;
    convert::to_stored(resource, object)
}

/// Whether a new state differs from the old one by nothing but the times at which managers wrote.
pub(crate) fn only_times_differ(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let header = |name: &str| matches!(name, "apiVersion" | "kind");
    let same = |name: &String, value: &Value| match name.as_str() {
        "metadata" => same_metadata(value, old.get("metadata").unwrap_or(&Value::Null)),
        _ => old.get(name) == Some(value),
    };
    let count = |map: &serde_json::Map<String, Value>| map.keys().filter(|name| !header(name)).count();
    count(new) == count(old) && new.iter().filter(|(name, _)| !header(name)).all(|(name, value)| same(name, value))
}

fn same_metadata(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let skipped = |name: &str| matches!(name, "resourceVersion" | "managedFields");
    let count = |map: &serde_json::Map<String, Value>| map.keys().filter(|name| !skipped(name)).count();
    count(new) == count(old)
        && new.iter().filter(|(name, _)| !skipped(name)).all(|(name, value)| old.get(name) == Some(value))
        && same_managers(new.get("managedFields"), old.get("managedFields"))
}

fn same_managers(new: Option<&Value>, old: Option<&Value>) -> bool {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (new, old) = (list(new), list(old));
    new.len() == old.len()
        && new.iter().zip(&old).all(|(new, old)| {
            ["manager", "operation", "apiVersion", "subresource", "fieldsV1"]
                .iter()
                .all(|key| new.get(*key) == old.get(*key))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_write_that_only_moves_times_is_no_write() {
        let old = json!({"kind": "K", "metadata": {"name": "a", "resourceVersion": "1",
            "managedFields": [{"manager": "m", "time": "x", "fieldsV1": {}}]}, "spec": {"a": 1}});
        let mut new = old.clone();
        new["metadata"]["managedFields"][0]["time"] = "y".into();
        new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        assert!(only_times_differ(&new, &old));
        new["spec"]["a"] = 2.into();
        assert!(!only_times_differ(&new, &old));
    }
}
