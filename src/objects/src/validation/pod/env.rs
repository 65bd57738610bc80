//! Environment variables and the fields they are taken from.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector};

use super::Scope;
use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;
use crate::validation::{check, text};

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields that a downward API volume file may show.
pub(super) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn vars(errors: &mut Errors, path: &Path<'_>, vars: &[EnvVar], scope: &Scope<'_>) {
    for (n, var) in vars.iter().enumerate() {
        let path = &path.index(n);
        match var.name.as_str() {
            "" => errors.required(&path.child("name"), ""),
            name => check(errors, &path.child("name"), name, names::env_var_name(name)),
        }
        if let Some(source) = &var.value_from {
            let value = text(var.value.as_ref());
            value_from(errors, &path.child("valueFrom"), source, value, scope);
        }
    }
}

fn value_from(errors: &mut Errors, path: &Path<'_>, source: &EnvVarSource, value: &str, scope: &Scope<'_>) {
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        field_ref(errors, &path.child("fieldRef"), field, ENV_FIELDS);
    }
    if let Some(resource) = &source.resource_field_ref {
        sources += 1;
        resource_ref(errors, &path.child("resourceFieldRef"), resource, false);
    }
    if let Some(key) = &source.config_map_key_ref {
        sources += 1;
        key_ref(errors, &path.child("configMapKeyRef"), &key.name, &key.key);
    }
    if let Some(key) = &source.secret_key_ref {
        sources += 1;
        key_ref(errors, &path.child("secretKeyRef"), &key.name, &key.key);
    }
    if let Some(file) = &source.file_key_ref {
        sources += 1;
        let path = &path.child("fileKeyRef");
        for (field, value) in [("volumeName", &file.volume_name), ("path", &file.path), ("key", &file.key)] {
            if value.is_empty() {
                errors.required(&path.child(field), "");
            }
        }
        match scope.volumes.get(file.volume_name.as_str()) {
            Some(volume) if volume.empty_dir.is_some() => {}
            _ if file.volume_name.is_empty() => {}
            _ => errors.not_found(&path.child("volumeName"), &file.volume_name),
        }
    }
    match sources {
        0 => {
            let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.invalid(path, "", detail);
        }
        _ if !value.is_empty() => errors.invalid(path, "", "may not be specified when `value` is not empty"),
        1 => {}
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

/// Splits `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (path, rest) = path.split_once("['")?;
    Some((path, rest.strip_suffix("']")?))
}

pub(super) fn field_ref(errors: &mut Errors, path: &Path<'_>, field: &ObjectFieldSelector, supported: &[&str]) {
    if text(field.api_version.as_ref()).is_empty() {
        return errors.required(&path.child("apiVersion"), "");
    }
    let name = field.field_path.as_str();
    if name.is_empty() {
        return errors.required(&path.child("fieldPath"), "");
    }
    if field.api_version.as_deref() != Some("v1") {
        let version = text(field.api_version.as_ref());
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        return errors.invalid(&path.child("fieldPath"), name, &detail);
    }
    match subscript(name) {
        Some(("metadata.annotations", key)) => check(errors, path, key, names::qualified_name(&key.to_lowercase())),
        Some(("metadata.labels", key)) => check(errors, path, key, names::qualified_name(key)),
        Some((name, _)) => {
            let detail = format!("error converting fieldPath: field label does not support subscript: {name}");
            errors.invalid(&path.child("fieldPath"), &field.field_path, &detail);
        }
        None if !known_field(name) => {
            let detail = format!("error converting fieldPath: field label not supported: {name}");
            errors.invalid(&path.child("fieldPath"), name, &detail);
        }
        None if !supported.contains(&name) => errors.not_supported(&path.child("fieldPath"), name, supported),
        None => {}
    }
}

fn known_field(name: &str) -> bool {
    ENV_FIELDS.contains(&name) || VOLUME_FIELDS.contains(&name) || matches!(name, "spec.restartPolicy" | "status.phase")
}

pub(super) fn resource_ref(errors: &mut Errors, path: &Path<'_>, field: &ResourceFieldSelector, volume: bool) {
    let name = field.resource.as_str();
    let huge_pages = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if volume && text(field.container_name.as_ref()).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if name.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !RESOURCE_FIELDS.contains(&name) && !huge_pages {
        errors.not_supported(&path.child("resource"), name, RESOURCE_FIELDS);
    }
    divisor(errors, &path.child("divisor"), field);
}

fn divisor(errors: &mut Errors, path: &Path<'_>, field: &ResourceFieldSelector) {
    const SIZES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let divisor = field.divisor.as_ref().map(Quantity::of).unwrap_or_default();
    if divisor.is_zero() {
        return;
    }
    let (supported, what): (&[&str], &str) = match field.resource.as_str() {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "cpu resource"),
        "limits.memory" | "requests.memory" => (SIZES, "memory resource"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (SIZES, "local ephemeral storage resource"),
        name if name.contains(".hugepages-") => (SIZES, "hugepages resource"),
        _ => return,
    };
    if !supported.contains(&divisor.to_string().as_str()) {
        let values = if supported.len() == 2 { "1m and 1".to_owned() } else { supported.join(", ") };
        let detail = format!("only divisor's values {values} are supported with the {what}");
        errors.invalid(path, &field.resource, &detail);
    }
}

fn key_ref(errors: &mut Errors, path: &Path<'_>, name: &str, key: &str) {
    check(errors, &path.child("name"), name, names::dns1123_subdomain(name));
    match key {
        "" => errors.required(&path.child("key"), ""),
        key => check(errors, &path.child("key"), key, names::config_key(key)),
    }
}

pub(super) fn from(errors: &mut Errors, path: &Path<'_>, sources: &[EnvFromSource]) {
    for (n, source) in sources.iter().enumerate() {
        let item = &path.index(n);
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            check(errors, &item.child("prefix"), prefix, names::env_var_name(prefix));
        }
        let refs = [
            ("configMapRef", source.config_map_ref.as_ref().map(|r| r.name.as_str())),
            ("secretRef", source.secret_ref.as_ref().map(|r| r.name.as_str())),
        ];
        for (field, name) in refs {
            match name {
                None => {}
                Some("") => errors.required(&item.child(field).child("name"), ""),
                Some(name) => check(errors, &item.child(field).child("name"), name, names::subdomain(name, true)),
            }
        }
        match refs.iter().filter(|(_, name)| name.is_some()).count() {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}
