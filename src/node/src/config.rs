//! What a node is told at its start.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use client::Scope;
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use runtime::spec::LogLimits;

/// Static settings of one node. `Default` gives rk's own names and paths; `name` and `ip` must be filled in.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub name: String,
    /// The address other nodes and the API server know this node by.
    pub ip: IpAddr,
    pub external_ip: Option<IpAddr>,
    /// `None`: the kernel's host name.
    pub hostname: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Put on the node when it registers for the first time.
    pub taints: Vec<Taint>,
    pub cluster_domain: String,
    pub cluster_dns: Vec<Ipv4Addr>,
    /// By this address pods reach the DNS servers of other nodes when this node's does not answer. No Service has it.
    pub dns_elsewhere: Option<Ipv4Addr>,
    /// Which pods the node's informer sees. A server that watches all pods anyway shares that informer with
    /// [`Scope::all`]; `None`: this node's only.
    pub pods: Option<Scope>,
    /// Volumes and other state of pods (`/var/lib/rk/agent`).
    pub root: PathBuf,
    /// The CRI-format logs (`/var/log/pods`), and links to them by container (`/var/log/containers`).
    pub pod_logs: PathBuf,
    pub container_logs: PathBuf,
    pub log_limits: LogLimits,
    /// Absolute path in the cgroup hierarchies; must be the runtime's.
    pub cgroup_parent: String,
    /// Seccomp profiles of type Localhost are below this.
    pub seccomp_root: PathBuf,
    pub max_pods: u32,
    /// Held back from pods: `cpu`, `memory`, `ephemeral-storage`.
    pub reserved: BTreeMap<String, Quantity>,
    /// Sysctls pods may set beyond the safe ones; `*` at the end matches a prefix.
    pub allowed_sysctls: Vec<String>,
    pub parallel_pulls: usize,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// The port told in `status.daemonEndpoints`; the API is reached through the agent's tunnel whatever it says.
    pub kubelet_port: u16,
    /// `v1.36.0+rk1` and the like, as `kubectl get nodes` shows it.
    pub version: String,
    /// `node.kubernetes.io/instance-type`.
    pub instance_type: String,
    pub provider_id: Option<String>,
    pub timing: Timing,
    pub eviction: Eviction,
    pub image_gc: ImageGc,
}

/// How often things happen that do not follow from an event.
#[derive(Clone, Debug)]
pub struct Timing {
    pub lease_duration: Duration,
    pub lease_renewal: Duration,
    /// The status is written on change, and after this long without one.
    pub status_refresh: Duration,
    /// Pressure and disk usage are looked at this often.
    pub pressure_check: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(40),
            lease_renewal: Duration::from_secs(10),
            status_refresh: Duration::from_secs(300),
            pressure_check: Duration::from_secs(10),
        }
    }
}

/// When pods are evicted to save the machine.
#[derive(Clone, Debug)]
pub struct Eviction {
    /// Bytes that must stay available.
    pub memory_available: u64,
    /// Parts in a hundred of the file system, for pods' data and for images.
    pub nodefs_available_percent: u8,
    pub imagefs_available_percent: u8,
    pub inodes_free_percent: u8,
    /// Pressure is told for this long after it was last seen.
    pub settle: Duration,
}

impl Default for Eviction {
    fn default() -> Self {
        Self {
            memory_available: 100 << 20,
            // As k3s has them: small disks are often fuller than what upstream's 10 and 15 allow for.
            nodefs_available_percent: 5,
            imagefs_available_percent: 5,
            inodes_free_percent: 5,
            settle: Duration::from_secs(300),
        }
    }
}

/// When unused images are removed.
#[derive(Clone, Debug)]
pub struct ImageGc {
    /// Parts in a hundred of the file system in use that start it.
    pub high_percent: u8,
    pub minimum_age: Duration,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self { high_percent: 85, minimum_age: Duration::from_secs(120) }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            external_ip: None,
            hostname: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: vec![Ipv4Addr::new(10, 43, 0, 10)],
            dns_elsewhere: None,
            pods: None,
            root: PathBuf::from("/var/lib/rk/agent"),
            pod_logs: PathBuf::from("/var/log/pods"),
            container_logs: PathBuf::from("/var/log/containers"),
            log_limits: LogLimits::default(),
            cgroup_parent: "/rk".to_owned(),
            seccomp_root: PathBuf::from("/var/lib/rk/agent/seccomp"),
            max_pods: 110,
            reserved: BTreeMap::new(),
            allowed_sysctls: Vec::new(),
            parallel_pulls: 3,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            kubelet_port: 10250,
            version: concat!("v1.36.0+rk", env!("CARGO_PKG_VERSION")).to_owned(),
            instance_type: "rk".to_owned(),
            provider_id: None,
            timing: Timing::default(),
            eviction: Eviction::default(),
            image_gc: ImageGc::default(),
        }
    }
}

impl NodeConfig {
    pub fn pods_root(&self) -> PathBuf {
        self.root.join("pods")
    }

    pub fn pod_root(&self, uid: &str) -> PathBuf {
        self.pods_root().join(uid)
    }
}
