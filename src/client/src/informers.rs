//! The registry of a process's informers: one per kind and scope, started by the first who asks.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::core::DynamicObject;
use kube::core::metadata::PartialObjectMeta;
use kube::discovery::ApiResource;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::informer::{Endpoint, Informer, Observed};

/// Which objects of a kind an informer sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    pub namespace: Option<String>,
    pub fields: Option<String>,
    pub labels: Option<String>,
}

impl Scope {
    pub fn all() -> Self {
        Self::default()
    }

    /// A field selector, such as `spec.nodeName=edge-1`.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..Self::default() }
    }

    pub fn namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }
}

type Registry = HashMap<(TypeId, Scope), Box<dyn Any + Send + Sync>>;

/// Cheap to clone; all clones share the informers. Dropping the last one stops them.
#[derive(Clone)]
pub struct Informers {
    shared: Arc<Shared>,
}

struct Shared {
    client: kube::Client,
    registry: Mutex<Registry>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Informers {
    pub fn new(client: kube::Client) -> Self {
        let shared =
            Shared { client, registry: Mutex::default(), tasks: TaskTracker::new(), stop: CancellationToken::new() };
        Self { shared: Arc::new(shared) }
    }

    /// The client the informers watch through.
    pub fn client(&self) -> &kube::Client {
        &self.shared.client
    }

    /// The informer of all objects of `K`.
    pub fn of<K: Observed<DynamicType = ()>>(&self) -> Informer<K> {
        self.scoped(Scope::all())
    }

    /// The informer of the objects of `K` that `scope` selects; a node watches its own pods only with
    /// `Scope::fields("spec.nodeName=…")`.
    pub fn scoped<K: Observed<DynamicType = ()>>(&self, scope: Scope) -> Informer<K> {
        let mut registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let found = registry.get(&(TypeId::of::<K>(), scope.clone()));
        if let Some(informer) = found.and_then(|entry| entry.downcast_ref::<Informer<K>>()) {
            return informer.clone();
        }
        let endpoint = Endpoint::new(K::url_path(&(), scope.namespace.as_deref())).scoped(&scope);
        let informer = Informer::start(&self.shared.client, endpoint, &self.shared.tasks, self.shared.stop.clone());
        registry.insert((TypeId::of::<K>(), scope), Box::new(informer.clone()));
        informer
    }

    /// A metadata-only informer of any served kind, without labels and annotations. Not shared: it stops when `stop` is
    /// cancelled.
    pub fn metadata(
        &self,
        resource: &ApiResource,
        stop: CancellationToken,
    ) -> Informer<PartialObjectMeta<DynamicObject>> {
        let endpoint = Endpoint::new(<DynamicObject as kube::Resource>::url_path(resource, None)).metadata_only();
        Informer::start(&self.shared.client, endpoint, &self.shared.tasks, stop)
    }

    /// Stops all shared informers and waits for their tasks. Metadata informers are to be stopped by their owners
    /// first.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}
