//! What every part of the node shares: handles, informers, configuration. Made once by [`crate::Node::start`].

use std::sync::Arc;

use client::{EventRecorder, EventType, Informer, Informers, Scope};
use k8s_openapi::api::core::v1::{Node as NodeObject, ObjectReference, Pod, Service};
use net::Net;
use runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::NodeConfig;
use crate::images::Puller;
use crate::machine::Machine;
use crate::pods::admit::Admission;
use crate::pods::workers::Workers;
use crate::pressure::Health;
use crate::volumes::references::References;

/// Shared by reference; nothing in it is replaced after the start.
pub(crate) struct Context {
    pub(crate) config: NodeConfig,
    pub(crate) client: kube::Client,
    pub(crate) informers: Informers,
    pub(crate) runtime: Runtime,
    pub(crate) net: Net,
    pub(crate) events: EventRecorder,
    pub(crate) pods: Informer<Pod>,
    pub(crate) services: Informer<Service>,
    pub(crate) node: Informer<NodeObject>,
    pub(crate) machine: Machine,
    pub(crate) puller: Puller,
    pub(crate) references: References,
    pub(crate) admission: Admission,
    pub(crate) workers: Workers,
    pub(crate) health: tokio::sync::watch::Sender<Health>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Context {
    pub(crate) fn new(
        config: NodeConfig,
        client: kube::Client,
        informers: Informers,
        runtime: Runtime,
        net: Net,
        stop: CancellationToken,
    ) -> Arc<Context> {
        let own_pods = Scope::fields(format!("spec.nodeName={}", config.name));
        let pods = informers.scoped(config.pods.clone().unwrap_or(own_pods));
        Arc::new(Context {
            events: EventRecorder::new(client.clone(), "kubelet", &config.name),
            pods,
            services: informers.of(),
            node: informers.of(),
            machine: Machine::probe(config.hostname.clone()),
            puller: Puller::new(config.parallel_pulls),
            references: References::new(client.clone(), stop.clone()),
            admission: Admission::default(),
            workers: Workers::default(),
            health: tokio::sync::watch::channel(Health::default()).0,
            tasks: TaskTracker::new(),
            config,
            client,
            informers,
            runtime,
            net,
            stop,
        })
    }

    /// This node's own object, once the informer has it.
    pub(crate) fn own_node(&self) -> Option<Arc<NodeObject>> {
        self.node.get("", &self.config.name)
    }

    /// Whether the pod is this node's to run.
    pub(crate) fn is_mine(&self, pod: &Pod) -> bool {
        pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(self.config.name.as_str())
    }

    /// Records an event about the pod.
    pub(crate) fn pod_event(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.events.event(pod, kind, reason, message);
    }

    /// Records an event about one container of the pod.
    pub(crate) fn container_event(
        &self,
        pod: &Pod,
        container: &str,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let list = match crate::spec::find(pod, container).map(|(role, _)| role) {
            Some(crate::spec::Role::Init | crate::spec::Role::Sidecar) => "initContainers",
            Some(crate::spec::Role::Ephemeral) => "ephemeralContainers",
            Some(crate::spec::Role::Main) | None => "containers",
        };
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: Some(format!("spec.{list}{{{container}}}")),
        };
        self.events.event_for(reference, kind, reason, message);
    }

    /// Records an event about the node.
    pub(crate) fn node_event(&self, kind: EventType, reason: &str, message: impl Into<String>) {
        let name = self.config.name.clone();
        let reference = ObjectReference {
            kind: Some("Node".to_owned()),
            // Upstream uses the name here as well, and `kubectl describe node` selects by it.
            uid: Some(name.clone()),
            name: Some(name),
            ..ObjectReference::default()
        };
        self.events.event_for(reference, kind, reason, message);
    }
}
