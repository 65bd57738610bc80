//! Matching: node selectors, taints, and the terms of pod affinity.

use crate::state::{Cluster, NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Taint, Toleration,
};
use objects::selector::{Operator, Requirement, Selector};
use std::collections::BTreeSet;

/// Whether a node satisfies a pod's `nodeSelector` and required node affinity.
pub(crate) fn node_matches(spec: &PodSpec, node: &NodeInfo) -> bool {
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value.as_str()));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| selector_matches(selector, node))
}

/// Terms are alternatives; a term without requirements matches nothing.
pub(crate) fn selector_matches(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

pub(crate) fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = |key: &str| (key == "metadata.name").then(|| node.name());
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|one| requirement_matches(one, node.label(&one.key)))
        && fields.iter().all(|one| requirement_matches(one, name(&one.key)))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return false,
    };
    let values = requirement.values.clone().unwrap_or_default();
    Requirement::new(&requirement.key, operator, values).is_ok_and(|requirement| requirement.matches(value))
}

/// Whether any toleration covers a taint.
pub(crate) fn tolerates(spec: &PodSpec, taint: &Taint) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| covers(toleration, taint))
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let taint_value = taint.value.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    filled(&toleration.effect).is_none_or(|effect| effect == taint.effect)
        && filled(&toleration.key).is_none_or(|key| key == taint.key)
        && match toleration.operator.as_deref().unwrap_or("Equal") {
            "Exists" => true,
            "Gt" => compare(taint_value, value).is_some_and(std::cmp::Ordering::is_gt),
            "Lt" => compare(taint_value, value).is_some_and(std::cmp::Ordering::is_lt),
            _ => filled(&toleration.key).is_some() && value == taint_value,
        }
}

fn compare(a: &str, b: &str) -> Option<std::cmp::Ordering> {
    Some(a.parse::<i64>().ok()?.cmp(&b.parse().ok()?))
}

/// The taints of a node that a pod does not tolerate, of the given effects.
pub(crate) fn untolerated<'a>(
    spec: &'a PodSpec,
    node: &'a NodeInfo,
    effects: &'a [&str],
) -> impl Iterator<Item = &'a Taint> {
    let taints = node.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(move |taint| effects.contains(&taint.effect.as_str()) && !tolerates(spec, taint))
}

/// A term of pod (anti-)affinity, ready to match.
#[derive(Debug)]
pub(crate) struct Term {
    selector: Selector,
    namespaces: BTreeSet<String>,
    /// Matches labels of further namespaces; `None` where the term names none.
    namespace_selector: Option<Selector>,
    pub(crate) topology_key: String,
}

impl Term {
    /// `owner` is the pod that carries the term. A selector that cannot be read matches nothing.
    pub(crate) fn new(term: &PodAffinityTerm, owner: &PodInfo) -> Self {
        let read = |selector| Selector::from_label_selector(selector).unwrap_or_else(|_| Selector::nothing());
        let mut selector = read(term.label_selector.as_ref());
        let label = |key: &String| owner.labels().and_then(|labels| labels.get(key)).cloned();
        let mut more = Vec::new();
        for (keys, operator) in [(&term.match_label_keys, Operator::In), (&term.mismatch_label_keys, Operator::NotIn)] {
            let values = keys.iter().flatten().filter_map(|key| Some((key, label(key)?)));
            more.extend(values.filter_map(|(key, value)| Requirement::new(key, operator, vec![value]).ok()));
        }
        if !more.is_empty() && !selector.is_nothing() {
            more.extend(selector.requirements().iter().cloned());
            selector = Selector::new(more);
        }
        let mut namespaces: BTreeSet<_> = term.namespaces.iter().flatten().cloned().collect();
        let namespace_selector = term.namespace_selector.as_ref().map(|selector| read(Some(selector)));
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.insert(owner.namespace().to_owned());
        }
        Self { selector, namespaces, namespace_selector, topology_key: term.topology_key.clone() }
    }

    pub(crate) fn matches(&self, pod: &PodInfo, cluster: &Cluster) -> bool {
        let by_label = || {
            let selector = self.namespace_selector.as_ref()?;
            let namespace = cluster.namespaces.get(pod.namespace())?;
            Some(selector.matches_labels(namespace.metadata.labels.as_ref()))
        };
        (self.namespaces.contains(pod.namespace()) || by_label() == Some(true))
            && self.selector.matches_labels(pod.labels())
    }
}

/// Required affinity terms of a pod.
pub(crate) fn required_affinity(pod: &PodInfo) -> Vec<Term> {
    let affinity = pod.spec().and_then(|spec| spec.affinity.as_ref()?.pod_affinity.as_ref());
    let terms = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref());
    terms.unwrap_or_default().iter().map(|term| Term::new(term, pod)).collect()
}

/// Required anti-affinity terms of a pod.
pub(crate) fn required_anti_affinity(pod: &PodInfo) -> Vec<Term> {
    let affinity = pod.spec().and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
    let terms = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref());
    terms.unwrap_or_default().iter().map(|term| Term::new(term, pod)).collect()
}

/// Preferred terms of a pod with their weights; those of anti-affinity count negative.
pub(crate) fn preferred(pod: &PodInfo) -> Vec<(Term, i64)> {
    let Some(affinity) = pod.spec().and_then(|spec| spec.affinity.as_ref()) else { return Vec::new() };
    let near = affinity.pod_affinity.as_ref();
    let near = near.and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_deref());
    let far = affinity.pod_anti_affinity.as_ref();
    let far = far.and_then(|far| far.preferred_during_scheduling_ignored_during_execution.as_deref());
    let near = near.unwrap_or_default().iter().map(|term| (term, 1));
    let far = far.unwrap_or_default().iter().map(|term| (term, -1));
    let weigh = |term: &PodAffinityTerm, weight: i32, sign: i64| (Term::new(term, pod), i64::from(weight) * sign);
    near.chain(far).map(|(term, sign)| weigh(&term.pod_affinity_term, term.weight, sign)).collect()
}
