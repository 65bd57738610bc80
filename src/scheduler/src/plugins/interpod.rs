//! Pod affinity and anti-affinity, the pod's own and that of pods already placed.

use super::Rejection;
use crate::affinity::{Term, preferred, required_affinity, required_anti_affinity};
use crate::state::{Cluster, NodeInfo, PodInfo};
use std::collections::{HashMap, HashSet};

/// A topology domain: label key and value.
type Domain = (String, String);

/// Domains that the required terms allow and forbid, and weights of the preferred ones.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// For each affinity term: its key and the values where a pod matches.
    wanted: Vec<(String, HashSet<String>)>,
    /// No placed pod matches any term, and the pod itself matches all: it may be the first.
    may_be_first: bool,
    forbidden: HashSet<Domain>,
    /// Domains that pods already placed keep this pod out of.
    forbidden_by_others: HashSet<Domain>,
    weights: HashMap<Domain, i64>,
}

impl Prepared {
    /// `gone` are uids of pods to leave out.
    pub(super) fn new(pod: &PodInfo, cluster: &Cluster, gone: &[String]) -> Self {
        let affinity = required_affinity(pod);
        let anti_affinity = required_anti_affinity(pod);
        let preferences = preferred(pod);
        let mut prepared = Self {
            wanted: affinity.iter().map(|term| (term.topology_key.clone(), HashSet::new())).collect(),
            may_be_first: affinity.iter().all(|term| term.matches(pod, cluster)),
            forbidden: HashSet::new(),
            forbidden_by_others: HashSet::new(),
            weights: HashMap::new(),
        };
        for node in cluster.nodes() {
            for other in node.pods.iter().filter(|other| !gone.iter().any(|uid| uid == other.uid())) {
                prepared.count(pod, node, other, &affinity, &anti_affinity, &preferences, cluster);
            }
        }
        prepared
    }

    #[expect(clippy::too_many_arguments, reason = "the terms are read once for all pods")]
    fn count(
        &mut self,
        pod: &PodInfo,
        node: &NodeInfo,
        other: &PodInfo,
        affinity: &[Term],
        anti_affinity: &[Term],
        preferences: &[(Term, i64)],
        cluster: &Cluster,
    ) {
        let domain = |term: &Term| Some((term.topology_key.clone(), node.label(&term.topology_key)?.to_owned()));
        // All terms must match one pod: upstream counts only pods that match every affinity term.
        if !affinity.is_empty() && affinity.iter().all(|term| term.matches(other, cluster)) {
            for (term, (_, values)) in affinity.iter().zip(&mut self.wanted) {
                values.extend(node.label(&term.topology_key).map(str::to_owned));
            }
        }
        let repelled = anti_affinity.iter().filter(|term| term.matches(other, cluster));
        self.forbidden.extend(repelled.filter_map(domain));
        let has_affinity = other.spec().is_some_and(|spec| spec.affinity.is_some());
        if has_affinity {
            let theirs = required_anti_affinity(other);
            self.forbidden_by_others.extend(theirs.iter().filter(|term| term.matches(pod, cluster)).filter_map(domain));
        }
        for (term, weight) in preferences.iter().filter(|(term, _)| term.matches(other, cluster)) {
            if let Some(domain) = domain(term) {
                *self.weights.entry(domain).or_default() += weight;
            }
        }
        if has_affinity {
            for (term, weight) in preferred(other).iter().filter(|(term, _)| term.matches(pod, cluster)) {
                if let Some(domain) = domain(term) {
                    *self.weights.entry(domain).or_default() += weight;
                }
            }
        }
    }

    pub(super) fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let inside =
            |domains: &HashSet<Domain>| domains.iter().any(|(key, value)| node.label(key) == Some(value.as_str()));
        let in_wanted =
            self.wanted.iter().all(|(key, values)| node.label(key).is_some_and(|value| values.contains(value)));
        let nobody = self.wanted.iter().all(|(_, values)| values.is_empty());
        let has_keys = self.wanted.iter().all(|(key, _)| node.label(key).is_some());
        if !(in_wanted || nobody && self.may_be_first && has_keys) {
            return Err(Rejection::fixed("node(s) didn't match pod affinity rules"));
        }
        if inside(&self.forbidden) {
            return Err(Rejection::by_pods(vec!["node(s) didn't match pod anti-affinity rules".to_owned()]));
        }
        if inside(&self.forbidden_by_others) {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules".to_owned();
            return Err(Rejection::by_pods(vec![reason]));
        }
        Ok(())
    }

    pub(super) fn score(&self, _pod: &PodInfo, node: &NodeInfo, _cluster: &Cluster) -> i64 {
        let here = self.weights.iter().filter(|((key, value), _)| node.label(key) == Some(value.as_str()));
        here.map(|(_, weight)| weight).sum()
    }
}
