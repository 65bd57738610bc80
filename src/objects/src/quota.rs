//! What objects use of their namespace's resource quotas, and which quota counts which object. Pure: the API server's
//! admission decides by it, and the quota controller writes the status by it, so that both count alike.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec, ResourceQuotaSpec, Service,
};
use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::quantity::{Format, Quantity};
use crate::resources::{Amounts, QosClass, pod_limits, pod_requests};

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// What a request for all matching devices is charged with: no allocation can have more.
const MOST_DEVICES: i64 = 32;
/// A quota of one of these obliges every container to say how much it wants.
const OBLIGING: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// The kind whose objects an amount of a quota counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Pods,
    Services,
    Claims,
    DeviceClaims,
    /// Mere objects of a resource.
    Objects {
        group: String,
        plural: String,
    },
}

impl Source {
    /// What the amount `name` of a quota counts; `None` when nothing does.
    pub fn of(name: &str) -> Option<Source> {
        let objects = |text: &str| {
            let (plural, group) = text.split_once('.').unwrap_or((text, ""));
            Source::Objects { group: group.to_owned(), plural: plural.to_owned() }
        };
        match name {
            "pods" | "count/pods" => Some(Source::Pods),
            "services" | "count/services" | "services.nodeports" | "services.loadbalancers" => Some(Source::Services),
            "persistentvolumeclaims" | "count/persistentvolumeclaims" | "requests.storage" => Some(Source::Claims),
            "count/resourceclaims.resource.k8s.io" => Some(Source::DeviceClaims),
            "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => Some(objects(name)),
            _ if name.contains(STORAGE_CLASS) => Some(Source::Claims),
            _ if name.ends_with(DEVICE_CLASS) => Some(Source::DeviceClaims),
            _ => match name.strip_prefix("count/") {
                Some(resource) => Some(objects(resource)),
                None => is_compute(name).then_some(Source::Pods),
            },
        }
    }

    /// The source that a resource's objects are counted by.
    pub fn of_resource(group: &str, plural: &str) -> Source {
        match (group, plural) {
            ("", "pods") => Source::Pods,
            ("", "services") => Source::Services,
            ("", "persistentvolumeclaims") => Source::Claims,
            ("resource.k8s.io", "resourceclaims") => Source::DeviceClaims,
            _ => Source::Objects { group: group.to_owned(), plural: plural.to_owned() },
        }
    }
}

fn is_compute(name: &str) -> bool {
    let plain = |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage");
    let huge = |name: &str| name.starts_with("hugepages-");
    match name.split_once('.') {
        Some(("requests", rest)) => plain(rest) || huge(rest) || is_extended(rest),
        Some(("limits", rest)) => plain(rest),
        _ => plain(name) || huge(name),
    }
}

/// A resource of somebody else's making, such as a GPU.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

fn number(count: i64) -> Quantity {
    Quantity::new(count, Format::DecimalSi)
}

/// What a pod uses at `now`. Finished ones, and those overdue in their deletion, are but objects.
pub fn of_pod(pod: &Pod, now: Timestamp) -> Amounts {
    let mut used = Amounts::from([("count/pods".to_owned(), number(1))]);
    let Some(spec) = pod.spec.as_ref().filter(|_| !is_over(pod, now)) else { return used };
    used.insert("pods".into(), number(1));
    for (name, amount) in pod_requests(spec) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_limits(spec) {
        used.insert(format!("limits.{name}"), amount);
    }
    used
}

fn is_over(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || overdue(pod).is_some_and(|end| end < now)
}

/// When a pod whose deletion has begun stops being counted, if it is still there then: its grace period after the
/// time by which it should have gone.
pub fn overdue(pod: &Pod) -> Option<Timestamp> {
    let marked = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = pod.metadata.deletion_grace_period_seconds?;
    marked.checked_add(jiff::SignedDuration::from_secs(grace)).ok()
}

/// What a service uses.
pub fn of_service(service: &Service) -> Amounts {
    let mut used = Amounts::from([("services".to_owned(), number(1)), ("count/services".to_owned(), number(1))]);
    let Some(spec) = &service.spec else { return used };
    let ports = || spec.ports.iter().flatten();
    let counted = |count: usize| number(i64::try_from(count).unwrap_or(i64::MAX));
    match spec.type_.as_deref() {
        Some("NodePort") => {
            used.insert("services.nodeports".into(), counted(ports().count()));
        }
        Some("LoadBalancer") => {
            // Without allocation, only the ports that name one themselves have one.
            let all = spec.allocate_load_balancer_node_ports != Some(false);
            let node_ports = ports().filter(|port| all || port.node_port.is_some_and(|port| port != 0)).count();
            used.insert("services.nodeports".into(), counted(node_ports));
            used.insert("services.loadbalancers".into(), number(1));
        }
        _ => {}
    }
    used
}

/// What a claim of a volume uses.
pub fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let mut used = Amounts::from([
        ("persistentvolumeclaims".to_owned(), number(1)),
        ("count/persistentvolumeclaims".to_owned(), number(1)),
    ]);
    let class = storage_class(claim);
    if let Some(class) = class {
        used.insert(format!("{class}{STORAGE_CLASS}persistentvolumeclaims"), number(1));
    }
    let requested = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    let Some(requested) = requested.map(Quantity::of) else { return used };
    // A failed expansion still holds what was given.
    let given = claim.status.as_ref().and_then(|status| status.allocated_resources.as_ref()?.get("storage"));
    let storage = given.map_or(requested, |given| requested.max(Quantity::of(given)));
    let storage = if storage.is_integer() { storage } else { Quantity::new(storage.value(), storage.format()) };
    used.insert("requests.storage".into(), storage);
    if let Some(class) = class {
        used.insert(format!("{class}{STORAGE_CLASS}requests.storage"), storage);
    }
    used
}

fn storage_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|a| a.get("volume.beta.kubernetes.io/storage-class"));
    let named = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    annotated.or(named).map(String::as_str).filter(|class| !class.is_empty())
}

/// What a claim of devices uses.
pub fn of_device_claim(claim: &ResourceClaim) -> Amounts {
    let mut used = Amounts::from([("count/resourceclaims.resource.k8s.io".to_owned(), number(1))]);
    let amount = |mode: Option<&str>, count: Option<i64>| {
        number(if mode == Some("All") { MOST_DEVICES } else { count.unwrap_or(1) })
    };
    for request in claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
        if let Some(exact) = &request.exactly {
            let name = format!("{}{DEVICE_CLASS}", exact.device_class_name);
            *used.entry(name).or_default() += amount(exact.allocation_mode.as_deref(), exact.count);
        }
        // Any of the alternatives may be chosen: the largest of each class counts.
        let mut largest = Amounts::new();
        for option in request.first_available.iter().flatten() {
            let entry = largest.entry(format!("{}{DEVICE_CLASS}", option.device_class_name)).or_default();
            *entry = (*entry).max(amount(option.allocation_mode.as_deref(), option.count));
        }
        crate::resources::add(&mut used, &largest);
    }
    used
}

/// What any other object uses: itself.
pub fn of_object(group: &str, plural: &str) -> Amounts {
    let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    let mut used = Amounts::from([(format!("count/{qualified}"), number(1))]);
    if matches!((group, plural), ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas")) {
        used.insert(plural.to_owned(), number(1));
    }
    used
}

/// One condition on the objects that a quota counts.
#[derive(Debug, Clone)]
struct Term {
    scope: String,
    operator: String,
    values: Vec<String>,
}

/// Which objects a quota counts.
#[derive(Debug, Clone, Default)]
pub struct Scopes(Vec<Term>);

impl Scopes {
    pub fn of(spec: &ResourceQuotaSpec) -> Scopes {
        let plain = spec.scopes.iter().flatten().map(|scope| Term {
            scope: scope.clone(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
        let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
        let selected = selected.map(|term| Term {
            scope: term.scope_name.clone(),
            operator: term.operator.clone(),
            values: term.values.clone().unwrap_or_default(),
        });
        Scopes(plain.chain(selected).collect())
    }

    pub fn cover_pod(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return self.0.is_empty() };
        self.0.iter().all(|term| match term.scope.as_str() {
            "Terminating" => spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0),
            "NotTerminating" => spec.active_deadline_seconds.is_none_or(|seconds| seconds < 0),
            "BestEffort" => QosClass::of_pod(pod) == QosClass::BestEffort,
            "NotBestEffort" => QosClass::of_pod(pod) != QosClass::BestEffort,
            "PriorityClass" => {
                let class = spec.priority_class_name.as_deref().filter(|class| !class.is_empty());
                term.selects(&class.into_iter().collect::<Vec<_>>())
            }
            "CrossNamespacePodAffinity" => reaches_other_namespaces(spec),
            _ => false,
        })
    }

    pub fn cover_claim(&self, claim: &PersistentVolumeClaim) -> bool {
        let mut classes: Vec<&str> = Vec::new();
        classes.extend(claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()));
        if let Some(status) = &claim.status {
            classes.extend(status.current_volume_attributes_class_name.as_deref());
            let target = status.modify_volume_status.as_ref();
            classes.extend(target.and_then(|target| target.target_volume_attributes_class_name.as_deref()));
        }
        classes.retain(|class| !class.is_empty());
        self.0.iter().all(|term| term.scope == "VolumeAttributesClass" && term.selects(&classes))
    }

    /// Whether objects without anything to select by are counted.
    pub fn cover_others(&self) -> bool {
        self.0.is_empty()
    }
}

impl Term {
    fn selects(&self, names: &[&str]) -> bool {
        let listed = |name: &&str| self.values.iter().any(|value| value == name);
        match self.operator.as_str() {
            "Exists" => !names.is_empty(),
            "DoesNotExist" => names.is_empty(),
            "In" => names.iter().any(listed),
            "NotIn" => !names.iter().any(listed),
            _ => false,
        }
    }
}

fn reaches_other_namespaces(spec: &PodSpec) -> bool {
    let reaches = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|names| !names.is_empty()) || term.namespace_selector.is_some()
    };
    let Some(affinity) = &spec.affinity else { return false };
    let near = affinity.pod_affinity.iter().flat_map(|affinity| {
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        let required = affinity.required_during_scheduling_ignored_during_execution.iter().flatten();
        required.chain(preferred.map(|term| &term.pod_affinity_term))
    });
    let far = affinity.pod_anti_affinity.iter().flat_map(|affinity| {
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        let required = affinity.required_during_scheduling_ignored_during_execution.iter().flatten();
        required.chain(preferred.map(|term| &term.pod_affinity_term))
    });
    near.chain(far).any(reaches)
}

/// Upstream's complaint about a pod that leaves open what a quota with the amounts `hard` counts.
pub fn unspecified<'n>(hard: impl IntoIterator<Item = &'n str>, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let pod_level = spec.resources.as_ref().filter(|own| own.requests.is_some() || own.limits.is_some());
    if pod_level.is_some() {
        return None;
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in hard.into_iter().filter(|name| OBLIGING.contains(name)) {
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            if !states(container, name) {
                missing.entry(name).or_default().insert(&container.name);
            }
        }
    }
    let list = missing.into_iter().map(|(name, containers)| {
        let containers: Vec<&str> = containers.into_iter().collect();
        format!("{name} for: {}", containers.join(","))
    });
    let list: Vec<String> = list.collect();
    (!list.is_empty()).then(|| format!("must specify {}", list.join("; ")))
}

fn states(container: &Container, name: &str) -> bool {
    let Some(resources) = &container.resources else { return false };
    let amounts = match name.split_once('.') {
        Some(("limits", _)) => &resources.limits,
        _ => &resources.requests,
    };
    let name = name.split_once('.').map_or(name, |(_, name)| name);
    amounts.as_ref().is_some_and(|amounts| amounts.contains_key(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    #[test]
    fn a_finished_or_overdue_pod_uses_only_its_count() {
        let spec = json!({"containers": [{"name": "c", "resources":
            {"requests": {"cpu": "1", "hugepages-2Mi": "4Mi", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}}}]});
        let used = of_pod(&pod(json!({ "spec": spec })), now());
        let text: Vec<String> = used.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        let expected = "count/pods=1,cpu=1,hugepages-2Mi=4Mi,limits.memory=1Gi,pods=1,requests.cpu=1,\
                        requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi";
        assert_eq!(text.join(","), expected);
        let only = |value| of_pod(&pod(value), now()).into_keys().collect::<Vec<_>>();
        assert_eq!(only(json!({"spec": spec, "status": {"phase": "Failed"}})), ["count/pods"]);
        let marked =
            |at: &str| json!({"spec": spec, "metadata": {"deletionTimestamp": at, "deletionGracePeriodSeconds": 30}});
        assert_eq!(only(marked("2026-01-02T03:03:00Z")), ["count/pods"]);
        assert!(only(marked("2026-01-02T03:04:00Z")).len() > 1);
    }

    #[test]
    fn services_count_the_ports_they_will_get() {
        let service = |kind: &str, allocate: bool| -> Service {
            serde_json::from_value(json!({"spec": {"type": kind, "allocateLoadBalancerNodePorts": allocate,
                "ports": [{"port": 1, "nodePort": 30001}, {"port": 2}]}}))
            .unwrap()
        };
        let of = |kind, allocate, name: &str| of_service(&service(kind, allocate)).get(name).map(|q| q.value());
        assert_eq!(of("NodePort", true, "services.nodeports"), Some(2));
        assert_eq!(of("LoadBalancer", true, "services.nodeports"), Some(2));
        assert_eq!(of("LoadBalancer", false, "services.nodeports"), Some(1));
        assert_eq!(of("LoadBalancer", true, "services.loadbalancers"), Some(1));
        assert_eq!(of("ClusterIP", true, "services.nodeports"), None);
    }

    #[test]
    fn claims_count_for_their_class() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"spec": {"storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}}}}))
        .unwrap();
        let used = of_claim(&claim);
        assert_eq!(used["fast.storageclass.storage.k8s.io/requests.storage"].to_string(), "1Gi");
        assert_eq!(used["fast.storageclass.storage.k8s.io/persistentvolumeclaims"].value(), 1);
        assert_eq!(used["requests.storage"].to_string(), "1Gi");
    }

    #[test]
    fn device_claims_count_for_their_class() {
        let claim: ResourceClaim = serde_json::from_value(json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu", "count": 2}},
            {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "gpu", "count": 3},
                                             {"name": "y", "deviceClassName": "tpu", "allocationMode": "All"}]}]}}}))
        .unwrap();
        let used = of_device_claim(&claim);
        assert_eq!(used["gpu.deviceclass.resource.k8s.io/devices"].value(), 5);
        assert_eq!(used["tpu.deviceclass.resource.k8s.io/devices"].value(), 32);
    }

    #[test]
    fn every_name_has_its_source() {
        let objects = |group: &str, plural: &str| Source::Objects { group: group.into(), plural: plural.into() };
        for (name, source) in [
            ("pods", Some(Source::Pods)),
            ("limits.memory", Some(Source::Pods)),
            ("requests.nvidia.com/gpu", Some(Source::Pods)),
            ("gold.storageclass.storage.k8s.io/requests.storage", Some(Source::Claims)),
            ("services.nodeports", Some(Source::Services)),
            ("gpu.deviceclass.resource.k8s.io/devices", Some(Source::DeviceClaims)),
            ("secrets", Some(objects("", "secrets"))),
            ("count/deployments.apps", Some(objects("apps", "deployments"))),
            ("limits.example.com/gpu", None),
        ] {
            assert_eq!(Source::of(name), source, "{name}");
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let spec = |value: serde_json::Value| -> Scopes {
            Scopes::of(&serde_json::from_value::<ResourceQuotaSpec>(value).unwrap())
        };
        let plain = pod(json!({"spec": {"containers": [{"name": "c"}]}}));
        let timed = pod(json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}));
        for (scope, of_plain, of_timed) in [
            ("Terminating", false, true),
            ("NotTerminating", true, false),
            ("BestEffort", true, false),
            ("NotBestEffort", false, true),
            ("PriorityClass", false, true),
            ("CrossNamespacePodAffinity", false, false),
        ] {
            let scopes = spec(json!({ "scopes": [scope] }));
            assert_eq!((scopes.cover_pod(&plain), scopes.cover_pod(&timed)), (of_plain, of_timed), "{scope}");
            assert!(!scopes.cover_others());
        }
        for (operator, of_plain, of_timed) in
            [("In", false, true), ("NotIn", true, false), ("Exists", false, true), ("DoesNotExist", true, false)]
        {
            let scopes = spec(json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}}));
            assert_eq!((scopes.cover_pod(&plain), scopes.cover_pod(&timed)), (of_plain, of_timed), "{operator}");
        }
    }

    #[test]
    fn containers_without_counted_amounts_are_named() {
        let silent = pod(json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}],
            "initContainers": [{"name": "i", "resources": {"limits": {"memory": "1"}}}]}}));
        let why = unspecified(["limits.memory", "cpu", "pods"], &silent);
        assert_eq!(why.as_deref(), Some("must specify cpu for: a,b,i; limits.memory for: a,b"));
        let whole = pod(json!({"spec": {"resources": {"requests": {"cpu": "1"}}, "containers": [{"name": "a"}]}}));
        assert_eq!(unspecified(["cpu"], &whole), None);
    }
}
