//! Usage of pods and containers, read straight from cgroups and from the writable layer.

use super::{Result, Runtime};
use crate::error::RuntimeError;
use crate::spec::{ContainerId, PodId};
use crate::status::{ContainerState, ContainerStats, FsStats, PodStats};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

impl Runtime {
    pub async fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        let pod = self.inner.owner(id)?;
        let record = pod.container_record(id).ok_or_else(|| RuntimeError::NoSuchContainer(id.clone()))?;
        let upper = record.writable.join("upper");
        let filesystem = tokio::task::spawn_blocking(move || measure(&upper)).await.unwrap_or_default();
        let cgroups = &self.inner.cgroups;
        let (pids, pids_limit) = cgroups.pid_stats(&record.cgroup_path);
        Ok(ContainerStats {
            cpu: cgroups.cpu_stats(&record.cgroup_path),
            memory: cgroups.memory_stats(&record.cgroup_path),
            pids,
            pids_limit,
            filesystem,
        })
    }

    /// The whole pod's usage, and that of its running containers.
    pub async fn pod_stats(&self, id: &PodId) -> Result<PodStats> {
        let pod = self.inner.pod(id)?;
        let status = pod.status();
        let mut containers = Vec::new();
        for container in status.containers.iter().filter(|c| c.state == ContainerState::Running) {
            match self.stats(&container.id).await {
                Ok(stats) => containers.push((container.id.clone(), stats)),
                Err(RuntimeError::NoSuchContainer(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let cgroups = &self.inner.cgroups;
        Ok(PodStats {
            cpu: cgroups.cpu_stats(&status.cgroup_path),
            memory: cgroups.memory_stats(&status.cgroup_path),
            pids: cgroups.pid_stats(&status.cgroup_path).0,
            containers,
        })
    }
}

/// What a folder takes on disk. Files that vanish meanwhile do not count; hard links count once.
pub(crate) fn measure(folder: &Path) -> FsStats {
    let mut stats = FsStats::default();
    let mut seen = HashSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            stats.used_bytes += metadata.blocks() * 512;
            stats.inodes_used += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_are_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/a"), vec![1; 10_000]).unwrap();
        fs::hard_link(dir.path().join("d/a"), dir.path().join("b")).unwrap();
        let stats = measure(dir.path());
        assert_eq!(stats.inodes_used, 2);
        assert!(stats.used_bytes >= 10_000);
    }
}
