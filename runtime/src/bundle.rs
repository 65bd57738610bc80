//! From a [`ContainerSpec`] to what the kernel is asked for: the OCI runtime spec libcontainer reads, and the
//! [`ProcessPlan`] that the init process and every exec carry out themselves (user, capabilities, seccomp).
//!
//! Pure: what the machine and the image contribute is in [`Facts`]. Called in the shim's forked child.

pub(crate) mod capability;
pub(crate) mod device;
mod mounts;
pub(crate) mod user;

use crate::images::ImageConfig;
use crate::spec::{ContainerSpec, PodSpec, Rlimit, SeccompProfile};
use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, PosixRlimitBuilder, PosixRlimitType,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the spec depends on beyond the request.
#[derive(Debug)]
pub(crate) struct Facts {
    pub rootfs: PathBuf,
    pub cgroup_path: String,
    /// Host folder that is every container's /dev/shm.
    pub shm: PathBuf,
    /// Process namespace to join; `None`: a new one, or the host's when the pod says so.
    pub shared_pid: Option<PathBuf>,
    /// Capabilities this machine lets us give away.
    pub available_capabilities: u64,
    pub unified_cgroups: bool,
    pub devices: Vec<device::Node>,
    pub user: user::Resolved,
    /// Refused by the kernel when it is below the shim's own and CAP_SYS_RESOURCE lacks.
    pub oom_score_adj: Option<i32>,
}

/// What a process of the container is to be, beyond its namespaces. Kept on disk for exec.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessPlan {
    pub args: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    pub cwd: String,
    pub user: user::Resolved,
    pub capabilities: u64,
    pub no_new_privs: bool,
    pub seccomp: SeccompProfile,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<i32>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("no command specified")]
    NoCommand,
    #[error("invalid capability {0:?}")]
    Capability(String),
    #[error("rlimit {0:?} is unknown")]
    Rlimit(String),
    #[error("working directory {0:?} is not an absolute path")]
    RelativeCwd(String),
    #[error("runtime spec")]
    Spec(#[from] OciSpecError),
}

pub(crate) fn plan(
    pod: &PodSpec,
    spec: &ContainerSpec,
    image: &ImageConfig,
    facts: &Facts,
) -> Result<ProcessPlan, BundleError> {
    let args = if spec.args.is_empty() {
        image.entrypoint.iter().chain(&image.cmd).cloned().collect()
    } else {
        spec.args.clone()
    };
    if args.is_empty() {
        return Err(BundleError::NoCommand);
    }
    let cwd = [spec.cwd.as_str(), &image.working_dir, "/"].into_iter().find(|c| !c.is_empty()).unwrap_or("/");
    if !cwd.starts_with('/') {
        return Err(BundleError::RelativeCwd(cwd.to_owned()));
    }
    let wanted = capability::resolve(&spec.capabilities, spec.privileged).map_err(BundleError::Capability)?;
    Ok(ProcessPlan {
        args,
        env: environment(pod, spec, image, &facts.user),
        cwd: cwd.to_owned(),
        user: facts.user.clone(),
        capabilities: wanted & facts.available_capabilities,
        no_new_privs: spec.no_new_privs,
        seccomp: if spec.privileged { SeccompProfile::Unconfined } else { spec.seccomp.clone() },
        rlimits: spec.rlimits.clone(),
        oom_score_adj: facts.oom_score_adj,
    })
}

/// The image's environment, over it the container's, and defaults for what programs rely on.
fn environment(pod: &PodSpec, spec: &ContainerSpec, image: &ImageConfig, user: &user::Resolved) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    for variable in image.env.iter().chain(&spec.env) {
        overlay(&mut env, variable);
    }
    let mut default = |variable: String| {
        if find(&env, name_of(&variable)).is_none() {
            env.push(variable);
        }
    };
    default(DEFAULT_PATH.to_owned());
    if !pod.hostname.is_empty() {
        default(format!("HOSTNAME={}", pod.hostname));
    }
    if spec.tty {
        default("TERM=xterm".to_owned());
    }
    default(format!("HOME={}", user.home));
    env
}

fn name_of(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

fn find(env: &[String], name: &str) -> Option<usize> {
    env.iter().position(|v| name_of(v) == name)
}

/// Sets a variable, in the place of an earlier one of the same name.
pub(crate) fn overlay(env: &mut Vec<String>, variable: &str) {
    match find(env, name_of(variable)) {
        Some(place) => variable.clone_into(&mut env[place]),
        None => env.push(variable.to_owned()),
    }
}

/// The runtime spec. Its process has no capabilities: libcontainer then keeps all of them until our executor, which
/// needs CAP_SYS_ADMIN to install seccomp filters, drops to the plan's.
pub(crate) fn runtime_spec(
    pod: &PodSpec,
    spec: &ContainerSpec,
    plan: &ProcessPlan,
    facts: &Facts,
) -> Result<Spec, BundleError> {
    let user = UserBuilder::default()
        .uid(plan.user.uid)
        .gid(plan.user.gid)
        .additional_gids(plan.user.groups.clone())
        .build()?;
    let mut process = ProcessBuilder::default()
        .terminal(spec.tty)
        .user(user)
        .args(plan.args.clone())
        .env(plan.env.clone())
        .cwd(plan.cwd.clone())
        .no_new_privileges(plan.no_new_privs)
        .rlimits(rlimits(&plan.rlimits)?)
        .build()?;
    process.set_capabilities(None).set_apparmor_profile(None).set_oom_score_adj(plan.oom_score_adj);

    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(pod, facts)?)
        .cgroups_path(facts.cgroup_path.clone())
        .devices(device::nodes_to_make(&facts.devices)?)
        .rootfs_propagation(mounts::rootfs_propagation(&spec.mounts))
        .build()?;
    let (masked, readonly) = if spec.privileged { (Vec::new(), Vec::new()) } else { hidden_paths(spec) };
    linux.set_resources(None).set_seccomp(None).set_masked_paths(Some(masked)).set_readonly_paths(Some(readonly));

    let root = RootBuilder::default().path(facts.rootfs.clone()).readonly(spec.readonly_rootfs).build()?;
    let mut spec =
        SpecBuilder::default().root(root).process(process).linux(linux).mounts(mounts::all(spec, facts)?).build()?;
    spec.set_hostname(None);
    Ok(spec)
}

/// net, ipc and uts are the shim's own, which its forked children are in already.
fn namespaces(pod: &PodSpec, facts: &Facts) -> Result<Vec<LinuxNamespace>, BundleError> {
    let new = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    let mut namespaces = vec![new(LinuxNamespaceType::Mount)?];
    match &facts.shared_pid {
        Some(path) => {
            namespaces.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Pid).path(path.clone()).build()?)
        }
        None if pod.host_pid => {}
        None => namespaces.push(new(LinuxNamespaceType::Pid)?),
    }
    if facts.unified_cgroups {
        namespaces.push(new(LinuxNamespaceType::Cgroup)?);
    }
    Ok(namespaces)
}

fn rlimits(limits: &[Rlimit]) -> Result<Vec<libcontainer::oci_spec::runtime::PosixRlimit>, BundleError> {
    limits
        .iter()
        .map(|limit| {
            let typ: PosixRlimitType = serde_json::from_value(serde_json::Value::String(limit.kind.clone()))
                .map_err(|_| BundleError::Rlimit(limit.kind.clone()))?;
            Ok(PosixRlimitBuilder::default().typ(typ).soft(limit.soft).hard(limit.hard).build()?)
        })
        .collect()
}

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn hidden_paths(spec: &ContainerSpec) -> (Vec<String>, Vec<String>) {
    let or_default = |given: &Option<Vec<String>>, default: &[&str]| {
        given.clone().unwrap_or_else(|| default.iter().map(|p| (*p).to_owned()).collect())
    };
    (or_default(&spec.masked_paths, MASKED), or_default(&spec.readonly_paths, READONLY))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn facts() -> Facts {
        Facts {
            rootfs: "/rootfs".into(),
            cgroup_path: "/rk/pod1/c1".into(),
            shm: "/pods/1/shm".into(),
            shared_pid: None,
            available_capabilities: u64::MAX,
            unified_cgroups: false,
            devices: Vec::new(),
            user: user::Resolved { uid: 0, gid: 0, groups: vec![0], home: "/root".into() },
            oom_score_adj: None,
        }
    }

    #[test]
    fn the_containers_environment_wins_over_the_images() {
        let image = ImageConfig { env: vec!["A=image".into(), "B=image".into()], ..ImageConfig::default() };
        let spec = ContainerSpec { env: vec!["B=pod".into()], ..ContainerSpec::default() };
        let env = environment(&PodSpec::default(), &spec, &image, &facts().user);
        assert_eq!(env, ["A=image", "B=pod", DEFAULT_PATH, "HOME=/root"]);
    }

    #[test]
    fn a_container_without_any_command_is_refused() {
        let result = plan(&PodSpec::default(), &ContainerSpec::default(), &ImageConfig::default(), &facts());
        assert!(matches!(result, Err(BundleError::NoCommand)));
    }

    #[test]
    fn the_image_command_serves_when_none_is_given() {
        let image = ImageConfig { entrypoint: vec!["/e".into()], cmd: vec!["c".into()], ..ImageConfig::default() };
        let plan = plan(&PodSpec::default(), &ContainerSpec::default(), &image, &facts()).unwrap();
        assert_eq!(plan.args, ["/e", "c"]);
        assert_eq!(plan.cwd, "/");
    }

    #[test]
    fn privileged_containers_see_everything() {
        let spec = ContainerSpec { args: vec!["x".into()], privileged: true, ..ContainerSpec::default() };
        let pod = PodSpec::default();
        let plan = plan(&pod, &spec, &ImageConfig::default(), &facts()).unwrap();
        let oci = runtime_spec(&pod, &spec, &plan, &facts()).unwrap();
        let linux = oci.linux().as_ref().unwrap();
        assert_eq!(linux.masked_paths().as_deref(), Some(&[][..]));
        assert!(oci.process().as_ref().unwrap().capabilities().is_none());
    }

    #[test]
    fn a_pod_with_the_hosts_processes_gets_no_process_namespace() {
        let pod = PodSpec { host_pid: true, ..PodSpec::default() };
        let all = namespaces(&pod, &facts()).unwrap();
        assert!(all.iter().all(|n| n.typ() != LinuxNamespaceType::Pid));
    }
}
