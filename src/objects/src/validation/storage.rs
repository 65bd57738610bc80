//! Persistent volumes and claims.

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec,
};

use super::{check, immutable, labels, one_of, shown, text};
use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

fn access_modes(errors: &mut Errors, path: &Path<'_>, modes: &[String]) {
    for mode in modes {
        one_of(errors, path, mode, ACCESS_MODES);
    }
    let single = |mode: &String| mode == "ReadWriteOncePod";
    if modes.iter().any(single) && !modes.iter().all(single) {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn class_name(errors: &mut Errors, path: &Path<'_>, name: Option<&String>) {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        check(errors, path, name, names::dns1123_subdomain(name));
    }
}

/// `ValidatePersistentVolumeClaimSpec`.
pub fn claim_spec(errors: &mut Errors, path: &Path<'_>, spec: &PersistentVolumeClaimSpec) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    labels::selector(errors, &path.child("selector"), spec.selector.as_ref());
    access_modes(errors, &path.child("accessModes"), modes);
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let resources = path.child("resources");
    match requests.and_then(|requests| requests.get("storage")) {
        None => errors.required(&resources.key("storage"), ""),
        Some(size) if Quantity::of(size) <= Quantity::ZERO => {
            errors.invalid(&resources.key("storage"), &size.0, "must be greater than zero");
        }
        Some(_) => {}
    }
    class_name(errors, &path.child("storageClassName"), spec.storage_class_name.as_ref());
    if let Some(mode) = &spec.volume_mode {
        one_of(errors, &path.child("volumeMode"), mode, VOLUME_MODES);
    }
    data_sources(errors, path, spec);
    class_name(errors, &path.child("volumeAttributesClassName"), spec.volume_attributes_class_name.as_ref());
}

fn data_sources(errors: &mut Errors, path: &Path<'_>, spec: &PersistentVolumeClaimSpec) {
    if let Some(source) = &spec.data_source {
        let path = path.child("dataSource");
        reference(errors, &path, source.api_group.as_ref(), &source.kind, &source.name);
    }
    let Some(source) = &spec.data_source_ref else { return };
    let ref_path = path.child("dataSourceRef");
    reference(errors, &ref_path, source.api_group.as_ref(), &source.kind, &source.name);
    let namespace = text(source.namespace.as_ref());
    if !namespace.is_empty() {
        check(errors, &ref_path.child("namespace"), namespace, names::dns1123_label(namespace));
        if spec.data_source.is_some() {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            errors.invalid(path, format!("{}", path.child("dataSource")).as_str(), detail);
        }
    } else if let Some(plain) = &spec.data_source {
        let same = (&plain.api_group, &plain.kind, &plain.name) == (&source.api_group, &source.kind, &source.name);
        if !same {
            errors.invalid(path, format!("{}", path.child("dataSource")).as_str(), "must match dataSourceRef");
        }
    }
}

fn reference(errors: &mut Errors, path: &Path<'_>, group: Option<&String>, kind: &str, name: &str) {
    for (field, value) in [("name", name), ("kind", kind)] {
        if value.is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    match text(group) {
        "" if kind != "PersistentVolumeClaim" => {
            errors.invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
        }
        "" => {}
        group => check(errors, &path.child("apiGroup"), group, names::dns1123_subdomain(group)),
    }
}

/// `ValidatePersistentVolumeClaimUpdate`, metadata apart.
pub fn claim_update(errors: &mut Errors, new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) {
    let default = PersistentVolumeClaimSpec::default();
    let (spec, before) = (new.spec.as_ref().unwrap_or(&default), old.spec.as_ref().unwrap_or(&default));
    let path = &Path::root("spec");
    claim_spec(errors, path, spec);
    let storage = |spec: &PersistentVolumeClaimSpec| {
        let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        requests.and_then(|requests| requests.get("storage")).cloned()
    };
    let mut munged = spec.clone();
    if text(before.volume_name.as_ref()).is_empty() {
        munged.volume_name.clone_from(&before.volume_name);
    }
    if before.storage_class_name.is_none() {
        munged.storage_class_name = None;
    }
    if new.status.as_ref().is_some_and(|status| text(status.phase.as_ref()) == "Bound") {
        if let (Some(resources), Some(size)) = (&mut munged.resources, storage(before)) {
            resources.requests.get_or_insert_default().insert("storage".to_owned(), size);
        }
        if munged.volume_attributes_class_name.is_some() {
            munged.volume_attributes_class_name.clone_from(&before.volume_attributes_class_name);
        }
    }
    if munged != *before {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.forbidden(path, detail);
    }
    let size = |quantity: Option<_>| quantity.as_ref().map(Quantity::of).unwrap_or_default();
    let capacity = old.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage").cloned());
    let (new_size, old_size) = (size(storage(spec)), size(storage(before)));
    if new_size < old_size && new_size <= size(capacity) {
        errors.forbidden(&path.child("resources.requests.storage"), "field can not be less than status.capacity");
    }
    immutable(errors, &Path::root("volumeMode"), &spec.volume_mode, &before.volume_mode);
    if before.volume_attributes_class_name.is_some() && spec.volume_attributes_class_name.is_none() {
        errors.forbidden(&path.child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden");
    }
}

/// The volume's source: every field of the specification that names a kind of storage.
fn source(spec: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    PersistentVolumeSpec {
        access_modes: None,
        capacity: None,
        claim_ref: None,
        mount_options: None,
        node_affinity: None,
        persistent_volume_reclaim_policy: None,
        storage_class_name: None,
        volume_attributes_class_name: None,
        volume_mode: None,
        ..spec.clone()
    }
}

/// `ValidatePersistentVolumeSpec`.
pub fn volume_spec(errors: &mut Errors, spec: &PersistentVolumeSpec) {
    let path = &Path::root("spec");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.child("accessModes"), "");
    }
    access_modes(errors, &path.child("accessModes"), modes);
    let capacity = path.child("capacity");
    match spec.capacity.as_ref().filter(|capacity| !capacity.is_empty()) {
        None => errors.required(&capacity, ""),
        Some(amounts) => {
            if amounts.len() > 1 || !amounts.contains_key("storage") {
                errors.not_supported(&capacity, shown(amounts), &["storage"]);
            }
            for (name, amount) in amounts.iter().filter(|(_, amount)| Quantity::of(amount) <= Quantity::ZERO) {
                errors.invalid(&capacity.key(name), &amount.0, "must be greater than zero");
            }
        }
    }
    let policy = text(spec.persistent_volume_reclaim_policy.as_ref());
    let policies = ["Delete", "Recycle", "Retain"];
    one_of(errors, &path.child("persistentVolumeReclaimPolicy"), policy, &policies);
    if let Some(affinity) = &spec.node_affinity {
        let path = path.child("nodeAffinity.required");
        match &affinity.required {
            Some(selector) => super::pod::node_selector(errors, &path, selector),
            None => errors.required(&path, "must specify required node constraints"),
        }
    }
    volume_source(errors, path, spec, policy);
    class_name(errors, &path.child("storageClassName"), spec.storage_class_name.as_ref());
    if let Some(mode) = &spec.volume_mode {
        one_of(errors, &path.child("volumeMode"), mode, VOLUME_MODES);
    }
    if let Some(class) = &spec.volume_attributes_class_name {
        if class.is_empty() {
            errors.required(&path.child("volumeAttributesClassName"), "an empty string is disallowed");
        }
        class_name(errors, &path.child("volumeAttributesClassName"), Some(class));
        if spec.csi.is_none() {
            errors.required(&path.child("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn volume_source(errors: &mut Errors, path: &Path<'_>, spec: &PersistentVolumeSpec, policy: &str) {
    let fields = serde_json::to_value(source(spec)).ok();
    let set: Vec<String> = fields.iter().filter_map(|f| f.as_object()).flat_map(|map| map.keys().cloned()).collect();
    if set.is_empty() {
        errors.required(path, "must specify a volume type");
    }
    for extra in set.iter().skip(1) {
        errors.forbidden(&path.child(extra), "may not specify more than 1 volume type");
    }
    if let Some(host) = &spec.host_path {
        if host.path.is_empty() {
            errors.required(&path.child("hostPath.path"), "");
        }
        if host.path.split('/').any(|part| part == "..") {
            errors.invalid(&path.child("hostPath.path"), &host.path, "must not contain '..'");
        }
        if policy == "Recycle" && host.path.trim_matches('/').is_empty() {
            let path = path.child("persistentVolumeReclaimPolicy");
            errors.forbidden(&path, "may not be 'recycle' for a hostPath mount of '/'");
        }
    }
    if let Some(local) = &spec.local {
        if local.path.is_empty() {
            errors.required(&path.child("local.path"), "");
        }
        if spec.node_affinity.is_none() {
            errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if let Some(csi) = &spec.csi {
        for (field, value) in [("driver", &csi.driver), ("volumeHandle", &csi.volume_handle)] {
            if value.is_empty() {
                errors.required(&path.child("csi").child(field), "");
            }
        }
    }
    if let Some(nfs) = &spec.nfs {
        for (field, value) in [("server", &nfs.server), ("path", &nfs.path)] {
            if value.is_empty() {
                errors.required(&path.child("nfs").child(field), "");
            }
        }
        if !nfs.path.starts_with('/') {
            errors.invalid(&path.child("nfs.path"), &nfs.path, "must be an absolute path");
        }
    }
}

/// `ValidatePersistentVolumeUpdate`, metadata apart.
pub fn volume_update(errors: &mut Errors, new: &PersistentVolume, old: &PersistentVolume) {
    let default = PersistentVolumeSpec::default();
    let (new, old) = (new.spec.as_ref().unwrap_or(&default), old.spec.as_ref().unwrap_or(&default));
    volume_spec(errors, new);
    let path = Path::root("spec");
    if source(new) != source(old) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.forbidden(&path.child("persistentvolumesource"), detail);
    }
    immutable(errors, &Path::root("volumeMode"), &new.volume_mode, &old.volume_mode);
    if old.node_affinity.is_some() {
        immutable(errors, &Path::root("nodeAffinity"), &new.node_affinity, &old.node_affinity);
    }
    if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none() {
        errors.forbidden(&path.child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden");
    }
}
