//! The handle to all pods of this node.

use crate::error::RuntimeError;
use crate::images::Images;
use crate::session::Session;
use crate::spec::{AttachSpec, ContainerId, ContainerSpec, ExecSpec, PodId, PodSpec, Resources};
use crate::status::{ContainerStats, ContainerStatus, Event, PodStats, PodStatus};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::broadcast;

type Result<T> = std::result::Result<T, RuntimeError>;

#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Images, snapshots and writable layers: on disk.
    pub root: PathBuf,
    /// Sockets and records of living pods: cleared by a restart of the machine (`/run/rk`).
    pub state: PathBuf,
    /// The executable that runs [`crate::shim::main`] for its `shim` subcommand.
    pub exe: PathBuf,
    /// Absolute path in the cgroup hierarchies under which rk keeps everything (`/rk`).
    pub cgroup_parent: String,
    pub registries: crate::images::RegistriesConfig,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {}

impl Runtime {
    /// Opens the images, finds living shims again (same ids) and clears what dead ones left.
    pub async fn open(config: RuntimeConfig) -> Result<Self> {
        unimplemented!("{config:?}")
    }

    pub fn images(&self) -> &Images {
        unimplemented!()
    }

    /// Makes the pod's namespaces and cgroup. A second call with the same id answers with the living pod.
    pub async fn run_pod(&self, spec: PodSpec) -> Result<PodStatus> {
        unimplemented!("{spec:?}")
    }

    /// Makes the container up to the point where its process waits to be started.
    pub async fn create_container(&self, pod: &PodId, spec: ContainerSpec) -> Result<ContainerId> {
        unimplemented!("{pod} {spec:?}")
    }

    pub async fn start_container(&self, id: &ContainerId) -> Result<()> {
        unimplemented!("{id}")
    }

    /// Sends `signal` (`None`: the image's stop signal, else SIGTERM), waits up to `grace`, then kills. Returns when it
    /// has ended.
    pub async fn stop_container(&self, id: &ContainerId, signal: Option<i32>, grace: Duration) -> Result<()> {
        unimplemented!("{id} {signal:?} {grace:?}")
    }

    /// Sends a signal to the container's first process.
    pub async fn kill(&self, id: &ContainerId, signal: i32) -> Result<()> {
        unimplemented!("{id} {signal}")
    }

    /// Removes the container, killing it if need be. Fine when it does not exist.
    pub async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        unimplemented!("{id}")
    }

    /// Kills all containers and releases the namespaces; records stay until [`Runtime::remove_pod`].
    pub async fn stop_pod(&self, id: &PodId) -> Result<()> {
        unimplemented!("{id}")
    }

    /// Removes everything of the pod. Fine when it does not exist.
    pub async fn remove_pod(&self, id: &PodId) -> Result<()> {
        unimplemented!("{id}")
    }

    pub fn list_pods(&self) -> Vec<PodStatus> {
        unimplemented!()
    }

    pub fn pod_status(&self, id: &PodId) -> Result<PodStatus> {
        unimplemented!("{id}")
    }

    pub fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus> {
        unimplemented!("{id}")
    }

    /// Resolves when the container has exited.
    pub async fn wait_container(&self, id: &ContainerId) -> Result<ContainerStatus> {
        unimplemented!("{id}")
    }

    /// Starts and exits from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        unimplemented!()
    }

    pub async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<Session> {
        unimplemented!("{id} {spec:?}")
    }

    pub async fn attach(&self, id: &ContainerId, spec: AttachSpec) -> Result<Session> {
        unimplemented!("{id} {spec:?}")
    }

    pub async fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        unimplemented!("{id}")
    }

    pub async fn pod_stats(&self, id: &PodId) -> Result<PodStats> {
        unimplemented!("{id}")
    }

    pub async fn update_resources(&self, id: &ContainerId, resources: &Resources) -> Result<()> {
        unimplemented!("{id} {resources:?}")
    }

    /// Opens a fresh log file (after somebody moved it away).
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<()> {
        unimplemented!("{id}")
    }

    /// Makes a cgroup of the caller's own (a class of pods) with limits, or changes its limits. The path is absolute.
    pub fn ensure_cgroup(&self, path: &str, resources: &Resources) -> Result<()> {
        unimplemented!("{path} {resources:?}")
    }

    /// Removes a cgroup and those below it; fine when absent.
    pub fn remove_cgroup(&self, path: &str) -> Result<()> {
        unimplemented!("{path}")
    }
}
