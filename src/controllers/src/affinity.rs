//! Whether a node is one that a pod's node selector and required node affinity ask for. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// Preferences aside: only what is required.
pub(crate) fn selects(spec: &PodSpec, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let plain = spec.node_selector.iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
    let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = required.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    plain && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| term_matches(term, node, labels)))
}

/// A term without requirements matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = |field: &str| node.metadata.name.as_deref().filter(|_| field == "metadata.name");
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| holds(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| holds(r, name(&r.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |value: &str| requirement.values.iter().flatten().any(|v| v == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = requirement.values.iter().flatten().next().and_then(|v| number(v));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(operator: &str, values: &[&str]) -> bool {
        let node = serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}}}));
        let key = if operator == "Gt" { "cores" } else { "disk" };
        let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let spec = json!({"containers": [], "affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}});
        selects(&serde_json::from_value(spec).unwrap(), &node.unwrap())
    }

    #[test]
    fn operators_mean_what_they_say() {
        assert!(matches("In", &["hdd", "ssd"]) && !matches("In", &["hdd"]));
        assert!(matches("NotIn", &["hdd"]) && !matches("NotIn", &["ssd"]));
        assert!(matches("Exists", &[]) && !matches("DoesNotExist", &[]));
        assert!(matches("Gt", &["4"]) && !matches("Gt", &["8"]));
    }
}
