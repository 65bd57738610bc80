//! What callers ask for: pods, containers, execs. Plain data, serialised onto disk and to the shim.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);
        impl $name {
            /// Wraps an identifier; [`Runtime`](crate::Runtime) refuses those that cannot be a file name.
            pub fn new(id: impl Into<String>) -> Self {
                Self(id.into())
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
            /// One path component of harmless characters, short enough for a socket path.
            #[cfg_attr(not(test), allow(dead_code, reason = "ids drawn here are safe by construction"))]
            pub(crate) fn is_safe(&self) -> bool {
                !self.0.is_empty()
                    && self.0.len() <= 128
                    && !self.0.starts_with('.')
                    && self.0.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self::new(id)
            }
        }
    };
}

id!(
    /// A pod's identifier, chosen by the caller (its UID).
    PodId
);
id!(
    /// A container's identifier: 64 hexadecimal digits drawn by the runtime.
    ContainerId
);

/// A pod: the namespaces its containers share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSpec {
    pub id: PodId,
    pub name: String,
    pub namespace: String,
    pub hostname: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_process_namespace: bool,
    pub sysctls: BTreeMap<String, String>,
    /// Absolute path inside the cgroup hierarchies; empty: `<cgroup_parent>/pod<id>`. Removed with the pod.
    pub cgroup_path: String,
    /// Size of the pod's /dev/shm in bytes; 0: 64 MiB.
    pub shm_size: u64,
    /// Opaque to the runtime, kept for the caller.
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    pub name: String,
    pub attempt: u32,
    /// Image id (`sha256:…`) or any name [`Images::get`](crate::Images::get) knows.
    pub image: String,
    /// Full argument vector. Empty: the image's entrypoint and command.
    pub args: Vec<String>,
    /// `NAME=value`, laid over the image's environment.
    pub env: Vec<String>,
    /// Empty: the image's working directory, else `/`.
    pub cwd: String,
    pub mounts: Vec<Mount>,
    pub user: UserSpec,
    pub capabilities: Capabilities,
    pub seccomp: SeccompProfile,
    pub no_new_privs: bool,
    pub readonly_rootfs: bool,
    pub privileged: bool,
    pub tty: bool,
    /// Keeps the container's standard input open for attach.
    pub stdin: bool,
    /// Closes standard input when the first attached client leaves.
    pub stdin_once: bool,
    /// CRI-format log file; `None`: output is dropped when nobody is attached.
    pub log_path: Option<PathBuf>,
    pub log_limits: LogLimits,
    pub resources: Resources,
    pub devices: Vec<Device>,
    /// `None`: the usual list (ignored when privileged).
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub rlimits: Vec<Rlimit>,
    /// A running container of the same pod whose process namespace this one lives in. Without meaning where the
    /// pod's containers share processes anyway.
    pub processes_of: Option<ContainerId>,
    /// Opaque to the runtime, kept for the caller.
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// When a log file is turned over, and how many are kept (the current one included).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    pub max_bytes: u64,
    pub max_files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 5 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub destination: PathBuf,
    pub kind: MountKind,
    pub readonly: bool,
    pub propagation: Propagation,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A host file or folder; it must exist.
    Bind {
        source: PathBuf,
        recursive_readonly: bool,
    },
    Tmpfs {
        size: Option<u64>,
        mode: Option<u32>,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// Who the process runs as. What is not given comes from the image's `User`, /etc/passwd and /etc/group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserSpec {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// A name or number as the image's `User` field has it: `user[:group]`.
    pub username: Option<String>,
    pub supplementary: Vec<u32>,
    /// Leave out the groups /etc/group lists for the user.
    pub strict_supplementary: bool,
}

/// Changes to the default set. Names with or without `CAP_`; `ALL` is understood in both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// A profile file on the host, in the JSON form container engines share.
    Localhost(PathBuf),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    /// Memory and swap together, bytes; -1: no limit.
    pub memory_swap_limit: Option<i64>,
    /// No swap, whatever the limit on memory. Only cgroup v2 can have that apart from a limit.
    pub forbid_swap: bool,
    /// When memory runs out all processes end, not the largest alone. Only cgroup v2 knows that.
    pub kill_together: bool,
    pub pids_limit: Option<i64>,
    /// Page size as the kernel names it (`2MB`) and bytes.
    pub hugepage_limits: BTreeMap<String, u64>,
    /// cgroup v2 files set as they are.
    pub unified: BTreeMap<String, String>,
    pub oom_score_adj: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Any of `rwm`.
    pub permissions: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    pub kind: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    pub width: u16,
    pub height: u16,
}

/// A further process in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    pub args: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<String>,
    /// `None`: the container's working directory.
    pub cwd: Option<String>,
    /// `None`: the container's user.
    pub user: Option<UserSpec>,
    pub tty: bool,
    pub stdin: bool,
    pub size: Option<TtySize>,
}

/// Which streams of a running container to join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachSpec {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub size: Option<TtySize>,
}
