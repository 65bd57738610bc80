//! One pod's scheduling cycle: filter, score, choose; and what to say when nothing fits.

use crate::plugins::{Prepared, Rejection};
use crate::state::{Cluster, NodeInfo, PodInfo};
use std::collections::BTreeMap;

/// Why a pod has no node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfit {
    pub(crate) nodes: usize,
    /// By node name. Empty when no node was looked at.
    pub(crate) rejections: BTreeMap<String, Rejection>,
    /// Holds for all nodes at once.
    pub(crate) for_all: Option<String>,
}

/// Chooses a node. Of nodes with equal scores, `tie` (any number; a random one spreads) picks one.
pub(crate) fn schedule(pod: &PodInfo, cluster: &Cluster, tie: usize) -> Result<String, Unfit> {
    let nodes = cluster.node_count();
    let prepared = Prepared::new(pod, cluster).map_err(|reason| Unfit {
        nodes,
        rejections: BTreeMap::new(),
        for_all: Some(reason),
    })?;
    // A pod that preemption made room for goes to its nominated node, if it fits there now.
    let nominated = cluster.nomination(pod.uid()).or_else(|| pod.nominated_node());
    if let Some(node) = nominated.and_then(|name| cluster.node(name))
        && prepared.filter(node).is_ok()
    {
        return Ok(node.name().to_owned());
    }
    let mut rejections = BTreeMap::new();
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    for node in cluster.nodes() {
        match prepared.filter(node) {
            Ok(()) => feasible.push(node),
            Err(rejection) => drop(rejections.insert(node.name().to_owned(), rejection)),
        }
    }
    let chosen = match feasible.as_slice() {
        [] => None,
        [only] => Some(*only),
        several => {
            let scores = prepared.scores(several);
            let best = scores.iter().copied().max().unwrap_or(0);
            let top: Vec<_> = several.iter().zip(&scores).filter(|(_, score)| **score == best).collect();
            top.get(tie % top.len().max(1)).map(|(node, _)| **node)
        }
    };
    chosen.map(|node| node.name().to_owned()).ok_or(Unfit { nodes, rejections, for_all: None })
}

impl Unfit {
    /// The text of the FailedScheduling event. `preemption` is why preemption did not help.
    pub(crate) fn message(&self, preemption: Option<&str>) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut message = match &self.for_all {
            Some(reason) => format!("0/{} nodes are available: {reason}.", self.nodes),
            None => {
                let reasons = self.rejections.values().flat_map(|rejection| &rejection.reasons).map(String::as_str);
                format!("0/{} nodes are available: {}.", self.nodes, histogram(reasons))
            }
        };
        if let Some(preemption) = preemption {
            message.push_str(&format!(" no new claims to deallocate, preemption: {preemption}"));
        }
        message
    }
}

/// Reasons with how often each was given, in upstream's order: sorted as text.
pub(crate) fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut lines: Vec<_> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    lines.sort();
    lines.join(", ")
}

#[cfg(test)]
mod tests;
