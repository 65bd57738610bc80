//! The node itself as the API's [`Host`].

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use runtime::spec::AttachSpec;
use runtime::{ContainerId, Event, ExecSpec, PodId, PodPhase, PodStats, PodStatus, RuntimeError, Session};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::host::{DiskStats, Host, Input, MachineStats, Output, Process};
use crate::machine::{self, meminfo};
use crate::{ContainerHandle, LookupError, Node};

impl Node {
    /// Serves the node's HTTP API on a connection that somebody else has authenticated, until it ends.
    pub async fn serve<I>(&self, io: I)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if let Err(error) = super::serve(io, super::Api::of(self)).await {
            tracing::debug!(%error, "connection to the node API broke off");
        }
    }
}

#[async_trait]
impl Host for Node {
    fn node_name(&self) -> &str {
        &self.config().name
    }

    fn configuration(&self) -> serde_json::Value {
        let config = self.config();
        json!({"kubeletconfig": {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "clusterDomain": config.cluster_domain,
            "clusterDNS": config.cluster_dns,
            "maxPods": config.max_pods,
            "cgroupRoot": config.cgroup_parent,
            "nodeStatusReportFrequency": format!("{}s", config.timing.status_refresh.as_secs()),
            "nodeLeaseDurationSeconds": config.timing.lease_duration.as_secs(),
            "resolvConf": config.resolv_conf,
            "podLogsDir": config.pod_logs,
            "imageGCHighThresholdPercent": config.image_gc.high_percent,
            "evictionHard": {
                "memory.available": config.eviction.memory_available.to_string(),
                "nodefs.available": format!("{}%", config.eviction.nodefs_available_percent),
                "imagefs.available": format!("{}%", config.eviction.imagefs_available_percent),
                "nodefs.inodesFree": format!("{}%", config.eviction.inodes_free_percent),
            },
        }})
    }

    fn machine(&self) -> MachineStats {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let disk = machine::file_system(&self.config().root)
            .map(|(capacity, available, inodes, inodes_free)| DiskStats { capacity, available, inodes, inodes_free });
        MachineStats {
            cpus: self.context.machine.cpus,
            cpu_ns: cpu_time(&stat),
            memory: self.context.machine.memory,
            memory_available: meminfo(&memory, "MemAvailable").unwrap_or_default(),
            started_at: boot_time(&stat),
            disk,
        }
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        Node::pods(self)
    }

    fn running(&self) -> Vec<PodStatus> {
        let mut pods = self.runtime().list_pods();
        pods.retain(|p| p.phase == PodPhase::Ready);
        pods
    }

    fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Arc<Pod>, LookupError> {
        Node::pod(self, namespace, name, uid)
    }

    fn container(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        container: &str,
        previous: bool,
    ) -> Result<ContainerHandle, LookupError> {
        Node::container(self, namespace, name, uid, container, previous)
    }

    fn netns(&self, uid: &str) -> Option<PathBuf> {
        let status = self.runtime().pod_status(&PodId::new(uid)).ok()?;
        (status.phase == PodPhase::Ready).then_some(status.netns)
    }

    fn next_start(&self) -> BoxFuture<'static, ()> {
        let mut events = self.runtime().events();
        Box::pin(async move {
            // A subscriber that lags has missed something: that is reason enough to look again.
            while let Ok(event) = events.recv().await {
                if matches!(event, Event::ContainerStarted { .. } | Event::Resync) {
                    break;
                }
            }
        })
    }

    async fn ended(&self, id: &ContainerId) {
        if let Err(error) = self.runtime().wait_container(id).await {
            tracing::debug!(container = %id, %error, "container is not there to be waited for");
        }
    }

    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<Process, RuntimeError> {
        self.runtime().exec(id, spec).await.map(process)
    }

    async fn attach(&self, id: &ContainerId, spec: AttachSpec) -> Result<Process, RuntimeError> {
        self.runtime().attach(id, spec).await.map(process)
    }

    async fn pod_stats(&self, uid: &str) -> Option<PodStats> {
        self.runtime().pod_stats(&PodId::new(uid)).await.ok()
    }
}

fn process(session: Session) -> Process {
    let Session { stdin, stdout, stderr, control, exit } = session;
    let (resize, mut sizes) = mpsc::channel(4);
    let resizing = async move {
        while let Some(size) = sizes.recv().await {
            control.resize(size).await;
        }
        std::future::pending::<()>().await;
    };
    Process {
        stdin: stdin.map(|s| Box::new(s) as Input),
        stdout: stdout.map(|s| Box::new(s) as Output),
        stderr: stderr.map(|s| Box::new(s) as Output),
        resize,
        exit: Box::pin(exit.wait()),
        resizing: Box::pin(resizing),
    }
}

/// Busy time in the first line of /proc/stat, which counts hundredths of seconds.
fn cpu_time(stat: &str) -> u64 {
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map_while(|f| f.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|i| ticks.get(*i)).sum();
    busy * 10_000_000
}

fn boot_time(stat: &str) -> Option<Timestamp> {
    let seconds = stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_stat_is_read() {
        let stat = "cpu  10 1 5 1000 50 2 3 4 0 0\ncpu0 1 1 1 1\nbtime 1700000000\n";
        assert_eq!(cpu_time(stat), 25 * 10_000_000);
        assert_eq!(boot_time(stat), Timestamp::from_second(1_700_000_000).ok());
        assert_eq!(cpu_time(""), 0);
    }
}
