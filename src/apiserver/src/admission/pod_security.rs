//! PodSecurity: the baseline and restricted standards, enforced or warned about as the namespace's labels say.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use objects::status::Status;
use serde_json::Value;

use super::{Operation, Review};

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const WARN: &str = "pod-security.kubernetes.io/warn";

/// Checks a new pod, or one whose containers change.
pub(super) fn validate(review: &mut Review<'_>, object: &Value) -> Result<(), Status> {
    let changes = matches!(review.place.subresource, "ephemeralcontainers" | "resize");
    if !(review.operation == Operation::Create || changes) {
        return Ok(());
    }
    let Some(namespace) = review.inner.hub.kind("namespaces")?.get(review.place.namespace) else { return Ok(()) };
    let level = |label: &str| namespace.projection.labels.get(label).cloned().unwrap_or_default();
    let (enforce, warn) = (level(ENFORCE), level(WARN));
    if !is_level(&enforce) && !is_level(&warn) {
        return Ok(());
    }
    let spec = object.get("spec").cloned().unwrap_or_default();
    let spec: PodSpec = objects::decode::decode(spec).map_err(Status::internal)?;
    let refused = violations(&spec, &enforce);
    if !refused.is_empty() {
        let why = format!("violates PodSecurity \"{enforce}:latest\": {}", refused.join(", "));
        return Err(review.forbid(crate::encoded::meta_str(object, "name"), &why));
    }
    let warned = violations(&spec, &warn);
    if !warned.is_empty() {
        review.warnings.push(format!("would violate PodSecurity \"{warn}:latest\": {}", warned.join(", ")));
    }
    Ok(())
}

fn is_level(level: &str) -> bool {
    matches!(level, "baseline" | "restricted")
}

/// All containers, ephemeral ones seen as plain ones.
fn containers(spec: &PodSpec) -> Vec<Container> {
    let ephemeral = spec.ephemeral_containers.iter().flatten().filter_map(|container| {
        serde_json::to_value(container).ok().and_then(|value| objects::decode::decode(value).ok())
    });
    spec.init_containers.iter().flatten().cloned().chain(spec.containers.iter().cloned()).chain(ephemeral).collect()
}

/// Everything about a pod that a level forbids, in upstream's wording.
fn violations(spec: &PodSpec, level: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !is_level(level) {
        return found;
    }
    let containers = containers(spec);
    baseline(spec, &containers, &mut found);
    if level == "restricted" {
        restricted(spec, &containers, &mut found);
    }
    found
}

fn named(containers: &[Container], bad: impl Fn(&Container) -> bool) -> Vec<&str> {
    containers.iter().filter(|container| bad(container)).map(|container| container.name.as_str()).collect()
}

fn report(found: &mut Vec<String>, check: &str, names: &[&str], what: &str) {
    if !names.is_empty() {
        let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let noun = if names.len() == 1 { "container" } else { "containers" };
        found.push(format!("{check} ({noun} {} {what})", quoted.join(", ")));
    }
}

fn added_capabilities(container: &Container) -> impl Iterator<Item = &str> {
    let context = container.security_context.as_ref();
    let added = context.and_then(|c| c.capabilities.as_ref()).and_then(|c| c.add.as_ref());
    added.into_iter().flatten().map(String::as_str)
}

/// Capabilities that baseline lets a container add.
const HARMLESS: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SAFE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];

fn baseline(spec: &PodSpec, containers: &[Container], found: &mut Vec<String>) {
    let host: Vec<&str> =
        [(spec.host_network, "hostNetwork=true"), (spec.host_pid, "hostPID=true"), (spec.host_ipc, "hostIPC=true")]
            .into_iter()
            .filter_map(|(set, text)| (set == Some(true)).then_some(text))
            .collect();
    if !host.is_empty() {
        found.push(format!("host namespaces ({})", host.join(", ")));
    }
    let context = |container: &Container| container.security_context.clone().unwrap_or_default();
    let privileged = named(containers, |c| context(c).privileged == Some(true));
    report(found, "privileged", &privileged, "must not set securityContext.privileged=true");
    let extra = named(containers, |c| added_capabilities(c).any(|name| !HARMLESS.contains(&name)));
    report(
        found,
        "non-default capabilities",
        &extra,
        "must not include capabilities beyond the default set in securityContext.capabilities.add",
    );
    let host_paths: Vec<String> = spec
        .volumes
        .iter()
        .flatten()
        .filter(|volume| volume.host_path.is_some())
        .map(|volume| format!("\"{}\"", volume.name))
        .collect();
    if !host_paths.is_empty() {
        let noun = if host_paths.len() == 1 { "volume" } else { "volumes" };
        found.push(format!("hostPath volumes ({noun} {})", host_paths.join(", ")));
    }
    let ports = named(containers, |c| c.ports.iter().flatten().any(|port| port.host_port.unwrap_or(0) != 0));
    report(found, "hostPort", &ports, "uses a hostPort");
    let unmasked = named(containers, |c| context(c).proc_mount.is_some_and(|mount| mount != "Default"));
    report(found, "procMount", &unmasked, "must not set securityContext.procMount");
    let unconfined = named(containers, |c| context(c).seccomp_profile.is_some_and(|p| p.type_ == "Unconfined"));
    report(found, "seccompProfile", &unconfined, "must not set securityContext.seccompProfile.type to \"Unconfined\"");
    let pod = spec.security_context.clone().unwrap_or_default();
    if pod.seccomp_profile.as_ref().is_some_and(|profile| profile.type_ == "Unconfined") {
        found.push("seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")".into());
    }
    let unsafe_sysctls: Vec<String> = pod
        .sysctls
        .unwrap_or_default()
        .into_iter()
        .map(|sysctl| sysctl.name)
        .filter(|name| !SAFE_SYSCTLS.contains(&name.as_str()))
        .collect();
    if !unsafe_sysctls.is_empty() {
        found.push(format!("forbidden sysctls ({})", unsafe_sysctls.join(", ")));
    }
}

fn restricted(spec: &PodSpec, containers: &[Container], found: &mut Vec<String>) {
    let context = |container: &Container| container.security_context.clone().unwrap_or_default();
    let pod = spec.security_context.clone().unwrap_or_default();
    let escalating = named(containers, |c| context(c).allow_privilege_escalation != Some(false));
    report(
        found,
        "allowPrivilegeEscalation != false",
        &escalating,
        "must set securityContext.allowPrivilegeEscalation=false",
    );
    let keeping = named(containers, |c| {
        let capabilities = context(c).capabilities.unwrap_or_default();
        !capabilities.drop.unwrap_or_default().iter().any(|name| name == "ALL")
            || capabilities.add.unwrap_or_default().iter().any(|name| name != "NET_BIND_SERVICE")
    });
    report(found, "unrestricted capabilities", &keeping, "must set securityContext.capabilities.drop=[\"ALL\"]");
    let volumes: Vec<String> = spec
        .volumes
        .iter()
        .flatten()
        .filter(|v| {
            v.config_map.is_none()
                && v.secret.is_none()
                && v.empty_dir.is_none()
                && v.projected.is_none()
                && v.downward_api.is_none()
                && v.persistent_volume_claim.is_none()
                && v.ephemeral.is_none()
                && v.csi.is_none()
        })
        .map(|volume| format!("\"{}\"", volume.name))
        .collect();
    if !volumes.is_empty() {
        found.push(format!("restricted volume types (volumes {} use restricted volume types)", volumes.join(", ")));
    }
    let rooting = named(containers, |c| context(c).run_as_non_root.or(pod.run_as_non_root) != Some(true));
    if !rooting.is_empty() {
        let noun = if rooting.len() == 1 { "container" } else { "containers" };
        let quoted: Vec<String> = rooting.iter().map(|name| format!("\"{name}\"")).collect();
        found.push(format!(
            "runAsNonRoot != true (pod or {noun} {} must set securityContext.runAsNonRoot=true)",
            quoted.join(", ")
        ));
    }
    let root = named(containers, |c| context(c).run_as_user == Some(0));
    report(found, "runAsUser=0", &root, "must not set runAsUser=0");
    let profile = |container: &Container| context(container).seccomp_profile.or_else(|| pod.seccomp_profile.clone());
    let open = named(containers, |c| {
        !profile(c).is_some_and(|profile| matches!(profile.type_.as_str(), "RuntimeDefault" | "Localhost"))
    });
    if !open.is_empty() {
        let noun = if open.len() == 1 { "container" } else { "containers" };
        let quoted: Vec<String> = open.iter().map(|name| format!("\"{name}\"")).collect();
        found.push(format!(
            "seccompProfile (pod or {noun} {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            quoted.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_plain_pod_is_baseline_but_not_restricted() {
        let plain = spec(json!({"containers": [{"name": "c"}]}));
        assert!(violations(&plain, "baseline").is_empty());
        assert_eq!(violations(&plain, "restricted").len(), 4);
        assert!(violations(&plain, "privileged").is_empty());
    }

    #[test]
    fn a_careful_pod_is_restricted() {
        let careful = spec(
            json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}),
        );
        assert!(violations(&careful, "restricted").is_empty(), "{:?}", violations(&careful, "restricted"));
    }

    #[test]
    fn host_access_is_named() {
        let host =
            spec(json!({"hostNetwork": true, "containers": [{"name": "c", "securityContext": {"privileged": true}}],
            "volumes": [{"name": "h", "hostPath": {"path": "/"}}]}));
        assert_eq!(
            violations(&host, "baseline"),
            [
                "host namespaces (hostNetwork=true)",
                "privileged (container \"c\" must not set securityContext.privileged=true)",
                "hostPath volumes (volume \"h\")"
            ]
        );
    }
}
