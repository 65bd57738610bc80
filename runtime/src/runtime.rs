//! The handle to all pods of this node.

mod adopt;
mod cleanup;
mod containers;
mod removal;
mod spawn;
mod stats;

use crate::cgroup::Cgroups;
use crate::error::RuntimeError;
use crate::images::{Images, RegistriesConfig};
use crate::link::lock;
use crate::pod::Pod;
use crate::spec::{ContainerId, PodId, PodSpec, Resources};
use crate::status::{ContainerStatus, Event, PodPhase, PodStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;

pub(crate) type Result<T> = std::result::Result<T, RuntimeError>;

/// Events a slow subscriber may lag behind by; then it misses some and has to list again.
const EVENT_BACKLOG: usize = 1024;

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
    pub registries: RegistriesConfig,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RuntimeConfig,
    images: Images,
    cgroups: Cgroups,
    pods: Mutex<BTreeMap<PodId, Arc<Pod>>>,
    /// Pods being made.
    starting: Mutex<BTreeSet<PodId>>,
    events: broadcast::Sender<Event>,
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> RuntimeError + '_ {
    move |source| RuntimeError::Io { path: path.to_path_buf(), source }
}

impl Inner {
    fn shim_cgroup(&self) -> String {
        format!("{}/shims", self.config.cgroup_parent.trim_end_matches('/'))
    }

    fn pods_folder(&self) -> PathBuf {
        self.config.state.join("pods")
    }

    fn netns_folder(&self) -> PathBuf {
        self.config.state.join("netns")
    }

    /// Writable layers of containers.
    fn containers_folder(&self) -> PathBuf {
        self.config.root.join("containers")
    }

    fn publish(&self, event: Event) {
        if self.events.send(event).is_err() {
            tracing::trace!("nobody listens to runtime events");
        }
    }

    fn pod(&self, id: &PodId) -> Result<Arc<Pod>> {
        lock(&self.pods).get(id).cloned().ok_or_else(|| RuntimeError::NoSuchPod(id.clone()))
    }

    /// The pod a container belongs to.
    fn owner(&self, id: &ContainerId) -> Result<Arc<Pod>> {
        let pods = lock(&self.pods);
        let owner = pods.values().find(|pod| pod.container(id).is_some()).cloned();
        owner.ok_or_else(|| RuntimeError::NoSuchContainer(id.clone()))
    }
}

impl Runtime {
    /// Opens the images, finds living shims again (same ids) and clears what dead ones left.
    pub async fn open(config: RuntimeConfig) -> Result<Self> {
        let images = Images::open(config.root.clone(), config.registries.clone())?;
        let cgroups =
            Cgroups::detect().map_err(|source| RuntimeError::Cgroup { path: config.cgroup_parent.clone(), source })?;
        let inner = Arc::new(Inner {
            images,
            cgroups,
            pods: Mutex::default(),
            starting: Mutex::default(),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            config,
        });
        for folder in [inner.pods_folder(), inner.netns_folder(), inner.containers_folder()] {
            std::fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        }
        let shim_cgroup = inner.shim_cgroup();
        inner.cgroups.create(&shim_cgroup).map_err(|source| RuntimeError::Cgroup { path: shim_cgroup, source })?;
        adopt::all(&inner).await?;
        Ok(Self { inner })
    }

    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// Makes the pod's namespaces and cgroup. A second call with the same id answers with the living pod; one that is
    /// stopped or gone has to be removed first.
    pub async fn run_pod(&self, spec: PodSpec) -> Result<PodStatus> {
        if !spec.id.is_safe() {
            return Err(RuntimeError::BadId(spec.id.to_string()));
        }
        if let Ok(pod) = self.inner.pod(&spec.id) {
            return match pod.phase() {
                PodPhase::Ready => Ok(pod.status()),
                _ => Err(RuntimeError::PodExists(spec.id)),
            };
        }
        if !lock(&self.inner.starting).insert(spec.id.clone()) {
            return Err(RuntimeError::PodExists(spec.id));
        }
        let id = spec.id.clone();
        let result = spawn::pod(&self.inner, spec).await;
        lock(&self.inner.starting).remove(&id);
        result.map(|pod| pod.status())
    }

    /// Kills all containers and releases the namespaces; records stay until [`Runtime::remove_pod`].
    pub async fn stop_pod(&self, id: &PodId) -> Result<()> {
        let pod = self.inner.pod(id)?;
        cleanup::stop(&self.inner, &pod).await
    }

    /// Removes everything of the pod. Fine when it does not exist.
    pub async fn remove_pod(&self, id: &PodId) -> Result<()> {
        let Ok(pod) = self.inner.pod(id) else { return Ok(()) };
        cleanup::stop(&self.inner, &pod).await?;
        cleanup::remove(&self.inner, &pod).await?;
        lock(&self.inner.pods).remove(id);
        Ok(())
    }

    pub fn list_pods(&self) -> Vec<PodStatus> {
        lock(&self.inner.pods).values().map(|pod| pod.status()).collect()
    }

    pub fn pod_status(&self, id: &PodId) -> Result<PodStatus> {
        self.inner.pod(id).map(|pod| pod.status())
    }

    pub fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus> {
        self.inner.owner(id)?.container(id).ok_or_else(|| RuntimeError::NoSuchContainer(id.clone()))
    }

    /// Starts and exits from now on. A receiver that lags is told so and has to list again.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Makes a cgroup of the caller's own (a class of pods) with limits, or changes its limits. The path is absolute.
    pub fn ensure_cgroup(&self, path: &str, resources: &Resources) -> Result<()> {
        let cgroups = &self.inner.cgroups;
        cgroups
            .create(path)
            .and_then(|()| cgroups.apply(path, resources))
            .map_err(|source| RuntimeError::Cgroup { path: path.to_owned(), source })
    }

    /// Removes a cgroup and those below it; fine when absent.
    pub fn remove_cgroup(&self, path: &str) -> Result<()> {
        self.inner.cgroups.remove(path).map_err(|source| RuntimeError::Cgroup { path: path.to_owned(), source })
    }
}
