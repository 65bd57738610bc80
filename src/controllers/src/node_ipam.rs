//! Gives every node its share of the cluster's pod addresses. What is taken is read from the nodes themselves each
//! time, so there is no state to restore after a restart and nothing to release when a node goes; only assignments
//! that the informer does not show yet are kept here.

mod ranges;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::retry::is_not_found;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use self::ranges::Pool;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::queue::Queue;
use crate::runner::{Next, Reconcile};

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    ledger: Arc<Mutex<Ledger>>,
    events: EventRecorder,
}

/// What the nodes in the store do not tell.
struct Ledger {
    pool: Pool,
    /// Assignments that the informer does not show yet, by node name.
    given: HashMap<String, Given>,
    /// Nodes that found nothing left; they are tried again when a node goes.
    waiting: HashSet<ObjectKey>,
    /// Where the next search begins: ranges are reused as late as possible.
    cursor: u128,
}

struct Given {
    uid: String,
    range: IpNet,
    /// The API server has it: only the informer is late.
    written: bool,
}

/// What is to be done for a node without a range.
#[derive(Debug, PartialEq, Eq)]
enum Share {
    Write(IpNet),
    Written,
    NothingLeft,
}

pub(crate) fn start(context: &Context) {
    let nodes = context.informers.of::<Node>();
    let queue = context.queue("node-ipam");
    let pool = Pool::new(context.config.cluster_cidr, context.config.node_cidr_mask);
    let ledger = Ledger { pool, given: HashMap::new(), waiting: HashSet::new(), cursor: 0 };
    let ledger = Arc::new(Mutex::new(ledger));
    feed(context, &nodes, &queue, ledger.clone());
    let events = context.recorder("cidrAllocator");
    let controller = Controller { context: context.clone(), nodes: nodes.clone(), ledger, events };
    context.run(queue, controller, vec![synced(&nodes)]);
}

fn feed(context: &Context, nodes: &Informer<Node>, queue: &Queue, ledger: Arc<Mutex<Ledger>>) {
    context.feed(nodes, queue, move |change| match change {
        Change::Added(node) | Change::Modified { new: node, .. } => {
            if range_of(node).is_none() {
                vec![ObjectKey::of(&**node)]
            } else {
                Vec::new()
            }
        }
        Change::Deleted(_) => lock(&ledger).waiting.drain().collect(),
    });
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

fn range_of(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|range| !range.is_empty())
}

fn uid_of(node: &Node) -> &str {
    node.metadata.uid.as_deref().unwrap_or_default()
}

impl Ledger {
    /// The range for `node`: the same one until it is written.
    fn assign(&mut self, node: &Node, nodes: &[Arc<Node>]) -> Share {
        let key = ObjectKey::of(node);
        let unwritten: HashMap<&str, &str> = nodes
            .iter()
            .filter(|n| range_of(n).is_none())
            .map(|n| (n.metadata.name.as_deref().unwrap_or_default(), uid_of(n)))
            .collect();
        self.given.retain(|name, given| unwritten.get(name.as_str()) == Some(&given.uid.as_str()));
        match self.given.get(&key.name) {
            Some(Given { written: true, .. }) => return Share::Written,
            Some(given) => return Share::Write(given.range),
            None => {}
        }
        let listed = nodes.iter().filter_map(|n| n.spec.as_ref());
        let listed = listed.flat_map(|s| s.pod_cidr.iter().chain(s.pod_cidrs.iter().flatten()));
        let taken = listed.filter_map(|range| range.parse().ok()).chain(self.given.values().map(|given| given.range));
        let Some((index, range)) = self.pool.first_free(taken, self.cursor) else {
            self.waiting.insert(key);
            return Share::NothingLeft;
        };
        self.cursor = index + 1;
        self.given.insert(key.name, Given { uid: uid_of(node).to_owned(), range, written: false });
        Share::Write(range)
    }

    fn wrote(&mut self, node: &Node) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if let Some(given) = self.given.get_mut(name).filter(|given| given.uid == uid_of(node)) {
            given.written = true;
        }
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(node) = self.nodes.get_key(&key).filter(|node| range_of(node).is_none()) else {
            return Ok(Next::Done);
        };
        let assigned = {
            let mut ledger = lock(&self.ledger);
            ledger.assign(&node, &self.nodes.list())
        };
        let range = match assigned {
            Share::Write(range) => range,
            Share::Written => return Ok(Next::Done),
            Share::NothingLeft => {
                tracing::warn!(node = %key, "no pod address range is left for the node");
                let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
                self.events.event(&*node, EventType::Normal, "CIDRNotAvailable", message);
                return Ok(Next::Done);
            }
        };
        let range = range.to_string();
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": range, "podCIDRs": [range]}});
        let api = self.context.cluster_api::<Node>();
        match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {
                lock(&self.ledger).wrote(&node);
                tracing::info!(node = %key, %range, "pod address range assigned");
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => {
                let message = format!("Node {} status is now: CIDRAssignmentFailed", key.name);
                self.events.event(&*node, EventType::Normal, "CIDRAssignmentFailed", message);
                return Err(error.into());
            }
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests;
