//! Pod disruption budgets: keeps in their status how many pods may be evicted now. The API server's eviction
//! request goes by it.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Change, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::PostParams;

use crate::claim;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::pods;
use crate::runner::{Next, Reconcile};

struct Controller {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    replica_sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
}

pub(crate) fn start(context: &Context) {
    let (budgets, pods) = (context.informers.of::<PodDisruptionBudget>(), context.informers.of::<Pod>());
    let (replica_sets, deployments) = (context.informers.of::<ReplicaSet>(), context.informers.of::<Deployment>());
    let stateful_sets = context.informers.of::<StatefulSet>();
    let replication_controllers = context.informers.of::<ReplicationController>();
    let queue = context.queue("disruption");
    context.feed_own(&budgets, &queue);
    let all = budgets.clone();
    context.feed(&pods, &queue, move |change| budgets_of(change, &all));
    let ready = vec![
        synced(&budgets),
        synced(&pods),
        synced(&replica_sets),
        synced(&deployments),
        synced(&stateful_sets),
        synced(&replication_controllers),
    ];
    let controller = Controller {
        context: context.clone(),
        budgets,
        pods,
        replica_sets,
        deployments,
        stateful_sets,
        replication_controllers,
    };
    context.run(queue, controller, ready);
}

fn label_selector(budget: &PodDisruptionBudget) -> LabelSelector {
    budget.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default()
}

fn budgets_of(change: &Change<Pod>, budgets: &Informer<PodDisruptionBudget>) -> Vec<ObjectKey> {
    let states = || [Some(change.object()), change.old()].into_iter().flatten();
    let namespace = change.object().metadata.namespace.as_deref().unwrap_or_default();
    let selects = |budget: &PodDisruptionBudget| {
        claim::selector(&label_selector(budget))
            .is_ok_and(|selector| states().any(|pod| claim::matches(&selector, &pod.metadata)))
    };
    budgets.in_namespace(namespace).iter().filter(|b| selects(b)).map(|b| ObjectKey::of(&**b)).collect()
}

impl Controller {
    /// How many pods the owners of these pods want in all, each owner counted once.
    fn expected(&self, matching: &[Arc<Pod>]) -> Result<i32, String> {
        let mut wanted: BTreeMap<String, i32> = BTreeMap::new();
        for pod in matching {
            let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), pods::name(pod));
            let reference = claim::controller_of(&pod.metadata)
                .ok_or_else(|| format!("found no controller ref for pod \"{name}\""))?;
            let (uid, replicas) = self
                .scale(namespace, &reference.kind, &reference.name)
                .ok_or_else(|| format!("found no controllers for pod \"{name}\": {} has no scale", reference.kind))?;
            wanted.insert(uid, replicas);
        }
        Ok(wanted.into_values().sum())
    }

    /// UID and size of the object that decides how many pods there are.
    fn scale(&self, namespace: &str, kind: &str, name: &str) -> Option<(String, i32)> {
        let (meta, replicas) = match kind {
            "ReplicaSet" => {
                let set = self.replica_sets.get(namespace, name)?;
                let parent = claim::controller_of(&set.metadata).filter(|parent| parent.kind == "Deployment");
                if let Some(parent) = parent {
                    let deployment = self.deployments.get(namespace, &parent.name)?;
                    (deployment.metadata.clone(), deployment.spec.as_ref()?.replicas)
                } else {
                    (set.metadata.clone(), set.spec.as_ref()?.replicas)
                }
            }
            "StatefulSet" => {
                let set = self.stateful_sets.get(namespace, name)?;
                (set.metadata.clone(), set.spec.as_ref()?.replicas)
            }
            "ReplicationController" => {
                let set = self.replication_controllers.get(namespace, name)?;
                (set.metadata.clone(), set.spec.as_ref()?.replicas)
            }
            _ => return None,
        };
        Some((meta.uid?, replicas.unwrap_or(1)))
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(budget) = self.budgets.get_key(&key) else { return Ok(Next::Done) };
        let selector = claim::selector(&label_selector(&budget))?;
        let mut matching = self.pods.in_namespace(&key.namespace);
        matching.retain(|pod| claim::matches(&selector, &pod.metadata) && !pods::is_terminal(pod));
        let expected = if plan::is_relative(&budget) {
            self.expected(&matching)
        } else {
            Ok(i32::try_from(matching.len()).unwrap_or(i32::MAX))
        };
        let (status, again) = plan::plan(&budget, &matching, expected, Timestamp::now());
        if budget.status.as_ref() != Some(&status) {
            let object = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
            let api = self.context.api::<PodDisruptionBudget>(&key.namespace);
            api.replace_status(&key.name, &PostParams::default(), &object).await?;
        }
        Ok(Next::soonest([again]))
    }
}
