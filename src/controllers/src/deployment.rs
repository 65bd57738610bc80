//! Deployments: roll a set of pods from one template to the next by way of replica sets. The plan (`plan`) decides
//! sizes, creations and status; this shell claims replica sets and carries the plan out.

mod plan;
mod revision;
mod rollout;
mod status;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::retry::{is_already_exists, is_namespace_terminating};
use client::{Change, EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use crate::claim;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::pods;
use crate::runner::{Next, Reconcile};
use crate::template::message;
use crate::writes::Writes;

struct Controller {
    context: Context,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    writes: Writes,
    events: EventRecorder,
}

pub(crate) fn start(context: &Context) {
    let (deployments, sets) = (context.informers.of::<Deployment>(), context.informers.of::<ReplicaSet>());
    let pods = context.informers.of::<Pod>();
    let queue = context.queue("deployment");
    context.feed_own(&deployments, &queue);
    let adopters = deployments.clone();
    context.feed(&sets, &queue, move |change| {
        claim::owner_keys(change, &adopters, |deployment| Some(deployment.spec.as_ref()?.selector.clone()))
    });
    let owners = sets.clone();
    context.feed(&pods, &queue, move |change| recreating(change, &owners));
    let ready = vec![synced(&deployments), synced(&sets), synced(&pods)];
    let events = context.recorder("deployment-controller");
    let controller =
        Controller { context: context.clone(), deployments, sets, pods, writes: Writes::default(), events };
    context.run(queue, controller, ready);
}

/// A pod that ended may be the last that a deployment with the recreate strategy waits for.
fn recreating(change: &Change<Pod>, sets: &Informer<ReplicaSet>) -> Vec<ObjectKey> {
    let pod = change.object();
    if !matches!(change, Change::Deleted(_)) && !pods::is_terminal(pod) {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let set = claim::controller_of(&pod.metadata).and_then(|reference| sets.get(namespace, &reference.name));
    let deployment = set.as_ref().and_then(|set| claim::controller_of(&set.metadata));
    deployment.map(|reference| ObjectKey::new(namespace, reference.name.clone())).into_iter().collect()
}

impl Controller {
    async fn claimed(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, ReconcileError> {
        let meta = &deployment.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let selector = claim::selector(&deployment.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default())?;
        let candidates = claim::candidates(&self.sets, namespace, uid);
        let claims = claim::sort(candidates, &selector, uid, meta.deletion_timestamp.is_some());
        claim::settle(&self.context.api(namespace), &self.context.api(namespace), deployment, claims).await
    }

    fn old_pods_running(&self, deployment: &Deployment, sets: &[ReplicaSet]) -> bool {
        let new = revision::find_new(deployment, sets);
        sets.iter().enumerate().filter(|(position, _)| Some(*position) != new).any(|(_, set)| {
            let pods = self.pods.by_owner(set.metadata.uid.as_deref().unwrap_or_default());
            pods.iter().any(|pod| !pods::is_terminal(pod))
        })
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        before: &[Arc<ReplicaSet>],
        plan: &plan::Plan,
    ) -> Result<(), ReconcileError> {
        if let Some(set) = &plan.create {
            self.create(key, deployment, set).await?;
        }
        for after in &plan.sets {
            if let Some(before) = before.iter().find(|set| set.metadata.uid == after.metadata.uid) {
                self.update(key, deployment, before, after).await?;
            }
        }
        let api = self.context.api::<ReplicaSet>(&key.namespace);
        for set in before.iter().filter(|set| plan.delete.iter().any(|name| name == view::name(set))) {
            let uid = set.metadata.uid.clone();
            let preconditions = Some(Preconditions { uid, resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::background() };
            client::retry::optional(api.delete(view::name(set), &params).await)?;
        }
        Ok(())
    }

    async fn create(&self, key: &ObjectKey, deployment: &Deployment, set: &ReplicaSet) -> Result<(), ReconcileError> {
        let api = self.context.api::<ReplicaSet>(&key.namespace);
        match api.create(&PostParams::default(), set).await {
            Ok(created) => {
                self.writes.wrote(key, &created);
                self.report_scaled(deployment, view::name(set), 0, view::set_replicas(set));
                Ok(())
            }
            Err(error) if is_already_exists(&error) => self.resolve_collision(deployment, set).await,
            Err(error) => {
                if !is_namespace_terminating(&error) {
                    let text = format!("Failed to create new replica set \"{}\": {}", view::name(set), message(&error));
                    self.events.event(deployment, EventType::Warning, "ReplicaSetCreateError", text);
                }
                Err(error.into())
            }
        }
    }

    /// The name is taken: by the very replica set that was wanted, or by another template with the same hash. Then
    /// the next attempt hashes with another count.
    async fn resolve_collision(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), ReconcileError> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let live = self.context.api::<ReplicaSet>(namespace).get(view::name(set)).await?;
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        if claim::is_controlled_by(&live.metadata, uid) && revision::find_new(deployment, &[live]).is_some() {
            return Err(ReconcileError::Blocked("replica set is not in the informer yet".to_owned()));
        }
        let count = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0) + 1;
        let patch = json!({"metadata": {"resourceVersion": deployment.metadata.resource_version},
                           "status": {"collisionCount": count}});
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        let api = self.context.api::<Deployment>(namespace);
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Err(ReconcileError::Blocked("hash collision".to_owned()))
    }

    async fn update(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        before: &ReplicaSet,
        after: &ReplicaSet,
    ) -> Result<(), ReconcileError> {
        if before.spec == after.spec && before.metadata.annotations == after.metadata.annotations {
            return Ok(());
        }
        let had = before.metadata.annotations.clone().unwrap_or_default();
        let changed: BTreeMap<_, _> =
            after.metadata.annotations.iter().flatten().filter(|(name, value)| had.get(*name) != Some(value)).collect();
        let spec = after.spec.as_ref();
        let patch = json!({
            "metadata": {"resourceVersion": before.metadata.resource_version, "annotations": changed},
            "spec": {"replicas": spec.and_then(|s| s.replicas), "minReadySeconds": spec.and_then(|s| s.min_ready_seconds)},
        });
        let api = self.context.api::<ReplicaSet>(&key.namespace);
        let written = api.patch(view::name(before), &PatchParams::default(), &Patch::Merge(&patch)).await?;
        self.writes.wrote(key, &written);
        self.report_scaled(deployment, view::name(before), view::set_replicas(before), view::set_replicas(after));
        Ok(())
    }

    fn report_scaled(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        if from != to {
            let direction = if to > from { "up" } else { "down" };
            let text = format!("Scaled {direction} replica set {set} from {from} to {to}");
            self.events.event(deployment, EventType::Normal, "ScalingReplicaSet", text);
        }
    }

    /// Writes revision and status, each only if it differs.
    async fn record(&self, deployment: &Deployment, plan: plan::Plan) -> Result<(), ReconcileError> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        let api = self.context.api::<Deployment>(namespace);
        let mut metadata = deployment.metadata.clone();
        let shown = deployment.metadata.annotations.as_ref().and_then(|a| a.get(view::REVISION));
        if plan.revision.is_some() && plan.revision.as_ref() != shown {
            let patch = json!({"metadata": {"resourceVersion": metadata.resource_version,
                                            "annotations": {(view::REVISION): plan.revision}}});
            // A status update carries annotations too: it must not take this one back.
            metadata = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?.metadata;
        }
        if deployment.status.as_ref() != Some(&plan.status) {
            let object = Deployment { metadata, spec: deployment.spec.clone(), status: Some(plan.status) };
            api.replace_status(name, &PostParams::default(), &object).await?;
        }
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(deployment) = self.deployments.get_key(&key) else {
            self.writes.forget(&key);
            return Ok(Next::Done);
        };
        if !self.writes.settled(&key, &self.sets) {
            return Ok(Next::After(crate::writes::LOOK_AGAIN));
        }
        let before = self.claimed(&deployment).await?;
        let sets: Vec<ReplicaSet> = before.iter().map(|set| (**set).clone()).collect();
        let old_pods_running = self.old_pods_running(&deployment, &sets);
        let state = plan::State { deployment: &deployment, sets, old_pods_running, now: Timestamp::now() };
        let plan = plan::plan(state)?;
        let again = plan.again;
        self.carry_out(&key, &deployment, &before, &plan).await?;
        self.record(&deployment, plan).await?;
        Ok(Next::soonest([again]))
    }
}

#[cfg(test)]
mod tests;
