//! An API server in memory that behaves: names, UIDs, revisions, conflicts, finalizers, graceful deletion, watches
//! with history, selectors, subresources. It knows no schemas, admission or authorization. For tests only.

mod path;
mod serve;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

use self::path::Collection;
pub use self::state::Failure;
use self::state::State;

/// Cheap to clone; all clones are the same server.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<u64>,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeApi {
    pub fn new() -> Self {
        Self { state: Arc::default(), revision: watch::Sender::new(0) }
    }

    /// A client of this server. Must be called within a tokio runtime.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        crate::in_process(tower::service_fn(move |request| serve::serve(api.clone(), request)))
    }

    /// Answers one request, for tests that serve the fake by other means.
    #[cfg(test)]
    pub(crate) async fn answer(&self, request: http::Request<kube::client::Body>) -> serve::Reply {
        serve::serve(self.clone(), request).await.unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        let revision = state.revision;
        drop(state);
        self.revision.send_replace(revision);
        result
    }

    /// The next request whose method and path `matches` is answered with `failure`.
    pub fn fail_once(&self, method: &str, path_contains: &str, failure: Failure) {
        self.state().failures.push((method.to_owned(), path_contains.to_owned(), failure));
    }

    /// Method and path of every request that changed something or tried to.
    pub fn writes(&self) -> Vec<String> {
        self.state().writes.clone()
    }

    /// Forgets history, so that watches from earlier revisions are answered with 410.
    pub fn compact(&self) {
        self.edit(|state| state.log.clear());
    }

    /// Stores an object as it is, status included, by create or update.
    pub fn put<K: Resource<DynamicType = ()> + Serialize>(&self, object: &K) -> Result<(), Failure> {
        let meta = object.meta();
        let collection = Collection::of::<K>();
        let mut value = serde_json::to_value(object).map_err(|e| Failure::new(400, "BadRequest", e.to_string()))?;
        value["apiVersion"] = K::api_version(&()).into();
        value["kind"] = K::kind(&()).into();
        let namespace = meta.namespace.clone().unwrap_or_default();
        self.edit(|state| state.put_raw(&collection, &namespace, value))
    }

    pub fn get<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, namespace: &str, name: &str) -> Option<K> {
        let found = self.state().get(&Collection::of::<K>(), namespace, name).ok()?;
        serde_json::from_value(found).ok()
    }

    pub fn list<K: Resource<DynamicType = ()> + DeserializeOwned>(&self) -> Vec<K> {
        let all = self.state().list(&Collection::of::<K>());
        all.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect()
    }

    /// Deletes as a client with no options would.
    pub fn delete<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) -> Result<Value, Failure> {
        self.edit(|state| state.delete(&Collection::of::<K>(), namespace, name, &Value::Null))
    }

    /// Waits until `condition` holds after some change, at most ten seconds. `None` is a time-out.
    pub async fn wait_for<T>(&self, mut condition: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let mut revision = self.revision.subscribe();
        let wait = async {
            loop {
                revision.borrow_and_update();
                if let Some(value) = condition(self) {
                    return Some(value);
                }
                revision.changed().await.ok()?;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests;
