//! Volumes of a pod, and where containers mount them.

mod sources;

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{PodSpec, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Scope;
use super::containers::Common;
use crate::field::{Errors, Path};
use crate::names;
use crate::validation::{check, one_of, text};

/// Checks all volumes and returns the sound ones by name, which is what mounts may refer to.
pub(super) fn volumes<'a>(
    errors: &mut Errors,
    path: &Path<'_>,
    spec: &'a PodSpec,
    meta: Option<&ObjectMeta>,
) -> HashMap<&'a str, &'a Volume> {
    let mut found = HashMap::new();
    let pod_name = meta.map(|meta| text(meta.name.as_ref())).unwrap_or_default();
    let all = spec.volumes.as_deref().unwrap_or_default();
    for (n, volume) in all.iter().enumerate() {
        let path = &path.index(n);
        let before = errors.len();
        sources::volume(errors, path, volume, pod_name);
        match volume.name.as_str() {
            "" => errors.required(&path.child("name"), ""),
            name => check(errors, &path.child("name"), name, names::dns1123_label(name)),
        }
        if found.contains_key(volume.name.as_str()) {
            errors.duplicate(&path.child("name"), &volume.name);
        }
        if errors.len() == before {
            found.insert(volume.name.as_str(), volume);
        }
        let made_for = |claim: &str| {
            all.iter()
                .any(|v| v.ephemeral.is_some() && !pod_name.is_empty() && format!("{pod_name}-{}", v.name) == claim)
        };
        if let Some(claim) = volume.persistent_volume_claim.as_ref().filter(|claim| made_for(&claim.claim_name)) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&path.child("persistentVolumeClaim.claimName"), &claim.claim_name, detail);
        }
    }
    found
}

/// Tokens need an account to be of.
pub(super) fn no_tokens(errors: &mut Errors, path: &Path<'_>, volumes: &[Volume]) {
    for (n, volume) in volumes.iter().enumerate() {
        let volume_path = path.index(n);
        let path = volume_path.child("projected.sources");
        let sources = volume.projected.as_ref().and_then(|p| p.sources.as_deref()).unwrap_or_default();
        for (n, _) in sources.iter().enumerate().filter(|(_, source)| source.service_account_token.is_some()) {
            let detail = "must not be specified when serviceAccountName is not set";
            errors.forbidden(&path.index(n).child("serviceAccountToken"), detail);
        }
    }
}

pub(super) fn mounts(errors: &mut Errors, path: &Path<'_>, container: &Common<'_>, scope: &Scope<'_>) {
    for (n, mount) in container.mounts.iter().enumerate() {
        let item = &path.index(n);
        let volume = scope.volumes.get(mount.name.as_str());
        if mount.name.is_empty() {
            errors.required(&item.child("name"), "");
        }
        if volume.is_none() {
            errors.not_found(&item.child("name"), &mount.name);
        }
        let at = mount.mount_path.as_str();
        if at.is_empty() {
            errors.required(&item.child("mountPath"), "");
        }
        if container.mounts[..n].iter().any(|earlier| earlier.mount_path == at) {
            errors.invalid(&item.child("mountPath"), at, "must be unique");
        }
        if container.devices.iter().any(|device| device.name == mount.name) {
            errors.invalid(&item.child("name"), &mount.name, "must not already exist in volumeDevices");
        }
        if container.devices.iter().any(|device| device.device_path == at) {
            errors.invalid(&item.child("mountPath"), at, "must not already exist as a path in volumeDevices");
        }
        sub_paths(errors, path, item, mount);
        propagation(errors, path, mount, container);
    }
}

/// Upstream reports a bad path at the list (`list`), its conflicts at the mount (`item`).
fn sub_paths(errors: &mut Errors, list: &Path<'_>, item: &Path<'_>, mount: &VolumeMount) {
    let (plain, expression) = (text(mount.sub_path.as_ref()), text(mount.sub_path_expr.as_ref()));
    if !plain.is_empty() {
        local_descending_path(errors, &list.child("subPath"), plain);
    }
    if !expression.is_empty() {
        if !plain.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&item.child("subPathExpr"), expression, detail);
        }
        local_descending_path(errors, &list.child("subPathExpr"), expression);
    }
}

fn propagation(errors: &mut Errors, path: &Path<'_>, mount: &VolumeMount, container: &Common<'_>) {
    let mode = mount.mount_propagation.as_deref();
    if let Some(mode) = mode {
        let path = &path.child("mountPropagation");
        one_of(errors, path, mode, &["Bidirectional", "HostToContainer", "None"]);
        let privileged = container.security.is_some_and(|context| context.privileged == Some(true));
        if mode == "Bidirectional" && !privileged {
            errors.forbidden(path, "Bidirectional mount propagation is available only to privileged containers");
        }
    }
    let Some(recursive) = mount.recursive_read_only.as_deref() else { return };
    let path = &path.child("recursiveReadOnly");
    one_of(errors, path, recursive, &["Disabled", "Enabled", "IfPossible"]);
    if matches!(recursive, "Enabled" | "IfPossible") {
        if mount.read_only != Some(true) {
            errors.forbidden(path, "may only be specified when readOnly is true");
        }
        if mode.is_some_and(|mode| mode != "None") {
            errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
        }
    }
}

pub(super) fn devices(errors: &mut Errors, path: &Path<'_>, container: &Common<'_>, scope: &Scope<'_>) {
    for (n, device) in container.devices.iter().enumerate() {
        let path = &path.index(n);
        let (name, at) = (device.name.as_str(), device.device_path.as_str());
        let earlier = &container.devices[..n];
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if earlier.iter().any(|other| other.name == name) {
            errors.invalid(&path.child("name"), name, "must be unique");
        }
        match scope.volumes.get(name) {
            None => errors.not_found(&path.child("name"), name),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&path.child("name"), name, detail);
            }
            Some(_) => {}
        }
        if at.is_empty() {
            errors.required(&path.child("devicePath"), "");
        }
        if earlier.iter().any(|other| other.device_path == at) {
            errors.invalid(&path.child("devicePath"), at, "must be unique");
        }
        if has_backsteps(at) {
            errors.invalid(&path.child("devicePath"), at, "can not contain backsteps ('..')");
        }
        if container.mounts.iter().any(|mount| mount.name == name) {
            errors.invalid(&path.child("name"), name, "must not already exist in volumeMounts");
        }
        if container.mounts.iter().any(|mount| mount.mount_path == at) {
            errors.invalid(&path.child("devicePath"), at, "must not already exist as a path in volumeMounts");
        }
    }
}

fn has_backsteps(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

pub(super) fn no_backsteps(errors: &mut Errors, path: &Path<'_>, target: &str) {
    if has_backsteps(target) {
        errors.invalid(path, target, "must not contain '..'");
    }
}

/// Relative, and without a way up.
pub(super) fn local_descending_path(errors: &mut Errors, path: &Path<'_>, target: &str) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    no_backsteps(errors, path, target);
}

/// [`local_descending_path`], and no name that the writer of volumes uses itself.
pub(super) fn local_path(errors: &mut Errors, path: &Path<'_>, target: &str) {
    local_descending_path(errors, path, target);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path, target, "must not start with '..'");
    }
}
