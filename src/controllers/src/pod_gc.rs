//! Deletes pods that nobody else will: those bound to a node that no longer exists, those deleted before they had a
//! node, those on a node declared out of service, and the oldest ended ones when there are too many.
//!
//! Invariant: no pod is taken for orphaned on the word of a cache: its node has to be missing for a while, and is
//! asked for at the server before anything is deleted.

mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::informer::Observed;
use client::retry::{is_conflict, optional};
use client::{Change, Index, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Preconditions};
use tokio::time::Instant;

use self::plan::Verdict;
use crate::context::{Context, synced};
use crate::disruption_target::{self, Disruption};
use crate::error::ReconcileError;
use crate::pods;
use crate::queue::Queue;
use crate::runner::{Next, Reconcile};

/// How long a node has to be missing before its pods are orphans.
const QUARANTINE: Duration = Duration::from_secs(40);

const NODE_GONE: Disruption = Disruption { reason: "DeletionByPodGC", message: "PodGC: node no longer exists" };

/// Ended pods.
const ENDED: Index<Pod> =
    Index { name: "ended", values: |pod| if pods::is_terminal(pod) { vec![String::new()] } else { Vec::new() } };

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// Since when nodes that pods name have been missing.
    missing: Arc<Mutex<HashMap<String, Instant>>>,
}

/// The key for the count of ended pods. No pod is without a namespace.
fn count_key() -> ObjectKey {
    ObjectKey::cluster("ended pods")
}

pub(crate) fn start(context: &Context) {
    let (nodes, pods) = (context.informers.of::<Node>(), context.informers.of::<Pod>());
    let queue = context.queue("pod-garbage-collector");
    feed_pods(context, &pods, &nodes, &queue);
    let on = pods.clone();
    context.feed(&nodes, &queue, move |change| {
        let node = change.object();
        let concerned = matches!(change, Change::Deleted(_)) || plan::is_out_of_service(node);
        let name = node.metadata.name.as_deref().filter(|_| concerned);
        name.map(|name| keys(&on.on_node(name))).unwrap_or_default()
    });
    let ready = vec![synced(&nodes), synced(&pods)];
    let missing = Arc::default();
    context.run(queue, Controller { context: context.clone(), nodes, pods, missing }, ready);
}

fn keys<K: Observed>(objects: &[Arc<K>]) -> Vec<ObjectKey> {
    objects.iter().map(|object| ObjectKey::of(&**object)).collect()
}

fn feed_pods(context: &Context, pods: &Informer<Pod>, nodes: &Informer<Node>, queue: &Queue) {
    let nodes = nodes.clone();
    context.feed(pods, queue, move |change| {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) {
            return Vec::new();
        }
        let mut keys = Vec::new();
        let node = pods::node_name(pod).map(|name| nodes.get("", name));
        let suspicious = match node {
            // Before the first list of nodes every node is missing: the reconciliation waits for it.
            Some(None) => true,
            Some(Some(node)) => pods::is_terminating(pod) && plan::is_out_of_service(&node),
            None => pods::is_terminating(pod),
        };
        if suspicious {
            keys.push(ObjectKey::of(&**pod));
        }
        if pods::is_terminal(pod) && !change.old().is_some_and(|old| pods::is_terminal(old)) {
            keys.push(count_key());
        }
        keys
    });
}

impl Controller {
    /// How long the node has been missing; `None` if it is there.
    fn missing_for(&self, node: &str, now: Instant) -> Option<Duration> {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.nodes.get("", node).is_some() {
            missing.remove(node);
            return None;
        }
        let nodes = &self.nodes;
        missing.retain(|name, _| nodes.get("", name).is_none());
        Some(now.duration_since(*missing.entry(node.to_owned()).or_insert(now)))
    }

    async fn node_exists(&self, name: &str) -> Result<bool, ReconcileError> {
        Ok(self.context.cluster_api::<Node>().get_opt(name).await?.is_some())
    }

    /// Fails the pod, if it has not ended, and removes it at once.
    async fn remove(&self, pod: &Pod, why: Option<Disruption>) -> Result<(), ReconcileError> {
        let key = ObjectKey::of(pod);
        let api = self.context.api::<Pod>(&key.namespace);
        if !disruption_target::mark(&api, pod, why, true, Timestamp::now()).await? {
            return Ok(());
        }
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }.grace_period(0);
        match optional(api.delete(&key.name, &params).await) {
            Err(error) if is_conflict(&error) => return Ok(()),
            other => drop(other?),
        }
        tracing::info!(pod = %key, reason = why.map_or("", |why| why.reason), "pod collected");
        Ok(())
    }

    async fn limit_ended(&self) -> Result<(), ReconcileError> {
        let ended = self.pods.by_index(&ENDED, "");
        let surplus = plan::surplus(ended, self.context.config.terminated_pod_threshold);
        let mut failure = Ok(());
        for pod in surplus {
            if let Err(error) = self.remove(&pod, None).await {
                failure = Err(error);
            }
        }
        failure
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        if key == count_key() {
            return self.limit_ended().await.map(|()| Next::Done);
        }
        let Some(pod) = self.pods.get_key(&key) else { return Ok(Next::Done) };
        let name = pods::node_name(&pod);
        let node = name.and_then(|name| self.nodes.get("", name));
        let missing = name.and_then(|name| self.missing_for(name, Instant::now()));
        match plan::judge(&pod, node.as_deref(), missing, QUARANTINE) {
            Verdict::Keep => {}
            Verdict::Wait(left) => return Ok(Next::After(left)),
            Verdict::Remove => self.remove(&pod, None).await?,
            Verdict::Orphan(node) => {
                if self.node_exists(node).await? {
                    return Err(ReconcileError::Blocked(format!("node {node} exists but is not seen yet")));
                }
                self.remove(&pod, Some(NODE_GONE)).await?;
            }
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests;
