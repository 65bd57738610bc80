//! One kind's informer: a reflector task (`reflect`) that is the only writer of a typed store (`store`), and any
//! number of readers and subscribers (`subscription`).

mod endpoint;
mod event;
mod reflect;
mod store;
mod subscription;

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use kube::core::{ParseExpressionError, Selector, SelectorExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::endpoint::Endpoint;
pub use self::store::Index;
use self::store::Store;
pub use self::subscription::{Change, Subscription};
use crate::key::ObjectKey;

/// What an informer can hold.
pub trait Observed: Resource + Clone + DeserializeOwned + Send + Sync + 'static {}
impl<K: Resource + Clone + DeserializeOwned + Send + Sync + 'static> Observed for K {}

/// Pods by `spec.nodeName`; unassigned pods are under the empty name.
pub const BY_NODE: Index<Pod> =
    Index { name: "node", values: |pod| vec![pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default()] };

/// A shared view of one kind. Cheap to clone.
pub struct Informer<K: Observed> {
    store: Arc<Store<K>>,
}

impl<K: Observed> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone() }
    }
}

impl<K: Observed> fmt::Debug for Informer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informer").field("objects", &self.store.len()).field("observed", &self.observed()).finish()
    }
}

impl<K: Observed> Informer<K> {
    /// Starts watching `endpoint` on a task of `tasks`, until `stop` is cancelled.
    pub fn start(client: &kube::Client, endpoint: Endpoint, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let store = Arc::new(Store::new());
        let reflector = reflect::Reflector::new(client.clone(), endpoint, store.clone());
        let closing = store.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(reflector.run()).await;
            closing.close();
        });
        Self { store }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.store.get(key)
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.store.list()
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.store.in_namespace(namespace)
    }

    /// Objects of `namespace` (of all namespaces when `None`) whose labels match.
    pub fn by_label(
        &self,
        namespace: Option<&str>,
        selector: &LabelSelector,
    ) -> Result<Vec<Arc<K>>, ParseExpressionError> {
        let selector: Selector = selector.clone().try_into()?;
        let mut objects = namespace.map_or_else(|| self.list(), |ns| self.in_namespace(ns));
        objects.retain(|o| selector.matches(o.meta().labels.as_ref().unwrap_or(&Default::default())));
        Ok(objects)
    }

    /// Objects that name `uid` in their owner references.
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<K>> {
        self.store.by_owner(uid)
    }

    /// Objects that `index` files under `value`. The index is built by its first use and kept up from then on.
    pub fn by_index(&self, index: &Index<K>, value: &str) -> Vec<Arc<K>> {
        self.store.by_index(index, value)
    }

    /// Every object as `Added`, then every change. A slow subscriber sees the changes of one key coalesced, and
    /// never misses its last state.
    pub fn subscribe(&self) -> Subscription<K> {
        self.store.subscribe()
    }

    /// Waits until an object is there of which `holds` is true; false when the informer was stopped before.
    pub async fn until(&self, namespace: &str, name: &str, holds: impl Fn(&K) -> bool) -> bool {
        let mut changes = self.subscribe();
        loop {
            if self.get(namespace, name).is_some_and(|object| holds(&object)) {
                return true;
            }
            if changes.next().await.is_none() {
                return false;
            }
        }
    }

    /// Waits until the first list is in the store.
    pub async fn synced(&self) {
        self.store.synced().await;
    }

    pub fn is_synced(&self) -> bool {
        self.store.is_synced()
    }

    /// The newest revision the store has seen. A component that wrote at revision R reads its own write here once
    /// `observed() >= R`.
    pub fn observed(&self) -> u64 {
        self.store.observed()
    }
}

impl Informer<Pod> {
    /// The pods bound to a node.
    pub fn on_node(&self, node: &str) -> Vec<Arc<Pod>> {
        self.by_index(&BY_NODE, node)
    }
}
