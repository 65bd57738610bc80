//! What replica sets and replication controllers have in common.

use client::informer::Observed;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use kube::api::PostParams;

use super::plan::Counts;
use crate::conditions;
use crate::context::Context;
use crate::error::ReconcileError;

/// A kind that keeps a number of pods.
pub(super) trait Replicated:
    Observed + Resource<DynamicType = (), Scope = NamespaceResourceScope> + std::fmt::Debug
{
    const COMPONENT: &'static str;

    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn label_selector(&self) -> LabelSelector;

    /// Writes the counts and whether pods are refused, if that differs from what the object says.
    fn write_status(
        &self,
        context: &Context,
        counts: &Counts,
        refused: Option<String>,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), ReconcileError>> + Send;
}

macro_rules! replicated {
    ($kind:ty, $condition:ident, $component:literal, $selector:expr, $terminating:expr) => {
        impl Replicated for $kind {
            const COMPONENT: &'static str = $component;

            fn replicas(&self) -> i32 {
                self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
            }

            fn min_ready_seconds(&self) -> i32 {
                self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
            }

            fn template(&self) -> Option<&PodTemplateSpec> {
                self.spec.as_ref().and_then(|s| s.template.as_ref())
            }

            fn label_selector(&self) -> LabelSelector {
                ($selector)(self)
            }

            async fn write_status(
                &self,
                context: &Context,
                counts: &Counts,
                refused: Option<String>,
                now: Timestamp,
            ) -> Result<(), ReconcileError> {
                let old = self.status.clone().unwrap_or_default();
                let mut conditions = old.conditions.clone().unwrap_or_default();
                if let Some(message) = refused {
                    let failure = $condition {
                        type_: "ReplicaFailure".into(),
                        status: "True".into(),
                        reason: Some("FailedCreate".into()),
                        message: Some(message),
                        last_transition_time: None,
                    };
                    conditions::set(&mut conditions, failure, now);
                } else {
                    conditions::remove(&mut conditions, "ReplicaFailure");
                }
                let some = |count: i32| Some(count).filter(|count| *count > 0);
                let mut new = old.clone();
                new.replicas = counts.replicas;
                new.fully_labeled_replicas = some(counts.labelled);
                new.ready_replicas = some(counts.ready);
                new.available_replicas = some(counts.available);
                new.observed_generation = self.metadata.generation;
                new.conditions = Some(conditions).filter(|c| !c.is_empty());
                ($terminating)(&mut new, counts);
                if new == old {
                    return Ok(());
                }
                let api = context.api::<$kind>(self.metadata.namespace.as_deref().unwrap_or_default());
                let object = Self { status: Some(new), ..self.clone() };
                let name = self.metadata.name.as_deref().unwrap_or_default();
                api.replace_status(name, &PostParams::default(), &object).await?;
                Ok(())
            }
        }
    };
}

replicated!(
    ReplicaSet,
    ReplicaSetCondition,
    "replicaset-controller",
    |set: &ReplicaSet| set.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default(),
    |status: &mut ReplicaSetStatus, counts: &Counts| status.terminating_replicas = Some(counts.terminating)
);

replicated!(
    ReplicationController,
    ReplicationControllerCondition,
    "replication-controller",
    |set: &ReplicationController| LabelSelector {
        match_labels: set.spec.as_ref().and_then(|s| s.selector.clone()),
        ..LabelSelector::default()
    },
    |_status: &mut ReplicationControllerStatus, _counts: &Counts| {}
);
