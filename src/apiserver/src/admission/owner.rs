//! OwnerReferencesPermissionEnforcement: whoever lets an owner's deletion wait for this object must be allowed to
//! change the owner's finalizers.

use objects::{kinds::split_api_version, status::Status};
use serde_json::Value;

use super::Review;
use crate::authz::{Attributes, Decision};

fn blocking(object: Option<&Value>) -> Vec<&Value> {
    let owners = object.and_then(|object| object.pointer("/metadata/ownerReferences")).and_then(Value::as_array);
    owners.into_iter().flatten().filter(|owner| owner["blockOwnerDeletion"] == true).collect()
}

/// Checks new owner references that block deletion.
pub(super) fn validate(review: &Review<'_>, object: &Value) -> Result<(), Status> {
    let before = blocking(review.old);
    let known = |owner: &&&Value| before.iter().any(|old| old["uid"] == owner["uid"]);
    for owner in blocking(Some(object)).iter().filter(|owner| !known(owner)) {
        let text = |name: &str| owner[name].as_str().unwrap_or_default();
        let (group, _) = split_api_version(text("apiVersion"));
        let table = review.inner.registry.load();
        let Some(resource) = table.of_object(text("apiVersion"), text("kind")) else { continue };
        let namespace = if resource.kind.is_namespaced() { review.place.namespace } else { "" };
        let wanted = Attributes {
            verb: "update",
            group,
            resource: &resource.kind.plural,
            subresource: "finalizers",
            namespace,
            name: text("name"),
            ..Attributes::of(review.user)
        };
        if !matches!(review.inner.authz.authorize(&wanted), Decision::Allow(_)) {
            let why = format!(
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {}",
                wanted.refusal("")
            );
            return Err(review.forbid(crate::encoded::meta_str(object, "name"), &why));
        }
    }
    Ok(())
}
