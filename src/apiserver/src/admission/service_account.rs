//! ServiceAccount: every pod runs as one, and gets a token of it mounted unless it or the account declines.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, Pod,
    ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use objects::{names, status::Status};
use serde_json::Value;

use super::Review;
use crate::{pod_refs, rest::store};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and a little, by which the kubelet sees that the pod does not insist on it.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Completes a new pod.
pub(super) async fn mutate(review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
    let mut pod: Pod = objects::decode::decode(object.clone()).map_err(Status::internal)?;
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_some_and(|a| a.contains_key(MIRROR)) {
        return check_mirror(review, &pod);
    }
    let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
    if spec.service_account_name.as_deref().unwrap_or_default().is_empty() {
        let former = spec.service_account.clone().filter(|name| !name.is_empty());
        spec.service_account_name = Some(former.unwrap_or_else(|| "default".into()));
    }
    spec.service_account.clone_from(&spec.service_account_name);
    let account = account(review, spec.service_account_name.as_deref().unwrap_or_default()).await?;
    let automount = spec.automount_service_account_token.or(account.automount_service_account_token).unwrap_or(true);
    if automount {
        mount_token(&mut pod);
    }
    let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = account.image_pull_secrets.filter(|list| !list.is_empty());
    }
    object["spec"] = serde_json::to_value(spec).map_err(Status::internal)?;
    Ok(())
}

fn check_mirror(review: &Review<'_>, pod: &Pod) -> Result<(), Status> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let projected = spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(|v| v.projected.as_ref());
    let takes_token = projected.flat_map(|p| p.sources.iter().flatten()).any(|s| s.service_account_token.is_some());
    let why = if !pod_refs::names(pod, "serviceaccounts").is_empty() {
        "a mirror pod may not reference service accounts"
    } else if !pod_refs::names(pod, "secrets").is_empty() {
        "a mirror pod may not reference secrets"
    } else if takes_token {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(review.forbid(name, why))
}

/// The pod's service account, from the cache or, right after it was made, from the store.
async fn account(review: &Review<'_>, name: &str) -> Result<ServiceAccount, Status> {
    let namespace = review.place.namespace;
    if let Some(entry) = review.inner.hub.kind("serviceaccounts")?.get_in(namespace, name) {
        return entry.typed();
    }
    let key = crate::keys::object("serviceaccounts", namespace, name);
    match store::read(review.inner, &key).await? {
        Some(kv) => serde_json::from_slice(&kv.value).map_err(Status::internal),
        None => {
            let why =
                format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
            Err(review.forbid("", &why))
        }
    }
}

fn mount_token(pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut() else { return };
    let existing = spec.volumes.iter().flatten().find(|volume| is_token_volume(volume)).map(|v| v.name.clone());
    let volume_name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", names::suffix(rand::random())));
    let mut used = false;
    let containers = spec.init_containers.iter_mut().flatten().chain(spec.containers.iter_mut());
    for container in containers {
        used |= mount_in(container, &volume_name);
    }
    if used && existing.is_none() {
        spec.volumes.get_or_insert_default().push(token_volume(volume_name));
    }
}

fn is_token_volume(volume: &Volume) -> bool {
    volume.name.starts_with("kube-api-access-")
        && volume
            .projected
            .as_ref()
            .and_then(|p| p.sources.as_ref())
            .is_some_and(|sources| sources.iter().any(|source| source.service_account_token.is_some()))
}

/// Mounts the volume unless something is mounted there already.
fn mount_in(container: &mut Container, volume: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.mount_path == MOUNT_PATH) {
        return false;
    }
    mounts.push(VolumeMount {
        name: volume.to_owned(),
        mount_path: MOUNT_PATH.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    true
}

fn token_volume(name: String) -> Volume {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            path: "token".into(),
            expiration_seconds: Some(TOKEN_SECONDS),
            audience: None,
        }),
        ..VolumeProjection::default()
    };
    let ca = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: "kube-root-ca.crt".into(),
            items: Some(vec![KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), mode: None }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![DownwardAPIVolumeFile {
                path: "namespace".into(),
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".into()),
                    field_path: "metadata.namespace".into(),
                }),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name,
        projected: Some(ProjectedVolumeSource { default_mode: Some(0o644), sources: Some(vec![token, ca, namespace]) }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_token_is_mounted_once_in_every_container() {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}}))
        .unwrap();
        mount_token(&mut pod);
        mount_token(&mut pod);
        let spec = pod.spec.unwrap();
        assert_eq!(spec.volumes.as_ref().unwrap().len(), 1);
        assert_eq!(spec.containers[0].volume_mounts.as_ref().unwrap().len(), 1);
        assert_eq!(spec.init_containers.unwrap()[0].volume_mounts.as_ref().unwrap().len(), 1);
        assert_eq!(spec.containers[1].volume_mounts.as_ref().unwrap()[0].name, "own");
    }
}
