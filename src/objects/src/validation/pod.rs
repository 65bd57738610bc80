//! Pod and pod template specifications.
//!
//! The order of the checks is upstream's (`ValidatePodSpec`), so that the errors of a bad manifest come out in the
//! order users know.

mod affinity;
mod containers;
mod env;
mod probes;
mod scheduling;
mod security;
pub mod status;
pub mod update;
mod volumes;

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, Pod, PodResourceClaim, PodSpec, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) use probes::port;
pub use scheduling::{node_selector, node_selector_term, taint_effect, tolerations};

use super::{check, labels, one_of, required_one_of, resources, text};
use crate::field::{BadValue, Errors, Path};
use crate::names;

/// What checks deep inside a specification need to know of the rest of it.
struct Scope<'a> {
    spec: &'a PodSpec,
    volumes: HashMap<&'a str, &'a Volume>,
    claims: Vec<&'a str>,
    restart_policy: &'a str,
    host_users: bool,
}

/// A new pod: the specification and the rules that hold on creation alone.
pub fn create(errors: &mut Errors, pod: &Pod) {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let path = &Path::root("spec");
    of_pod(errors, pod);
    if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if gated && !text(spec.node_name.as_ref()).is_empty() {
        errors.forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// Rules for every version of a pod (not of a template).
pub(crate) fn of_pod(errors: &mut Errors, pod: &Pod) {
    let default = PodSpec::default();
    let pod_spec = pod.spec.as_ref().unwrap_or(&default);
    let path = &Path::root("spec");
    annotations(errors, &Path::root("metadata").child("annotations"), pod.metadata.annotations.as_ref());
    spec(errors, path, pod_spec, Some(&pod.metadata));
    if text(pod_spec.service_account_name.as_ref()).is_empty() {
        volumes::no_tokens(errors, &path.child("volumes"), pod_spec.volumes.as_deref().unwrap_or_default());
    }
    let lists = [("containers", Some(&pod_spec.containers)), ("initContainers", pod_spec.init_containers.as_ref())];
    for (name, list) in lists {
        let path = path.child(name);
        for (n, container) in list.into_iter().flatten().enumerate() {
            containers::image_has_no_padding(errors, &path.index(n), container.image.as_deref().unwrap_or_default());
        }
    }
}

/// `ValidatePodTemplateSpec`.
pub fn template(errors: &mut Errors, path: &Path<'_>, template: &PodTemplateSpec) {
    let default = PodSpec::default();
    let pod_spec = template.spec.as_ref().unwrap_or(&default);
    let meta = template.metadata.as_ref();
    labels::labels(errors, &path.child("labels"), meta.and_then(|m| m.labels.as_ref()));
    let annotation_map = meta.and_then(|m| m.annotations.as_ref());
    labels::annotations(errors, &path.child("annotations"), annotation_map);
    annotations(errors, &path.child("annotations"), annotation_map);
    spec(errors, &path.child("spec"), pod_spec, None);
    if pod_spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        errors.forbidden(&path.child("spec.ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Annotations that mean something to pods.
fn annotations(errors: &mut Errors, path: &Path<'_>, annotations: Option<&BTreeMap<String, String>>) {
    const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(cost) = annotations.and_then(|all| all.get(DELETION_COST)) {
        let plain = cost.parse::<i32>().is_ok_and(|n| n.to_string() == *cost);
        if !plain {
            errors.invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer");
        }
    }
}

/// `ValidatePodSpec`. The metadata is that of a real pod, none for a template.
pub fn spec(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec, meta: Option<&ObjectMeta>) {
    let volumes = volumes::volumes(errors, &path.child("volumes"), spec, meta);
    let claims = resource_claims(errors, &path.child("resourceClaims"), spec);
    let restart_policy = text(spec.restart_policy.as_ref());
    let scope = Scope { spec, volumes, claims, restart_policy, host_users: spec.host_users != Some(false) };
    containers::regular(errors, &path.child("containers"), &scope);
    containers::init(errors, &path.child("initContainers"), &scope);
    containers::ephemeral(errors, &path.child("ephemeralContainers"), &scope);
    pod_resources(errors, &path.child("resources"), spec);
    host_network_ports(errors, &path.child("containers"), spec, meta.is_some());
    let policies = ["Always", "OnFailure", "Never"];
    required_one_of(errors, &path.child("restartPolicy"), spec.restart_policy.as_deref(), &policies);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_one_of(errors, &path.child("dnsPolicy"), spec.dns_policy.as_deref(), &policies);
    labels::labels(errors, &path.child("nodeSelector"), spec.node_selector.as_ref());
    security::pod(errors, &path.child("securityContext"), spec);
    affinity::affinity(errors, &path.child("affinity"), spec.affinity.as_ref());
    dns_config(errors, &path.child("dnsConfig"), spec);
    scheduling::gates(errors, path, spec);
    scheduling::spread(errors, &path.child("topologySpreadConstraints"), spec);
    host_users(errors, path, spec);
    references(errors, path, spec);
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            check(errors, &path.child(field), value, names::dns1123_label(value));
        }
    }
    scheduling::tolerations(errors, &path.child("tolerations"), spec.tolerations.as_deref().unwrap_or_default());
    host_aliases(errors, &path.child("hostAliases"), spec);
    if let Some(policy) = &spec.preemption_policy {
        let supported = ["PreemptLowerPriority", "Never"];
        required_one_of(errors, &path.child("preemptionPolicy"), Some(policy), &supported);
    }
    resources::list(errors, &path.child("overhead.limits"), spec.overhead.as_ref());
    if let Some(os) = &spec.os {
        match os.name.as_str() {
            "" => errors.required(&path.child("os.name"), "cannot be empty"),
            name => one_of(errors, &path.child("os"), name, &["linux", "windows"]),
        }
    }
}

/// Names of other objects.
fn references(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec) {
    let fields = [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
    ];
    for (field, value) in fields {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            check(errors, &path.child(field), value, names::dns1123_subdomain(value));
        }
    }
}

fn resource_claims<'a>(errors: &mut Errors, path: &Path<'_>, spec: &'a PodSpec) -> Vec<&'a str> {
    let mut seen: Vec<&str> = Vec::new();
    for (n, claim) in spec.resource_claims.iter().flatten().enumerate() {
        let path = &path.index(n);
        let name = claim.name.as_str();
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        } else {
            check(errors, &path.child("name"), name, names::dns1123_label(name));
            seen.push(name);
        }
        claim_source(errors, path, claim);
    }
    seen
}

fn claim_source(errors: &mut Errors, path: &Path<'_>, claim: &PodResourceClaim) {
    let sources = [
        ("resourceClaimName", &claim.resource_claim_name),
        ("resourceClaimTemplateName", &claim.resource_claim_template_name),
    ];
    match sources.iter().filter(|(_, name)| name.is_some()).count() {
        0 => {
            let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.invalid(path, BadValue::json(claim), detail);
        }
        1 => {}
        _ => {
            let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
            errors.invalid(path, BadValue::json(claim), detail);
        }
    }
    for (field, name) in sources {
        if let Some(name) = name {
            check(errors, &path.child(field), name, names::dns1123_subdomain(name));
        }
    }
}

/// Pod-level resources: names, amounts, and room for the containers.
fn pod_resources(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec) {
    let Some(pod) = &spec.resources else { return };
    if pod.claims.is_some() {
        errors.forbidden(&path.child("claims"), "claims cannot be set for Resources at pod-level");
    }
    resources::pod_requirements(errors, path, pod);
    let path = &path.child("requests");
    for (name, needed) in crate::resources::container_requests(spec) {
        let given = pod.requests.as_ref().and_then(|requests| requests.get(&name));
        let given = given.map(crate::quantity::Quantity::of).unwrap_or_default();
        if needed > given {
            let detail = format!("must be greater than or equal to aggregate container requests of {needed}");
            errors.invalid(&path.key(&name), given.to_string().as_str(), &detail);
        }
    }
}

fn host_network_ports(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec, is_pod: bool) {
    if spec.host_network != Some(true) {
        return;
    }
    for (n, container) in spec.containers.iter().enumerate() {
        let container_path = path.index(n);
        let path = container_path.child("ports");
        for (n, port) in container.ports.iter().flatten().enumerate() {
            let host = port.host_port.unwrap_or(0);
            if (is_pod || host != 0) && host != port.container_port {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&path.index(n).child("hostPort"), host, detail);
            }
        }
    }
}

fn host_users(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec) {
    if spec.host_users != Some(false) {
        return;
    }
    let shared = [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)];
    for (field, set) in shared {
        if set == Some(true) {
            errors.forbidden(&path.child(field), "when `hostUsers` is false");
        }
    }
}

fn dns_config(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec) {
    let none = spec.dns_policy.as_deref() == Some("None");
    let Some(config) = &spec.dns_config else {
        if none {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = config.nameservers.as_deref().unwrap_or_default();
    let searches = config.searches.as_deref().unwrap_or_default();
    let path_of_servers = path.child("nameservers");
    if none && servers.is_empty() {
        errors.required(&path_of_servers, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        return;
    }
    if servers.len() > 3 {
        errors.invalid(&path_of_servers, BadValue::json(&servers), "must not have more than 3 nameservers");
    }
    for (n, server) in servers.iter().enumerate() {
        check(errors, &path_of_servers.index(n), server, names::ip(server));
    }
    let path_of_searches = path.child("searches");
    if searches.len() > 32 {
        errors.invalid(&path_of_searches, BadValue::json(&searches), "must not have more than 32 search paths");
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.invalid(&path_of_searches, BadValue::json(&searches), detail);
    }
    for (n, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let plain = search.strip_suffix('.').unwrap_or(search);
        check(errors, &path_of_searches.index(n), plain, names::dns1123_subdomain(&plain.replace('_', "-")));
    }
    let path_of_options = path.child("options");
    for (n, option) in config.options.iter().flatten().enumerate() {
        if text(option.name.as_ref()).is_empty() {
            errors.required(&path_of_options.index(n), "must not be empty");
        }
    }
}

fn host_aliases(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec) {
    for (n, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.index(n);
        check(errors, &path.child("ip"), &alias.ip, names::ip(&alias.ip));
        let path = path.child("hostnames");
        for (n, name) in alias.hostnames.iter().flatten().enumerate() {
            check(errors, &path.index(n), name, names::dns1123_subdomain(name));
        }
    }
}

/// The containers that run before the pod's own ones and beside them.
fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
