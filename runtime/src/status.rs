//! What the runtime reports: states, exits, statistics.

use crate::spec::{ContainerId, ContainerSpec, PodId, PodSpec};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct PodStatus {
    pub spec: Arc<PodSpec>,
    pub phase: PodPhase,
    /// A path that names the pod's network namespace; the host's own for a host-network pod.
    pub netns: PathBuf,
    pub shim_pid: i32,
    pub created_at: Timestamp,
    pub cgroup_path: String,
    pub containers: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodPhase {
    Ready,
    /// Stopped by [`Runtime::stop_pod`](crate::Runtime::stop_pod): no process is left, records are.
    Stopped,
    /// The shim is no more (it was killed, or the machine restarted); the text says what is known.
    Gone {
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
}

#[derive(Clone, Debug)]
pub struct ContainerStatus {
    pub id: ContainerId,
    pub pod_id: PodId,
    pub spec: Arc<ContainerSpec>,
    /// `sha256:…` of the image's config.
    pub image_id: String,
    pub state: ContainerState,
    /// Of the container's first process, in the host's process namespace; 0 when it does not live.
    pub pid: i32,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    /// Set when `state` is [`ContainerState::Exited`].
    pub exit: Option<Exit>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 128 + signal for a signalled process.
    pub code: i32,
    pub signal: Option<i32>,
    pub finished_at: Timestamp,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, or `ContainerStatusUnknown` when the shim was lost.
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug)]
pub enum Event {
    ContainerStarted {
        pod: PodId,
        container: ContainerId,
    },
    ContainerExited {
        pod: PodId,
        container: ContainerId,
        exit: Exit,
    },
    /// The shim died by itself; its containers are gone.
    PodGone {
        pod: PodId,
        reason: String,
    },
    /// The subscriber lagged behind, or state was re-read: list again.
    Resync,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: u64,
    pub pids_limit: Option<u64>,
    /// The container's writable layer.
    pub filesystem: FsStats,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Cumulative CPU time in nanoseconds.
    pub usage_ns: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub usage: u64,
    /// Usage less inactive file pages.
    pub working_set: u64,
    pub rss: u64,
    pub limit: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsStats {
    pub used_bytes: u64,
    pub inodes_used: u64,
}

#[derive(Clone, Debug, Default)]
pub struct PodStats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: u64,
    pub containers: Vec<(ContainerId, ContainerStats)>,
}
