//! What is special about deleting a namespace: it is held by `spec.finalizers`, not only by those of its metadata,
//! and is `Terminating` meanwhile. The namespace controller empties it and then finalizes it.

use jiff::Timestamp;
use objects::{
    status::Status,
    strategy::deletion::{Deletion, rfc3339},
};
use serde_json::Value;

use crate::{
    encoded::{child_mut, is_terminating, metadata_mut},
    registry::Resource,
};

/// Namespaces that cannot be deleted.
pub(crate) const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Whether a namespace still has to be emptied.
pub(crate) fn is_held(resource: &Resource, object: &Value) -> bool {
    resource.is("", "namespaces")
        && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

/// Corrects a decision about a namespace.
pub(crate) fn hold(resource: &Resource, old: &Value, decided: Deletion) -> Deletion {
    if !resource.is("", "namespaces") {
        return decided;
    }
    let mut marked = match decided {
        Deletion::Unchanged => return Deletion::Unchanged,
        Deletion::Remove if !is_held(resource, old) => return Deletion::Remove,
        Deletion::Remove => old.clone(),
        Deletion::Mark(marked) => marked,
    };
    if !is_terminating(&marked) {
        metadata_mut(&mut marked).insert("deletionTimestamp".into(), rfc3339(Timestamp::now()).into());
    }
    metadata_mut(&mut marked).remove("deletionGracePeriodSeconds");
    child_mut(&mut marked, "status").insert("phase".into(), "Terminating".into());
    if marked == *old { Deletion::Unchanged } else { Deletion::Mark(marked) }
}

/// Refuses to delete a namespace that the cluster cannot be without.
pub(crate) fn check_delete(resource: &Resource, name: &str) -> Result<(), Status> {
    if resource.is("", "namespaces") && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(resource.qualified(), name, "this namespace may not be deleted"));
    }
    Ok(())
}
