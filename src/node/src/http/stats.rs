//! `/stats/summary`: use of the node and its pods, in the shape of the kubelet's `stats/v1alpha1` Summary. What is not
//! known is left out.

use http::Response;
use jiff::Timestamp;
use runtime::status::{CpuStats, MemoryStats};
use runtime::{ContainerState, PodStats, PodStatus};
use serde::Serialize;

use super::answer::{self, Body};
use super::host::{Host, MachineStats};

#[derive(Serialize)]
struct Summary {
    node: NodeSummary,
    pods: Vec<PodSummary>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeSummary {
    node_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Timestamp>,
    cpu: Cpu,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    fs: Option<Disk>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodSummary {
    pod_ref: PodReference,
    start_time: Timestamp,
    containers: Vec<ContainerSummary>,
    cpu: Cpu,
    memory: Memory,
    process_stats: Processes,
}

#[derive(Serialize)]
struct PodReference {
    name: String,
    namespace: String,
    uid: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerSummary {
    name: String,
    start_time: Timestamp,
    cpu: Cpu,
    memory: Memory,
    rootfs: Used,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Timestamp,
    usage_core_nano_seconds: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    usage_bytes: u64,
    working_set_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    major_page_faults: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Disk {
    time: Timestamp,
    available_bytes: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    inodes_free: u64,
    inodes: u64,
    inodes_used: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Used {
    time: Timestamp,
    used_bytes: u64,
    inodes_used: u64,
}

#[derive(Serialize)]
struct Processes {
    process_count: u64,
}

pub(super) async fn summary(host: &dyn Host) -> Response<Body> {
    let node = node(host.node_name(), &host.machine(), Timestamp::now());
    let mut pods = Vec::new();
    for status in host.running() {
        // A pod that has just ended has no statistics, and no place here.
        if let Some(stats) = host.pod_stats(status.spec.id.as_str()).await {
            pods.push(pod(&status, &stats, Timestamp::now()));
        }
    }
    answer::json(&Summary { node, pods })
}

fn node(name: &str, machine: &MachineStats, time: Timestamp) -> NodeSummary {
    let used = machine.memory.saturating_sub(machine.memory_available);
    NodeSummary {
        node_name: name.to_owned(),
        start_time: machine.started_at,
        cpu: Cpu { time, usage_core_nano_seconds: machine.cpu_ns },
        memory: Memory {
            time,
            available_bytes: Some(machine.memory_available),
            usage_bytes: used,
            working_set_bytes: used,
            rss_bytes: None,
            page_faults: None,
            major_page_faults: None,
        },
        fs: machine.disk.map(|disk| Disk {
            time,
            available_bytes: disk.available,
            capacity_bytes: disk.capacity,
            used_bytes: disk.capacity.saturating_sub(disk.available),
            inodes_free: disk.inodes_free,
            inodes: disk.inodes,
            inodes_used: disk.inodes.saturating_sub(disk.inodes_free),
        }),
    }
}

fn pod(status: &PodStatus, stats: &PodStats, time: Timestamp) -> PodSummary {
    let container = |(id, stats): &(runtime::ContainerId, runtime::ContainerStats)| {
        let known = status.containers.iter().find(|c| c.id == *id && c.state == ContainerState::Running)?;
        Some(ContainerSummary {
            name: known.spec.name.clone(),
            start_time: known.started_at.unwrap_or(known.created_at),
            cpu: cpu(stats.cpu, time),
            memory: memory(stats.memory, time),
            rootfs: Used { time, used_bytes: stats.filesystem.used_bytes, inodes_used: stats.filesystem.inodes_used },
        })
    };
    PodSummary {
        pod_ref: PodReference {
            name: status.spec.name.clone(),
            namespace: status.spec.namespace.clone(),
            uid: status.spec.id.to_string(),
        },
        start_time: status.created_at,
        containers: stats.containers.iter().filter_map(container).collect(),
        cpu: cpu(stats.cpu, time),
        memory: memory(stats.memory, time),
        process_stats: Processes { process_count: stats.pids },
    }
}

fn cpu(stats: CpuStats, time: Timestamp) -> Cpu {
    Cpu { time, usage_core_nano_seconds: stats.usage_ns }
}

fn memory(stats: MemoryStats, time: Timestamp) -> Memory {
    Memory {
        time,
        available_bytes: stats.limit.map(|limit| limit.saturating_sub(stats.working_set)),
        usage_bytes: stats.usage,
        working_set_bytes: stats.working_set,
        rss_bytes: Some(stats.rss),
        page_faults: Some(stats.page_faults),
        major_page_faults: Some(stats.major_page_faults),
    }
}
