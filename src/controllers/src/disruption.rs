//! Pod disruption budgets: how many pods of a budget may be evicted now. The eviction call of the API server trusts
//! the number written here and notes each pod it lets go in `disruptedPods`; this controller strikes them off when
//! they are gone, or stay.

mod plan;
mod scale;
mod stale;

use std::collections::HashMap;
use std::sync::Arc;

use client::informer::Observed;
use client::retry::optional;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::PostParams;

use self::plan::Expected;
use self::scale::Scales;
use crate::claim;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::queue::Queue;
use crate::runner::{Next, Reconcile};

struct Controller {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    scales: Scales,
    events: EventRecorder,
}

pub(crate) fn start(context: &Context) {
    stale::start(context);
    let (budgets, pods) = (context.informers.of::<PodDisruptionBudget>(), context.informers.of::<Pod>());
    let scales = Scales::new(context);
    let queue = context.queue("disruption");
    context.feed_own(&budgets, &queue);
    let covering = budgets.clone();
    context.feed(&pods, &queue, move |change| {
        let states = || [Some(change.object()), change.old()].into_iter().flatten();
        let namespace = change.object().metadata.namespace.as_deref().unwrap_or_default();
        let mut all = covering.in_namespace(namespace);
        all.retain(|budget| states().any(|pod| covers(budget, pod)));
        all.iter().map(|budget| ObjectKey::of(&**budget)).collect()
    });
    feed_owner(context, &scales.replica_sets, &budgets, &queue, |o: &ReplicaSet| o.spec.as_ref()?.replicas);
    feed_owner(context, &scales.deployments, &budgets, &queue, |o: &Deployment| o.spec.as_ref()?.replicas);
    feed_owner(context, &scales.stateful_sets, &budgets, &queue, |o: &StatefulSet| o.spec.as_ref()?.replicas);
    feed_owner(context, &scales.controllers, &budgets, &queue, |o: &ReplicationController| o.spec.as_ref()?.replicas);
    let mut ready = scales.synced();
    ready.extend([synced(&budgets), synced(&pods)]);
    let events = context.recorder("controllermanager");
    context.run(queue, Controller { context: context.clone(), budgets, pods, scales, events }, ready);
}

/// A change of the number of pods that an owner wants concerns the budgets of its namespace.
fn feed_owner<K: Observed>(
    context: &Context,
    owners: &Informer<K>,
    budgets: &Informer<PodDisruptionBudget>,
    queue: &Queue,
    replicas: fn(&K) -> Option<i32>,
) {
    let budgets = budgets.clone();
    context.feed(owners, queue, move |change| match change {
        Change::Modified { old, new } if replicas(old) == replicas(new) => Vec::new(),
        _ => {
            let namespace = change.object().meta().namespace.clone().unwrap_or_default();
            budgets.in_namespace(&namespace).iter().map(|budget| ObjectKey::of(&**budget)).collect()
        }
    });
}

/// A budget without a selector covers nothing, one with an empty selector everything in its namespace.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|s| claim::selector(s).is_ok_and(|selector| claim::matches(&selector, &pod.metadata)))
}

impl Controller {
    async fn expected(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<Expected, ReconcileError> {
        let spec = budget.spec.clone().unwrap_or_default();
        if !plan::needs_scale(&spec) {
            return Ok(plan::expected(&spec, pods.len(), 0));
        }
        let (mut replicas, mut unmanaged): (HashMap<String, i32>, bool) = (HashMap::new(), false);
        for pod in pods {
            let Some(owner) = claim::controller_of(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let Some((uid, wanted)) = self.scales.of(namespace, owner).await? else {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                return Err(ReconcileError::Blocked(format!("found no controllers for pod \"{name}\"")));
            };
            replicas.insert(uid, wanted);
        }
        if unmanaged {
            self.warn_unmanaged(budget);
        }
        Ok(plan::expected(&spec, pods.len(), replicas.values().sum()))
    }

    fn warn_unmanaged(&self, budget: &PodDisruptionBudget) {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = selector.and_then(|s| claim::selector(s).ok()).map(|s| s.to_string()).unwrap_or_default();
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, \
             the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account \
             for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
        );
        self.events.event(budget, EventType::Warning, "UnmanagedPods", message);
    }

    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        status: k8s_openapi::api::policy::v1::PodDisruptionBudgetStatus,
    ) -> Result<(), ReconcileError> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let key = ObjectKey::of(budget);
        let written = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        let api = self.context.api::<PodDisruptionBudget>(&key.namespace);
        optional(api.replace_status(&key.name, &PostParams::default(), &written).await)?;
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(budget) = self.budgets.get_key(&key) else { return Ok(Next::Done) };
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| covers(&budget, pod));
        let now = Timestamp::now();
        let expected = match self.expected(&budget, &pods).await {
            Ok(expected) => expected,
            Err(error) => {
                let reason = plan::describe(&error);
                let message = format!("Failed to calculate the number of expected pods: {reason}");
                self.events.event(&*budget, EventType::Warning, "CalculateExpectedPodCountFailed", message);
                self.write(&budget, plan::failed(&budget, reason, now)).await?;
                return Err(error);
            }
        };
        if pods.is_empty() && budget.status.as_ref().is_none_or(|s| s.observed_generation != budget.metadata.generation)
        {
            self.events.event(&*budget, EventType::Normal, "NoPods", "No matching pods found");
        }
        let outcome = plan::plan(&budget, &pods, expected, now);
        for pod in &outcome.not_deleted {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.events.event(&**pod, EventType::Warning, "NotDeleted", message);
        }
        self.write(&budget, outcome.status).await?;
        Ok(Next::soonest([outcome.recheck]))
    }
}

#[cfg(test)]
mod tests;
