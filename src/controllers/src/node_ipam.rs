//! Gives each node its share of the cluster's pod addresses, once: a node keeps its range while it exists.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use client::{EventRecorder, EventType, Informer, ObjectKey};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    events: EventRecorder,
    /// Ranges handed out and not yet seen on the node, by node name. Guards against giving one out twice.
    promised: Mutex<HashMap<String, IpNet>>,
}

pub(crate) fn start(context: &Context) {
    let nodes = context.informers.of::<Node>();
    let queue = context.queue("node-ipam");
    context.feed_own(&nodes, &queue);
    let ready = vec![synced(&nodes)];
    let events = context.recorder("cidrAllocator");
    let controller = Controller { context: context.clone(), nodes, events, promised: Mutex::default() };
    context.run(queue, controller, ready);
}

/// The first of the cluster's ranges that is not in `taken`, nor overlaps one that is.
fn allocate(cluster: IpNet, mask: u8, taken: &HashSet<IpNet>) -> Option<IpNet> {
    let width = if cluster.addr().is_ipv4() { 32 } else { 128 };
    let bits = mask.checked_sub(cluster.prefix_len())?;
    let step = width - u32::from(mask);
    // A /8 of /24s is the most that is ever searched.
    let count = 1_u128 << u32::from(bits).min(16);
    let first = to_number(cluster.network());
    let ranges = (0..count).filter_map(|i| IpNet::new(to_address(first + (i << step), cluster), mask).ok());
    let free = |range: &IpNet| {
        !taken.contains(range)
            && !taken.iter().any(|other| other.contains(&range.addr()) || range.contains(&other.addr()))
    };
    ranges.into_iter().find(free)
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn to_address(number: u128, like: IpNet) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if like.addr().is_ipv4() => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

fn ranges_of(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let texts = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    texts.filter_map(|text| text.parse().ok()).collect()
}

impl Controller {
    /// Promises a range to a node that has none.
    fn promise(&self, name: &str) -> Option<IpNet> {
        let nodes = self.nodes.list();
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let bare =
            |node: &str| nodes.iter().any(|n| n.metadata.name.as_deref() == Some(node) && ranges_of(n).is_empty());
        promised.retain(|node, _| bare(node));
        if let Some(range) = promised.get(name) {
            return Some(*range);
        }
        let taken = nodes.iter().flat_map(|node| ranges_of(node)).chain(promised.values().copied()).collect();
        let range = allocate(self.context.config.cluster_cidr, self.context.config.node_cidr_mask, &taken)?;
        promised.insert(name.to_owned(), range);
        Some(range)
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(node) = self.nodes.get_key(&key) else { return Ok(Next::Done) };
        if !ranges_of(&node).is_empty() {
            return Ok(Next::Done);
        }
        let Some(range) = self.promise(&key.name) else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.events.event(&*node, EventType::Normal, "CIDRNotAvailable", message);
            return Err(ReconcileError::Blocked("no pod address range is left".to_owned()));
        };
        let range = range.to_string();
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": range, "podCIDRs": [range]}});
        let api = self.context.cluster_api::<Node>();
        client::retry::optional(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await)?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use client::Informers;
    use client::testing::FakeApi;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::Config;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_given_in_order_around_those_taken() {
        let cluster = net("10.42.0.0/16");
        assert_eq!(allocate(cluster, 24, &HashSet::new()), Some(net("10.42.0.0/24")));
        let taken = HashSet::from([net("10.42.0.0/24"), net("10.42.2.0/23")]);
        assert_eq!(allocate(cluster, 24, &taken), Some(net("10.42.1.0/24")));
        assert_eq!(allocate(net("10.42.0.0/24"), 24, &HashSet::from([net("10.42.0.0/24")])), None);
        assert_eq!(allocate(net("fd00::/48"), 64, &HashSet::from([net("fd00::/64")])), Some(net("fd00:0:0:1::/64")));
    }

    #[tokio::test]
    async fn nodes_that_come_at_once_get_different_ranges() {
        let fake = FakeApi::new();
        for i in 0..10 {
            let metadata = ObjectMeta { name: Some(format!("n{i}")), ..ObjectMeta::default() };
            fake.put(&Node { metadata, ..Node::default() }).unwrap();
        }
        let config = Config::new(String::new(), net("10.42.0.0/16"));
        let context = Context::new(fake.client(), Informers::new(fake.client()), config, CancellationToken::new());
        super::start(&context);
        let ranges = |f: &FakeApi| {
            let nodes: Vec<Node> = f.list();
            let ranges: HashSet<IpNet> = nodes.iter().flat_map(ranges_of).collect();
            (nodes.iter().all(|n| !ranges_of(n).is_empty())).then_some(ranges)
        };
        assert_eq!(fake.wait_for(ranges).await.expect("all have ranges").len(), 10);
    }
}
