//! Claims in use are not deleted under the pods that use them, nor volumes under their claims: a finalizer, set at
//! admission, holds each until nothing uses it.

use std::sync::Arc;

use client::{Informer, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::pods;
use crate::runner::{Next, Reconcile};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

struct Controller {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

pub(crate) fn start(context: &Context) {
    let (claims, pods) = (context.informers.of::<PersistentVolumeClaim>(), context.informers.of::<Pod>());
    let queue = context.queue("pvc-protection");
    context.feed_own(&claims, &queue);
    context.feed(&pods, &queue, |change| {
        let pod = change.object();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        claims_of(pod).into_iter().map(|name| ObjectKey::new(namespace.clone(), name)).collect()
    });
    let ready = vec![synced(&claims), synced(&pods)];
    context.run(queue, Controller { context: context.clone(), claims, pods }, ready);
    start_volumes(context);
}

struct Volumes {
    context: Context,
    volumes: Informer<PersistentVolume>,
}

fn start_volumes(context: &Context) {
    let volumes = context.informers.of::<PersistentVolume>();
    let queue = context.queue("pv-protection");
    context.feed_own(&volumes, &queue);
    let ready = vec![synced(&volumes)];
    context.run(queue, Volumes { context: context.clone(), volumes }, ready);
}

impl Reconcile for Volumes {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(volume) = self.volumes.get_key(&key) else { return Ok(Next::Done) };
        let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        if let Some(finalizers) = plan(&volume.metadata, VOLUME, bound) {
            let meta = &volume.metadata;
            let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version,
                                            "finalizers": finalizers}});
            let api = self.context.cluster_api::<PersistentVolume>();
            client::retry::optional(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await)?;
        }
        Ok(Next::Done)
    }
}

/// The claims a pod uses; those of its ephemeral volumes are named after both.
fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes
        .filter_map(|volume| {
            let named = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
            named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{}", pods::name(pod), volume.name)))
        })
        .collect()
}

/// The finalizers the object is to have, if others than it has.
fn plan(meta: &ObjectMeta, finalizer: &str, in_use: bool) -> Option<Vec<String>> {
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    let (has, going) = (finalizers.iter().any(|f| f == finalizer), meta.deletion_timestamp.is_some());
    match (has, going) {
        (false, false) => finalizers.push(finalizer.to_owned()),
        (true, true) if !in_use => finalizers.retain(|f| f != finalizer),
        _ => return None,
    }
    Some(finalizers)
}

fn uses(pods: &[Arc<Pod>], claim: &str) -> bool {
    let live = pods.iter().filter(|pod| !pods::is_terminal(pod) && pods::node_name(pod).is_some());
    live.into_iter().any(|pod| claims_of(pod).iter().any(|name| name == claim))
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(claim) = self.claims.get_key(&key) else { return Ok(Next::Done) };
        let in_use = uses(&self.pods.in_namespace(&key.namespace), &key.name);
        if let Some(finalizers) = plan(&claim.metadata, CLAIM, in_use) {
            let patch = json!({"metadata": {"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
                                            "finalizers": finalizers}});
            let api = self.context.api::<PersistentVolumeClaim>(&key.namespace);
            client::retry::optional(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await)?;
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::{at, ready};

    #[test]
    fn a_claim_is_held_while_a_pod_uses_it() {
        let mut meta = ObjectMeta::default();
        assert_eq!(plan(&meta, CLAIM, false).unwrap(), [CLAIM]);
        meta.finalizers = Some(vec![CLAIM.into()]);
        assert_eq!(plan(&meta, CLAIM, false), None);
        meta.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
        assert_eq!(plan(&meta, CLAIM, true), None);
        assert_eq!(plan(&meta, CLAIM, false), Some(vec![]));
    }

    #[test]
    fn only_live_pods_on_a_node_use_claims() {
        let mut pod = ready("p", "n", 0);
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
        pod.spec.as_mut().unwrap().volumes = serde_json::from_value(volumes).unwrap();
        assert!(uses(&[Arc::new(pod.clone())], "data") && !uses(&[Arc::new(pod.clone())], "other"));
        pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
        assert!(!uses(&[Arc::new(pod)], "data"));
    }
}
