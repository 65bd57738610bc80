//! The taints that a node's conditions and specification ask for. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::health::conditions_of;
use crate::conditions;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";
pub(super) const NO_EXECUTE: &str = "NoExecute";

/// Condition, status, taint against scheduling.
const FROM_CONDITIONS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

pub(super) fn taints_of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// The taint that evicts, for a node that is not ready.
pub(super) fn eviction_key(node: &Node) -> Option<&'static str> {
    match conditions::find(conditions_of(node), "Ready")?.status.as_str() {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    }
}

fn is_eviction(taint: &Taint) -> bool {
    taint.effect == NO_EXECUTE && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

/// Whether the node has a taint of ours that evicts already.
pub(super) fn evicts(node: &Node) -> bool {
    taints_of(node).iter().any(is_eviction)
}

fn is_ours(taint: &Taint) -> bool {
    let known = || FROM_CONDITIONS.iter().any(|(_, _, key)| taint.key == *key) || taint.key == UNSCHEDULABLE;
    is_eviction(taint) || (taint.effect == NO_SCHEDULE && known())
}

fn wanted(node: &Node, evict: bool) -> Vec<(&'static str, &'static str)> {
    let all = conditions_of(node);
    let holds = |type_: &str, status: &str| conditions::find(all, type_).is_some_and(|c| c.status == status);
    let from_conditions = FROM_CONDITIONS.iter().filter(|(type_, status, _)| holds(type_, status));
    let mut wanted: Vec<_> = from_conditions.map(|(_, _, key)| (*key, NO_SCHEDULE)).collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    wanted.extend(eviction_key(node).filter(|_| evict).map(|key| (key, NO_EXECUTE)));
    wanted
}

/// The node's taints as they are to be; `None` if they are so. Those of others stay.
pub(super) fn reconciled(node: &Node, evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let wanted = wanted(node, evict);
    let is = |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let old = taints_of(node);
    let mut taints: Vec<Taint> =
        old.iter().filter(|taint| !is_ours(taint) || wanted.iter().any(|w| is(taint, w))).cloned().collect();
    for want in wanted.iter().filter(|want| !old.iter().any(|taint| is(taint, want))) {
        let (key, effect) = (want.0.to_owned(), want.1.to_owned());
        taints.push(Taint { key, effect, value: None, time_added: Some(Time(now)) });
    }
    (taints != old).then_some(taints)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeCondition, NodeSpec, NodeStatus};

    use super::*;
    use crate::pods::fixture::at;

    fn node(type_: &str, status: &str, taints: &[(&str, &str)]) -> Node {
        let condition = NodeCondition { type_: type_.into(), status: status.into(), ..NodeCondition::default() };
        let taint =
            |(key, effect): &(&str, &str)| Taint { key: (*key).into(), effect: (*effect).into(), ..Taint::default() };
        Node {
            spec: Some(NodeSpec { taints: Some(taints.iter().map(taint).collect()), ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() }),
            ..Node::default()
        }
    }

    fn names(taints: Option<Vec<Taint>>) -> Vec<String> {
        taints.into_iter().flatten().map(|t| format!("{}:{}", t.key, t.effect)).collect()
    }

    #[test]
    fn conditions_become_taints_and_other_taints_stay() {
        let node = node("MemoryPressure", "True", &[("mine", "NoSchedule")]);
        let expected = ["mine:NoSchedule", "node.kubernetes.io/memory-pressure:NoSchedule"];
        assert_eq!(names(reconciled(&node, false, at(0))), expected);
    }

    #[test]
    fn a_silent_node_evicts_only_when_allowed() {
        let node = node("Ready", "Unknown", &[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]);
        let held = names(reconciled(&node, false, at(0)));
        assert_eq!(held, ["node.kubernetes.io/unreachable:NoSchedule"]);
        let evicting = names(reconciled(&node, true, at(0)));
        assert_eq!(evicting, ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]);
    }

    #[test]
    fn a_ready_node_is_cleaned_and_a_cordoned_one_tainted() {
        let taints = [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")];
        let mut ready = node("Ready", "True", &taints);
        assert_eq!(reconciled(&ready, false, at(0)), Some(Vec::new()));
        ready.spec.as_mut().unwrap().taints = None;
        assert_eq!(reconciled(&ready, false, at(0)), None);
        ready.spec.as_mut().unwrap().unschedulable = Some(true);
        assert_eq!(names(reconciled(&ready, false, at(0))), ["node.kubernetes.io/unschedulable:NoSchedule"]);
    }
}
