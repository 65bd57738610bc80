//! One volume: exactly one source, and that one sound.

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, EphemeralVolumeSource, HostPathVolumeSource, KeyToPath, ProjectedVolumeSource, Volume,
    VolumeProjection,
};

use super::{local_path, no_backsteps};
use crate::field::{BadValue, Errors, Path};
use crate::names;
use crate::quantity::Quantity;
use crate::validation::pod::env;
use crate::validation::{check, labels, one_of, text};

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MORE_THAN_ONE: &str = "may not specify more than 1 volume type";

fn mode(errors: &mut Errors, path: &Path<'_>, mode: Option<i32>) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, mode, FILE_MODE);
    }
}

fn required(errors: &mut Errors, path: &Path<'_>, fields: &[(&str, &str)]) {
    for (field, value) in fields {
        if value.is_empty() {
            errors.required(&path.child(field), "");
        }
    }
}

pub(super) fn volume(errors: &mut Errors, path: &Path<'_>, volume: &Volume, pod_name: &str) {
    // Names of the sources that are set, in upstream's order.
    let set: Vec<&str> = SOURCES.iter().filter(|(_, is_set)| is_set(volume)).map(|(name, _)| *name).collect();
    for extra in set.iter().skip(1) {
        errors.forbidden(&path.child(extra), MORE_THAN_ONE);
    }
    match set.first() {
        None => errors.required(path, "must specify a volume type"),
        Some(name) => {
            let path = &path.child(name);
            local(errors, path, name, volume);
            remote(errors, path, name, volume);
        }
    }
    if let Some(ephemeral) = &volume.ephemeral {
        let claim = format!("{pod_name}-{}", volume.name);
        if !pod_name.is_empty() && !volume.name.is_empty() {
            for message in names::dns1123_subdomain(&claim) {
                errors.invalid(&path.child("name"), &volume.name, &format!("PVC name \"{claim}\": {message}"));
            }
        }
        ephemeral_claim(errors, &path.child("ephemeral"), ephemeral);
    }
}

type IsSet = fn(&Volume) -> bool;

const SOURCES: &[(&str, IsSet)] = &[
    ("emptyDir", |v| v.empty_dir.is_some()),
    ("hostPath", |v| v.host_path.is_some()),
    ("gitRepo", |v| v.git_repo.is_some()),
    ("gcePersistentDisk", |v| v.gce_persistent_disk.is_some()),
    ("awsElasticBlockStore", |v| v.aws_elastic_block_store.is_some()),
    ("secret", |v| v.secret.is_some()),
    ("nfs", |v| v.nfs.is_some()),
    ("iscsi", |v| v.iscsi.is_some()),
    ("glusterfs", |v| v.glusterfs.is_some()),
    ("flocker", |v| v.flocker.is_some()),
    ("persistentVolumeClaim", |v| v.persistent_volume_claim.is_some()),
    ("rbd", |v| v.rbd.is_some()),
    ("cinder", |v| v.cinder.is_some()),
    ("cephfs", |v| v.cephfs.is_some()),
    ("quobyte", |v| v.quobyte.is_some()),
    ("downwardAPI", |v| v.downward_api.is_some()),
    ("fc", |v| v.fc.is_some()),
    ("flexVolume", |v| v.flex_volume.is_some()),
    ("configMap", |v| v.config_map.is_some()),
    ("azureFile", |v| v.azure_file.is_some()),
    ("vsphereVolume", |v| v.vsphere_volume.is_some()),
    ("photonPersistentDisk", |v| v.photon_persistent_disk.is_some()),
    ("portworxVolume", |v| v.portworx_volume.is_some()),
    ("azureDisk", |v| v.azure_disk.is_some()),
    ("storageos", |v| v.storageos.is_some()),
    ("projected", |v| v.projected.is_some()),
    ("scaleIO", |v| v.scale_io.is_some()),
    ("csi", |v| v.csi.is_some()),
    ("ephemeral", |v| v.ephemeral.is_some()),
    ("image", |v| v.image.is_some()),
];

/// Sources that the node makes itself.
fn local(errors: &mut Errors, path: &Path<'_>, name: &str, volume: &Volume) {
    if let Some(limit) = volume.empty_dir.as_ref().and_then(|dir| dir.size_limit.as_ref())
        && Quantity::of(limit).is_negative()
    {
        errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
    match name {
        "hostPath" => volume.host_path.iter().for_each(|source| host_path(errors, path, source)),
        "secret" => {
            let Some(source) = &volume.secret else { return };
            required(errors, path, &[("secretName", text(source.secret_name.as_ref()))]);
            mode(errors, &path.child("defaultMode"), source.default_mode);
            items(errors, path, source.items.as_deref());
        }
        "configMap" => {
            let Some(source) = &volume.config_map else { return };
            required(errors, path, &[("name", &source.name)]);
            mode(errors, &path.child("defaultMode"), source.default_mode);
            items(errors, path, source.items.as_deref());
        }
        "downwardAPI" => {
            let Some(source) = &volume.downward_api else { return };
            mode(errors, &path.child("defaultMode"), source.default_mode);
            source.items.iter().flatten().for_each(|file| downward_file(errors, path, file));
        }
        "projected" => volume.projected.iter().for_each(|source| projected(errors, path, source)),
        "persistentVolumeClaim" => {
            let Some(source) = &volume.persistent_volume_claim else { return };
            required(errors, path, &[("claimName", &source.claim_name)]);
        }
        "image" => {
            let Some(source) = &volume.image else { return };
            required(errors, path, &[("reference", text(source.reference.as_ref()))]);
            let policy = text(source.pull_policy.as_ref());
            one_of(errors, &path.child("pullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
        }
        _ => {}
    }
}

/// Sources that lie elsewhere.
fn remote(errors: &mut Errors, path: &Path<'_>, name: &str, volume: &Volume) {
    match name {
        "csi" => {
            let Some(source) = &volume.csi else { return };
            match source.driver.as_str() {
                "" => errors.required(&path.child("driver"), ""),
                driver => {
                    check(errors, &path.child("driver"), driver, names::dns1123_subdomain(&driver.to_lowercase()))
                }
            }
            if let Some(secret) = &source.node_publish_secret_ref {
                required(errors, &path.child("nodePublishSecretRef"), &[("name", &secret.name)]);
            }
        }
        "nfs" => {
            let Some(source) = &volume.nfs else { return };
            required(errors, path, &[("server", &source.server), ("path", &source.path)]);
            if !source.path.starts_with('/') {
                errors.invalid(&path.child("path"), &source.path, "must be an absolute path");
            }
        }
        "iscsi" => {
            let Some(source) = &volume.iscsi else { return };
            required(errors, path, &[("targetPortal", &source.target_portal), ("iqn", &source.iqn)]);
            if !source.iqn.is_empty() && !["iqn", "eui", "naa"].iter().any(|kind| source.iqn.starts_with(kind)) {
                let detail = "must be valid format starting with iqn, eui, or naa";
                errors.invalid(&path.child("iqn"), &source.iqn, detail);
            }
            if !(0..=255).contains(&source.lun) {
                errors.invalid(&path.child("lun"), source.lun, "must be between 0 and 255, inclusive");
            }
        }
        "gitRepo" => volume.git_repo.iter().for_each(|s| required(errors, path, &[("repository", &s.repository)])),
        "gcePersistentDisk" => {
            volume.gce_persistent_disk.iter().for_each(|s| required(errors, path, &[("pdName", &s.pd_name)]));
        }
        "awsElasticBlockStore" => {
            volume.aws_elastic_block_store.iter().for_each(|s| required(errors, path, &[("volumeID", &s.volume_id)]));
        }
        "glusterfs" => {
            let Some(source) = &volume.glusterfs else { return };
            required(errors, path, &[("endpoints", &source.endpoints), ("path", &source.path)]);
        }
        "rbd" => volume.rbd.iter().for_each(|s| {
            required(errors, path, &[("image", &s.image)]);
            if s.monitors.is_empty() {
                errors.required(&path.child("monitors"), "");
            }
        }),
        "cinder" => volume.cinder.iter().for_each(|s| required(errors, path, &[("volumeID", &s.volume_id)])),
        "flexVolume" => volume.flex_volume.iter().for_each(|s| required(errors, path, &[("driver", &s.driver)])),
        "azureFile" => volume.azure_file.iter().for_each(|s| {
            required(errors, path, &[("secretName", &s.secret_name), ("shareName", &s.share_name)]);
        }),
        "azureDisk" => volume.azure_disk.iter().for_each(|s| {
            required(errors, path, &[("diskName", &s.disk_name), ("diskURI", &s.disk_uri)]);
        }),
        "vsphereVolume" => {
            volume.vsphere_volume.iter().for_each(|s| required(errors, path, &[("volumePath", &s.volume_path)]));
        }
        _ => {}
    }
}

fn host_path(errors: &mut Errors, path: &Path<'_>, source: &HostPathVolumeSource) {
    const TYPES: &[&str] =
        &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if source.path.is_empty() {
        return errors.required(&path.child("path"), "");
    }
    no_backsteps(errors, &path.child("path"), &source.path);
    if let Some(kind) = &source.type_ {
        one_of(errors, &path.child("type"), kind, TYPES);
    }
}

fn items(errors: &mut Errors, path: &Path<'_>, items: Option<&[KeyToPath]>) {
    let path = path.child("items");
    for (n, item) in items.unwrap_or_default().iter().enumerate() {
        let path = &path.index(n);
        required(errors, path, &[("key", &item.key), ("path", &item.path)]);
        local_path(errors, &path.child("path"), &item.path);
        mode(errors, &path.child("mode"), item.mode);
    }
}

fn downward_file(errors: &mut Errors, path: &Path<'_>, file: &DownwardAPIVolumeFile) {
    required(errors, path, &[("path", &file.path)]);
    local_path(errors, &path.child("path"), &file.path);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::field_ref(errors, &path.child("fieldRef"), field, env::VOLUME_FIELDS);
            if resource.is_some() {
                errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => env::resource_ref(errors, &path.child("resourceFieldRef"), resource, true),
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(errors, &path.child("mode"), file.mode);
}

fn projected(errors: &mut Errors, path: &Path<'_>, source: &ProjectedVolumeSource) {
    mode(errors, &path.child("defaultMode"), source.default_mode);
    let sources = path.child("sources");
    let mut paths: Vec<&str> = Vec::new();
    for (n, source) in source.sources.iter().flatten().enumerate() {
        let item = sources.index(n);
        projection(errors, path, &item, source);
        for file in projected_paths(source) {
            if paths.contains(&file) {
                errors.invalid(path, file, "conflicting duplicate paths");
            }
            paths.push(file);
        }
    }
}

/// The files that a projection names.
fn projected_paths(source: &VolumeProjection) -> Vec<&str> {
    let secret = source.secret.iter().flat_map(|s| s.items.iter().flatten()).map(|item| item.path.as_str());
    let map = source.config_map.iter().flat_map(|s| s.items.iter().flatten()).map(|item| item.path.as_str());
    let api = source.downward_api.iter().flat_map(|s| s.items.iter().flatten()).map(|item| item.path.as_str());
    let bundle = source.cluster_trust_bundle.iter().map(|bundle| bundle.path.as_str());
    secret.chain(map).chain(api).chain(bundle).filter(|path| !path.is_empty()).collect()
}

/// Upstream reports the path of a token at the volume (`volume`), the rest at the source (`path`).
fn projection(errors: &mut Errors, volume: &Path<'_>, path: &Path<'_>, source: &VolumeProjection) {
    let mut count = 0;
    if let Some(secret) = &source.secret {
        count += 1;
        required(errors, &path.child("secret"), &[("name", &secret.name)]);
        items(errors, &path.child("secret"), secret.items.as_deref());
    }
    if let Some(map) = &source.config_map {
        count += 1;
        required(errors, &path.child("configMap"), &[("name", &map.name)]);
        items(errors, &path.child("configMap"), map.items.as_deref());
    }
    if let Some(api) = &source.downward_api {
        count += 1;
        let path = &path.child("downwardAPI");
        api.items.iter().flatten().for_each(|file| downward_file(errors, path, file));
    }
    if let Some(token) = &source.service_account_token {
        count += 1;
        let path = &path.child("serviceAccountToken.expirationSeconds");
        let seconds = token.expiration_seconds.unwrap_or(0);
        if seconds < 600 {
            errors.invalid(path, seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > 1 << 32 {
            errors.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds");
        }
        match token.path.as_str() {
            "" => errors.required(&volume.child("path"), ""),
            file => local_path(errors, &volume.child("path"), file),
        }
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        count += 1;
        let path = &path.child("clusterTrustBundle");
        match (&bundle.name, &bundle.signer_name) {
            (Some(_), Some(_)) => {
                errors.invalid(path, BadValue::json(bundle), "only one of name and signerName may be used");
            }
            (Some(name), None) if name.is_empty() => {
                errors.required(&path.child("name"), "must be a valid object name");
            }
            (None, Some(signer)) if signer.is_empty() => {
                errors.required(&path.child("signerName"), "must be a valid signer name");
            }
            (None, None) => errors.required(path, "either name or signerName must be specified"),
            _ => labels::selector(errors, &path.child("labelSelector"), bundle.label_selector.as_ref()),
        }
        required(errors, path, &[("path", &bundle.path)]);
        local_path(errors, &path.child("path"), &bundle.path);
    }
    if let Some(certificate) = &source.pod_certificate {
        count += 1;
        let path = &path.child("podCertificate");
        let fields = [("signerName", certificate.signer_name.as_str()), ("keyType", certificate.key_type.as_str())];
        required(errors, path, &fields);
    }
    if count > 1 {
        errors.forbidden(path, "may not specify more than 1 volume type per source");
    }
}

fn ephemeral_claim(errors: &mut Errors, path: &Path<'_>, source: &EphemeralVolumeSource) {
    match &source.volume_claim_template {
        None => errors.required(&path.child("volumeClaimTemplate"), ""),
        Some(template) => {
            crate::validation::storage::claim_spec(errors, &path.child("volumeClaimTemplate.spec"), &template.spec);
        }
    }
}
