//! Whether this node takes a pod on. Resources are counted here, under one lock, for all pods taken.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Node as NodeObject, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::config::NodeConfig;
use crate::plan::Verdict;
use crate::spec::{amounts, resources, security};

/// The pods taken on, by UID.
#[derive(Default)]
pub(crate) struct Admission {
    taken: Mutex<HashMap<String, Arc<Pod>>>,
}

impl Admission {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Pod>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a pod that runs already.
    pub(crate) fn adopt(&self, pod: &Arc<Pod>) {
        self.lock().insert(uid(pod), pod.clone());
    }

    /// Takes the pod on or says why not, as the event has it.
    pub(crate) fn admit(&self, config: &NodeConfig, node: Option<&NodeObject>, pod: &Arc<Pod>) -> Result<(), Verdict> {
        let mut taken = self.lock();
        check(config, node, pod, taken.values().map(Arc::as_ref))?;
        taken.insert(uid(pod), pod.clone());
        Ok(())
    }

    /// Whether the pod still fits with its changed requests; they are counted from then on.
    pub(crate) fn refit(&self, node: Option<&NodeObject>, pod: &Arc<Pod>) -> Result<(), Verdict> {
        let mut taken = self.lock();
        let own = uid(pod);
        if let Some(node) = node {
            let others: Vec<_> = taken.iter().filter(|(uid, _)| **uid != own).map(|(_, p)| p.as_ref()).collect();
            fits(node, pod, others.into_iter())?;
        }
        taken.insert(own, pod.clone());
        Ok(())
    }

    pub(crate) fn release(&self, uid: &str) {
        self.lock().remove(uid);
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn check<'a>(
    config: &NodeConfig,
    node: Option<&NodeObject>,
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
) -> Result<(), Verdict> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        let message = format!("Failed to admit pod as the OS field doesn't match node OS: {}", os.name);
        return Err(rejected("PodOSNotSupported", message));
    }
    if let Some(name) = security::forbidden_sysctl(pod, &config.allowed_sysctls) {
        return Err(rejected("SysctlForbidden", format!("forbidden sysctl: \"{name}\" not allowlisted")));
    }
    if let Some(profile) = local_apparmor(pod) {
        let message = format!("Cannot enforce AppArmor: profile \"{profile}\" is not loaded");
        return Err(rejected("AppArmor", message));
    }
    let Some(node) = node else { return Ok(()) };
    if !selected(pod, node) {
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Err(rejected("NodeAffinity", message.to_owned()));
    }
    if ports_taken(pod, others.clone()) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(rejected("NodePorts", message.to_owned()));
    }
    fits(node, pod, others)
}

/// Whether another pod has one of the pod's host ports. No address and `0.0.0.0` are every address.
fn ports_taken<'a>(pod: &Pod, mut others: impl Iterator<Item = &'a Pod>) -> bool {
    let wanted: Vec<_> = host_ports(pod).collect();
    let every = |ip: &str| matches!(ip, "" | "0.0.0.0");
    !wanted.is_empty()
        && others.any(|other| {
            host_ports(other).any(|(port, protocol, ip)| {
                wanted.iter().any(|w| (w.0, w.1) == (port, protocol) && (w.2 == ip || every(w.2) || every(ip)))
            })
        })
}

/// Port, protocol and address of each host port. On the host's network every port is one.
fn host_ports(pod: &Pod) -> impl Iterator<Item = (i32, &str, &str)> {
    let spec = pod.spec.as_ref();
    let on_host = spec.and_then(|s| s.host_network).unwrap_or(false);
    let sidecars = spec.into_iter().flat_map(|s| s.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let containers = spec.into_iter().flat_map(|s| &s.containers).chain(sidecars);
    containers.flat_map(|c| c.ports.iter().flatten()).filter_map(move |port| {
        let number = port.host_port.or(on_host.then_some(port.container_port)).filter(|number| *number > 0)?;
        Some((number, port.protocol.as_deref().unwrap_or("TCP"), port.host_ip.as_deref().unwrap_or_default()))
    })
}

/// A profile the pod demands; rk enforces none, and to run without it would be to promise what is not kept.
fn local_apparmor(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let whole = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let own = containers.filter_map(|c| c.security_context.as_ref()?.app_armor_profile.as_ref());
    let local = whole.into_iter().chain(own).find(|p| p.type_ == "Localhost");
    local.map(|p| p.localhost_profile.clone().unwrap_or_default())
}

fn rejected(reason: &str, message: String) -> Verdict {
    Verdict { reason: reason.to_owned(), message }
}

fn fits<'a>(node: &NodeObject, pod: &Pod, others: impl Iterator<Item = &'a Pod> + Clone) -> Result<(), Verdict> {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let Some(allocatable) = allocatable else { return Ok(()) };
    let out_of = |name: &str, wanted: i128, used: i128, room: i128| {
        let message =
            format!("Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {room}");
        Err(rejected(&format!("OutOf{name}"), message))
    };
    for (name, room) in allocatable {
        let Some(room) = amounts::millis(room) else { continue };
        let (wanted, used) = if name == "pods" {
            (1000, 1000 * i128::try_from(others.clone().count()).unwrap_or(0))
        } else {
            let of = |p: &Pod| p.spec.as_ref().map_or(0, |s| resources::request(s, name));
            (of(pod), others.clone().map(of).sum())
        };
        // Upstream counts CPU in thousandths and everything else whole.
        let scale = if name == "cpu" { 1 } else { 1000 };
        if wanted > 0 && used + wanted > room {
            return out_of(name, wanted / scale, used / scale, room / scale);
        }
    }
    Ok(())
}

/// Whether the node's labels satisfy the pod's selector and required affinity.
fn selected(pod: &Pod, node: &NodeObject) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let Some(spec) = &pod.spec else { return true };
    let simple = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    simple && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|t| term(t, labels, name)))
}

fn term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|e| requirement(e, labels.get(&e.key).map(String::as_str)))
        && fields.iter().all(|f| requirement(f, (f.key == "metadata.name").then_some(name)))
}

fn requirement(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    let bound = number(values.first().map(String::as_str));
    match wanted.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(bound).is_some_and(|(v, b)| v > b),
        "Lt" => number(value).zip(bound).is_some_and(|(v, b)| v < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> NodeObject {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"zone": "a", "size": "5"}},
            "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "3"}}
        }))
        .unwrap()
    }

    fn pod(uid: &str, spec: serde_json::Value) -> Arc<Pod> {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([]);
        }
        Arc::new(serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": spec})).unwrap())
    }

    fn cpu(uid: &str, amount: &str) -> Arc<Pod> {
        pod(uid, json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]}))
    }

    #[test]
    fn a_full_node_rejects_with_numbers() {
        let (admission, config, node) = (Admission::default(), NodeConfig::default(), node());
        let admit = |pod: &Arc<Pod>| admission.admit(&config, Some(&node), pod);
        admit(&cpu("a", "500m")).unwrap();
        let verdict = admit(&cpu("b", "600m")).unwrap_err();
        assert_eq!(verdict.reason, "OutOfcpu");
        assert!(verdict.message.ends_with("cpu, requested: 600, used: 500, capacity: 1000"));
        admission.release("a");
        admit(&cpu("b", "600m")).unwrap();
        admit(&cpu("c", "0")).unwrap();
        admit(&cpu("d", "0")).unwrap();
        assert_eq!(admit(&cpu("e", "0")).unwrap_err().reason, "OutOfpods");
    }

    #[test]
    fn a_host_port_is_given_once() {
        let (admission, config, node) = (Admission::default(), NodeConfig::default(), node());
        let admit = |uid: &str, port: serde_json::Value| {
            let spec = json!({"containers": [{"name": "c", "ports": [port]}]});
            admission.admit(&config, Some(&node), &pod(uid, spec)).map_err(|verdict| verdict.reason)
        };
        admit("a", json!({"containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1"})).unwrap();
        let again = json!({"containerPort": 81, "hostPort": 8080});
        assert_eq!(admit("b", again.clone()).unwrap_err(), "NodePorts");
        admit("c", json!({"containerPort": 81, "hostPort": 8080, "protocol": "UDP"})).unwrap();
        admission.release("a");
        admit("b", again).unwrap();
        let on_host = pod(
            "d",
            json!({"hostNetwork": true, "containers": [{"name": "c",
            "ports": [{"containerPort": 8080}]}]}),
        );
        assert_eq!(admission.admit(&config, Some(&node), &on_host).unwrap_err().reason, "NodePorts");
    }

    #[test]
    fn selectors_and_affinity_must_match() {
        let matches = |spec: serde_json::Value| selected(&pod("u", spec), &node());
        let affinity = |op: &str, key: &str, values: serde_json::Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": key, "operator": op, "values": values}]}]}}}})
        };
        assert!(matches(json!({"nodeSelector": {"zone": "a"}})));
        assert!(!matches(json!({"nodeSelector": {"zone": "b"}})));
        assert!(matches(affinity("In", "zone", json!(["a", "b"]))));
        assert!(!matches(affinity("NotIn", "zone", json!(["a"]))));
        assert!(matches(affinity("Gt", "size", json!(["4"]))));
        assert!(!matches(affinity("DoesNotExist", "zone", json!([]))));
    }

    #[test]
    fn unsafe_sysctls_are_rejected() {
        let bad = pod("u", json!({"securityContext": {"sysctls": [{"name": "kernel.x", "value": "1"}]}}));
        let verdict = Admission::default().admit(&NodeConfig::default(), Some(&node()), &bad).unwrap_err();
        assert_eq!(verdict.reason, "SysctlForbidden");
    }
}
