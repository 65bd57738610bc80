//! What a node's silence and conditions mean: conditions set to Unknown, taints, and which pods have to go when.
//! Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::conditions;

/// A node that was silent for this long is not known to be ready.
pub(super) const GRACE: SignedDuration = SignedDuration::from_secs(40);
/// A node's pods go once all conditions were Unknown; these are the ones the kubelet posts.
const POSTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NO_SCHEDULE: &str = "NoSchedule";
pub(super) const NO_EXECUTE: &str = "NoExecute";

/// Condition, status and taint of the conditions that keep pods away.
const PRESSURE: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Taints that this controller sets and removes; all others are left alone.
fn is_ours(taint: &Taint) -> bool {
    let schedule = [NOT_READY, UNREACHABLE, "node.kubernetes.io/unschedulable"];
    let key = taint.key.as_str();
    match taint.effect.as_str() {
        NO_SCHEDULE => schedule.contains(&key) || PRESSURE.iter().any(|(_, pressure)| *pressure == key),
        NO_EXECUTE => [NOT_READY, UNREACHABLE].contains(&key),
        _ => false,
    }
}

pub(super) fn node_conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

pub(super) fn ready_status(node: &Node) -> &str {
    conditions::find(node_conditions(node), "Ready").map_or("Unknown", |c| c.status.as_str())
}

/// The conditions of a node that has been silent since `seen`; `None` while it has time.
pub(super) fn silenced(node: &Node, seen: Timestamp, now: Timestamp) -> Option<Vec<NodeCondition>> {
    if now.duration_since(seen) < GRACE {
        return None;
    }
    let mut all = node_conditions(node).to_vec();
    let mut changed = false;
    for type_ in POSTED {
        let old = conditions::find(&all, type_);
        if old.is_some_and(|condition| condition.status == "Unknown") {
            continue;
        }
        let never = old.is_none();
        let (reason, message) = if never {
            ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
        } else {
            ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        };
        let condition = NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: old.and_then(|c| c.last_heartbeat_time.clone()),
            last_transition_time: None,
        };
        changed |= conditions::set(&mut all, condition, now);
    }
    changed.then_some(all)
}

/// The taints the node is to have; `None` if it has them. While every node is down none is emptied: it is likelier
/// that the network or this server failed than all of them.
pub(super) fn taints(node: &Node, all_down: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let have: Vec<Taint> = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let wanted = wanted_taints(node, all_down);
    let mut new: Vec<Taint> = have
        .iter()
        .filter(|t| !is_ours(t) || wanted.iter().any(|(key, effect)| *key == t.key && *effect == t.effect))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !new.iter().any(|t| t.key == key && t.effect == effect) {
            let time_added = (effect == NO_EXECUTE).then_some(Time(now));
            new.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        }
    }
    (new != have).then_some(new)
}

fn wanted_taints(node: &Node, all_down: bool) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    let down = match ready_status(node) {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    if let Some(key) = down {
        wanted.push((key, NO_SCHEDULE));
        if !all_down {
            wanted.push((key, NO_EXECUTE));
        }
    }
    for (condition, key) in PRESSURE {
        if conditions::is_true(node_conditions(node), condition) {
            wanted.push((key, NO_SCHEDULE));
        }
    }
    if node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) {
        wanted.push(("node.kubernetes.io/unschedulable", NO_SCHEDULE));
    }
    wanted
}

pub(super) fn evicting_taints(node: &Node) -> Vec<&Taint> {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == NO_EXECUTE).collect()
}

/// Whether `toleration` tolerates `taint`.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        _ => false,
    }
}

/// When a pod has to leave a node with these taints: `None` is never.
pub(super) fn leave_at(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Option<Timestamp> {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut leave: Option<Timestamp> = None;
    for taint in taints {
        let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        let at = if matching.peek().is_none() {
            Some(since.min(now))
        } else {
            let seconds = matching.filter_map(|t| t.toleration_seconds).min();
            seconds.map(|seconds| since.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(now))
        };
        leave = [leave, at].into_iter().flatten().min();
    }
    leave
}

/// How long until `at`; zero if it has passed.
pub(super) fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    use super::*;
    use crate::pods::fixture::{at, ready};

    fn node(ready: &str) -> Node {
        let condition = NodeCondition { type_: "Ready".into(), status: ready.into(), ..NodeCondition::default() };
        Node {
            spec: Some(NodeSpec::default()),
            status: Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() }),
            ..Node::default()
        }
    }

    fn keys(taints: &[Taint]) -> Vec<(&str, &str)> {
        taints.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect()
    }

    #[test]
    fn a_silent_node_is_unknown_after_forty_seconds() {
        assert!(silenced(&node("True"), at(0), at(39)).is_none());
        let all = silenced(&node("True"), at(0), at(40)).unwrap();
        assert_eq!(conditions::find(&all, "Ready").unwrap().reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(all.len(), 4);
        let mut quiet = node("True");
        quiet.status.as_mut().unwrap().conditions = Some(all);
        assert!(silenced(&quiet, at(0), at(50)).is_none());
    }

    #[test]
    fn taints_follow_the_conditions_and_foreign_ones_stay() {
        let mut node = node("Unknown");
        let foreign = Taint { key: "team".into(), effect: NO_EXECUTE.into(), ..Taint::default() };
        node.spec.as_mut().unwrap().taints = Some(vec![foreign]);
        let tainted = taints(&node, false, at(0)).unwrap();
        assert_eq!(keys(&tainted), [("team", NO_EXECUTE), (UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]);
        assert_eq!(keys(&taints(&node, true, at(0)).unwrap()), [("team", NO_EXECUTE), (UNREACHABLE, NO_SCHEDULE)]);
        node.spec.as_mut().unwrap().taints = Some(tainted);
        assert!(taints(&node, false, at(9)).is_none());
        node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".into();
        assert_eq!(keys(&taints(&node, false, at(9)).unwrap()), [("team", NO_EXECUTE)]);
    }

    #[test]
    fn pods_leave_when_their_tolerance_ends() {
        let taint =
            Taint { key: UNREACHABLE.into(), effect: NO_EXECUTE.into(), time_added: Some(Time(at(10))), value: None };
        let mut pod = ready("a", "n", 0);
        assert_eq!(leave_at(&pod, &[&taint], at(20)), Some(at(10)));
        let mut toleration = Toleration {
            key: Some(UNREACHABLE.into()),
            operator: Some("Exists".into()),
            effect: Some(NO_EXECUTE.into()),
            toleration_seconds: Some(300),
            value: None,
        };
        pod.spec.as_mut().unwrap().tolerations = Some(vec![toleration.clone()]);
        assert_eq!(leave_at(&pod, &[&taint], at(20)), Some(at(310)));
        toleration.toleration_seconds = None;
        pod.spec.as_mut().unwrap().tolerations = Some(vec![toleration]);
        assert_eq!(leave_at(&pod, &[&taint], at(20)), None);
    }
}
