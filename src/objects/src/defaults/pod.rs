//! Defaults of pods and pod templates.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EphemeralContainer, HTTPGetAction, LifecycleHandler, ObjectFieldSelector, Pod,
    PodSpec, PodTemplateSpec, Probe, ResourceFieldSelector, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{fill, fill_number, fill_value, volumes};
use crate::{quantity, resources};

const GRACE_SECONDS: i64 = 30;

/// `SetDefaults_Pod` and all below it.
pub fn pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    spec_of_template(spec);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(resources) = &mut container.resources {
            requests_from_limits(resources);
        }
    }
    pod_level_requests(spec);
    fill_value(&mut spec.enable_service_links, true);
    if spec.host_network == Some(true) {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            container.ports.iter_mut().flatten().for_each(host_port);
        }
    }
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = resources.limits.as_ref().filter(|limits| !limits.is_empty()) else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// Pod-level requests follow the containers' requests, then the pod's own limits.
fn pod_level_requests(spec: &mut PodSpec) {
    if spec.resources.as_ref().and_then(|r| r.limits.as_ref()).is_none_or(BTreeMap::is_empty) {
        return;
    }
    let aggregate = resources::container_requests(spec);
    let Some(resources) = &mut spec.resources else { return };
    let limits = resources.limits.clone().unwrap_or_default();
    let requests: &mut BTreeMap<String, Quantity> = resources.requests.get_or_insert_default();
    for (name, amount) in aggregate {
        if matches!(name.as_str(), "cpu" | "memory") {
            requests.entry(name).or_insert_with(|| amount.to_wire());
        }
    }
    for (name, limit) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            requests.entry(name).or_insert(limit);
        }
    }
}

fn host_port(port: &mut ContainerPort) {
    fill_number(&mut port.host_port, port.container_port);
}

pub fn template(template: &mut PodTemplateSpec) {
    spec_of_template(template.spec.get_or_insert_default());
}

/// `SetDefaults_PodSpec`: what pods and templates share.
pub fn spec_of_template(spec: &mut PodSpec) {
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.restart_policy, "Always");
    fill_value(&mut spec.security_context, Default::default());
    fill_value(&mut spec.termination_grace_period_seconds, GRACE_SECONDS);
    fill(&mut spec.scheduler_name, "default-scheduler");
    service_account(spec);
    spec.volumes.iter_mut().flatten().for_each(volumes::volume);
    spec.containers.iter_mut().for_each(container);
    spec.init_containers.iter_mut().flatten().for_each(container);
    spec.ephemeral_containers.iter_mut().flatten().for_each(ephemeral_container);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are written.
fn service_account(spec: &mut PodSpec) {
    let name = [&spec.service_account_name, &spec.service_account];
    let name = name.into_iter().flatten().find(|name| !name.is_empty()).cloned();
    spec.service_account_name.clone_from(&name);
    spec.service_account = name;
}

/// The fields that containers and ephemeral containers share.
macro_rules! container_fields {
    ($container:expr) => {{
        let policy = if is_latest($container.image.as_deref().unwrap_or_default()) { "Always" } else { "IfNotPresent" };
        fill(&mut $container.image_pull_policy, policy);
        fill(&mut $container.termination_message_path, "/dev/termination-log");
        fill(&mut $container.termination_message_policy, "File");
        round($container.resources.get_or_insert_default());
        for port in $container.ports.iter_mut().flatten() {
            fill(&mut port.protocol, "TCP");
        }
        $container.env.iter_mut().flatten().for_each(env);
        let probes = [&mut $container.liveness_probe, &mut $container.readiness_probe, &mut $container.startup_probe];
        probes.into_iter().flatten().for_each(probe);
        if let Some(lifecycle) = &mut $container.lifecycle {
            [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten().for_each(handler);
        }
    }};
}

/// Amounts are kept to the thousandth.
fn round(resources: &mut ResourceRequirements) {
    let lists = [&mut resources.limits, &mut resources.requests].into_iter().flatten();
    for amount in lists.flat_map(BTreeMap::values_mut) {
        let exact = quantity::Quantity::of(amount);
        if !exact.is_milli_precise() {
            *amount = exact.round_up_to_millis().to_wire();
        }
    }
}

fn container(container: &mut Container) {
    container_fields!(container);
}

fn ephemeral_container(container: &mut EphemeralContainer) {
    container_fields!(container);
}

/// Whether an image reference means the moving `latest` tag: neither another tag nor a digest.
pub fn is_latest(image: &str) -> bool {
    if image.is_empty() || image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn env(env: &mut EnvVar) {
    let Some(source) = &mut env.value_from else { return };
    if let Some(field) = &mut source.field_ref {
        field_ref(field);
    }
    if let Some(resource) = &mut source.resource_field_ref {
        resource_ref(resource);
    }
    if let Some(file) = &mut source.file_key_ref {
        fill_value(&mut file.optional, false);
    }
}

pub(super) fn field_ref(field: &mut ObjectFieldSelector) {
    fill(&mut field.api_version, "v1");
}

pub(super) fn resource_ref(resource: &mut ResourceFieldSelector) {
    fill_value(&mut resource.divisor, Quantity("0".to_owned()));
}

fn probe(probe: &mut Probe) {
    fill_number(&mut probe.timeout_seconds, 1);
    fill_number(&mut probe.period_seconds, 10);
    fill_number(&mut probe.success_threshold, 1);
    fill_number(&mut probe.failure_threshold, 3);
    if let Some(get) = &mut probe.http_get {
        http_get(get);
    }
    if let Some(grpc) = &mut probe.grpc {
        fill_value(&mut grpc.service, String::new());
    }
}

fn handler(handler: &mut LifecycleHandler) {
    if let Some(get) = &mut handler.http_get {
        http_get(get);
    }
}

fn http_get(get: &mut HTTPGetAction) {
    fill(&mut get.path, "/");
    fill(&mut get.scheme, "HTTP");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_moving_tags_are_latest() {
        for (image, expected) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("localhost:5000/nginx", true),
            ("localhost:5000/nginx:1.2", false),
            ("nginx@sha256:abc", false),
            ("nginx:1", false),
            ("", false),
        ] {
            assert_eq!(is_latest(image), expected, "{image}");
        }
    }

    #[test]
    fn defaulting_twice_changes_nothing() {
        let json = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "spec": {"hostNetwork": true, "containers": [{
            "name": "a", "image": "b", "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}},
            "resources": {"limits": {"cpu": "1"}}}], "volumes": [{"name": "v"}, {"name": "p", "projected":
            {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}});
        let mut once: Pod = serde_json::from_value(json).unwrap();
        pod(&mut once);
        let mut twice = once.clone();
        pod(&mut twice);
        assert_eq!(once, twice);
        let spec = once.spec.unwrap();
        assert_eq!(spec.containers[0].ports.as_ref().unwrap()[0].host_port, Some(80));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"));
        assert!(spec.containers[0].resources.as_ref().unwrap().requests.is_some());
        assert!(spec.volumes.unwrap()[0].empty_dir.is_some());
    }
}
