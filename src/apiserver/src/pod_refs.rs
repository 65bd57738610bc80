//! What pods refer to: the objects a node may read because a pod bound to it uses them. Asked by the node authorizer
//! and by the NodeRestriction admission.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, LocalObjectReference, Pod, PodSpec, Volume};
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
    let Some(spec) = &pod.spec else { return false };
    match resource {
        "secrets" => uses_secret(spec, name),
        "configmaps" => uses_config_map(spec, name),
        "serviceaccounts" => spec.service_account_name.as_deref() == Some(name),
        "persistentvolumeclaims" => volumes(spec).any(|volume| {
            volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.claim_name == name)
                || (volume.ephemeral.is_some()
                    && pod.metadata.name.as_ref().is_some_and(|pod| format!("{pod}-{}", volume.name) == name))
        }),
        _ => false,
    }
}

fn volumes(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    spec.volumes.iter().flatten()
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn uses_secret(spec: &PodSpec, name: &str) -> bool {
    let local = |reference: Option<&LocalObjectReference>| reference.is_some_and(|r| r.name == name);
    let in_environment = containers(spec).any(|container| {
        let from = container.env_from.iter().flatten().filter_map(|from| from.secret_ref.as_ref());
        let keys = container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()?.secret_key_ref.as_ref());
        from.map(|r| &r.name).chain(keys.map(|r| &r.name)).any(|used| used == name)
    });
    let in_volumes = volumes(spec).any(|volume| {
        let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        volume.secret.as_ref().is_some_and(|s| s.secret_name.as_deref() == Some(name))
            || projected.filter_map(|source| source.secret.as_ref()).any(|s| s.name == name)
            || volume.csi.as_ref().is_some_and(|csi| local(csi.node_publish_secret_ref.as_ref()))
            || volume.cephfs.as_ref().is_some_and(|v| local(v.secret_ref.as_ref()))
            || volume.iscsi.as_ref().is_some_and(|v| local(v.secret_ref.as_ref()))
            || volume.rbd.as_ref().is_some_and(|v| local(v.secret_ref.as_ref()))
    });
    in_environment || in_volumes || spec.image_pull_secrets.iter().flatten().any(|r| r.name == name)
}

fn uses_config_map(spec: &PodSpec, name: &str) -> bool {
    let in_environment = containers(spec).any(|container| {
        let from = container.env_from.iter().flatten().filter_map(|from| from.config_map_ref.as_ref());
        let keys =
            container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()?.config_map_key_ref.as_ref());
        from.map(|r| &r.name).chain(keys.map(|r| &r.name)).any(|used| used == name)
    });
    let in_volumes = volumes(spec).any(|volume| {
        let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        volume.config_map.as_ref().is_some_and(|c| c.name == name)
            || projected.filter_map(|source| source.config_map.as_ref()).any(|c| c.name == name)
    });
    in_environment || in_volumes
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
