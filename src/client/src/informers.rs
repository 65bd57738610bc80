//! The registry of a process's informers: one per kind and scope, started by the first who asks, and kept for good or for
//! as long as those need it who ask.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// Who holds an informer: the registry itself, or a [`borrowed`](Informers::borrowed) view of it.
type Holder = u64;
const OWN: Holder = 0;

struct Entry {
    /// Of the kind that the key says.
    informer: Box<dyn Any + Send + Sync>,
    stop: CancellationToken,
    holders: HashSet<Holder>,
}

type Registry = HashMap<(TypeId, Scope), Entry>;

/// Cheap to clone; all clones share the informers. Dropping the last one stops them.
#[derive(Clone)]
pub struct Informers {
    shared: Arc<Shared>,
    view: Option<Arc<View>>,
}

struct Shared {
    client: kube::Client,
    registry: Mutex<Registry>,
    views: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a borrower holds, until the last of its clones is gone.
struct View {
    shared: Arc<Shared>,
    holder: Holder,
}

impl Drop for View {
    fn drop(&mut self) {
        self.shared.registry().retain(|_, entry| {
            entry.holders.remove(&self.holder);
            if entry.holders.is_empty() {
                entry.stop.cancel();
            }
            !entry.holders.is_empty()
        });
    }
}

impl Informers {
    pub fn new(client: kube::Client) -> Self {
        let shared = Shared {
            client,
            registry: Mutex::default(),
            views: AtomicU64::new(OWN),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared), view: None }
    }

    /// For work that comes and goes: the same informers, but those that nobody else has asked for stop, and their objects
    /// go, when the last clone of what is returned is dropped.
    #[must_use]
    pub fn borrowed(&self) -> Self {
        let holder = self.shared.views.fetch_add(1, Ordering::Relaxed) + 1;
        Self { shared: self.shared.clone(), view: Some(Arc::new(View { shared: self.shared.clone(), holder })) }
    }

    /// The client the informers watch through.
    pub fn client(&self) -> &kube::Client {
        &self.shared.client
    }

    /// How many informers there are.
    pub fn count(&self) -> usize {
        self.shared.registry().len()
    }

    /// The informer of all objects of `K`.
    pub fn of<K: Observed<DynamicType = ()>>(&self) -> Informer<K> {
        self.scoped(Scope::all())
    }

    /// The informer of the objects of `K` that `scope` selects; a node watches its own pods only with
    /// `Scope::fields("spec.nodeName=…")`.
    pub fn scoped<K: Observed<DynamicType = ()>>(&self, scope: Scope) -> Informer<K> {
        let holder = self.view.as_ref().map_or(OWN, |view| view.holder);
        let mut registry = self.shared.registry();
        let key = (TypeId::of::<K>(), scope);
        if let Some(entry) = registry.get_mut(&key)
            && let Some(informer) = entry.informer.downcast_ref::<Informer<K>>()
        {
            let informer = informer.clone();
            entry.holders.insert(holder);
            return informer;
        }
        let endpoint = Endpoint::new(K::url_path(&(), key.1.namespace.as_deref())).scoped(&key.1);
        let stop = self.shared.stop.child_token();
        let informer = Informer::start(&self.shared.client, endpoint, &self.shared.tasks, stop.clone());
        let entry = Entry { informer: Box::new(informer.clone()), stop, holders: HashSet::from([holder]) };
        registry.insert(key, entry);
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
