//! Pods that carry the tracking finalizer and have no job any more, as one that its job released because its labels
//! changed: nobody counts them, so the finalizer comes off, or they could never go.

use std::sync::Arc;

use client::{Informer, ObjectKey};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::view;
use crate::claim;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};

struct Controller {
    context: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
}

pub(super) fn start(context: &Context) {
    let (jobs, pods) = (context.informers.of::<Job>(), context.informers.of::<Pod>());
    let queue = context.queue("job-orphans");
    context.feed(&pods, &queue, |change| {
        let pod = change.object();
        let orphan = view::has_finalizer(pod) && claim::controller_of(&pod.metadata).is_none();
        orphan.then(|| ObjectKey::of(&**pod)).into_iter().collect()
    });
    let ready = vec![synced(&jobs), synced(&pods)];
    context.run(queue, Controller { context: context.clone(), jobs, pods }, ready);
}

/// Whether some job of the namespace may still adopt the pod.
fn has_taker(pod: &Pod, jobs: &[Arc<Job>]) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && jobs.iter().filter(|job| job.metadata.deletion_timestamp.is_none()).any(|job| {
            let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let selector = selector.and_then(|selector| claim::selector(selector).ok());
            selector.is_some_and(|selector| claim::matches(&selector, &pod.metadata))
        })
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(pod) = self.pods.get_key(&key) else { return Ok(Next::Done) };
        let owned = claim::controller_of(&pod.metadata).is_some();
        if owned || !view::has_finalizer(&pod) || has_taker(&pod, &self.jobs.in_namespace(&key.namespace)) {
            return Ok(Next::Done);
        }
        let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != view::FINALIZER);
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version,
                                        "finalizers": finalizers}});
        let api = self.context.api::<Pod>(&key.namespace);
        client::retry::optional(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await)?;
        Ok(Next::Done)
    }
}
