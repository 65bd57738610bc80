//! Removes pods that nobody else will: those bound to nodes that no longer exist, those deleted before they had a
//! node, and the oldest finished ones beyond a threshold.

use std::sync::Arc;
use std::time::Duration;

use client::{Change, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::conditions;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::pods;
use crate::queue::Queue;
use crate::runner::{Next, Reconcile};

/// How long a node may be missing before its pods are: it may be about to register again.
const QUARANTINE: Duration = Duration::from_secs(40);
/// How long finished pods are left to gather before they are counted.
const GATHER: Duration = Duration::from_secs(20);

const FINISHED: &str = "finished";
const ORPHANED: &str = "orphaned";

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
}

pub(crate) fn start(context: &Context) {
    let (nodes, pods) = (context.informers.of::<Node>(), context.informers.of::<Pod>());
    let queue = context.queue("pod-garbage-collector");
    watch_nodes(context, &nodes, &queue);
    watch_pods(context, &pods, &nodes, &queue);
    // Nodes that went while no server ran.
    queue.add_after(ObjectKey::cluster(ORPHANED), QUARANTINE);
    let ready = vec![synced(&nodes), synced(&pods)];
    context.run(queue, Controller { context: context.clone(), nodes, pods }, ready);
}

fn watch_nodes(context: &Context, nodes: &Informer<Node>, queue: &Queue) {
    let later = queue.clone();
    context.feed(nodes, queue, move |change| {
        if matches!(change, Change::Deleted(_)) {
            later.add_after(ObjectKey::cluster(ORPHANED), QUARANTINE);
        }
        Vec::new()
    });
}

fn watch_pods(context: &Context, pods: &Informer<Pod>, nodes: &Informer<Node>, queue: &Queue) {
    let (later, nodes) = (queue.clone(), nodes.clone());
    context.feed(pods, queue, move |change| {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) {
            return Vec::new();
        }
        if pods::is_terminal(pod) {
            later.add_after(ObjectKey::cluster(FINISHED), GATHER);
        }
        match pods::node_name(pod) {
            Some(node) if nodes.get("", node).is_none() => {
                later.add_after(ObjectKey::cluster(ORPHANED), QUARANTINE);
                Vec::new()
            }
            None if pods::is_terminating(pod) => vec![ObjectKey::of(&**pod)],
            _ => Vec::new(),
        }
    });
}

/// The oldest finished pods beyond `keep`.
fn surplus(pods: Vec<Arc<Pod>>, keep: usize) -> Vec<Arc<Pod>> {
    let mut finished: Vec<_> =
        pods.into_iter().filter(|pod| pods::is_terminal(pod) && !pods::is_terminating(pod)).collect();
    finished.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
    finished.truncate(finished.len().saturating_sub(keep));
    finished
}

impl Controller {
    /// Marks the pod failed if it has not ended, then deletes it without grace.
    async fn remove(&self, pod: &Pod, reason: &str, message: &str) -> Result<(), ReconcileError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api = self.context.api::<Pod>(namespace);
        if !pods::is_terminal(pod) {
            let mut object = pod.clone();
            let status = object.status.get_or_insert_default();
            status.phase = Some("Failed".to_owned());
            if !reason.is_empty() {
                let condition = PodCondition {
                    type_: "DisruptionTarget".into(),
                    status: "True".into(),
                    reason: Some(reason.to_owned()),
                    message: Some(message.to_owned()),
                    ..PodCondition::default()
                };
                conditions::set(status.conditions.get_or_insert_default(), condition, Timestamp::now());
            }
            client::retry::optional(api.replace_status(pods::name(pod), &PostParams::default(), &object).await)?;
        }
        let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() }.grace_period(0);
        client::retry::optional(api.delete(pods::name(pod), &params).await)?;
        tracing::info!(%namespace, name = pods::name(pod), message, "pod removed");
        Ok(())
    }

    async fn remove_orphans(&self) -> Result<(), ReconcileError> {
        let nodes = self.context.cluster_api::<Node>();
        for pod in self.pods.list() {
            let Some(node) = pods::node_name(&pod).filter(|node| self.nodes.get("", node).is_none()) else { continue };
            if client::retry::optional(nodes.get_metadata(node).await)?.is_none() {
                self.remove(&pod, "DeletionByPodGC", "PodGC: node no longer exists").await?;
            }
        }
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        match (key.namespace.as_str(), key.name.as_str()) {
            ("", ORPHANED) => self.remove_orphans().await?,
            ("", FINISHED) => {
                for pod in surplus(self.pods.list(), self.context.config.terminated_pod_threshold) {
                    self.remove(&pod, "", "too many finished pods").await?;
                }
            }
            _ => {
                let pod = self.pods.get_key(&key);
                if let Some(pod) = pod.filter(|pod| pods::is_terminating(pod) && pods::node_name(pod).is_none()) {
                    self.remove(&pod, "", "deleted before it had a node").await?;
                }
            }
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use client::Informers;
    use client::testing::FakeApi;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::Config;
    use crate::pods::fixture::{at, pod, ready};

    #[test]
    fn the_oldest_finished_pods_go_first() {
        let aged = |name: &str, age: i64| {
            let mut pod = pod(name, "Succeeded");
            pod.metadata.creation_timestamp = Some(Time(at(age)));
            Arc::new(pod)
        };
        let gone = surplus(vec![aged("new", 9), aged("old", 1), Arc::new(pod("running", "Running"))], 1);
        assert_eq!(gone.iter().map(|p| pods::name(p)).collect::<Vec<_>>(), ["old"]);
    }

    #[tokio::test]
    async fn pods_of_a_node_that_is_gone_are_removed() {
        let fake = FakeApi::new();
        fake.put(&ready("orphan", "gone", 0)).unwrap();
        let informers = Informers::new(fake.client());
        let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
        let context = Context::new(fake.client(), informers, config, CancellationToken::new());
        let (nodes, pods) = (context.informers.of::<Node>(), context.informers.of::<Pod>());
        nodes.synced().await;
        pods.synced().await;
        let controller = Controller { context, nodes, pods };
        controller.reconcile(ObjectKey::cluster(ORPHANED)).await.unwrap();
        assert!(fake.get::<Pod>("ns", "orphan").is_none());
    }
}
