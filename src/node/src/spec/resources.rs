//! Requests and limits as cgroup values, the QoS class, and the kernel's out-of-memory score. Pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use runtime::spec::Resources;

use super::amounts;

/// CFS period in microseconds; the kernel's default and upstream's.
const PERIOD: i64 = 100_000;
/// The kernel refuses quotas below a millisecond.
const MIN_QUOTA: i64 = 1_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// Pods at or above this priority are killed last of all (`system-cluster-critical`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QosClass {
    BestEffort,
    Burstable,
    Guaranteed,
}

impl QosClass {
    pub fn of(pod: &Pod) -> QosClass {
        let Some(spec) = &pod.spec else { return QosClass::BestEffort };
        if let Some(whole) = spec.resources.as_ref().filter(|r| names_compute(r)) {
            return class([whole].into_iter().map(Some));
        }
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        class(containers.map(|c| c.resources.as_ref()))
    }

    /// The name of the cgroup that holds pods of this class; guaranteed ones need none.
    pub fn cgroup(self) -> Option<&'static str> {
        match self {
            QosClass::BestEffort => Some("besteffort"),
            QosClass::Burstable => Some("burstable"),
            QosClass::Guaranteed => None,
        }
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QosClass::BestEffort => "BestEffort",
            QosClass::Burstable => "Burstable",
            QosClass::Guaranteed => "Guaranteed",
        })
    }
}

type List = BTreeMap<String, Quantity>;

fn names_compute(resources: &ResourceRequirements) -> bool {
    let has = |list: &Option<List>| list.as_ref().is_some_and(|l| l.contains_key("cpu") || l.contains_key("memory"));
    has(&resources.limits) || has(&resources.requests)
}

fn class<'a>(all: impl Iterator<Item = Option<&'a ResourceRequirements>>) -> QosClass {
    let mut any = false;
    let mut guaranteed = true;
    for resources in all {
        for name in ["cpu", "memory"] {
            let limit = positive(resources.and_then(|r| r.limits.as_ref()), name);
            let request = positive(resources.and_then(|r| r.requests.as_ref()), name);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

fn positive(list: Option<&List>, name: &str) -> Option<i128> {
    list?.get(name).and_then(amounts::millis).filter(|v| *v > 0)
}

fn milli_cpu(list: Option<&List>) -> Option<i64> {
    i64::try_from(positive(list, "cpu")?).ok()
}

fn whole(list: Option<&List>, name: &str) -> Option<i64> {
    i64::try_from(amounts::ceil(positive(list, name)?, 1000)).ok()
}

/// CPU weight for a request in thousandths.
fn shares(milli: i64) -> u64 {
    let milli = u64::try_from(milli).unwrap_or(0);
    if milli == 0 { MIN_SHARES } else { (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

fn quota(milli: i64) -> i64 {
    (milli * PERIOD / 1000).max(MIN_QUOTA)
}

/// The cgroup values of one container. `node_memory` is the machine's, in bytes.
pub fn container(pod: &Pod, container: &Container, node_memory: u64) -> Resources {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let cpu_limit = milli_cpu(limits);
    let memory_limit = whole(limits, "memory");
    Resources {
        cpu_shares: Some(shares(milli_cpu(requests).or(cpu_limit).unwrap_or(0))),
        cpu_quota: cpu_limit.map(quota),
        cpu_period: cpu_limit.map(|_| PERIOD.unsigned_abs()),
        memory_limit,
        // Swap is not for pods: a limit on memory alone would let them page out without end.
        memory_swap_limit: memory_limit,
        forbid_swap: true,
        // A container that lost one of its processes is no longer what its image's author wrote.
        kill_together: true,
        hugepage_limits: huge_pages(limits),
        oom_score_adj: Some(oom_score(pod, container, node_memory)),
        ..Resources::default()
    }
}

/// The cgroup values of the pod as a whole.
pub fn pod(pod: &Pod) -> Resources {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let own_limits = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    let own_requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let request =
        milli_cpu(own_requests).unwrap_or_else(|| i64::try_from(effective(spec, "cpu", Side::Request).0).unwrap_or(0));
    let overhead = spec.overhead.as_ref();
    let limit = |name: &str| -> Option<i64> {
        let base = match positive(own_limits, name) {
            Some(own) => own,
            None => match effective(spec, name, Side::Limit) {
                (sum, true) if sum > 0 => sum,
                _ => return None,
            },
        };
        i64::try_from(base + positive(overhead, name).unwrap_or(0)).ok()
    };
    let cpu_limit = limit("cpu");
    let memory_limit = limit("memory").map(|m| m / 1000);
    Resources {
        cpu_shares: Some(shares(request + milli_cpu(overhead).unwrap_or(0))),
        cpu_quota: cpu_limit.map(quota),
        cpu_period: cpu_limit.map(|_| PERIOD.unsigned_abs()),
        memory_limit,
        memory_swap_limit: memory_limit,
        ..Resources::default()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Limit,
}

/// What the pod may use at its peak of `name`, in thousandths, and whether every container states it.
///
/// Ordinary init containers run alone (with the sidecars started before them); sidecars and main containers together.
pub fn effective(spec: &PodSpec, name: &str, side: Side) -> (i128, bool) {
    let of = |c: &Container| {
        let resources = c.resources.as_ref();
        let limit = positive(resources.and_then(|r| r.limits.as_ref()), name);
        match side {
            Side::Limit => limit,
            Side::Request => positive(resources.and_then(|r| r.requests.as_ref()), name).or(limit),
        }
    };
    let mut complete = true;
    let mut main = 0;
    for container in &spec.containers {
        complete &= of(container).is_some();
        main += of(container).unwrap_or(0);
    }
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        let value = of(container).unwrap_or(0);
        if container.restart_policy.as_deref() == Some("Always") {
            complete &= of(container).is_some();
            sidecars += value;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + value);
        }
    }
    (peak.max(main + sidecars), complete)
}

/// What the scheduler counts for the pod, in thousandths: its own request or its containers' peak, and overhead.
pub fn request(spec: &PodSpec, name: &str) -> i128 {
    let own = positive(spec.resources.as_ref().and_then(|r| r.requests.as_ref()), name);
    own.unwrap_or_else(|| effective(spec, name, Side::Request).0) + positive(spec.overhead.as_ref(), name).unwrap_or(0)
}

fn huge_pages(limits: Option<&List>) -> BTreeMap<String, u64> {
    let sizes = limits.into_iter().flatten().filter_map(|(name, _)| {
        let size = name.strip_prefix("hugepages-")?;
        let bytes = u64::try_from(whole(limits, name)?).ok()?;
        // The kernel says `2MB` and `1GB` for what the API calls `2Mi` and `1Gi`.
        Some((format!("{}B", size.trim_end_matches('i')), bytes))
    });
    sizes.collect()
}

/// -997 for guaranteed and critical pods, 1000 for best-effort ones, by share of memory requested in between.
fn oom_score(pod: &Pod, container: &Container, node_memory: u64) -> i32 {
    const GUARANTEED: i32 = -997;
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    if priority >= CRITICAL_PRIORITY {
        return GUARANTEED;
    }
    match QosClass::of(pod) {
        QosClass::Guaranteed => GUARANTEED,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let resources = container.resources.as_ref();
            let request = whole(resources.and_then(|r| r.requests.as_ref()), "memory")
                .or_else(|| whole(resources.and_then(|r| r.limits.as_ref()), "memory"))
                .unwrap_or(0);
            let capacity = i64::try_from(node_memory.max(1)).unwrap_or(i64::MAX);
            let score = 1000 - i32::try_from(request.saturating_mul(1000) / capacity).unwrap_or(1000);
            // Above the guaranteed ones, below the best-effort ones.
            score.clamp(1000 + GUARANTEED, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod_of(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": containers}})).unwrap()
    }

    fn with(limits: serde_json::Value, requests: serde_json::Value) -> Pod {
        pod_of(json!([{"name": "c", "resources": {"limits": limits, "requests": requests}}]))
    }

    #[test]
    fn qos_classes() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(QosClass::of(&with(json!({}), json!({}))), QosClass::BestEffort);
        assert_eq!(QosClass::of(&with(both.clone(), both.clone())), QosClass::Guaranteed);
        assert_eq!(QosClass::of(&with(both.clone(), json!({}))), QosClass::Guaranteed);
        assert_eq!(QosClass::of(&with(both.clone(), json!({"cpu": "500m"}))), QosClass::Burstable);
        assert_eq!(QosClass::of(&with(json!({"cpu": "1"}), json!({}))), QosClass::Burstable);
        let mixed = pod_of(json!([{"name": "a", "resources": {"limits": both.clone()}}, {"name": "b"}]));
        assert_eq!(QosClass::of(&mixed), QosClass::Burstable);
        let mut whole = pod_of(json!([{"name": "a"}]));
        whole.spec.as_mut().unwrap().resources = serde_json::from_value(json!({"limits": both})).unwrap();
        assert_eq!(QosClass::of(&whole), QosClass::Guaranteed);
    }

    #[test]
    fn container_values() {
        let pod = with(
            json!({"cpu": "500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"}),
            json!({"cpu": "250m", "memory": "32Mi"}),
        );
        let got = container(&pod, &pod.spec.as_ref().unwrap().containers[0], 1 << 30);
        assert_eq!(got.cpu_shares, Some(256));
        assert_eq!((got.cpu_quota, got.cpu_period), (Some(50_000), Some(100_000)));
        assert_eq!((got.memory_limit, got.memory_swap_limit), (Some(64 << 20), Some(64 << 20)));
        assert_eq!(got.hugepage_limits["2MB"], 4 << 20);
        assert!(got.forbid_swap && got.kill_together);
        assert_eq!(got.oom_score_adj, Some(1000 - 31));
        let none = pod_of(json!([{"name": "c"}]));
        let got = container(&none, &none.spec.as_ref().unwrap().containers[0], 1 << 30);
        assert_eq!(
            (got.cpu_shares, got.cpu_quota, got.memory_limit, got.oom_score_adj),
            (Some(2), None, None, Some(1000))
        );
    }

    #[test]
    fn tiny_cpu_limits_meet_the_kernel_minimum() {
        let pod = with(json!({"cpu": "1m"}), json!({}));
        assert_eq!(container(&pod, &pod.spec.as_ref().unwrap().containers[0], 1).cpu_quota, Some(1_000));
    }

    #[test]
    fn pod_limits_need_every_container_to_have_one() {
        let half =
            pod_of(json!([{"name": "a", "resources": {"limits": {"memory": "1Mi", "cpu": "1"}}}, {"name": "b"}]));
        assert_eq!(pod(&half).memory_limit, None);
        assert_eq!(pod(&half).cpu_shares, Some(1024));
        let full = pod_of(json!([
            {"name": "a", "resources": {"limits": {"memory": "1Mi"}}}, {"name": "b", "resources": {"limits": {"memory": "2Mi"}}}
        ]));
        assert_eq!(pod(&full).memory_limit, Some(3 << 20));
    }

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_throughout() {
        let spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "init", "resources": {"requests": {"cpu": "1"}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}}}]
        }))
        .unwrap();
        assert_eq!(request(&spec, "cpu"), 1100);
    }
}
