//! Kubernetes Events, recorded without waiting: callers hand over an event and go on. One task writes them, merging
//! repeats into one object's count and capping what one object can emit (`correlate`).

mod correlate;
mod write;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use tokio::sync::mpsc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One occurrence, as the caller reports it.
#[derive(Clone, Debug)]
pub(crate) struct Occurrence {
    pub(crate) object: ObjectReference,
    pub(crate) kind: EventType,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) at: Timestamp,
}

/// Events waiting to be written. Beyond this, new ones are dropped: events are advice, never state.
const BACKLOG: usize = 1_000;

/// Records events as one component (such as `deployment-controller`) of one host. Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    sender: Arc<mpsc::Sender<Occurrence>>,
}

impl EventRecorder {
    /// Starts the writing task, which ends when the last clone is dropped. `host` is empty for components that are
    /// not of one node. Must be called within a tokio runtime.
    pub fn new(client: kube::Client, component: &str, host: &str) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(write::run(client, component.to_owned(), host.to_owned(), receiver));
        Self { sender: Arc::new(sender) }
    }

    /// Records an event about `object`.
    pub fn event<K>(&self, object: &K, kind: EventType, reason: &str, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        let meta = object.meta();
        let reference = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        };
        self.event_for(reference, kind, reason, message);
    }

    /// Records an event about a part of an object, such as one container of a pod (`field_path`).
    pub fn event_for(&self, object: ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let (reason, message, at) = (reason.to_owned(), message.into(), Timestamp::now());
        let occurrence = Occurrence { object, kind, reason, message, at };
        if let Err(error) = self.sender.try_send(occurrence) {
            tracing::debug!(error = %error, "event dropped");
        }
    }
}
