//! What a single node says: unschedulable, name, taints, affinity, host ports, resources; and scores by those.

use super::Rejection;
use crate::affinity::{node_matches, term_matches, tolerates, untolerated};
use crate::state::{NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::Taint;
use objects::quantity::Quantity;

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Image sizes between these count for locality, per container.
const SMALL_IMAGE: i64 = 23 << 20;
const LARGE_IMAGE: i64 = 1000 << 20;

pub(super) fn unschedulable(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let cordoned = node.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let taint = Taint { key: UNSCHEDULABLE_TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    match cordoned && !pod.spec().is_some_and(|spec| tolerates(spec, &taint)) {
        true => Err(Rejection::fixed("node(s) were unschedulable")),
        false => Ok(()),
    }
}

pub(super) fn name(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    match pod.spec().and_then(|spec| spec.node_name.as_deref()) {
        Some(name) if !name.is_empty() && name != node.name() => {
            Err(Rejection::fixed("node(s) didn't match the requested node name"))
        }
        _ => Ok(()),
    }
}

pub(super) fn taints(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let Some(spec) = pod.spec() else { return Ok(()) };
    match untolerated(spec, node, &["NoSchedule", "NoExecute"]).next() {
        Some(_) => Err(Rejection::fixed("node(s) had untolerated taint(s)")),
        None => Ok(()),
    }
}

pub(super) fn affinity(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    match pod.spec().is_none_or(|spec| node_matches(spec, node)) {
        true => Ok(()),
        false => Err(Rejection::fixed("node(s) didn't match Pod's node affinity/selector")),
    }
}

pub(super) fn ports(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let clash = |(address, protocol, port): (&str, &str, i32)| {
        let any = "0.0.0.0";
        node.pods.iter().flat_map(|other| other.host_ports()).any(|(taken, other_protocol, other_port)| {
            port == other_port && protocol == other_protocol && (address == taken || address == any || taken == any)
        })
    };
    match pod.host_ports().any(clash) {
        true => Err(Rejection::by_pods(vec!["node(s) didn't have free ports for the requested pod ports".to_owned()])),
        false => Ok(()),
    }
}

pub(super) fn fit(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let (mut reasons, mut preemptable) = (Vec::new(), true);
    let pods =
        Quantity::new(i64::try_from(node.pods.len() + 1).unwrap_or(i64::MAX), objects::quantity::Format::DecimalSi);
    if pods > node.allocatable("pods") {
        reasons.push("Too many pods".to_owned());
    }
    for (resource, wanted) in &pod.requests {
        let allocatable = node.allocatable(resource);
        let used = node.requested.get(resource).copied().unwrap_or_default();
        if !wanted.is_zero() && used + *wanted > allocatable {
            reasons.push(format!("Insufficient {resource}"));
            preemptable &= *wanted <= allocatable;
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Rejection { reasons, preemptable }) }
}

/// The share of CPU and memory in use once the pod is there, as fractions.
fn usage(pod: &PodInfo, node: &NodeInfo) -> [f64; 2] {
    ["cpu", "memory"].map(|resource| {
        let amount = |amounts: &objects::resources::Amounts| amounts.get(resource).copied().unwrap_or_default();
        let allocatable = node.allocatable(resource).as_f64();
        let used = (amount(&node.scored) + amount(&pod.scored)).as_f64();
        if allocatable > 0.0 { (used / allocatable).min(1.0) } else { 1.0 }
    })
}

#[expect(clippy::cast_possible_truncation, reason = "a fraction of a hundred")]
fn percent(fraction: f64) -> i64 {
    (fraction.clamp(0.0, 1.0) * 100.0) as i64
}

/// More free CPU and memory is better.
pub(super) fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let [cpu, memory] = usage(pod, node);
    percent(1.0 - (cpu + memory) / 2.0)
}

/// CPU and memory in use to the same degree is better.
pub(super) fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let [cpu, memory] = usage(pod, node);
    percent(1.0 - (cpu - memory).abs() / 2.0)
}

/// Images that are there already are better, the larger the more; an image on few nodes counts less.
pub(super) fn image_locality(pod: &PodInfo, node: &NodeInfo, _nodes: usize) -> i64 {
    let images = node.node.status.as_ref().and_then(|status| status.images.as_deref()).unwrap_or_default();
    let containers = pod.spec().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let size = |wanted: &str| {
        let named = |name: &String| name == wanted || name.strip_suffix(":latest") == Some(wanted);
        let found = images.iter().find(|image| image.names.iter().flatten().any(named));
        found.and_then(|image| image.size_bytes).unwrap_or(0)
    };
    let present: i64 = containers.iter().filter_map(|container| container.image.as_deref()).map(size).sum();
    let most = LARGE_IMAGE * i64::try_from(containers.len().max(1)).unwrap_or(1);
    (present.clamp(SMALL_IMAGE, most) - SMALL_IMAGE) * 100 / (most - SMALL_IMAGE)
}

/// The weights of the preferred node affinity terms that match.
pub(super) fn preferred_affinity(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let affinity = pod.spec().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let terms = affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref());
    let matching = terms.unwrap_or_default().iter().filter(|term| term_matches(&term.preference, node));
    matching.map(|term| i64::from(term.weight)).sum()
}

/// How many PreferNoSchedule taints are not tolerated.
pub(super) fn intolerable_preferences(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let count = pod.spec().map_or(0, |spec| untolerated(spec, node, &["PreferNoSchedule"]).count());
    i64::try_from(count).unwrap_or(i64::MAX / 100)
}
