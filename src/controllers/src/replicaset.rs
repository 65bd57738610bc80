//! Replica sets and replication controllers: keep as many pods of a template as asked for. Both kinds are seen
//! through one trait (`kind`), planned by one pure function (`plan`) and driven by this shell.

mod kind;
mod plan;

use std::sync::Arc;

use client::Api;
use client::{EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};

use self::kind::Replicated;
use crate::claim;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::queue::Queue;
use crate::runner::{Next, Reconcile};
use crate::template;
use crate::writes::Writes;

pub(crate) fn start(context: &Context) {
    Controller::<ReplicaSet>::start(context, "replicaset");
    Controller::<ReplicationController>::start(context, "replicationcontroller");
}

struct Controller<K: Replicated> {
    context: Context,
    owners: Informer<K>,
    pods: Informer<Pod>,
    writes: Writes,
    events: EventRecorder,
}

impl<K: Replicated> Controller<K> {
    fn start(context: &Context, name: &'static str) {
        let (owners, pods) = (context.informers.of::<K>(), context.informers.of::<Pod>());
        let queue: Queue = context.queue(name);
        context.feed_own(&owners, &queue);
        let adopters = owners.clone();
        context.feed(&pods, &queue, move |change| {
            claim::owner_keys(change, &adopters, |owner| Some(owner.label_selector()))
        });
        let ready = vec![synced(&owners), synced(&pods)];
        let events = context.recorder(K::COMPONENT);
        let controller = Self { context: context.clone(), owners, pods, writes: Writes::default(), events };
        context.run(queue, controller, ready);
    }

    async fn claimed(&self, owner: &K, selector: &kube::core::Selector) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let meta = owner.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let deleted = meta.deletion_timestamp.is_some();
        let claims = claim::sort(claim::candidates(&self.pods, namespace, uid), selector, uid, deleted);
        claim::settle(&self.context.api::<K>(namespace), &self.context.api::<Pod>(namespace), owner, claims).await
    }

    /// The pods of `owner` and of its siblings under the same parent, such as one deployment's replica sets.
    fn family(&self, owner: &K) -> Vec<Arc<Pod>> {
        let Some(parent) = claim::controller_of(owner.meta()) else {
            return self.pods.by_owner(owner.meta().uid.as_deref().unwrap_or_default());
        };
        let siblings = self.owners.by_owner(&parent.uid);
        siblings.iter().flat_map(|s| self.pods.by_owner(s.meta().uid.as_deref().unwrap_or_default())).collect()
    }

    /// Carries out the plan. The error is the server's refusal to create, which the status is to show.
    async fn scale(
        &self,
        owner: &K,
        key: &ObjectKey,
        plan: &plan::Plan,
    ) -> Result<Option<kube::Error>, ReconcileError> {
        let api: Api<Pod> = self.context.api(&key.namespace);
        let mut refused = None;
        if plan.create > 0
            && let Some(template) = owner.template()
        {
            let pod = template::pod(template, &key.name, &key.namespace, claim::controller_reference(owner));
            let (created, error) = template::create_slowly(&api, vec![pod; plan.create]).await;
            created.iter().for_each(|pod| self.writes.wrote(key, pod));
            template::report_created(&self.events, owner, &created, error.as_ref());
            refused = error;
        }
        for pod in &plan.delete {
            self.writes.deleted(key, &**pod);
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match template::delete_pod(&api, pod).await {
                Ok(_) => {
                    let message = format!("Deleted pod: {name}");
                    self.events.event(owner, EventType::Normal, "SuccessfulDelete", message);
                }
                Err(error) => {
                    self.writes.forget(key);
                    let message = format!("Error deleting: {}", template::message(&error));
                    self.events.event(owner, EventType::Warning, "FailedDelete", message);
                    return Err(error.into());
                }
            }
        }
        Ok(refused)
    }
}

impl<K: Replicated> Reconcile for Controller<K> {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(owner) = self.owners.get_key(&key) else {
            self.writes.forget(&key);
            return Ok(Next::Done);
        };
        let settled = self.writes.settled(&key, &self.pods);
        let selector = owner.label_selector().try_into()?;
        let pods = self.claimed(&owner, &selector).await?;
        let now = Timestamp::now();
        let mut refused = None;
        if settled && owner.meta().deletion_timestamp.is_none() {
            let plan = plan::plan(owner.replicas(), &pods, || self.family(&owner), now);
            refused = self.scale(&owner, &key, &plan).await?;
        }
        let status = plan::count(&pods, owner.template(), owner.min_ready_seconds(), now);
        owner.write_status(&self.context, &status, refused.as_ref().map(template::message), now).await?;
        match refused {
            Some(error) => Err(error.into()),
            None => Ok(Next::soonest([status.next_available, (!settled).then_some(crate::writes::LOOK_AGAIN)])),
        }
    }
}

#[cfg(test)]
mod tests;
