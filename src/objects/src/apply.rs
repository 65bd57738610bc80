//! Server-side apply (KEP-555): who owns which field, merging an applied configuration, and conflicts.
//!
//! Ownership is kept in `metadata.managedFields` as one [`FieldSet`] per manager. [`apply`] serves PATCH with an apply
//! body; [`track`] keeps ownership true over every other write. Time is a parameter.

mod managers;
mod paths;
mod walk;

pub use paths::FieldSet;

use crate::schema::Schema;
use crate::status::{Cause, Status};
use jiff::Timestamp;
use managers::Managers;
use serde_json::Value;

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// `fieldManager` of the request, or the first part of its user agent.
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub now: Timestamp,
    /// Dotted paths that this endpoint resets and so nobody can own through it, such as `status`.
    pub resets: &'a [&'a str],
}

/// Fields that belong to the server: nobody owns them.
const SERVER_FIELDS: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata.name",
    "metadata.namespace",
    "metadata.creationTimestamp",
    "metadata.selfLink",
    "metadata.uid",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
];

/// Merges `config` into `live` (`None`: the object is created), takes away what this manager applied before and does
/// no longer, and records ownership. Without `force`, fields that another manager owns and `config` would change are
/// a conflict (409). The result still has to be defaulted and validated.
pub fn apply(
    live: Option<&Value>,
    mut config: Value,
    schema: &Schema,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    if config.pointer("/metadata/managedFields").is_some_and(|fields| !is_blank(fields)) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    walk::strip_nulls(&mut config);
    let api_version = api_version(&config);
    let nothing = Value::Object(serde_json::Map::new());
    let live = live.unwrap_or(&nothing);
    let mut managers = Managers::of(live);
    if managers.is_empty() && live.as_object().is_some_and(|members| !members.is_empty()) {
        managers.adopt(owned(walk::field_set(live, schema).map_err(keyless)?, &[]), &api_version, writer);
    }
    let applied = owned(walk::field_set(&config, schema).map_err(keyless)?, writer.resets);
    let mut merged = walk::merge(live, config, schema).map_err(keyless)?;
    let former = managers.replace_applied(writer, &api_version, applied);
    if let Some(former) = former {
        walk::prune(&mut merged, &former, &managers.union(), schema);
    }
    let change = walk::compare(live, &merged, schema);
    let conflicts = managers.conflicts(writer, &owned(change.added.union(&change.modified), &[]));
    if !conflicts.is_empty() && !force {
        return Err(conflict(&conflicts));
    }
    for (index, fields) in conflicts {
        managers.take_away(index, &fields);
    }
    managers.forget_removed(&change.removed);
    managers.store(&mut merged);
    Ok(merged)
}

/// Records in `new` who owns what, after a write that was no apply. `old` is `None` when the object is created.
pub fn track(old: Option<&Value>, new: &mut Value, schema: &Schema, writer: &Writer<'_>) {
    if new.pointer("/metadata/managedFields").is_some_and(is_reset) {
        managers::clear(new);
        return;
    }
    let nothing = Value::Object(serde_json::Map::new());
    let old_value = old.unwrap_or(&nothing);
    let mut managers = Managers::of(new);
    if managers.is_empty() {
        managers = Managers::of(old_value);
    }
    let change = walk::compare(old_value, new, schema);
    let changed = owned(change.added.union(&change.modified), writer.resets);
    let removed = owned(change.removed, &[]);
    if !changed.is_empty() || !removed.is_empty() {
        let api_version = api_version(new);
        for (index, fields) in managers.conflicts(writer, &changed) {
            managers.take_away(index, &fields);
        }
        managers.forget_removed(&removed);
        managers.extend_updated(writer, &api_version, &changed);
    }
    managers.store(new);
}

fn api_version(object: &Value) -> String {
    object.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn is_blank(fields: &Value) -> bool {
    fields.is_null() || fields.as_array().is_some_and(Vec::is_empty)
}

/// `[{}]`: the writer asks to forget all ownership.
fn is_reset(fields: &Value) -> bool {
    let single = fields.as_array().filter(|entries| entries.len() == 1).and_then(|entries| entries[0].as_object());
    single.is_some_and(serde_json::Map::is_empty)
}

fn owned(mut fields: FieldSet, resets: &[&str]) -> FieldSet {
    for path in SERVER_FIELDS.iter().chain(resets) {
        fields.remove_path(path);
    }
    // An empty `metadata` node would otherwise claim the metadata object itself.
    fields.drop_claim("metadata");
    fields
}

fn keyless(error: walk::KeyError) -> Status {
    Status::bad_request(error.to_string())
}

fn conflict(conflicts: &[(managers::Owner, FieldSet)]) -> Status {
    let all: Vec<(&managers::Owner, String)> = conflicts
        .iter()
        .flat_map(|(owner, fields)| fields.paths().into_iter().map(move |path| (owner, path)))
        .collect();
    let cause = |(owner, path): &(&managers::Owner, String)| Cause {
        reason: "FieldManagerConflict".to_owned(),
        message: format!("conflict with {owner}"),
        field: path.clone(),
    };
    let message = match all.as_slice() {
        [(owner, path)] => format!("Apply failed with 1 conflict: conflict with {owner}: {path}"),
        _ => {
            let mut lines = Vec::new();
            for (owner, fields) in conflicts {
                lines.push(format!("conflicts with {owner}:"));
                lines.extend(fields.paths().iter().map(|path| format!("- {path}")));
            }
            format!("Apply failed with {} conflicts: {}", all.len(), lines.join("\n"))
        }
    };
    Status::apply_conflict(all.iter().map(cause).collect(), message)
}

#[cfg(test)]
mod tests;
