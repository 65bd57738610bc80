//! What becomes of nodes that fall silent, and of the pods on them: conditions turn Unknown when neither the node's
//! Lease nor its status moves any more (`health`), conditions become taints (`taints`), taints that evict are handed
//! out at a bounded rate and not at all when everything is down (`zones`), and pods that do not tolerate them are
//! deleted (`eviction`).
//!
//! Invariant: a node's clock is never compared with ours. Only that its Lease changed counts, and when we saw it.

mod eviction;
mod health;
pub(crate) mod plan;
mod taints;
mod zones;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::retry::optional;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, Scope};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use self::health::{Sightings, Transition, Verdict};
use self::zones::{Admission, Zones};
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::pods;
use crate::queue::Queue;
use crate::runner::{Next, Reconcile};

const LEASE_NAMESPACE: &str = "kube-node-lease";

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    sightings: Arc<Mutex<Sightings>>,
    zones: Mutex<Zones>,
    events: EventRecorder,
}

pub(crate) fn start(context: &Context) {
    eviction::start(context);
    let (nodes, pods) = (context.informers.of::<Node>(), context.informers.of::<Pod>());
    let leases = context.informers.scoped::<Lease>(Scope::namespace(LEASE_NAMESPACE));
    let queue = context.queue("node-lifecycle");
    let sightings = Arc::new(Mutex::new(Sightings::default()));
    feed_nodes(context, &nodes, &queue);
    let seen = sightings.clone();
    context.feed(&leases, &queue, move |change| {
        let lease = change.object();
        if !matches!(change, Change::Deleted(_)) {
            lock(&seen).renewed(
                lease.metadata.name.as_deref().unwrap_or_default(),
                health::renewal(lease),
                Instant::now(),
            );
        }
        Vec::new()
    });
    let ready = vec![synced(&nodes), synced(&leases), synced(&pods)];
    let events = context.recorder("node-controller");
    let zones = Mutex::default();
    context.run(queue, Controller { context: context.clone(), nodes, leases, pods, sightings, zones, events }, ready);
}

/// A node's own changes concern it; a node that becomes ready or ceases to be concerns all that are not, because how
/// they are treated depends on how many there are.
fn feed_nodes(context: &Context, nodes: &Informer<Node>, queue: &Queue) {
    let all = nodes.clone();
    context.feed(nodes, queue, move |change| {
        let node = change.object();
        let mut keys = vec![ObjectKey::of(&**node)];
        if change.old().is_none_or(|old| health::is_ready(old) != health::is_ready(node)) {
            keys.extend(all.list().iter().filter(|n| !health::is_ready(n)).map(|n| ObjectKey::of(&**n)));
        }
        keys
    });
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

impl Controller {
    fn look(&self, node: &Node, now: Instant) -> (Verdict, Transition) {
        let lease = self.leases.get(LEASE_NAMESPACE, name_of(node));
        lock(&self.sightings).look(node, lease.as_deref().and_then(health::renewal), now)
    }

    fn record(&self, node: &Node, reason: &str, message: String) {
        self.events.event(node, EventType::Normal, reason, message);
    }

    fn forget(&self, name: &str) {
        let Some(uid) = lock(&self.sightings).forget(name) else { return };
        let node = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(name.into()),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        let message = format!("Node {name} event: Removing Node {name} from Controller");
        self.events.event_for(node, EventType::Normal, "RemovingNode", message);
    }

    async fn write_conditions(&self, node: &Node, conditions: Vec<NodeCondition>) -> Result<(), ReconcileError> {
        let mut node = node.clone();
        node.status.get_or_insert_default().conditions = Some(conditions);
        let api = self.context.cluster_api::<Node>();
        tracing::warn!(node = name_of(&node), "node stopped posting its status");
        optional(api.replace_status(name_of(&node), &PostParams::default(), &node).await)?;
        Ok(())
    }

    /// Brings the node's taints in line with its conditions. Returns how long an eviction has to wait.
    async fn write_taints(
        &self,
        node: &Node,
        now: Instant,
        wall: Timestamp,
    ) -> Result<Option<Duration>, ReconcileError> {
        let (evict, wait) = self.may_evict(node, now);
        let Some(wanted) = taints::reconciled(node, evict, wall) else { return Ok(wait) };
        let patch = json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "spec": {"taints": wanted},
        });
        let api = self.context.cluster_api::<Node>();
        optional(api.patch(name_of(node), &PatchParams::default(), &Patch::Merge(&patch)).await)?;
        Ok(wait)
    }

    fn may_evict(&self, node: &Node, now: Instant) -> (bool, Option<Duration>) {
        if taints::eviction_key(node).is_none() {
            return (false, None);
        }
        let counts = zones::count(&self.nodes.list());
        match lock(&self.zones).admit(&counts, node, taints::evicts(node), now) {
            Admission::Now => (true, None),
            Admission::In(wait) => (false, Some(wait)),
            Admission::Held => (false, None),
        }
    }

    async fn mark_pods_not_ready(&self, node: &str, now: Timestamp) -> Result<(), ReconcileError> {
        for pod in self.pods.on_node(node) {
            let Some(marked) = health::not_ready(&pod, now) else { continue };
            let api = self.context.api::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
            if optional(api.replace_status(pods::name(&pod), &PostParams::default(), &marked).await)?.is_some() {
                self.events.event(&*pod, EventType::Warning, "NodeNotReady", "Node is not ready");
            }
        }
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(node) = self.nodes.get_key(&key) else {
            self.forget(&key.name);
            return Ok(Next::Done);
        };
        let (now, wall) = (Instant::now(), Timestamp::now());
        let (verdict, transition) = self.look(&node, now);
        if transition == Transition::Registered {
            let message = format!("Node {0} event: Registered Node {0} in Controller", key.name);
            self.record(&node, "RegisteredNode", message);
        }
        if verdict == Verdict::Silent
            && let Some(conditions) = health::unknown(&node, wall)
        {
            self.write_conditions(&node, conditions).await?;
            return Ok(Next::Done);
        }
        if transition == Transition::NotReady {
            self.record(&node, "NodeNotReady", format!("Node {} status is now: NodeNotReady", key.name));
        }
        let tainted = self.write_taints(&node, now, wall).await;
        if transition == Transition::NotReady || health::is_unknown(&node) {
            self.mark_pods_not_ready(&key.name, wall).await?;
        }
        let check = match verdict {
            Verdict::Alive { check_in } => Some(check_in),
            Verdict::Silent => None,
        };
        Ok(Next::soonest([tainted?, check]))
    }
}

#[cfg(test)]
mod tests;
