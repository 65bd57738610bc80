//! Defaults of volumes, in pods and as persistent volumes.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Volume, VolumeProjection};

use super::{fill, fill_value, pod};

const FILE_MODE: i32 = 0o644;
const TOKEN_SECONDS: i64 = 3600;

pub(super) fn volume(volume: &mut Volume) {
    if !has_source(volume) {
        volume.empty_dir = Some(Default::default());
    }
    if let Some(secret) = &mut volume.secret {
        fill_value(&mut secret.default_mode, FILE_MODE);
    }
    if let Some(map) = &mut volume.config_map {
        fill_value(&mut map.default_mode, FILE_MODE);
    }
    if let Some(api) = &mut volume.downward_api {
        fill_value(&mut api.default_mode, FILE_MODE);
        api.items.iter_mut().flatten().for_each(downward_file);
    }
    if let Some(projected) = &mut volume.projected {
        fill_value(&mut projected.default_mode, FILE_MODE);
        projected.sources.iter_mut().flatten().for_each(projection);
    }
    if let Some(path) = &mut volume.host_path {
        fill_value(&mut path.type_, String::new());
    }
    if let Some(image) = &mut volume.image {
        let latest = pod::is_latest(image.reference.as_deref().unwrap_or_default());
        fill(&mut image.pull_policy, if latest { "Always" } else { "IfNotPresent" });
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        fill(&mut template.spec.volume_mode, "Filesystem");
    }
    network_volumes(volume);
}

fn network_volumes(volume: &mut Volume) {
    if let Some(iscsi) = &mut volume.iscsi {
        fill(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut volume.rbd {
        fill(&mut rbd.pool, "rbd");
        fill(&mut rbd.user, "admin");
        fill(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut volume.azure_disk {
        fill(&mut disk.caching_mode, "ReadWrite");
        fill(&mut disk.kind, "Shared");
        fill(&mut disk.fs_type, "ext4");
        fill_value(&mut disk.read_only, false);
    }
    if let Some(scale_io) = &mut volume.scale_io {
        fill(&mut scale_io.storage_mode, "ThinProvisioned");
        fill(&mut scale_io.fs_type, "xfs");
    }
}

fn downward_file(file: &mut DownwardAPIVolumeFile) {
    if let Some(field) = &mut file.field_ref {
        pod::field_ref(field);
    }
    if let Some(resource) = &mut file.resource_field_ref {
        pod::resource_ref(resource);
    }
}

fn projection(source: &mut VolumeProjection) {
    if let Some(token) = &mut source.service_account_token {
        fill_value(&mut token.expiration_seconds, TOKEN_SECONDS);
    }
    if let Some(api) = &mut source.downward_api {
        api.items.iter_mut().flatten().for_each(downward_file);
    }
}

/// Whether any of the volume's sources is set.
pub(crate) fn has_source(volume: &Volume) -> bool {
    *volume != Volume { name: volume.name.clone(), ..Volume::default() }
}
