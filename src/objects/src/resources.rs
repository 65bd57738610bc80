//! Sums of resource requests and limits over the containers of a pod, and the QoS class that follows from them.
//!
//! The rule of upstream's `component-helpers/resource`: containers and sidecars run together; an init container runs
//! with the sidecars started before it; the pod needs the larger of both, plus its overhead.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

fn amounts(wire: Option<&BTreeMap<String, Wire>>) -> Amounts {
    wire.into_iter().flatten().map(|(name, amount)| (name.clone(), Quantity::of(amount))).collect()
}

/// Adds each amount of `other`.
pub fn add(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = most.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn effective(spec: &PodSpec, of: impl Fn(&ResourceRequirements) -> Option<&BTreeMap<String, Wire>>) -> Amounts {
    let of = |container: &Container| amounts(container.resources.as_ref().and_then(&of));
    let mut together = Amounts::new();
    for container in &spec.containers {
        add(&mut together, &of(container));
    }
    let (mut sidecars, mut during_init) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut needed = of(container);
        if is_sidecar(container) {
            add(&mut together, &needed);
            add(&mut sidecars, &needed);
            needed.clone_from(&sidecars);
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut during_init, &needed);
    }
    raise(&mut together, &during_init);
    together
}

/// Requests of all containers together, without pod-level resources and overhead.
pub fn container_requests(spec: &PodSpec) -> Amounts {
    effective(spec, |r| r.requests.as_ref())
}

/// What the scheduler reserves for a pod: container requests, overridden by pod-level ones, plus overhead.
pub fn pod_requests(spec: &PodSpec) -> Amounts {
    let mut sum = container_requests(spec);
    sum.extend(amounts(spec.resources.as_ref().and_then(|r| r.requests.as_ref())));
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

/// Limits of all containers together, overridden by pod-level ones, plus overhead.
pub fn pod_limits(spec: &PodSpec) -> Amounts {
    let mut sum = effective(spec, |r| r.limits.as_ref());
    sum.extend(amounts(spec.resources.as_ref().and_then(|r| r.limits.as_ref())));
    let overhead = amounts(spec.overhead.as_ref());
    for (name, amount) in &mut sum {
        if let Some(extra) = overhead.get(name) {
            *amount += *extra;
        }
    }
    sum
}

/// Quality-of-service class of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// Guaranteed when every container limits cpu and memory and requests just that; best effort when none asks
    /// for either.
    pub fn of(spec: &PodSpec) -> Self {
        let pod_level = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
        let all: Vec<Option<&ResourceRequirements>> = match pod_level {
            Some(resources) => vec![Some(resources)],
            None => spec
                .containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
                .map(|container| container.resources.as_ref())
                .collect(),
        };
        let compute = |wire: Option<&BTreeMap<String, Wire>>| -> Amounts {
            let mut found = amounts(wire);
            found.retain(|name, amount| matches!(name.as_str(), "cpu" | "memory") && *amount > Quantity::ZERO);
            found
        };
        let pairs = all.iter().map(|resources| match resources {
            Some(resources) => (compute(resources.requests.as_ref()), compute(resources.limits.as_ref())),
            None => Default::default(),
        });
        let pairs: Vec<(Amounts, Amounts)> = pairs.collect();
        if pairs.iter().all(|(requests, limits)| requests.is_empty() && limits.is_empty()) {
            return Self::BestEffort;
        }
        let guaranteed = |(requests, limits): &(Amounts, Amounts)| limits.len() == 2 && requests == limits;
        if pairs.iter().all(guaranteed) { Self::Guaranteed } else { Self::Burstable }
    }

    /// The class recorded in the status, else the computed one.
    pub fn of_pod(pod: &Pod) -> Self {
        match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
            Some("Guaranteed") => Self::Guaranteed,
            Some("Burstable") => Self::Burstable,
            Some("BestEffort") => Self::BestEffort,
            _ => pod.spec.as_ref().map_or(Self::BestEffort, Self::of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn init_containers_overlap_with_the_sidecars_before_them() {
        let request = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let spec = spec(json!({
            "containers": [{"name": "a", "resources": request("1")}, {"name": "b", "resources": request("500m")}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": request("200m")},
                {"name": "i", "resources": request("3")}],
            "overhead": {"cpu": "100m"}}));
        assert_eq!(pod_requests(&spec)["cpu"].to_string(), "3300m");
    }

    #[test]
    fn qos_classes() {
        let with = |resources: serde_json::Value| {
            QosClass::of(&spec(json!({"containers": [{"name": "a", "resources": resources}]})))
        };
        assert_eq!(with(json!({})), QosClass::BestEffort);
        assert_eq!(with(json!({"requests": {"cpu": "1"}})), QosClass::Burstable);
        let same = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(with(json!({"requests": same, "limits": same})), QosClass::Guaranteed);
        assert_eq!(with(json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": same})), QosClass::Burstable);
    }
}
