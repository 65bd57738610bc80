//! `ObjectMeta`: what the server fills in, what stays, and what is refused.
//!
//! Rules of upstream's `api/validation/objectmeta.go` and of `rest.BeforeCreate` and `rest.BeforeUpdate`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::{check, immutable, labels, non_negative, text};
use crate::field::{BadValue, Errors, Path};
use crate::names::{self, NameRule};
use crate::status::{Status, quote};
use crate::strategy::Context;

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

/// Fills what only the server sets on a new object.
///
/// # Errors
/// When the body names another namespace than the path.
pub fn fill(meta: &mut ObjectMeta, namespaced: bool, context: &Context<'_>) -> Result<(), Status> {
    let body = meta.namespace.as_deref().unwrap_or_default();
    let request = context.namespace.unwrap_or_default();
    if namespaced && body.is_empty() {
        meta.namespace = context.namespace.map(str::to_owned);
    } else if namespaced && body != request {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if meta.namespace.as_deref() == Some("") {
        meta.namespace = None;
    }
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.resource_version = None;
    meta.self_link = None;
    meta.creation_timestamp = Some(Time(context.now));
    meta.uid = Some(context.uid.to_owned());
    let base = meta.generate_name.as_deref().unwrap_or_default();
    if text(meta.name.as_ref()).is_empty() && !base.is_empty() {
        meta.name = Some(names::generate(base, context.name_suffix));
    }
    Ok(())
}

/// Keeps in an update what no client changes, where the client left it out.
pub fn keep(new: &mut ObjectMeta, old: &ObjectMeta, namespaced: bool) {
    let fill = |field: &mut Option<String>, old: &Option<String>| {
        if text(field.as_ref()).is_empty() {
            field.clone_from(old);
        }
    };
    fill(&mut new.name, &old.name);
    if namespaced {
        fill(&mut new.namespace, &old.namespace);
    }
    fill(&mut new.uid, &old.uid);
    if new.creation_timestamp.is_none() {
        new.creation_timestamp.clone_from(&old.creation_timestamp);
    }
    // A deletion cannot be taken back, and its grace changes through DELETE alone.
    if old.deletion_timestamp.is_some() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    new.generation = old.generation;
    new.self_link = None;
}

pub fn validate(errors: &mut Errors, meta: &ObjectMeta, namespaced: bool, rule: NameRule) {
    let path = &Path::root("metadata");
    if let Some(base) = meta.generate_name.as_deref().filter(|base| !base.is_empty()) {
        check(errors, &path.child("generateName"), base, rule(base, true));
    }
    match text(meta.name.as_ref()) {
        "" => errors.required(&path.child("name"), "name or generateName is required"),
        name => {
            let mut messages = rule(name, false);
            if messages.is_empty() {
                messages = names::path_segment(name, false);
            }
            check(errors, &path.child("name"), name, messages);
        }
    }
    let namespace = text(meta.namespace.as_ref());
    match (namespaced, namespace) {
        (true, "") => errors.required(&path.child("namespace"), ""),
        (true, _) => check(errors, &path.child("namespace"), namespace, names::dns1123_label(namespace)),
        (false, "") => {}
        (false, _) => errors.forbidden(&path.child("namespace"), "not allowed on this type"),
    }
    non_negative(errors, &path.child("generation"), meta.generation.unwrap_or(0));
    common(errors, path, meta);
}

/// Rules for labels, annotations, owners, finalizers and managed fields, on create and update alike.
fn common(errors: &mut Errors, path: &Path<'_>, meta: &ObjectMeta) {
    labels::labels(errors, &path.child("labels"), meta.labels.as_ref());
    labels::annotations(errors, &path.child("annotations"), meta.annotations.as_ref());
    owners(errors, &path.child("ownerReferences"), meta.owner_references.as_deref().unwrap_or_default());
    finalizers(errors, &path.child("finalizers"), meta.finalizers.as_deref().unwrap_or_default());
    managed_fields(errors, &path.child("managedFields"), meta);
}

fn owners(errors: &mut Errors, path: &Path<'_>, owners: &[OwnerReference]) {
    let mut controller: Option<String> = None;
    for owner in owners {
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            errors.invalid(&path.child("apiVersion"), &owner.api_version, "version must not be empty");
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.invalid(&path.child(field), value, "must not be empty");
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            errors.invalid(path, BadValue::json(owner), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.controller == Some(true) {
            let current = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {current}"
                    );
                    errors.invalid(path, BadValue::json(&owners), &detail);
                }
                None => controller = Some(current),
            }
        }
    }
}

fn finalizers(errors: &mut Errors, path: &Path<'_>, finalizers: &[String]) {
    for (n, finalizer) in finalizers.iter().enumerate() {
        check(errors, path, finalizer, names::qualified_name(finalizer));
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.index(n), finalizer, detail);
        }
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(path, BadValue::json(&finalizers), detail);
    }
}

fn managed_fields(errors: &mut Errors, path: &Path<'_>, meta: &ObjectMeta) {
    for (n, entry) in meta.managed_fields.iter().flatten().enumerate() {
        let path = &path.index(n);
        let operation = text(entry.operation.as_ref());
        if operation != "Apply" && operation != "Update" {
            errors.invalid(&path.child("operation"), operation, "must be `Apply` or `Update`");
        }
        let kind = text(entry.fields_type.as_ref());
        if !kind.is_empty() && kind != "FieldsV1" {
            errors.invalid(&path.child("fieldsType"), kind, "must be `FieldsV1`");
        }
        if text(entry.manager.as_ref()).len() > 128 {
            errors.too_long(&path.child("manager"), 128);
        }
        if text(entry.subresource.as_ref()).len() > 256 {
            errors.too_long(&path.child("subresource"), 256);
        }
    }
}

pub fn validate_update(errors: &mut Errors, new: &ObjectMeta, old: &ObjectMeta) {
    let path = &Path::root("metadata");
    if old.deletion_timestamp.is_some() {
        no_new_finalizers(errors, &path.child("finalizers"), new, old);
    }
    if text(new.resource_version.as_ref()).is_empty() {
        errors.invalid(&path.child("resourceVersion"), "", "must be specified for an update");
    }
    if new.generation.unwrap_or(0) < old.generation.unwrap_or(0) {
        errors.invalid(&path.child("generation"), new.generation.unwrap_or(0), "must not be decremented");
    }
    immutable(errors, &path.child("name"), &new.name, &old.name);
    immutable(errors, &path.child("namespace"), &new.namespace, &old.namespace);
    immutable(errors, &path.child("uid"), &new.uid, &old.uid);
    immutable(errors, &path.child("creationTimestamp"), &new.creation_timestamp, &old.creation_timestamp);
    immutable(errors, &path.child("deletionTimestamp"), &new.deletion_timestamp, &old.deletion_timestamp);
    let grace = (&new.deletion_grace_period_seconds, &old.deletion_grace_period_seconds);
    immutable(errors, &path.child("deletionGracePeriodSeconds"), grace.0, grace.1);
    common(errors, path, new);
}

fn no_new_finalizers(errors: &mut Errors, path: &Path<'_>, new: &ObjectMeta, old: &ObjectMeta) {
    let kept = old.finalizers.as_deref().unwrap_or_default();
    let mut extra: Vec<&String> = new.finalizers.iter().flatten().filter(|f| !kept.contains(f)).collect();
    extra.sort();
    if !extra.is_empty() {
        let list: Vec<String> = extra.iter().map(|f| quote(f)).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            list.join(", ")
        );
        errors.forbidden(path, &detail);
    }
}
