//! What the API needs of the node it serves: a narrow seam with two implementations, the node and the tests' own.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use runtime::spec::{AttachSpec, TtySize};
use runtime::{ContainerId, ExecSpec, PodStats, PodStatus, RuntimeError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::{ContainerHandle, LookupError};

pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// A live process in a container, or the container's own (attach).
pub struct Process {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    /// `None` with a terminal.
    pub stderr: Option<Output>,
    pub resize: mpsc::Sender<TtySize>,
    /// The exit code, once the outputs have ended.
    pub exit: BoxFuture<'static, Result<i32, RuntimeError>>,
    /// Carries sizes to the terminal; never resolves, and is to be polled along with the rest.
    pub resizing: BoxFuture<'static, ()>,
}

/// The machine as a whole, now.
#[derive(Clone, Debug, Default)]
pub struct MachineStats {
    pub cpus: u32,
    /// Cumulative CPU time of all processes.
    pub cpu_ns: u64,
    /// Bytes.
    pub memory: u64,
    pub memory_available: u64,
    pub started_at: Option<jiff::Timestamp>,
    /// Of the file system that holds the pods' data.
    pub disk: Option<DiskStats>,
}

/// Bytes and inodes of a file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskStats {
    pub capacity: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

#[async_trait]
pub trait Host: Send + Sync + 'static {
    fn node_name(&self) -> &str;

    /// The settings in force, for `/configz`.
    fn configuration(&self) -> serde_json::Value;

    fn machine(&self) -> MachineStats;

    /// The node's pods as the API has them.
    fn pods(&self) -> Vec<Arc<Pod>>;

    /// The node's pods as the runtime has them.
    fn running(&self) -> Vec<PodStatus>;

    fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Arc<Pod>, LookupError>;

    /// The newest instance of a container, or with `previous` the one before it.
    fn container(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        container: &str,
        previous: bool,
    ) -> Result<ContainerHandle, LookupError>;

    /// A file that holds the pod's network namespace; `None` when the pod is not running.
    fn netns(&self, uid: &str) -> Option<PathBuf>;

    /// Resolves when some container starts after the call.
    fn next_start(&self) -> BoxFuture<'static, ()>;

    /// Resolves when the container has ended, or is unknown.
    async fn ended(&self, id: &ContainerId);

    async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<Process, RuntimeError>;

    async fn attach(&self, id: &ContainerId, spec: AttachSpec) -> Result<Process, RuntimeError>;

    /// `None` when the pod is gone.
    async fn pod_stats(&self, uid: &str) -> Option<PodStats>;
}
