//! Node life cycle: a node whose lease is not renewed for forty seconds is Unknown; its state shows in taints; pods
//! that do not tolerate them leave. One reconciliation per node, at its deadline, on change, and when pods come.

pub(crate) mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::{Change, EventRecorder, EventType, Informer, ObjectKey, Scope};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, Pod, PodCondition};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::conditions;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::pods;
use crate::runner::{Next, Reconcile};
use crate::template;

const LEASES: &str = "kube-node-lease";

/// When each node was last heard of, by this server's clock: nodes' clocks may be wrong.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<HashMap<String, Timestamp>>>);

impl Heard {
    fn now(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), Timestamp::now());
    }

    fn forget(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// A node never heard of is heard of now: after a restart every node has its full time.
    fn last(&self, node: &str) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(node.to_owned()).or_insert_with(Timestamp::now)
    }
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    heard: Heard,
    events: EventRecorder,
}

pub(crate) fn start(context: &Context) {
    let (nodes, pods) = (context.informers.of::<Node>(), context.informers.of::<Pod>());
    let leases = context.informers.scoped::<Lease>(Scope::namespace(LEASES));
    let queue = context.queue("node-lifecycle");
    let heard = Heard::default();
    let (all, listener) = (nodes.clone(), heard.clone());
    context.feed(&nodes, &queue, move |change| nodes_to_check(change, &all, &listener));
    let listener = heard.clone();
    context.feed(&leases, &queue, move |change| {
        let lease = change.object();
        if let Some(node) = &lease.metadata.name
            && !matches!(change, Change::Deleted(_))
        {
            listener.now(node);
        }
        // Hearing of a node that was taken for lost is its own business: it posts its status.
        Vec::new()
    });
    let tainted = nodes.clone();
    context.feed(&pods, &queue, move |change| {
        let pod = change.object();
        let node = pods::node_name(pod).and_then(|name| tainted.get("", name));
        let affected = node.filter(|node| !plan::evicting_taints(node).is_empty() && pods::is_active(pod));
        affected.map(|node| ObjectKey::of(&*node)).into_iter().collect()
    });
    let ready = vec![synced(&nodes), synced(&pods), synced(&leases)];
    let events = context.recorder("node-controller");
    context.run(queue, Controller { context: context.clone(), nodes, pods, heard, events }, ready);
}

/// A node that changed; all of them when one went up or down, for whether all are down matters to each.
fn nodes_to_check(change: &Change<Node>, all: &Informer<Node>, heard: &Heard) -> Vec<ObjectKey> {
    let node = change.object();
    let key = ObjectKey::of(&**node);
    match change {
        Change::Added(_) => vec![key],
        Change::Deleted(_) => {
            heard.forget(&key.name);
            vec![key]
        }
        Change::Modified { old, new } => {
            let beat = |node: &Node| conditions::find(plan::node_conditions(node), "Ready").cloned();
            let posted = beat(old).and_then(|c| c.last_heartbeat_time) != beat(new).and_then(|c| c.last_heartbeat_time);
            if posted {
                heard.now(&key.name);
            }
            if plan::ready_status(old) == plan::ready_status(new) {
                vec![key]
            } else {
                all.list().iter().map(|node| ObjectKey::of(&**node)).collect()
            }
        }
    }
}

impl Controller {
    async fn write_conditions(&self, node: &Node, new: Vec<NodeCondition>) -> Result<Node, ReconcileError> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let status = NodeStatus { conditions: Some(new), ..node.status.clone().unwrap_or_default() };
        let object = Node { status: Some(status), ..node.clone() };
        let api = self.context.cluster_api::<Node>();
        let written = api.replace_status(name, &PostParams::default(), &object).await?;
        tracing::info!(node = name, "node is silent, its state is unknown");
        let message = format!("Node {name} status is now: NodeNotReady");
        self.events.event(node, EventType::Normal, "NodeNotReady", message);
        Ok(written)
    }

    /// Pods of a node that is not ready are not ready either; the node cannot say so.
    async fn mark_pods_not_ready(&self, node: &str) -> Result<(), ReconcileError> {
        for pod in self.pods.on_node(node).iter().filter(|pod| pods::is_ready(pod) && !pods::is_terminal(pod)) {
            let mut all = pods::conditions(pod).to_vec();
            let condition = PodCondition { type_: "Ready".into(), status: "False".into(), ..PodCondition::default() };
            conditions::set(&mut all, condition, Timestamp::now());
            let mut object = (**pod).clone();
            object.status.get_or_insert_default().conditions = Some(all);
            let api = self.context.api::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
            client::retry::optional(api.replace_status(pods::name(pod), &PostParams::default(), &object).await)?;
            self.events.event(&**pod, EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }

    async fn write_taints(
        &self,
        node: &Node,
        taints: &[k8s_openapi::api::core::v1::Taint],
    ) -> Result<(), ReconcileError> {
        let patch =
            json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let api = self.context.cluster_api::<Node>();
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Deletes the pods whose time on a tainted node is over. Returns when the next one's is.
    async fn evict(&self, node: &Node, now: Timestamp) -> Result<Option<Duration>, ReconcileError> {
        let taints = plan::evicting_taints(node);
        if taints.is_empty() {
            return Ok(None);
        }
        let mut next: Option<Duration> = None;
        let name = node.metadata.name.as_deref().unwrap_or_default();
        for pod in self.pods.on_node(name).iter().filter(|pod| pods::is_active(pod)) {
            let Some(at) = plan::leave_at(pod, &taints, now) else { continue };
            if at > now {
                let wait = plan::until(at, now);
                next = Some(next.map_or(wait, |next| next.min(wait)));
            } else {
                self.evict_pod(pod).await?;
            }
        }
        Ok(next)
    }

    async fn evict_pod(&self, pod: &Pod) -> Result<(), ReconcileError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api = self.context.api::<Pod>(namespace);
        let message = format!("Marking for deletion Pod {namespace}/{}", pods::name(pod));
        self.events.event(pod, EventType::Normal, "TaintManagerEviction", message);
        let mut all = pods::conditions(pod).to_vec();
        let condition = PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("DeletionByTaintManager".into()),
            message: Some("Taint manager: deleting due to NoExecute taint".into()),
            ..PodCondition::default()
        };
        if conditions::set(&mut all, condition, Timestamp::now()) {
            let mut object = pod.clone();
            object.status.get_or_insert_default().conditions = Some(all);
            client::retry::optional(api.replace_status(pods::name(pod), &PostParams::default(), &object).await)?;
        }
        template::delete_pod(&api, pod).await?;
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(cached) = self.nodes.get_key(&key) else { return Ok(Next::Done) };
        let (mut node, now) = ((*cached).clone(), Timestamp::now());
        let seen = self.heard.last(&key.name);
        if let Some(conditions) = plan::silenced(&node, seen, now) {
            node = self.write_conditions(&node, conditions).await?;
        }
        if plan::ready_status(&node) != "True" {
            self.mark_pods_not_ready(&key.name).await?;
        }
        let others = self.nodes.list();
        let all_down = others.iter().all(|n| n.metadata.name == node.metadata.name || plan::ready_status(n) != "True")
            && plan::ready_status(&node) != "True";
        if let Some(taints) = plan::taints(&node, all_down, now) {
            self.write_taints(&node, &taints).await?;
        }
        let leaving = self.evict(&node, now).await?;
        let deadline = seen.saturating_add(plan::GRACE).unwrap_or(now);
        let silent = (deadline > now).then(|| plan::until(deadline, now));
        Ok(Next::soonest([leaving, silent.or(Some(Duration::from_secs(40)))]))
    }
}

#[cfg(test)]
mod tests;
