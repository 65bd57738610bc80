//! Jobs: run pods until enough of them have succeeded. Pods carry a finalizer until the job's status has counted
//! them, so that none is lost or counted twice whoever deletes it.

mod indexes;
mod orphans;
mod per_index;
mod plan;
mod policy;
mod ttl;
pub(crate) mod view;

use std::sync::Arc;

use client::Api;
use client::retry::{is_conflict, optional};
use client::{EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};
use crate::writes::{LOOK_AGAIN, Writes};
use crate::{claim, pods, template};

struct Controller {
    context: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    writes: Writes,
    events: EventRecorder,
}

pub(crate) fn start(context: &Context) {
    ttl::start(context);
    orphans::start(context);
    let (jobs, pods) = (context.informers.of::<Job>(), context.informers.of::<Pod>());
    let queue = context.queue("job");
    context.feed_own(&jobs, &queue);
    let adopters = jobs.clone();
    context.feed(&pods, &queue, move |change| {
        claim::owner_keys(change, &adopters, |job| job.spec.as_ref()?.selector.clone())
    });
    let ready = vec![synced(&jobs), synced(&pods)];
    let events = context.recorder("job-controller");
    context.run(queue, Controller { context: context.clone(), jobs, pods, writes: Writes::default(), events }, ready);
}

impl Controller {
    async fn claimed(&self, job: &Job) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let meta = &job.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let Some(selector) = job.spec.as_ref().and_then(|s| s.selector.clone()) else {
            return Ok(self.pods.by_owner(uid));
        };
        let candidates = claim::candidates(&self.pods, namespace, uid);
        let claims = claim::sort(candidates, &claim::selector(&selector)?, uid, meta.deletion_timestamp.is_some());
        claim::settle(&self.context.api(namespace), &self.context.api(namespace), job, claims).await
    }

    /// Takes the tracking finalizer off a pod. One that is gone, or another by now, needs nothing.
    async fn release(&self, api: &Api<Pod>, pod: &Pod) -> Result<(), ReconcileError> {
        let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != view::FINALIZER);
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version,
                                        "finalizers": finalizers}});
        optional(api.patch(pods::name(pod), &PatchParams::default(), &Patch::Merge(&patch)).await)?;
        Ok(())
    }

    /// The job is gone: nobody will count its pods.
    async fn abandon(&self, key: &ObjectKey) -> Result<Next, ReconcileError> {
        self.writes.forget(key);
        let api = self.context.api::<Pod>(&key.namespace);
        for pod in self.pods.in_namespace(&key.namespace) {
            let ours = claim::controller_of(&pod.metadata).is_some_and(|r| r.kind == "Job" && r.name == key.name);
            if ours && view::has_finalizer(&pod) {
                self.release(&api, &pod).await?;
            }
        }
        Ok(Next::Done)
    }

    /// Finalizers come off only what the written status accounts for.
    async fn carry_out(&self, key: &ObjectKey, job: &Job, plan: &plan::Plan) -> Result<(), ReconcileError> {
        let api = self.context.api::<Pod>(&key.namespace);
        for pod in &plan.release {
            match self.release(&api, pod).await {
                // It has changed: its next event brings it back.
                Err(ReconcileError::Api(error)) if is_conflict(&error) => {}
                other => other?,
            }
        }
        for pod in &plan.delete {
            self.release(&api, pod).await?;
            self.writes.deleted(key, &**pod);
            template::delete_pod(&api, pod).await?;
            let text = format!("Deleted pod: {}", pods::name(pod));
            self.events.event(job, EventType::Normal, "SuccessfulDelete", text);
        }
        let pods = plan.create.iter().map(|index| view::pod(job, *index, plan.count_before(*index))).collect();
        let (created, error) = template::create_slowly(&api, pods).await;
        created.iter().for_each(|pod| self.writes.wrote(key, pod));
        template::report_created(&self.events, job, &created, error.as_ref());
        error.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(job) = self.jobs.get_key(&key) else { return self.abandon(&key).await };
        let foreign = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
        if foreign.is_some_and(|manager| manager != "kubernetes.io/job-controller") {
            return Ok(Next::Done);
        }
        if !self.writes.settled(&key, &self.pods) {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let owned = self.claimed(&job).await?;
        let plan = plan::plan(&plan::State { job: &job, pods: &owned, now: Timestamp::now() });
        if job.status.as_ref() != Some(&plan.status) && job.metadata.deletion_timestamp.is_none() {
            let object = Job { status: Some(plan.status.clone()), ..(*job).clone() };
            let api = self.context.api::<Job>(&key.namespace);
            api.replace_status(&key.name, &PostParams::default(), &object).await?;
        }
        if let Some((good, reason, message)) = &plan.event {
            let kind = if *good { EventType::Normal } else { EventType::Warning };
            self.events.event(&*job, kind, reason, message.clone());
        }
        self.carry_out(&key, &job, &plan).await?;
        Ok(Next::soonest([plan.again]))
    }
}

#[cfg(test)]
mod tests;
