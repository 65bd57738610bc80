//! One container as [`runtime::Runtime::create_container`] is told of it. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::spec::{Device, LogLimits, Mount, MountKind, Propagation};
use runtime::{ContainerSpec, ImageRecord};

use super::expand::expand;
use super::pod::labels;
use super::security::{self, SecurityError};
use super::{env, resources};

/// Everything a container is made of, already fetched.
pub struct ContainerInput<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub attempt: u32,
    pub image: &'a ImageRecord,
    pub env: &'a BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub log_path: PathBuf,
    pub log_limits: LogLimits,
    /// The termination message file on the host.
    pub termination_log: Option<PathBuf>,
    pub seccomp_root: &'a Path,
    pub node_memory: u64,
}

/// The usual home of the message a container leaves.
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// Builds the specification.
pub fn spec(input: ContainerInput<'_>) -> Result<ContainerSpec, SecurityError> {
    let ContainerInput { pod, container, image, env, .. } = input;
    let privileges = security::privileges(pod, container, &image.config.user, input.seccomp_root)?;
    let lookup = |name: &str| env.get(name).map(String::as_str);
    let mut mounts = input.mounts;
    let mut annotations = BTreeMap::from([
        (labels::IMAGE.to_owned(), container.image.clone().unwrap_or_default()),
        (labels::GRACE.to_owned(), grace_seconds(pod).to_string()),
    ]);
    if let Some(host) = input.termination_log {
        annotations.insert(labels::TERMINATION_LOG.to_owned(), host.display().to_string());
        let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned());
        annotations.insert(labels::TERMINATION_POLICY.to_owned(), policy);
        let path = container.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or(TERMINATION_LOG);
        mounts.push(bind(host, path, false));
    }
    Ok(ContainerSpec {
        name: container.name.clone(),
        attempt: input.attempt,
        image: image.id.clone(),
        args: env::arguments(container, env, &image.config.entrypoint, &image.config.cmd),
        env: env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        cwd: container.working_dir.as_deref().map(|d| expand(d, lookup)).unwrap_or_default(),
        mounts,
        user: privileges.user,
        capabilities: privileges.capabilities,
        seccomp: privileges.seccomp,
        no_new_privs: privileges.no_new_privs,
        readonly_rootfs: privileges.readonly_rootfs,
        privileged: privileges.privileged,
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        log_path: Some(input.log_path),
        log_limits: input.log_limits,
        resources: resources::container(pod, container, input.node_memory),
        devices: input.devices,
        masked_paths: privileges.unmasked.then(Vec::new),
        readonly_paths: privileges.unmasked.then(Vec::new),
        rlimits: Vec::new(),
        processes_of: None,
        labels: BTreeMap::from([
            (labels::CONTAINER_NAME.to_owned(), container.name.clone()),
            (labels::POD_UID.to_owned(), pod.metadata.uid.clone().unwrap_or_default()),
        ]),
        annotations,
    })
}

/// A private bind mount.
pub fn bind(source: impl Into<PathBuf>, destination: impl Into<PathBuf>, readonly: bool) -> Mount {
    Mount {
        destination: destination.into(),
        kind: MountKind::Bind { source: source.into(), recursive_readonly: false },
        readonly,
        propagation: Propagation::Private,
    }
}

/// The pod's grace period: what the deletion asked for, else what its spec says.
pub fn grace_seconds(pod: &Pod) -> i64 {
    const DEFAULT: i64 = 30;
    let spec = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(DEFAULT).clamp(0, LONGEST_GRACE)
}

/// Longer than this means for ever, and no clock counts that far.
pub const LONGEST_GRACE: i64 = u32::MAX as i64;

/// Where a container's log of an attempt is.
pub fn log_path(root: &Path, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
    log_directory(root, pod).join(container).join(format!("{attempt}.log"))
}

/// The folder of all the pod's logs.
pub fn log_directory(root: &Path, pod: &Pod) -> PathBuf {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let meta = &pod.metadata;
    root.join(format!("{}_{}_{}", text(&meta.namespace), text(&meta.name), text(&meta.uid)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_carries_what_a_restarted_node_needs() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"terminationGracePeriodSeconds": 5, "containers": [
                {"name": "c", "image": "busybox", "command": ["sh"], "args": ["-c", "$(X)"], "workingDir": "/w/$(X)", "tty": true}]}
        }))
        .unwrap();
        let image = ImageRecord {
            id: "sha256:abc".into(),
            names: vec![],
            repo_digests: vec![],
            size: 0,
            config: runtime::ImageConfig { entrypoint: vec!["/e".into()], ..Default::default() },
            diff_ids: vec![],
            pinned: false,
            added_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let env = BTreeMap::from([("X".to_owned(), "1".to_owned())]);
        let got = spec(ContainerInput {
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            attempt: 3,
            image: &image,
            env: &env,
            mounts: vec![],
            devices: vec![],
            log_path: log_path(Path::new("/l"), &pod, "c", 3),
            log_limits: LogLimits::default(),
            termination_log: Some("/t".into()),
            seccomp_root: Path::new("/s"),
            node_memory: 1,
        })
        .unwrap();
        assert_eq!(got.args, ["sh", "-c", "1"]);
        assert_eq!((got.cwd.as_str(), got.attempt, got.tty), ("/w/1", 3, true));
        assert_eq!(got.log_path.unwrap(), Path::new("/l/n_p_u/c/3.log"));
        assert_eq!(got.annotations[labels::IMAGE], "busybox");
        assert_eq!(got.annotations[labels::GRACE], "5");
        assert_eq!(got.mounts[0].destination, Path::new("/dev/termination-log"));
    }
}
