//! What the cycle decides over: nodes, the pods on each, and the objects that volumes and affinity refer to.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec};
use k8s_openapi::api::storage::v1::StorageClass;
use objects::quantity::Quantity;
use objects::resources::{self, Amounts};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A pod as the scheduler sees it, with what it needs computed once.
#[derive(Debug, Clone)]
pub(crate) struct PodInfo {
    pub(crate) pod: Arc<Pod>,
    pub(crate) requests: Amounts,
    /// With upstream's stand-ins (100m, 200Mi) for containers that ask for nothing: what scores count.
    pub(crate) scored: Amounts,
}

const STAND_IN_CPU_MILLIS: i64 = 100;
const STAND_IN_MEMORY: i64 = 200 * 1024 * 1024;

impl PodInfo {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let requests = pod.spec.as_ref().map(resources::pod_requests).unwrap_or_default();
        let mut scored = requests.clone();
        scored.entry("cpu".into()).or_insert(Quantity::from_millis(STAND_IN_CPU_MILLIS));
        scored.entry("memory".into()).or_insert(Quantity::new(STAND_IN_MEMORY, objects::quantity::Format::BinarySi));
        Self { pod, requests, scored }
    }

    pub(crate) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.pod.metadata.labels.as_ref()
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(crate) fn priority(&self) -> i32 {
        self.spec().and_then(|spec| spec.priority).unwrap_or(0)
    }

    pub(crate) fn created(&self) -> Option<Timestamp> {
        self.pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// The node that preemption chose for it, as its status says.
    pub(crate) fn nominated_node(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref().filter(|node| !node.is_empty())
    }

    /// Since when it runs; of two equals the older one is the more important.
    pub(crate) fn started(&self) -> Option<Timestamp> {
        let started = self.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        started.map(|time| time.0).or_else(|| self.created())
    }

    /// Ports of the host it takes: (address, protocol, port).
    pub(crate) fn host_ports(&self) -> impl Iterator<Item = (&str, &str, i32)> {
        let containers = self.spec().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        containers.iter().flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            Some((address, port.protocol.as_deref().unwrap_or("TCP"), host_port))
        })
    }
}

/// A node and the pods that are, or are about to be, on it.
#[derive(Debug, Clone)]
pub(crate) struct NodeInfo {
    pub(crate) node: Arc<Node>,
    pub(crate) pods: Vec<Arc<PodInfo>>,
    pub(crate) requested: Amounts,
    pub(crate) scored: Amounts,
}

impl NodeInfo {
    fn new(node: Arc<Node>) -> Self {
        Self { node, pods: Vec::new(), requested: Amounts::new(), scored: Amounts::new() }
    }

    pub(crate) fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.metadata.labels.as_ref()
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    pub(crate) fn allocatable(&self, resource: &str) -> Quantity {
        let status = self.node.status.as_ref();
        let amounts = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        amounts.and_then(|amounts| amounts.get(resource)).map_or(Quantity::ZERO, Quantity::of)
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        resources::add(&mut self.requested, &pod.requests);
        resources::add(&mut self.scored, &pod.scored);
        self.pods.push(pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        let Some(index) = self.pods.iter().position(|pod| pod.uid() == uid) else { return };
        let pod = self.pods.swap_remove(index);
        let subtract = |sum: &mut Amounts, amounts: &Amounts| {
            for (name, amount) in amounts {
                *sum.entry(name.clone()).or_default() -= *amount;
            }
        };
        subtract(&mut self.requested, &pod.requests);
        subtract(&mut self.scored, &pod.scored);
    }
}

/// The whole state. Nodes are ordered by name, so that equal scores are settled the same way everywhere.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    nodes: BTreeMap<String, NodeInfo>,
    /// Node of each pod that has one, by uid.
    placed: HashMap<String, String>,
    /// Pods on nodes that are not known (yet).
    homeless: HashMap<String, Vec<Arc<PodInfo>>>,
    /// Pods for which preemption makes room, by uid, with the node: nobody of less importance may take that room.
    nominated: HashMap<String, (String, Arc<PodInfo>)>,
    pub(crate) namespaces: HashMap<String, Arc<Namespace>>,
    pub(crate) volumes: HashMap<String, Arc<PersistentVolume>>,
    pub(crate) claims: HashMap<(String, String), Arc<PersistentVolumeClaim>>,
    pub(crate) classes: HashMap<String, Arc<StorageClass>>,
}

impl Cluster {
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }

    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        match self.nodes.get_mut(&name) {
            Some(info) => info.node = node,
            None => {
                let mut info = NodeInfo::new(node);
                self.homeless.remove(&name).into_iter().flatten().for_each(|pod| info.add(pod));
                self.nodes.insert(name, info);
            }
        }
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.remove(name)
            && !info.pods.is_empty()
        {
            self.homeless.insert(name.to_owned(), info.pods);
        }
    }

    /// Counts a pod on a node; a pod counted before is counted anew.
    pub(crate) fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.forget(pod.uid());
        self.withdraw(pod.uid());
        self.placed.insert(pod.uid().to_owned(), node.to_owned());
        match self.nodes.get_mut(node) {
            Some(info) => info.add(pod),
            None => self.homeless.entry(node.to_owned()).or_default().push(pod),
        }
    }

    /// Counts a pod no longer.
    pub(crate) fn forget(&mut self, uid: &str) {
        let Some(node) = self.placed.remove(uid) else { return };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.remove(uid);
        } else if let Some(pods) = self.homeless.get_mut(&node) {
            pods.retain(|pod| pod.uid() != uid);
        }
    }

    /// Keeps room on a node for a pod that waits until others have left.
    pub(crate) fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.nominated.insert(pod.uid().to_owned(), (node.to_owned(), pod));
    }

    /// Keeps room for a pod no longer.
    pub(crate) fn withdraw(&mut self, uid: &str) -> bool {
        self.nominated.remove(uid).is_some()
    }

    /// The node on which room is kept for a pod.
    pub(crate) fn nomination(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(node, _)| node.as_str())
    }

    /// Pods other than this one that room is kept for on a node.
    pub(crate) fn nominated_on<'a>(&'a self, node: &'a str, but: &'a str) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        let others = self.nominated.values().filter(move |(at, pod)| at == node && pod.uid() != but);
        others.map(|(_, pod)| pod)
    }

    pub(crate) fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }
}
