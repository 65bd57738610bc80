//! Containers of all three kinds.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, EnvFromSource, EnvVar, EphemeralContainer, ResourceRequirements,
    SecurityContext, VolumeDevice, VolumeMount,
};

use super::{Scope, env, init_containers, probes, security, volumes};
use crate::field::{BadValue, Errors, Path};
use crate::validation::{check, required_one_of, resources, text};
use crate::{names, resources::is_sidecar};

/// The fields that regular, init and ephemeral containers share.
pub(super) struct Common<'a> {
    pub(super) name: &'a str,
    image: &'a str,
    termination_message_policy: Option<&'a str>,
    ports: &'a [ContainerPort],
    env: &'a [EnvVar],
    env_from: &'a [EnvFromSource],
    pub(super) mounts: &'a [VolumeMount],
    pub(super) devices: &'a [VolumeDevice],
    pull_policy: Option<&'a str>,
    resources: Option<&'a ResourceRequirements>,
    resize_policy: &'a [ContainerResizePolicy],
    pub(super) security: Option<&'a SecurityContext>,
}

macro_rules! common {
    ($container:expr) => {
        Common {
            name: &$container.name,
            image: $container.image.as_deref().unwrap_or_default(),
            termination_message_policy: $container.termination_message_policy.as_deref(),
            ports: $container.ports.as_deref().unwrap_or_default(),
            env: $container.env.as_deref().unwrap_or_default(),
            env_from: $container.env_from.as_deref().unwrap_or_default(),
            mounts: $container.volume_mounts.as_deref().unwrap_or_default(),
            devices: $container.volume_devices.as_deref().unwrap_or_default(),
            pull_policy: $container.image_pull_policy.as_deref(),
            resources: $container.resources.as_ref(),
            resize_policy: $container.resize_policy.as_deref().unwrap_or_default(),
            security: $container.security_context.as_ref(),
        }
    };
}

impl<'a> From<&'a Container> for Common<'a> {
    fn from(container: &'a Container) -> Self {
        common!(container)
    }
}

impl<'a> From<&'a EphemeralContainer> for Common<'a> {
    fn from(container: &'a EphemeralContainer) -> Self {
        common!(container)
    }
}

impl Common<'_> {
    fn validate(&self, errors: &mut Errors, path: &Path<'_>, scope: &Scope<'_>) {
        match self.name {
            "" => errors.required(&path.child("name"), ""),
            name => check(errors, &path.child("name"), name, names::dns1123_label(name)),
        }
        if self.image.is_empty() {
            errors.required(&path.child("image"), "");
        }
        let policies = ["File", "FallbackToLogsOnError"];
        let policy_path = path.child("terminationMessagePolicy");
        required_one_of(errors, &policy_path, self.termination_message_policy, &policies);
        ports(errors, &path.child("ports"), self.ports);
        env::vars(errors, &path.child("env"), self.env, scope);
        env::from(errors, &path.child("envFrom"), self.env_from);
        volumes::mounts(errors, &path.child("volumeMounts"), self, scope);
        volumes::devices(errors, &path.child("volumeDevices"), self, scope);
        let policies = ["Always", "IfNotPresent", "Never"];
        required_one_of(errors, &path.child("imagePullPolicy"), self.pull_policy, &policies);
        if let Some(requirements) = self.resources {
            resources::requirements(errors, &path.child("resources"), requirements, &scope.claims);
        }
        resize_policy(errors, &path.child("resizePolicy"), self.resize_policy, scope.restart_policy);
        security::container(errors, &path.child("securityContext"), self.security, scope.host_users);
    }
}

/// Pods, unlike templates, are held to this; templates may use a blank image as a marker.
pub(super) fn image_has_no_padding(errors: &mut Errors, path: &Path<'_>, image: &str) {
    if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn ports(errors: &mut Errors, path: &Path<'_>, ports: &[ContainerPort]) {
    let mut seen = HashSet::new();
    for (n, port) in ports.iter().enumerate() {
        let path = &path.index(n);
        let name = text(port.name.as_ref());
        if !name.is_empty() {
            let messages = names::port_name(name);
            if messages.is_empty() && !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            check(errors, &path.child("name"), name, messages);
        }
        match port.container_port {
            0 => errors.required(&path.child("containerPort"), ""),
            number => port_number(errors, &path.child("containerPort"), number),
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            port_number(errors, &path.child("hostPort"), number);
        }
        required_one_of(errors, &path.child("protocol"), port.protocol.as_deref(), &["SCTP", "TCP", "UDP"]);
    }
}

pub(super) fn port_number(errors: &mut Errors, path: &Path<'_>, number: i32) {
    for message in names::port_number(number) {
        errors.invalid(path, number, &message);
    }
}

fn resize_policy(errors: &mut Errors, path: &Path<'_>, policies: &[ContainerResizePolicy], restart_policy: &str) {
    let mut seen = HashSet::new();
    for (n, policy) in policies.iter().enumerate() {
        if !seen.insert(&policy.resource_name) {
            errors.duplicate(&path.index(n), &policy.resource_name);
        }
        required_one_of(errors, path, Some(&policy.resource_name), &["cpu", "memory"]);
        required_one_of(errors, path, Some(&policy.restart_policy), &["NotRequired", "RestartContainer"]);
        if restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.invalid(path, &policy.restart_policy, detail);
        }
    }
}

/// Host ports that two containers of a list want at once.
fn host_port_conflicts(errors: &mut Errors, path: &Path<'_>, containers: &[Container]) {
    let mut seen = HashSet::new();
    for (n, container) in containers.iter().enumerate() {
        let container_path = path.index(n);
        let path = container_path.child("ports");
        for (n, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
            let key = format!("{}/{}/{number}", text(port.protocol.as_ref()), text(port.host_ip.as_ref()));
            if seen.contains(&key) {
                errors.duplicate(&path.index(n).child("hostPort"), &key);
            }
            seen.insert(key);
        }
    }
}

pub(super) fn regular(errors: &mut Errors, path: &Path<'_>, scope: &Scope<'_>) {
    let containers = &scope.spec.containers;
    if containers.is_empty() {
        return errors.required(path, "");
    }
    let mut seen = HashSet::new();
    for (n, container) in containers.iter().enumerate() {
        let path = &path.index(n);
        Common::from(container).validate(errors, path, scope);
        if !seen.insert(&container.name) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        probes::container(errors, path, container, scope);
        restart_policy(errors, path, container, false);
    }
    host_port_conflicts(errors, path, containers);
}

/// A container's own restart policy: only `Always` for init containers, any for regular ones (with rules).
fn restart_policy(errors: &mut Errors, path: &Path<'_>, container: &Container, init: bool) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    if let Some(policy) = &container.restart_policy {
        let supported = ["Always", "Never", "OnFailure"];
        required_one_of(errors, &path.child("restartPolicy"), Some(policy), &supported);
        if init && policy == "Always" && !rules.is_empty() {
            errors.forbidden(
                &path.child("restartPolicyRules"),
                "restartPolicyRules are not allowed for init containers with restart policy Always",
            );
        }
    } else if !rules.is_empty() {
        errors.required(&path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    let path = path.child("restartPolicyRules");
    for (n, rule) in rules.iter().enumerate() {
        let path = path.index(n);
        required_one_of(errors, &path.child("action"), Some(&rule.action), &["Restart", "RestartAllContainers"]);
        match &rule.exit_codes {
            None => errors.required(&path.child("exitCodes"), "must be specified"),
            Some(codes) => {
                required_one_of(errors, &path.child("exitCodes.operator"), Some(&codes.operator), &["In", "NotIn"]);
            }
        }
    }
}

pub(super) fn init(errors: &mut Errors, path: &Path<'_>, scope: &Scope<'_>) {
    let mut seen: HashSet<&str> = scope.spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (n, container) in init_containers(scope.spec).iter().enumerate() {
        let item = &path.index(n);
        Common::from(container).validate(errors, item, scope);
        restart_policy(errors, item, container, true);
        if !container.name.is_empty() && !seen.insert(&container.name) {
            errors.duplicate(&item.child("name"), &container.name);
        }
        // Init containers run one by one, so that each is checked alone.
        host_port_conflicts(errors, path, std::slice::from_ref(container));
        if is_sidecar(container) {
            probes::container(errors, item, container, scope);
        } else {
            let fields = [
                ("lifecycle", container.lifecycle.is_some()),
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
            ];
            for (field, _) in fields.into_iter().filter(|(_, set)| *set) {
                errors.forbidden(&item.child(field), "may not be set for init containers without restartPolicy=Always");
            }
        }
        if !container.resize_policy.as_deref().unwrap_or_default().is_empty() && !is_sidecar(container) {
            let detail = "must not be set for init containers";
            errors.invalid(&item.child("resizePolicy"), BadValue::json(&container.resize_policy), detail);
        }
    }
}

pub(super) fn ephemeral(errors: &mut Errors, path: &Path<'_>, scope: &Scope<'_>) {
    let others = || scope.spec.containers.iter().chain(init_containers(scope.spec)).map(|c| c.name.as_str());
    let mut seen: HashSet<&str> = others().collect();
    for (n, container) in scope.spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = &path.index(n);
        Common::from(container).validate(errors, path, scope);
        image_has_no_padding(errors, path, container.image.as_deref().unwrap_or_default());
        if !seen.insert(&container.name) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        let target = text(container.target_container_name.as_ref());
        if !target.is_empty() && others().all(|name| name != target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        ephemeral_fields(errors, path, container);
    }
}

/// What ephemeral containers may not have: they are guests, and no part of the workload.
fn ephemeral_fields(errors: &mut Errors, path: &Path<'_>, container: &EphemeralContainer) {
    const REFUSED: &str = "cannot be set for an Ephemeral Container";
    let resources = container.resources.as_ref().is_some_and(|r| *r != ResourceRequirements::default());
    let fields = [
        ("ports", container.ports.is_some()),
        ("resources", resources),
        ("resizePolicy", container.resize_policy.is_some()),
        ("restartPolicy", container.restart_policy.is_some()),
        ("restartPolicyRules", container.restart_policy_rules.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, set)| *set) {
        errors.forbidden(&path.child(field), REFUSED);
    }
    let path = path.child("volumeMounts");
    for (n, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.index(n);
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if !text(value.as_ref()).is_empty() {
                errors.forbidden(&path.child(field), REFUSED);
            }
        }
    }
}
