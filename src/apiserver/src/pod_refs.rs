//! What pods refer to: the objects a node may read because a pod bound to it uses them. Asked by the node authorizer
//! and by the NodeRestriction admission.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVarSource, Pod, PodSpec, Volume, VolumeProjection};
use objects::status::Status;

use crate::cache::{Entry, Hub};

/// The pods bound to a node.
pub(crate) fn on_node(hub: &Hub, node: &str) -> Result<Vec<Arc<Entry>>, Status> {
    let pods = hub.kind("pods")?;
    let Some(position) = pods.projector().position("spec.nodeName") else { return Ok(Vec::new()) };
    Ok(pods.list("", |entry| entry.projection.fields.get(position).is_some_and(|at| &**at == node)).entries)
}

/// The node a cached pod is bound to.
pub(crate) fn node_of(pod: &Entry, hub: &Hub) -> Option<String> {
    let position = hub.kind("pods").ok()?.projector().position("spec.nodeName")?;
    pod.projection.fields.get(position).map(|node| node.to_string())
}

/// Whether a pod uses the object `name` of `resource` in its namespace.
pub(crate) fn uses(pod: &Pod, resource: &str, name: &str) -> bool {
    names(pod, resource).iter().any(|used| used == name)
}

/// Names of the objects of `resource` in its namespace that a pod uses.
pub(crate) fn names(pod: &Pod, resource: &str) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    match resource {
        "secrets" => secrets(spec).map(str::to_owned).collect(),
        "configmaps" => config_maps(spec).map(str::to_owned).collect(),
        "serviceaccounts" => spec.service_account_name.iter().filter(|name| !name.is_empty()).cloned().collect(),
        "persistentvolumeclaims" => claims(pod, spec).collect(),
        "resourceclaims" => device_claims(pod, spec).collect(),
        _ => Vec::new(),
    }
}

fn volumes(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    spec.volumes.iter().flatten()
}

fn projections(spec: &PodSpec) -> impl Iterator<Item = &VolumeProjection> {
    volumes(spec).filter_map(|volume| volume.projected.as_ref()).flat_map(|p| p.sources.iter().flatten())
}

/// What containers of any sort take their environment from: whole objects, and single keys.
fn environments(spec: &PodSpec) -> (impl Iterator<Item = &EnvFromSource>, impl Iterator<Item = &EnvVarSource>) {
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let passing = || spec.ephemeral_containers.iter().flatten();
    let whole = containers().flat_map(|c| c.env_from.iter().flatten());
    let whole = whole.chain(passing().flat_map(|c| c.env_from.iter().flatten()));
    let single = containers().flat_map(|c| c.env.iter().flatten());
    let single = single.chain(passing().flat_map(|c| c.env.iter().flatten()));
    (whole, single.filter_map(|env| env.value_from.as_ref()))
}

fn secrets(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let (whole, single) = environments(spec);
    let in_environment = whole
        .filter_map(|from| Some(&from.secret_ref.as_ref()?.name))
        .chain(single.filter_map(|from| Some(&from.secret_key_ref.as_ref()?.name)));
    let projected = projections(spec).filter_map(|source| Some(&source.secret.as_ref()?.name));
    let pulled = spec.image_pull_secrets.iter().flatten().map(|reference| &reference.name);
    let mounted = volumes(spec).flat_map(|volume| {
        [
            volume.secret.as_ref().and_then(|s| s.secret_name.as_ref()),
            volume.azure_file.as_ref().map(|s| &s.secret_name),
            volume.csi.as_ref().and_then(|s| Some(&s.node_publish_secret_ref.as_ref()?.name)),
            volume.cephfs.as_ref().and_then(|s| Some(&s.secret_ref.as_ref()?.name)),
            volume.cinder.as_ref().and_then(|s| Some(&s.secret_ref.as_ref()?.name)),
            volume.flex_volume.as_ref().and_then(|s| Some(&s.secret_ref.as_ref()?.name)),
            volume.iscsi.as_ref().and_then(|s| Some(&s.secret_ref.as_ref()?.name)),
            volume.rbd.as_ref().and_then(|s| Some(&s.secret_ref.as_ref()?.name)),
            volume.scale_io.as_ref().map(|s| &s.secret_ref.name),
            volume.storageos.as_ref().and_then(|s| Some(&s.secret_ref.as_ref()?.name)),
        ]
        .into_iter()
        .flatten()
    });
    in_environment.chain(projected).chain(pulled).chain(mounted).map(String::as_str)
}

fn config_maps(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let (whole, single) = environments(spec);
    let in_environment = whole
        .filter_map(|from| Some(&from.config_map_ref.as_ref()?.name))
        .chain(single.filter_map(|from| Some(&from.config_map_key_ref.as_ref()?.name)));
    let projected = projections(spec).filter_map(|source| Some(&source.config_map.as_ref()?.name));
    let mounted = volumes(spec).filter_map(|volume| Some(&volume.config_map.as_ref()?.name));
    in_environment.chain(projected).chain(mounted).map(String::as_str)
}

/// Ephemeral volumes have claims of their own, named after pod and volume.
fn claims<'p>(pod: &'p Pod, spec: &'p PodSpec) -> impl Iterator<Item = String> + 'p {
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    volumes(spec).filter_map(move |volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| format!("{own}-{}", volume.name)),
    })
}

/// Claims of devices, by name or made from a template for this pod.
fn device_claims<'p>(pod: &'p Pod, spec: &'p PodSpec) -> impl Iterator<Item = String> + 'p {
    let named = spec.resource_claims.iter().flatten().filter_map(|claim| claim.resource_claim_name.clone());
    let made = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    named.chain(made.filter_map(|claim| claim.resource_claim_name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_references_in_env_and_volumes() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
        "serviceAccountName": "sa",
        "imagePullSecrets": [{"name": "pull"}],
        "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "env"}}]}],
        "volumes": [
            {"name": "v", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
            {"name": "e", "ephemeral": {}},
            {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}}
        ]}}))
        .unwrap();
        assert!(uses(&pod, "secrets", "pull") && uses(&pod, "secrets", "env") && !uses(&pod, "secrets", "other"));
        assert!(uses(&pod, "configmaps", "kube-root-ca.crt"));
        assert!(uses(&pod, "persistentvolumeclaims", "claim") && uses(&pod, "persistentvolumeclaims", "p-e"));
        assert!(uses(&pod, "serviceaccounts", "sa"));
    }
}
