//! Which pods are to be collected. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::{conditions, pods};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Whether a person has declared a node, which is not ready, to be gone for good.
pub(super) fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let all = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == OUT_OF_SERVICE) && !conditions::is_true(all, "Ready")
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    Keep,
    Wait(Duration),
    /// To be removed once the server confirms that this node does not exist.
    Orphan(&'a str),
    Remove,
}

/// `missing` is how long the pod's node has been missing.
pub(super) fn judge<'a>(
    pod: &'a Pod,
    node: Option<&Node>,
    missing: Option<Duration>,
    quarantine: Duration,
) -> Verdict<'a> {
    let terminating = pods::is_terminating(pod);
    match (pods::node_name(pod), node, missing) {
        (None, ..) if terminating => Verdict::Remove,
        (Some(_), Some(node), _) if terminating && is_out_of_service(node) => Verdict::Remove,
        (Some(name), None, Some(missing)) => {
            let left = quarantine.saturating_sub(missing);
            if left.is_zero() { Verdict::Orphan(name) } else { Verdict::Wait(left) }
        }
        _ => Verdict::Keep,
    }
}

/// The ended pods beyond `threshold`: evicted ones first, then the oldest. A threshold of zero keeps all.
pub(super) fn surplus(mut ended: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    if threshold == 0 || ended.len() <= threshold {
        return Vec::new();
    }
    let evicted = |pod: &Pod| pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    ended.sort_by_cached_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (!evicted(pod), created, pod.metadata.name.clone())
    });
    ended.truncate(ended.len() - threshold);
    ended
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, Taint};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::pods::fixture::{at, pod, ready};

    const MINUTE: Duration = Duration::from_secs(60);

    fn terminating(mut pod: Pod) -> Pod {
        pod.metadata.deletion_timestamp = Some(Time(at(1)));
        pod
    }

    #[test]
    fn a_pod_of_a_missing_node_waits_out_the_quarantine() {
        let pod = ready("a", "gone", 0);
        assert_eq!(judge(&pod, None, Some(Duration::from_secs(50)), MINUTE), Verdict::Wait(Duration::from_secs(10)));
        assert_eq!(judge(&pod, None, Some(MINUTE), MINUTE), Verdict::Orphan("gone"));
        assert_eq!(judge(&pod, Some(&Node::default()), None, MINUTE), Verdict::Keep);
    }

    #[test]
    fn a_deleted_pod_without_a_node_is_removed() {
        assert_eq!(judge(&terminating(pod("a", "Pending")), None, None, MINUTE), Verdict::Remove);
        assert_eq!(judge(&pod("a", "Pending"), None, None, MINUTE), Verdict::Keep);
    }

    #[test]
    fn deleted_pods_leave_a_node_out_of_service() {
        let taint = Taint { key: OUT_OF_SERVICE.into(), effect: "NoExecute".into(), ..Taint::default() };
        let spec = Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() });
        let node = Node { spec, ..Node::default() };
        assert_eq!(judge(&terminating(ready("a", "n", 0)), Some(&node), None, MINUTE), Verdict::Remove);
        assert_eq!(judge(&ready("a", "n", 0), Some(&node), None, MINUTE), Verdict::Keep);
    }

    #[test]
    fn the_evicted_and_then_the_oldest_are_surplus() {
        let aged = |name: &str, second, reason: Option<&str>| {
            let mut pod = pod(name, "Failed");
            pod.metadata.creation_timestamp = Some(Time(at(second)));
            pod.status.as_mut().unwrap().reason = reason.map(str::to_owned);
            Arc::new(pod)
        };
        let all = vec![aged("young", 30, None), aged("old", 10, None), aged("evicted", 20, Some("Evicted"))];
        let names = |keep| surplus(all.clone(), keep).iter().map(|p| pods::name(p).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(2), ["evicted"]);
        assert_eq!(names(1), ["evicted", "old"]);
        assert!(names(3).is_empty() && names(0).is_empty());
    }
}
