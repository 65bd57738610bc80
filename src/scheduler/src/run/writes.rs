//! What the scheduler writes: bindings, nominations, conditions, events. Each write runs on a task of its own.

use crate::preempt::Plan;
use crate::state::PodInfo;
use client::Api;
use client::{EventRecorder, EventType, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Client;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// What a write has to tell the scheduler.
#[derive(Debug)]
pub(super) enum Outcome {
    NotBound { uid: String, key: ObjectKey },
}

#[derive(Clone)]
pub(super) struct Writer {
    client: Client,
    recorder: EventRecorder,
    outcomes: mpsc::UnboundedSender<Outcome>,
    /// The scheduler's name, for what victims are told.
    name: Arc<str>,
}

impl Writer {
    pub(super) fn new(
        client: Client,
        recorder: EventRecorder,
        outcomes: mpsc::UnboundedSender<Outcome>,
        name: &str,
    ) -> Self {
        Self { client, recorder, outcomes, name: name.into() }
    }

    fn pods(&self, pod: &PodInfo) -> Api<Pod> {
        Api::namespaced(self.client.clone(), pod.namespace())
    }

    pub(super) fn bind(&self, pod: Arc<PodInfo>, node: String) {
        let writer = self.clone();
        tokio::spawn(async move {
            let binding = Binding {
                metadata: ObjectMeta {
                    name: Some(pod.name().to_owned()),
                    namespace: Some(pod.namespace().to_owned()),
                    uid: Some(pod.uid().to_owned()),
                    ..ObjectMeta::default()
                },
                target: ObjectReference {
                    kind: Some("Node".into()),
                    name: Some(node.clone()),
                    ..ObjectReference::default()
                },
            };
            let api = writer.pods(&pod);
            let bound: kube::Result<Status> =
                api.create_subresource("binding", pod.name(), &PostParams::default(), &binding).await;
            match bound {
                Ok(_) => {
                    let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                    writer.recorder.event(pod.pod.as_ref(), EventType::Normal, "Scheduled", message);
                }
                Err(error) => {
                    tracing::debug!(namespace = pod.namespace(), name = pod.name(), %node, %error, "pod not bound");
                    let outcome = Outcome::NotBound { uid: pod.uid().to_owned(), key: ObjectKey::of(pod.pod.as_ref()) };
                    if writer.outcomes.send(outcome).is_err() {
                        tracing::trace!("the scheduler has stopped");
                    }
                }
            }
        });
    }

    /// Tells the provisioner of `claims` where the pod would go.
    pub(super) fn select_node(&self, pod: Arc<PodInfo>, node: String, claims: Vec<String>) {
        let writer = self.clone();
        tokio::spawn(async move {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(writer.client.clone(), pod.namespace());
            let patch = Patch::Merge(json!({"metadata": {"annotations": {SELECTED_NODE: node}}}));
            for claim in claims {
                if let Err(error) = api.patch(&claim, &PatchParams::default(), &patch).await {
                    tracing::debug!(namespace = pod.namespace(), %claim, %error, "claim not annotated");
                }
            }
        });
    }

    /// Says that the pod fits nowhere, and carries out the preemption that would change that.
    pub(super) fn report_unfit(&self, pod: Arc<PodInfo>, message: String, plan: Option<Plan>) {
        self.recorder.event(pod.pod.as_ref(), EventType::Warning, "FailedScheduling", message.clone());
        let writer = self.clone();
        tokio::spawn(async move {
            if let Err(error) = writer.mark_unschedulable(&pod, &message, plan.as_ref()).await {
                tracing::debug!(namespace = pod.namespace(), name = pod.name(), %error, "pod status not updated");
            }
            for victim in plan.iter().flat_map(|plan| &plan.victims) {
                if let Err(error) = writer.evict(&pod, victim, plan.as_ref()).await {
                    tracing::warn!(namespace = victim.namespace(), name = victim.name(), %error, "pod not preempted");
                }
            }
        });
    }

    /// Tells the API that a pod more important has taken the room that was being made for this one.
    pub(super) fn clear_nomination(&self, pod: Arc<PodInfo>) {
        let writer = self.clone();
        tokio::spawn(async move {
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"nominatedNodeName": null}});
            let api = writer.pods(&pod);
            if let Err(error) = api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await {
                tracing::debug!(namespace = pod.namespace(), name = pod.name(), %error, "nomination not cleared");
            }
        });
    }

    async fn mark_unschedulable(&self, pod: &PodInfo, message: &str, plan: Option<&Plan>) -> kube::Result<()> {
        let status = pod.pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let known = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
        let same = known.is_some_and(|known| known.status == "False" && known.message.as_deref() == Some(message));
        let nomination_ends = plan.is_none() && pod.nominated_node().is_some();
        if same && plan.is_none() && !nomination_ends {
            return Ok(());
        }
        let since = known.filter(|known| known.status == "False").and_then(|known| known.last_transition_time.as_ref());
        let since = since.map_or_else(|| whole_second(Timestamp::now()), |time| time.0);
        let mut patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": since,
        }]}});
        if let Some(plan) = plan {
            patch["status"]["nominatedNodeName"] = json!(plan.node);
        } else if nomination_ends {
            patch["status"]["nominatedNodeName"] = Value::Null;
        }
        self.pods(pod).patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
    }

    async fn evict(&self, pod: &PodInfo, victim: &PodInfo, plan: Option<&Plan>) -> kube::Result<()> {
        if victim.is_terminating() {
            return Ok(());
        }
        let condition = json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{}: preempting to accommodate a higher priority pod", self.name),
            "lastTransitionTime": whole_second(Timestamp::now()),
        }]}});
        let api = self.pods(victim);
        api.patch_status(victim.name(), &PatchParams::default(), &Patch::Strategic(condition)).await?;
        let uid = Preconditions { uid: Some(victim.uid().to_owned()), ..Preconditions::default() };
        let params = DeleteParams { preconditions: Some(uid), ..DeleteParams::default() };
        api.delete(victim.name(), &params).await?;
        let node = plan.map_or("", |plan| plan.node.as_str());
        let message = format!("Preempted by pod {} on node {node}", pod.uid());
        self.recorder.event(victim.pod.as_ref(), EventType::Normal, "Preempted", message);
        Ok(())
    }
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
