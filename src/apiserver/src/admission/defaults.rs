//! Small steps on kinds other than pods: the default storage and ingress classes, and the finalizers that keep
//! volumes and claims in use from being removed.

use k8s_openapi::api::{networking::v1::IngressClass, storage::v1::StorageClass};
use objects::status::Status;
use serde_json::Value;

use super::Review;
use crate::encoded::{child_mut, finalizers, metadata_mut};

/// Applies whichever step is for this kind. True when the object changed.
pub(super) fn mutate(review: &Review<'_>, object: &mut Value) -> Result<bool, Status> {
    if review.is("", "persistentvolumeclaims") {
        let protected = protect(object, "kubernetes.io/pvc-protection");
        return Ok(default_storage_class(review, object)? || protected);
    }
    if review.is("", "persistentvolumes") {
        return Ok(protect(object, "kubernetes.io/pv-protection"));
    }
    if review.is("networking.k8s.io", "ingresses") {
        return default_ingress_class(review, object);
    }
    if review.is("", "namespaces") {
        return Ok(label_with_name(object));
    }
    Ok(false)
}

/// StorageObjectInUseProtection.
fn protect(object: &mut Value, finalizer: &str) -> bool {
    if finalizers(object).any(|own| own == finalizer) {
        return false;
    }
    let list = metadata_mut(object).entry("finalizers").or_insert_with(|| Value::Array(Vec::new()));
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    if let Some(list) = list.as_array_mut() {
        list.push(finalizer.into());
    }
    true
}

/// Among classes marked as default, the newest; by name when they are of one age.
fn newest<T>(classes: Vec<(Option<jiff::Timestamp>, String, T)>) -> Option<(String, T)> {
    let best = classes.into_iter().max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.cmp(&a.1)));
    best.map(|(_, name, class)| (name, class))
}

fn default_storage_class(review: &Review<'_>, object: &mut Value) -> Result<bool, Status> {
    let named = object.pointer("/spec/storageClassName").is_some_and(|name| !name.is_null());
    let by_annotation = object.pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class").is_some();
    if named || by_annotation {
        return Ok(false);
    }
    let entries = review.inner.hub.kind("storage.k8s.io/storageclasses")?.list("", |_| true).entries;
    let defaults = entries
        .iter()
        .filter_map(|entry| entry.typed::<StorageClass>().ok())
        .filter(|class| {
            let annotations = class.metadata.annotations.as_ref();
            annotations.is_some_and(|a| {
                ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
                    .iter()
                    .any(|key| a.get(*key).is_some_and(|v| v == "true"))
            })
        })
        .map(|class| {
            let metadata = &class.metadata;
            (metadata.creation_timestamp.as_ref().map(|t| t.0), metadata.name.clone().unwrap_or_default(), ())
        })
        .collect();
    let Some((name, ())) = newest(defaults) else { return Ok(false) };
    child_mut(object, "spec").insert("storageClassName".into(), name.into());
    Ok(true)
}

fn default_ingress_class(review: &Review<'_>, object: &mut Value) -> Result<bool, Status> {
    let named = object.pointer("/spec/ingressClassName").is_some_and(|name| !name.is_null());
    let by_annotation = object.pointer("/metadata/annotations/kubernetes.io~1ingress.class").is_some();
    if named || by_annotation {
        return Ok(false);
    }
    let entries = review.inner.hub.kind("networking.k8s.io/ingressclasses")?.list("", |_| true).entries;
    let defaults = entries
        .iter()
        .filter_map(|entry| entry.typed::<IngressClass>().ok())
        .filter(|class| {
            let annotations = class.metadata.annotations.as_ref();
            annotations.and_then(|a| a.get("ingressclass.kubernetes.io/is-default-class")).is_some_and(|v| v == "true")
        })
        .map(|class| {
            let metadata = &class.metadata;
            (metadata.creation_timestamp.as_ref().map(|t| t.0), metadata.name.clone().unwrap_or_default(), ())
        })
        .collect();
    let Some((name, ())) = newest(defaults) else { return Ok(false) };
    child_mut(object, "spec").insert("ingressClassName".into(), name.into());
    Ok(true)
}

/// Every namespace can be selected by its name.
fn label_with_name(object: &mut Value) -> bool {
    let name = crate::encoded::meta_str(object, "name").to_owned();
    if name.is_empty() {
        return false;
    }
    let labels = metadata_mut(object).entry("labels").or_insert_with(|| Value::Object(serde_json::Map::new()));
    if labels["kubernetes.io/metadata.name"] == name.as_str() {
        return false;
    }
    if !labels.is_object() {
        *labels = Value::Object(serde_json::Map::new());
    }
    labels["kubernetes.io/metadata.name"] = name.into();
    true
}
