//! Whether nodes show signs of life, and what their conditions say when they do not. Pure: the time is a parameter.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use tokio::time::Instant;

use crate::conditions;

/// How long a node may be silent.
pub(super) const GRACE: Duration = Duration::from_secs(40);
/// The same for a node that has never reported.
pub(super) const STARTUP_GRACE: Duration = Duration::from_secs(60);

/// The conditions that a node keeps up.
const KEPT: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub(super) fn conditions_of(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn ready_status(node: &Node) -> Option<&str> {
    conditions::find(conditions_of(node), "Ready").map(|c| c.status.as_str())
}

pub(super) fn is_ready(node: &Node) -> bool {
    ready_status(node) == Some("True")
}

pub(super) fn is_unknown(node: &Node) -> bool {
    ready_status(node) == Some("Unknown")
}

pub(super) fn renewal(lease: &Lease) -> Option<Timestamp> {
    lease.spec.as_ref()?.renew_time.as_ref().map(|t| t.0)
}

fn heartbeat(node: &Node) -> Option<Timestamp> {
    conditions::find(conditions_of(node), "Ready")?.last_heartbeat_time.as_ref().map(|t| t.0)
}

/// What is known of one node, and since when nothing in it moved.
#[derive(Debug)]
struct Sighting {
    uid: String,
    renewal: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    moved: Instant,
    was_ready: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Alive { check_in: Duration },
    Silent,
}

/// What a look at a node shows compared with the look before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Registered,
    NotReady,
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Sightings {
    nodes: HashMap<String, Sighting>,
}

impl Sightings {
    /// Notes the renewal of a node's Lease. Unknown nodes are met by `look` first.
    pub(super) fn renewed(&mut self, name: &str, renewal: Option<Timestamp>, now: Instant) {
        if let Some(sighting) = self.nodes.get_mut(name)
            && sighting.renewal != renewal
        {
            sighting.renewal = renewal;
            sighting.moved = now;
        }
    }

    pub(super) fn look(&mut self, node: &Node, renewal: Option<Timestamp>, now: Instant) -> (Verdict, Transition) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let uid = node.metadata.uid.clone().unwrap_or_default();
        let (heartbeat, ready) = (heartbeat(node), is_ready(node));
        let fresh = Sighting { uid: uid.clone(), renewal, heartbeat, moved: now, was_ready: ready };
        let known = self.nodes.get(&name).is_some_and(|sighting| sighting.uid == uid);
        if !known {
            self.nodes.insert(name.clone(), fresh);
        }
        let grace = if conditions_of(node).iter().any(|c| c.type_ == "Ready") { GRACE } else { STARTUP_GRACE };
        let Some(sighting) = self.nodes.get_mut(&name).filter(|_| known) else {
            return (Verdict::Alive { check_in: grace }, Transition::Registered);
        };
        if sighting.renewal != renewal || sighting.heartbeat != heartbeat {
            (sighting.renewal, sighting.heartbeat, sighting.moved) = (renewal, heartbeat, now);
        }
        let fell = std::mem::replace(&mut sighting.was_ready, ready) && !ready;
        let transition = if fell { Transition::NotReady } else { Transition::Nothing };
        let left = grace.saturating_sub(now.duration_since(sighting.moved));
        let verdict = if left.is_zero() { Verdict::Silent } else { Verdict::Alive { check_in: left } };
        (verdict, transition)
    }

    /// The UID of the node that is forgotten, if it was known.
    pub(super) fn forget(&mut self, name: &str) -> Option<String> {
        self.nodes.remove(name).map(|sighting| sighting.uid)
    }
}

/// The node's conditions with all that it keeps up itself Unknown; `None` if they are so already.
pub(super) fn unknown(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut all = conditions_of(node).to_vec();
    let mut changed = false;
    for type_ in KEPT {
        let old = conditions::find(&all, type_);
        if old.is_some_and(|c| c.status == "Unknown") {
            continue;
        }
        let (reason, message, beat) = old.map_or_else(
            || {
                (
                    "NodeStatusNeverUpdated",
                    "Kubelet never posted node status.",
                    node.metadata.creation_timestamp.clone(),
                )
            },
            |c| ("NodeStatusUnknown", "Kubelet stopped posting node status.", c.last_heartbeat_time.clone()),
        );
        let condition = NodeCondition {
            type_: type_.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: beat,
            last_transition_time: None,
        };
        changed |= conditions::set(&mut all, condition, now);
    }
    changed.then_some(all)
}

/// The pod with its Ready condition False; `None` if it is not True.
pub(super) fn not_ready(pod: &Pod, now: Timestamp) -> Option<Pod> {
    let mut pod = pod.clone();
    let all = pod.status.as_mut()?.conditions.as_mut()?;
    let mut ready = conditions::find(all, "Ready").filter(|c| c.status == "True")?.clone();
    ready.status = "False".into();
    conditions::set(all, ready, now);
    Some(pod)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeStatus;

    use super::*;
    use crate::pods;
    use crate::pods::fixture::{at, ready};

    fn node(status: &[(&str, &str)]) -> Node {
        let condition = |(type_, status): &(&str, &str)| NodeCondition {
            type_: (*type_).into(),
            status: (*status).into(),
            ..NodeCondition::default()
        };
        let mut node = Node::default();
        node.metadata.name = Some("n".into());
        node.status =
            Some(NodeStatus { conditions: Some(status.iter().map(condition).collect()), ..NodeStatus::default() });
        node
    }

    #[test]
    fn a_node_whose_lease_moves_is_alive_whatever_its_clock_says() {
        let (mut sightings, start) = (Sightings::default(), Instant::now());
        let node = node(&[("Ready", "True")]);
        let first = sightings.look(&node, Some(at(5_000)), start);
        assert_eq!(first, (Verdict::Alive { check_in: GRACE }, Transition::Registered));
        let later = start + Duration::from_secs(30);
        sightings.renewed("n", Some(at(10)), later);
        let (verdict, _) = sightings.look(&node, Some(at(10)), start + Duration::from_secs(60));
        assert_eq!(verdict, Verdict::Alive { check_in: Duration::from_secs(10) });
        let (verdict, _) = sightings.look(&node, Some(at(10)), later + GRACE);
        assert_eq!(verdict, Verdict::Silent);
    }

    #[test]
    fn a_node_that_never_reported_has_more_time() {
        let (mut sightings, start) = (Sightings::default(), Instant::now());
        sightings.look(&node(&[]), None, start);
        let (verdict, _) = sightings.look(&node(&[]), None, start + GRACE);
        assert_eq!(verdict, Verdict::Alive { check_in: STARTUP_GRACE - GRACE });
    }

    #[test]
    fn a_fall_from_ready_is_told_once() {
        let (mut sightings, now) = (Sightings::default(), Instant::now());
        sightings.look(&node(&[("Ready", "True")]), None, now);
        let down = node(&[("Ready", "False")]);
        assert_eq!(sightings.look(&down, None, now).1, Transition::NotReady);
        assert_eq!(sightings.look(&down, None, now).1, Transition::Nothing);
        assert_eq!(sightings.forget("n").as_deref(), Some(""));
    }

    #[test]
    fn silence_makes_conditions_unknown_with_the_reason_why() {
        let node = node(&[("Ready", "True"), ("NetworkUnavailable", "False")]);
        let all = unknown(&node, at(7)).expect("changed");
        let told =
            |type_| conditions::find(&all, type_).map(|c| (c.status.as_str(), c.reason.as_deref().unwrap_or("")));
        assert_eq!(told("Ready"), Some(("Unknown", "NodeStatusUnknown")));
        assert_eq!(told("DiskPressure"), Some(("Unknown", "NodeStatusNeverUpdated")));
        assert_eq!(told("NetworkUnavailable"), Some(("False", "")));
        let mut again = node.clone();
        again.status.as_mut().unwrap().conditions = Some(all);
        assert_eq!(unknown(&again, at(8)), None);
    }

    #[test]
    fn only_ready_pods_are_marked() {
        let marked = not_ready(&ready("a", "n", 0), at(3)).expect("was ready");
        assert!(!pods::is_ready(&marked));
        assert!(not_ready(&marked, at(4)).is_none());
    }
}
