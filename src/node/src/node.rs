//! The node's life: start, the way in for its HTTP API, and the end.
//!
//! ```text
//! start: Node object + Lease ─► adopt the runtime's pods ─► dispatcher, heartbeat, status, pressure tasks
//! stop (token): tasks end in any order; pods go on running for the next start to adopt
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use client::Informers;
use client::persist::persist;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use net::Net;
use runtime::spec::Resources;
use runtime::{ContainerId, ContainerState, Runtime};
use tokio_util::sync::CancellationToken;

use crate::config::NodeConfig;
use crate::context::Context;
use crate::network::chain;
use crate::registration::{self, RegistrationError};

type Task = fn(&Arc<Context>) -> BoxFuture<'static, ()>;

/// What goes on for as long as the node runs.
const TASKS: [(&str, Task); 5] = [
    ("heartbeat", crate::heartbeat::task),
    ("node status", crate::node_status::task),
    ("network", crate::network::task),
    ("pods", crate::pods::task),
    ("pressure", crate::pressure::task),
];

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(crate) context: Arc<Context>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    #[error("cannot make {}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
}

/// Why a container that somebody asked for can't be given. The wording is what kubectl users know.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("pod \"{0}\" not found")]
    NoPod(String),
    #[error("container \"{container}\" not found in pod \"{pod}\"")]
    NoContainer { pod: String, container: String },
    #[error("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}")]
    Waiting { pod: String, container: String, reason: String },
    #[error("previous terminated container \"{container}\" in pod \"{pod}\" not found")]
    NoPrevious { pod: String, container: String },
}

/// A container instance as the node's HTTP API serves it.
#[derive(Clone, Debug)]
pub struct ContainerHandle {
    pub id: ContainerId,
    pub log_path: PathBuf,
    pub running: bool,
    pub tty: bool,
    pub stdin: bool,
    pub attempt: u32,
}

impl Node {
    /// Registers the node and begins to run its pods. Returns when the node object exists; retries while the API
    /// server does not answer. Everything ends when `stop` is cancelled, and the pods live on.
    pub async fn start(
        config: NodeConfig,
        client: kube::Client,
        informers: Informers,
        runtime: Runtime,
        net: Net,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        for path in [config.pods_root(), config.pod_logs.clone(), config.container_logs.clone()] {
            std::fs::create_dir_all(&path).map_err(|source| StartError::Folder { path, source })?;
        }
        let context = Context::new(config, client, informers, runtime, net, stop);
        registration::register(&context).await?;
        weigh_classes(&context);
        for (what, task) in TASKS {
            let (stop, own) = (context.stop.clone(), context.clone());
            context.tasks.spawn(async move { stop.run_until_cancelled(persist(what, || task(&own))).await });
        }
        let node = Node { context };
        crate::services::start(&node);
        crate::dns::start(&node);
        Ok(node)
    }

    pub fn config(&self) -> &NodeConfig {
        &self.context.config
    }

    pub fn runtime(&self) -> &Runtime {
        &self.context.runtime
    }

    pub fn net(&self) -> &Net {
        &self.context.net
    }

    pub fn client(&self) -> &kube::Client {
        &self.context.client
    }

    pub fn informers(&self) -> &Informers {
        &self.context.informers
    }

    /// Cancelled when the node stops.
    pub fn stopping(&self) -> &CancellationToken {
        &self.context.stop
    }

    /// The tasks that [`Node::stopped`] waits for.
    pub fn tasks(&self) -> &tokio_util::task::TaskTracker {
        &self.context.tasks
    }

    /// Waits until all tasks have ended after the stop.
    pub async fn stopped(&self) {
        self.context.stop.cancelled().await;
        self.context.tasks.close();
        self.context.tasks.wait().await;
    }

    /// The pods this node runs, as the API has them.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.context.pods.list();
        pods.retain(|p| self.context.is_mine(p));
        pods
    }

    /// A pod of this node; with `uid`, only that very one.
    pub fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Arc<Pod>, LookupError> {
        let pod = self.context.pods.get(namespace, name).filter(|p| self.context.is_mine(p));
        pod.filter(|p| uid.is_none_or(|uid| p.metadata.uid.as_deref() == Some(uid)))
            .ok_or_else(|| LookupError::NoPod(name.to_owned()))
    }

    /// The newest instance of a container, or with `previous` the one before it. An empty name means the only, or
    /// the default, container.
    pub fn container(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        container: &str,
        previous: bool,
    ) -> Result<ContainerHandle, LookupError> {
        let pod = self.pod(namespace, name, uid)?;
        let container = if container.is_empty() { default_container(&pod) } else { container };
        let missing = || LookupError::NoContainer { pod: name.to_owned(), container: container.to_owned() };
        if crate::spec::find(&pod, container).is_none() {
            return Err(missing());
        }
        let id = runtime::PodId::new(pod.metadata.uid.clone().unwrap_or_default());
        let mut instances = self.context.runtime.pod_status(&id).map(|s| s.containers).unwrap_or_default();
        instances.retain(|c| c.spec.name == container);
        instances.sort_by_key(|c| std::cmp::Reverse(c.spec.attempt));
        let waits = || LookupError::Waiting {
            pod: name.to_owned(),
            container: container.to_owned(),
            reason: waiting_reason(&pod, container),
        };
        let none = || LookupError::NoPrevious { pod: name.to_owned(), container: container.to_owned() };
        let started = instances.iter().filter(|c| c.state != ContainerState::Created);
        let found = match previous {
            false => started.into_iter().next().ok_or_else(waits)?,
            true => started.skip(1).find(|c| c.state == ContainerState::Exited).ok_or_else(none)?,
        };
        Ok(ContainerHandle {
            id: found.id.clone(),
            log_path: found.spec.log_path.clone().unwrap_or_default(),
            running: found.state == ContainerState::Running,
            tty: found.spec.tty,
            stdin: found.spec.stdin,
            attempt: found.spec.attempt,
        })
    }
}

/// The cgroups of the pod classes: those that asked for nothing yield to all others.
fn weigh_classes(context: &Context) {
    let parent = &context.config.cgroup_parent;
    let least = Resources { cpu_shares: Some(2), ..Resources::default() };
    let table = [
        ("kubepods", Resources::default()),
        ("kubepods/besteffort", least),
        ("kubepods/burstable", Resources::default()),
    ];
    for (name, resources) in table {
        if let Err(error) = context.runtime.ensure_cgroup(&format!("{parent}/{name}"), &resources) {
            tracing::warn!(cgroup = name, error = %chain(&error), "cannot make a class of pods");
        }
    }
}

fn default_container(pod: &Pod) -> &str {
    let annotated = pod.metadata.annotations.as_ref().and_then(|a| a.get("kubectl.kubernetes.io/default-container"));
    let first = pod.spec.as_ref().and_then(|s| s.containers.first()).map(|c| c.name.as_str());
    annotated.map(String::as_str).or(first).unwrap_or_default()
}

fn waiting_reason(pod: &Pod, container: &str) -> String {
    let status = pod.status.as_ref();
    let lists = status.map(|s| [&s.container_statuses, &s.init_container_statuses, &s.ephemeral_container_statuses]);
    let mut all = lists.into_iter().flatten().flat_map(|l| l.iter().flatten());
    let found = all.find(|s| s.name == container);
    let waiting = found.and_then(|s| s.state.as_ref()).and_then(|s| s.waiting.as_ref());
    waiting.and_then(|w| w.reason.clone()).unwrap_or_else(|| "ContainerCreating".to_owned())
}
