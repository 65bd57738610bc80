//! What may change in a pod's status.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus};

use crate::field::{Errors, Path};
use crate::names;
use crate::resources::is_sidecar;
use crate::validation::{check, immutable, text};

/// `ValidatePodStatusUpdate`, metadata apart.
pub fn update(errors: &mut Errors, new: &Pod, old: &Pod) {
    let (default_spec, default) = (PodSpec::default(), PodStatus::default());
    let spec = old.spec.as_ref().unwrap_or(&default_spec);
    let (new, old) = (new.status.as_ref().unwrap_or(&default), old.status.as_ref().unwrap_or(&default));
    let path = &Path::root("status");
    let conditions = path.child("conditions");
    for (n, condition) in new.conditions.iter().flatten().enumerate() {
        check(errors, &conditions.index(n).child("type"), &condition.type_, names::qualified_name(&condition.type_));
    }
    let nominated = text(new.nominated_node_name.as_ref());
    if new.nominated_node_name != old.nominated_node_name && !nominated.is_empty() {
        check(errors, &path.child("nominatedNodeName"), nominated, names::dns1123_subdomain(nominated));
    }
    if old.qos_class.is_some() {
        immutable(errors, &path.child("qosClass"), &new.qos_class, &old.qos_class);
    }
    let policy = text(spec.restart_policy.as_ref());
    let lists = [
        ("containerStatuses", &new.container_statuses, &old.container_statuses, policy),
        ("initContainerStatuses", &new.init_container_statuses, &old.init_container_statuses, policy),
        // Ephemeral containers are never restarted.
        ("ephemeralContainerStatuses", &new.ephemeral_container_statuses, &old.ephemeral_container_statuses, "Never"),
    ];
    for (field, new, old, policy) in lists {
        let (new, old) = (new.as_deref().unwrap_or_default(), old.as_deref().unwrap_or_default());
        transitions(errors, &path.child(field), spec, (new, old), policy);
    }
    ips(errors, path, new);
}

/// A container that has ended for good stays ended.
fn transitions(
    errors: &mut Errors,
    path: &Path<'_>,
    spec: &PodSpec,
    (new, old): (&[ContainerStatus], &[ContainerStatus]),
    policy: &str,
) {
    if policy == "Always" {
        return;
    }
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for (n, status) in old.iter().enumerate() {
        let Some(ended) = status.state.as_ref().and_then(|state| state.terminated.as_ref()) else { continue };
        let own_policy = containers().find(|c| c.name == status.name);
        let restarts =
            own_policy.is_some_and(|c| is_sidecar(c) || c.restart_policy.is_some() || c.restart_policy_rules.is_some());
        if (ended.exit_code != 0 && policy == "OnFailure") || restarts {
            continue;
        }
        let revived = |new: &&ContainerStatus| {
            new.name == status.name && new.state.as_ref().is_none_or(|state| state.terminated.is_none())
        };
        if new.iter().any(|new| revived(&new)) {
            errors.forbidden(&path.index(n).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn ips(errors: &mut Errors, path: &Path<'_>, status: &PodStatus) {
    let pods: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    let hosts: Vec<&str> = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if let Some(first) = hosts.first().filter(|first| **first != text(status.host_ip.as_ref())) {
        errors.invalid(&path.child("hostIPs").index(0).child("ip"), *first, "must be equal to `hostIP`");
    }
    for (field, list) in [("podIPs", pods), ("hostIPs", hosts)] {
        let path = path.child(field);
        for (n, ip) in list.iter().enumerate() {
            check(errors, &path.index(n), ip, names::ip(ip));
            if list[..n].contains(ip) {
                errors.duplicate(&path.index(n), *ip);
            }
        }
        let v6 = list.iter().filter(|ip| ip.contains(':')).count();
        if list.len() > 1 && (v6 != 1 || list.len() > 2) {
            let detail = "may specify no more than one IP for each IP family";
            errors.invalid(&path, crate::field::BadValue::json(&list), detail);
        }
    }
}
