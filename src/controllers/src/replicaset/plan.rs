//! How many pods to create, which to delete, and what the status is to say. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use crate::pods;

/// Pods created or deleted for one owner at a time.
const BURST: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: usize,
    pub(super) delete: Vec<Arc<Pod>>,
}

/// `related` are the pods of this owner and of its siblings under one parent: they count when nodes are relieved.
pub(super) fn plan(replicas: i32, owned: &[Arc<Pod>], related: impl FnOnce() -> Vec<Arc<Pod>>, now: Timestamp) -> Plan {
    let mut active: Vec<Arc<Pod>> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let wanted = usize::try_from(replicas).unwrap_or(0);
    if active.len() <= wanted {
        return Plan { create: (wanted - active.len()).min(BURST), delete: Vec::new() };
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus < active.len() {
        let crowds = crowds(&related());
        active.sort_by_cached_key(|pod| rank(pod, &crowds, now));
    }
    active.truncate(surplus);
    Plan { create: 0, delete: active }
}

/// How many active pods each node has.
fn crowds(related: &[Arc<Pod>]) -> HashMap<String, usize> {
    let mut crowds = HashMap::new();
    for node in related.iter().filter(|pod| pods::is_active(pod)).filter_map(|pod| pods::node_name(pod)) {
        *crowds.entry(node.to_owned()).or_default() += 1;
    }
    crowds
}

type Rank = (bool, u8, bool, i64, Reverse<usize>, u32, Reverse<i32>, Reverse<Timestamp>);

/// Pods of lower rank are deleted first: those not assigned, not running, not ready, cheap, on crowded nodes, ready
/// for a short time (in steps of powers of ten), often restarted, young.
fn rank(pod: &Pod, crowds: &HashMap<String, usize>, now: Timestamp) -> Rank {
    let node = pods::node_name(pod);
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST)?.parse().ok()).unwrap_or(0);
    let crowd = node.and_then(|node| crowds.get(node)).copied().unwrap_or(0);
    let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |t| t.0);
    (
        node.is_some(),
        phase,
        pods::is_ready(pod),
        cost,
        Reverse(crowd),
        age_step(pods::ready_since(pod), now),
        Reverse(pods::restarts(pod)),
        Reverse(created),
    )
}

fn age_step(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let seconds = since.map_or(0, |since| now.duration_since(since).as_secs().max(0));
    u64::try_from(seconds).unwrap_or(0).checked_ilog10().map_or(0, |log| log + 1)
}

/// What the status says of the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) replicas: i32,
    pub(super) labelled: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    pub(super) terminating: i32,
    /// When the next ready pod becomes available.
    pub(super) next_available: Option<Duration>,
}

pub(super) fn count(owned: &[Arc<Pod>], template: Option<&PodTemplateSpec>, min_ready: i32, now: Timestamp) -> Counts {
    let wanted = template.and_then(|t| t.metadata.as_ref()?.labels.as_ref());
    let mut counts = Counts::default();
    for pod in owned.iter().filter(|pod| !pods::is_terminal(pod)) {
        if pods::is_terminating(pod) {
            counts.terminating += 1;
            continue;
        }
        counts.replicas += 1;
        if wanted.into_iter().flatten().all(|(name, value)| pods::label(pod, name) == Some(value)) {
            counts.labelled += 1;
        }
        if pods::is_ready(pod) {
            counts.ready += 1;
            match pods::available_in(pod, min_ready, now) {
                None => counts.available += 1,
                Some(left) => counts.next_available = Some(counts.next_available.map_or(left, |next| next.min(left))),
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::{at, pod, ready};

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|p| pods::name(p)).collect()
    }

    #[test]
    fn missing_pods_are_created_and_ended_ones_replaced() {
        let pods = vec![Arc::new(pod("done", "Failed")), Arc::new(pod("up", "Running"))];
        assert_eq!(plan(3, &pods, || pods.clone(), at(0)).create, 2);
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let pods: Vec<_> = [ready("old", "n1", 10), ready("young", "n2", 990), pod("unassigned", "Pending")]
            .into_iter()
            .map(Arc::new)
            .collect();
        assert_eq!(names(&plan(2, &pods, || pods.clone(), at(1000)).delete), ["unassigned"]);
        assert_eq!(names(&plan(1, &pods, || pods.clone(), at(1000)).delete), ["unassigned", "young"]);
    }

    #[test]
    fn a_cheaper_pod_goes_before_a_dearer_one() {
        let mut cheap = ready("z-cheap", "n1", 0);
        cheap.metadata.annotations = Some([(DELETION_COST.to_owned(), "-5".to_owned())].into());
        let pods = vec![Arc::new(ready("a", "n1", 0)), Arc::new(cheap)];
        assert_eq!(names(&plan(1, &pods, || pods.clone(), at(0)).delete), ["z-cheap"]);
    }

    #[test]
    fn a_ready_pod_counts_as_available_after_its_time() {
        let pods = vec![Arc::new(ready("a", "n", 0)), Arc::new(ready("b", "n", 8)), Arc::new(pod("c", "Pending"))];
        let counts = count(&pods, None, 5, at(10));
        assert_eq!((counts.replicas, counts.ready, counts.available), (3, 2, 1));
        assert_eq!(counts.next_available, Some(Duration::from_secs(3)));
    }
}
