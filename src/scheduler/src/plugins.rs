//! The plugins: filters say why a node cannot take a pod, scores which of the others is better.
//!
//! A filter's reason is upstream's, word for word: clients and people read it in FailedScheduling events.

mod interpod;
mod nodes;
mod spread;
mod volumes;

use crate::state::{Cluster, NodeInfo, PodInfo};

pub(crate) use volumes::waiting_claims;

/// Why a node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reasons: Vec<String>,
    /// Whether removing pods from the node could help.
    pub(crate) preemptable: bool,
}

impl Rejection {
    fn fixed(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], preemptable: false }
    }

    fn by_pods(reasons: Vec<String>) -> Self {
        Self { reasons, preemptable: true }
    }
}

/// What is computed once per pod, for all nodes.
pub(crate) struct Prepared<'a> {
    pub(crate) pod: &'a PodInfo,
    pub(crate) cluster: &'a Cluster,
    interpod: interpod::Prepared,
    spread: spread::Prepared,
    volumes: volumes::Prepared<'a>,
}

impl<'a> Prepared<'a> {
    /// `Err` says why no node at all can take the pod.
    pub(crate) fn new(pod: &'a PodInfo, cluster: &'a Cluster) -> Result<Self, String> {
        Ok(Self {
            pod,
            cluster,
            interpod: interpod::Prepared::new(pod, cluster, &[]),
            spread: spread::Prepared::new(pod, cluster, &[]),
            volumes: volumes::Prepared::new(pod, cluster)?,
        })
    }

    /// The same, as if the pods with these uids were gone.
    pub(crate) fn without(&self, gone: &[String]) -> Self {
        Self {
            pod: self.pod,
            cluster: self.cluster,
            interpod: interpod::Prepared::new(self.pod, self.cluster, gone),
            spread: spread::Prepared::new(self.pod, self.cluster, gone),
            volumes: self.volumes.clone(),
        }
    }

    /// Whether the node can take the pod, also once those are there that preemption makes room for; pods of less
    /// importance do not count.
    pub(crate) fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let guests = self.cluster.nominated_on(node.name(), self.pod.uid());
        let mut guests = guests.filter(|guest| guest.priority() >= self.pod.priority()).peekable();
        if guests.peek().is_some() {
            let mut crowded = node.clone();
            guests.for_each(|guest| crowded.add(guest.clone()));
            self.filter_as_is(&crowded)?;
        }
        self.filter_as_is(node)
    }

    /// Runs the filters in upstream's order; the first that rejects says why.
    fn filter_as_is(&self, node: &NodeInfo) -> Result<(), Rejection> {
        nodes::unschedulable(self.pod, node)?;
        nodes::name(self.pod, node)?;
        nodes::taints(self.pod, node)?;
        nodes::affinity(self.pod, node)?;
        nodes::ports(self.pod, node)?;
        nodes::fit(self.pod, node)?;
        self.volumes.filter(node)?;
        self.spread.filter(self.pod, node)?;
        self.interpod.filter(node)
    }

    /// Scores of `nodes`, each plugin's brought to 0…100 and weighted as upstream does.
    pub(crate) fn scores(&self, nodes: &[&NodeInfo]) -> Vec<i64> {
        let per_node = |score: &dyn Fn(&NodeInfo) -> i64| nodes.iter().map(|node| score(node)).collect::<Vec<_>>();
        let weighted = [
            (per_node(&|node| nodes::least_allocated(self.pod, node)), 1),
            (per_node(&|node| nodes::balanced(self.pod, node)), 1),
            (per_node(&|node| nodes::image_locality(self.pod, node, nodes.len())), 1),
            (normalized(per_node(&|node| nodes::preferred_affinity(self.pod, node)), false), 2),
            (normalized(per_node(&|node| nodes::intolerable_preferences(self.pod, node)), true), 3),
            (stretched(per_node(&|node| self.interpod.score(self.pod, node, self.cluster))), 2),
            (normalized(per_node(&|node| self.spread.score(self.pod, node)), true), 2),
        ];
        let mut totals = vec![0; nodes.len()];
        for (scores, weight) in weighted {
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score * weight);
        }
        totals
    }
}

/// Scales so that the largest becomes 100; reversed, the smallest is the best.
fn normalized(scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    let scale = |score: i64| if most == 0 { 0 } else { score * 100 / most };
    scores.into_iter().map(|score| if reverse { 100 - scale(score) } else { scale(score) }).collect()
}

/// Scales so that the smallest becomes 0 and the largest 100.
fn stretched(scores: Vec<i64>) -> Vec<i64> {
    let (Some(least), Some(most)) = (scores.iter().copied().min(), scores.iter().copied().max()) else { return scores };
    let range = most - least;
    scores.into_iter().map(|score| if range == 0 { 0 } else { (score - least) * 100 / range }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_brought_to_one_scale() {
        assert_eq!(normalized(vec![0, 5, 10], false), [0, 50, 100]);
        assert_eq!(normalized(vec![0, 5, 10], true), [100, 50, 0]);
        assert_eq!(normalized(vec![0, 0], true), [100, 100]);
        assert_eq!(stretched(vec![-10, 0, 10]), [0, 50, 100]);
        assert_eq!(stretched(vec![3, 3]), [0, 0]);
    }
}
