//! Topology spread constraints. Pods without any are spread over hosts by their owner, as a preference.

use super::Rejection;
use crate::affinity::{node_matches, untolerated};
use crate::state::{Cluster, NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use objects::selector::{Operator, Requirement, Selector};
use std::collections::HashMap;

#[derive(Debug, Clone)]
pub(super) struct Prepared {
    constraints: Vec<Constraint>,
    /// For pods without constraints: how many of the same owner each node has.
    siblings: HashMap<String, i64>,
}

#[derive(Debug, Clone)]
struct Constraint {
    key: String,
    max_skew: i64,
    required: bool,
    min_domains: usize,
    counts_itself: bool,
    /// Matching pods in each domain that counts.
    counts: HashMap<String, i64>,
}

impl Constraint {
    fn new(constraint: &TopologySpreadConstraint, pod: &PodInfo, cluster: &Cluster, gone: &[String]) -> Self {
        let selector = selector(constraint, pod);
        let key = constraint.topology_key.clone();
        let mut counts = HashMap::new();
        for node in cluster.nodes().filter(|node| counts_domain(constraint, pod, node)) {
            let Some(value) = node.label(&key) else { continue };
            let count = counts.entry(value.to_owned()).or_insert(0);
            let alive = node.pods.iter().filter(|other| {
                other.namespace() == pod.namespace()
                    && !other.is_terminating()
                    && !gone.iter().any(|uid| uid == other.uid())
                    && selector.matches_labels(other.labels())
            });
            *count += i64::try_from(alive.count()).unwrap_or(i64::MAX);
        }
        Self {
            key,
            max_skew: i64::from(constraint.max_skew),
            required: constraint.when_unsatisfiable == "DoNotSchedule",
            min_domains: constraint.min_domains.and_then(|least| usize::try_from(least).ok()).unwrap_or(1),
            counts_itself: selector.matches_labels(pod.labels()),
            counts,
        }
    }

    /// The smallest count of any domain; zero while there are fewer domains than wanted.
    fn least(&self) -> i64 {
        if self.counts.len() < self.min_domains { 0 } else { self.counts.values().copied().min().unwrap_or(0) }
    }
}

fn selector(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Selector {
    let selector = Selector::from_label_selector(constraint.label_selector.as_ref());
    let selector = selector.unwrap_or_else(|_| Selector::nothing());
    let label = |key: &String| pod.labels().and_then(|labels| labels.get(key)).cloned();
    let keys = constraint.match_label_keys.iter().flatten().filter_map(|key| Some((key, label(key)?)));
    let mut more: Vec<_> =
        keys.filter_map(|(key, value)| Requirement::new(key, Operator::In, vec![value]).ok()).collect();
    if more.is_empty() || selector.is_nothing() {
        return selector;
    }
    more.extend(selector.requirements().iter().cloned());
    Selector::new(more)
}

/// Whether a node's domain counts at all, by the constraint's inclusion policies.
fn counts_domain(constraint: &TopologySpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let Some(spec) = pod.spec() else { return true };
    let affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    (!affinity || node_matches(spec, node))
        && (!taints || untolerated(spec, node, &["NoSchedule", "NoExecute"]).next().is_none())
}

/// The controller that owns a pod.
fn owner_uid(pod: &PodInfo) -> Option<&str> {
    let owners = pod.pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

impl Prepared {
    pub(super) fn new(pod: &PodInfo, cluster: &Cluster, gone: &[String]) -> Self {
        let constraints = pod.spec().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
        let constraints: Vec<_> =
            constraints.iter().map(|constraint| Constraint::new(constraint, pod, cluster, gone)).collect();
        let mut siblings = HashMap::new();
        if let (true, Some(owner)) = (constraints.is_empty(), owner_uid(pod)) {
            for node in cluster.nodes() {
                let same = node.pods.iter().filter(|other| owner_uid(other) == Some(owner)).count();
                siblings.insert(node.name().to_owned(), i64::try_from(same).unwrap_or(i64::MAX / 100));
            }
        }
        Self { constraints, siblings }
    }

    pub(super) fn filter(&self, _pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let reason = "node(s) didn't match pod topology spread constraints";
        for constraint in self.constraints.iter().filter(|constraint| constraint.required) {
            let Some(value) = node.label(&constraint.key) else {
                return Err(Rejection::fixed(&format!("{reason} (missing required label)")));
            };
            let here = constraint.counts.get(value).copied().unwrap_or(0);
            let skew = here + i64::from(constraint.counts_itself) - constraint.least();
            if skew > constraint.max_skew {
                return Err(Rejection::by_pods(vec![reason.to_owned()]));
            }
        }
        Ok(())
    }

    /// Pods that are in the node's domains already: fewer is better.
    pub(super) fn score(&self, _pod: &PodInfo, node: &NodeInfo) -> i64 {
        if self.constraints.is_empty() {
            return self.siblings.get(node.name()).copied().unwrap_or(0);
        }
        let here = self.constraints.iter().filter(|constraint| !constraint.required);
        here.map(|constraint| {
            let value = node.label(&constraint.key);
            let most = constraint.counts.values().copied().max().unwrap_or(0);
            value.map_or(most + 1, |value| constraint.counts.get(value).copied().unwrap_or(0))
        })
        .sum()
    }
}
