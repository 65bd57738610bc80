//! Pod and container security contexts merged into what the runtime is told. Pure.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};
use runtime::spec::{Capabilities, SeccompProfile, UserSpec};

/// Why a container must not be run; it waits with `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    RunsAsRoot { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    ImageRunsAsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root \
         (pod: \"{pod}\", container: {container})"
    )]
    UserNotNumeric { user: String, pod: String, container: String },
    #[error("localhostProfile must be set if seccompProfile type is Localhost.")]
    NoProfile,
    #[error("{0} is out of the range of user and group IDs")]
    BadId(i64),
}

/// What the runtime is told about privilege.
#[derive(Debug, PartialEq, Eq)]
pub struct Privileges {
    pub user: UserSpec,
    pub capabilities: Capabilities,
    pub seccomp: SeccompProfile,
    pub no_new_privs: bool,
    pub readonly_rootfs: bool,
    pub privileged: bool,
    /// `procMount: Unmasked`.
    pub unmasked: bool,
}

/// Merges the contexts; what the container sets wins.
pub fn privileges(
    pod: &Pod,
    container: &Container,
    image_user: &str,
    seccomp_root: &Path,
) -> Result<Privileges, SecurityError> {
    let spec = pod.spec.as_ref();
    let empty = (PodSecurityContext::default(), SecurityContext::default());
    let of_pod = spec.and_then(|s| s.security_context.as_ref()).unwrap_or(&empty.0);
    let own = container.security_context.as_ref().unwrap_or(&empty.1);
    let uid = own.run_as_user.or(of_pod.run_as_user);
    let gid = own.run_as_group.or(of_pod.run_as_group);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        verify_non_root(pod, container, uid, image_user)?;
    }
    let mut supplementary = of_pod.supplemental_groups.clone().unwrap_or_default();
    supplementary.extend(of_pod.fs_group);
    let privileged = own.privileged == Some(true);
    let profile = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    let seccomp = match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        _ if privileged => SeccompProfile::Unconfined,
        Some(("RuntimeDefault", _)) => SeccompProfile::RuntimeDefault,
        Some(("Localhost", Some(path))) => SeccompProfile::Localhost(PathBuf::from(seccomp_root).join(path)),
        Some(("Localhost", None)) => return Err(SecurityError::NoProfile),
        _ => SeccompProfile::Unconfined,
    };
    let capabilities = own.capabilities.as_ref();
    Ok(Privileges {
        user: UserSpec {
            uid: uid.map(id).transpose()?,
            gid: gid.map(id).transpose()?,
            username: None,
            supplementary: supplementary.into_iter().map(id).collect::<Result<_, _>>()?,
            strict_supplementary: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        },
        capabilities: Capabilities {
            add: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
            drop: capabilities.and_then(|c| c.drop.clone()).unwrap_or_default(),
        },
        seccomp,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        privileged,
        unmasked: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn id(value: i64) -> Result<u32, SecurityError> {
    u32::try_from(value).map_err(|_| SecurityError::BadId(value))
}

fn verify_non_root(pod: &Pod, container: &Container, uid: Option<i64>, image_user: &str) -> Result<(), SecurityError> {
    let (pod, container) = (super::describe(pod), container.name.clone());
    if let Some(uid) = uid {
        return if uid == 0 { Err(SecurityError::RunsAsRoot { pod, container }) } else { Ok(()) };
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<u32>() {
        Ok(0) => Err(SecurityError::ImageRunsAsRoot { pod, container }),
        Ok(_) => Ok(()),
        Err(_) if user.is_empty() => Err(SecurityError::ImageRunsAsRoot { pod, container }),
        Err(_) => Err(SecurityError::UserNotNumeric { user: user.to_owned(), pod, container }),
    }
}

/// Sysctls that are namespaced and harmless to neighbours; all others must be allowed by the node's owner.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The pod's first sysctl that is neither safe nor allowed (`allowed` may end in `*`).
pub fn forbidden_sysctl<'a>(pod: &'a Pod, allowed: &[String]) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let sysctls = spec.security_context.as_ref()?.sysctls.as_ref()?;
    let permitted = |name: &str| {
        // Host namespaces make any sysctl the host's.
        let host = (name.starts_with("net.") && spec.host_network == Some(true))
            || (name.starts_with("kernel.") && spec.host_ipc == Some(true));
        let listed = allowed.iter().any(|a| match a.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => a == name,
        });
        !host && (listed || SAFE_SYSCTLS.contains(&name))
    };
    sysctls.iter().map(|s| s.name.as_str()).find(|name| !permitted(&name.replace('/', ".")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(
        pod_context: serde_json::Value,
        own: serde_json::Value,
        image_user: &str,
    ) -> Result<Privileges, SecurityError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod_context, "containers": [{"name": "c", "securityContext": own}]}
        }))
        .unwrap();
        privileges(&pod, &pod.spec.as_ref().unwrap().containers[0], image_user, Path::new("/seccomp"))
    }

    #[test]
    fn the_container_wins_over_the_pod() {
        let got = merged(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 9, "supplementalGroups": [7],
                "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 5, "allowPrivilegeEscalation": false, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}),
            "",
        )
        .unwrap();
        assert_eq!((got.user.uid, got.user.gid), (Some(5), Some(2)));
        assert_eq!(got.user.supplementary, [7, 9]);
        assert_eq!(got.seccomp, SeccompProfile::RuntimeDefault);
        assert!(got.no_new_privs && !got.privileged);
        assert_eq!(got.capabilities.drop, ["ALL"]);
    }

    #[test]
    fn privileged_is_never_filtered() {
        let got =
            merged(json!({"seccompProfile": {"type": "RuntimeDefault"}}), json!({"privileged": true}), "").unwrap();
        assert_eq!(got.seccomp, SeccompProfile::Unconfined);
        let local = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}});
        assert_eq!(
            merged(json!({}), local, "").unwrap().seccomp,
            SeccompProfile::Localhost("/seccomp/a/b.json".into())
        );
    }

    #[test]
    fn non_root_is_verified() {
        let non_root = || json!({"runAsNonRoot": true});
        let message = |own: serde_json::Value, user: &str| merged(non_root(), own, user).unwrap_err().to_string();
        assert_eq!(
            message(json!({"runAsUser": 0}), "5"),
            "container's runAsUser breaks non-root policy (pod: \"p_n(u)\", container: c)"
        );
        assert!(message(json!({}), "").starts_with("container has runAsNonRoot and image will run as root"));
        assert!(message(json!({}), "0:5").starts_with("container has runAsNonRoot and image will run as root"));
        assert!(message(json!({}), "www").contains("non-numeric user (www)"));
        assert!(merged(non_root(), json!({}), "1000:1000").is_ok());
        assert!(merged(non_root(), json!({"runAsNonRoot": false}), "").is_ok());
    }

    #[test]
    fn unsafe_sysctls_are_found() {
        let pod = |names: &[&str], host: bool| -> Pod {
            let sysctls: Vec<_> = names.iter().map(|n| json!({"name": n, "value": "1"})).collect();
            serde_json::from_value(json!({"metadata": {}, "spec": {"hostNetwork": host,
                "securityContext": {"sysctls": sysctls}, "containers": []}}))
            .unwrap()
        };
        let names = ["net.ipv4.tcp_syncookies", "kernel.msgmax"];
        assert_eq!(forbidden_sysctl(&pod(&names, false), &[]), Some("kernel.msgmax"));
        assert_eq!(forbidden_sysctl(&pod(&names, false), &["kernel.msg*".to_owned()]), None);
        assert_eq!(forbidden_sysctl(&pod(&names, true), &[]), Some("net.ipv4.tcp_syncookies"));
    }
}
