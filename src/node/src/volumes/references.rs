//! ConfigMaps and Secrets that pods refer to: one watch per object in use, shared by the pods that use it.
//!
//! A node must not see all secrets of the cluster, so it watches single objects by name. Dropping the last holder ends
//! the watch. A change wakes the workers of the pods that hold the object.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use client::informer::{Endpoint, Observed};
use client::{Informer, Scope};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::spec::env::{self, Sources};

/// One watched object.
pub(crate) struct Entry<K: Observed> {
    namespace: String,
    name: String,
    informer: Informer<K>,
    holders: Mutex<Vec<Weak<Notify>>>,
    _stop: DropGuard,
}

impl<K: Observed> Entry<K> {
    pub(crate) fn get(&self) -> Option<Arc<K>> {
        self.informer.get(&self.namespace, &self.name)
    }

    fn notify(&self) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|holder| holder.upgrade().inspect(|h| h.notify_one()).is_some());
    }
}

type Key = (&'static str, String, String);

/// The objects in use by this node's pods.
pub(crate) struct References {
    client: kube::Client,
    entries: Mutex<HashMap<Key, Box<dyn Any + Send + Sync>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl References {
    pub(crate) fn new(client: kube::Client, stop: CancellationToken) -> References {
        References { client, entries: Mutex::default(), tasks: TaskTracker::new(), stop }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Box<dyn Any + Send + Sync>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the object for as long as the entry is held; `wake` is told of changes.
    pub(crate) fn hold<K>(&self, plural: &'static str, namespace: &str, name: &str, wake: &Arc<Notify>) -> Arc<Entry<K>>
    where
        K: Observed<DynamicType = ()>,
    {
        let key = (plural, namespace.to_owned(), name.to_owned());
        let mut entries = self.entries();
        let known = entries.get(&key).and_then(|e| e.downcast_ref::<Weak<Entry<K>>>()).and_then(Weak::upgrade);
        let entry = known.unwrap_or_else(|| {
            // Entries whose holders are gone are swept when a new one comes.
            entries.retain(|_, e| {
                let map = e.downcast_ref::<Weak<Entry<ConfigMap>>>().is_some_and(|w| w.strong_count() > 0);
                map || e.downcast_ref::<Weak<Entry<Secret>>>().is_some_and(|w| w.strong_count() > 0)
            });
            let entry = self.start(namespace, name);
            entries.insert(key, Box::new(Arc::downgrade(&entry)));
            entry
        });
        entry.holders.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(wake));
        entry
    }

    fn start<K: Observed<DynamicType = ()>>(&self, namespace: &str, name: &str) -> Arc<Entry<K>> {
        let stop = self.stop.child_token();
        let scope = Scope::fields(format!("metadata.name={name}"));
        let endpoint = Endpoint::new(K::url_path(&(), Some(namespace))).scoped(&scope);
        let informer = Informer::start(&self.client, endpoint, &self.tasks, stop.clone());
        let mut changes = informer.subscribe();
        let entry = Arc::new(Entry {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            informer,
            holders: Mutex::default(),
            _stop: stop.clone().drop_guard(),
        });
        let weak = Arc::downgrade(&entry);
        let informer = entry.informer.clone();
        self.tasks.spawn(async move {
            // That an object does not exist is news as well.
            if stop.run_until_cancelled(informer.synced()).await.is_some()
                && let Some(entry) = weak.upgrade()
            {
                entry.notify();
            }
            drop(informer);
            while stop.run_until_cancelled(changes.next()).await.flatten().is_some() {
                let Some(entry) = weak.upgrade() else { return };
                entry.notify();
            }
        });
        entry
    }
}

/// What one pod holds.
#[derive(Default)]
pub(crate) struct Held {
    config_maps: BTreeMap<String, Arc<Entry<ConfigMap>>>,
    secrets: BTreeMap<String, Arc<Entry<Secret>>>,
}

impl Held {
    /// Holds everything the pod names; what it names no longer is let go.
    pub(crate) fn update(&mut self, references: &References, pod: &Pod, wake: &Arc<Notify>) {
        let (maps, secrets) = named(pod);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        self.config_maps.retain(|name, _| maps.contains(name));
        self.secrets.retain(|name, _| secrets.contains(name));
        for name in maps {
            let hold = || references.hold("configmaps", namespace, &name, wake);
            self.config_maps.entry(name.clone()).or_insert_with(hold);
        }
        for name in secrets {
            let hold = || references.hold("secrets", namespace, &name, wake);
            self.secrets.entry(name.clone()).or_insert_with(hold);
        }
    }

    /// Holds what the pod names now (an ephemeral container may have brought names) and waits a little for it.
    pub(crate) async fn update_for(&mut self, references: &References, pod: &Pod, wake: &Arc<Notify>) {
        self.update(references, pod, wake);
        if !self.is_synced() && tokio::time::timeout(std::time::Duration::from_secs(5), self.synced()).await.is_err() {
            tracing::debug!("objects a pod refers to are not known yet");
        }
    }

    /// The objects and their revisions; it differs when something was made, changed or deleted.
    pub(crate) fn fingerprint(&self) -> Vec<(String, String)> {
        let revision = |meta: &kube::api::ObjectMeta| meta.resource_version.clone().unwrap_or_default();
        let maps = self.config_maps.iter().filter_map(|(n, e)| Some((format!("c/{n}"), revision(&e.get()?.metadata))));
        let secrets = self.secrets.iter().filter_map(|(n, e)| Some((format!("s/{n}"), revision(&e.get()?.metadata))));
        maps.chain(secrets).collect()
    }

    /// Waits until it is known of every object whether it exists.
    pub(crate) async fn synced(&self) {
        for entry in self.config_maps.values() {
            entry.informer.synced().await;
        }
        for entry in self.secrets.values() {
            entry.informer.synced().await;
        }
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.config_maps.values().all(|e| e.informer.is_synced())
            && self.secrets.values().all(|e| e.informer.is_synced())
    }

    pub(crate) fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps.get(name)?.get()
    }

    pub(crate) fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.secrets.get(name)?.get()
    }

    /// All that exist.
    pub(crate) fn sources(&self) -> Sources {
        let maps = self.config_maps.iter().filter_map(|(name, e)| Some((name.clone(), e.get()?)));
        let secrets = self.secrets.iter().filter_map(|(name, e)| Some((name.clone(), e.get()?)));
        Sources { config_maps: maps.collect(), secrets: secrets.collect() }
    }
}

/// The names of all ConfigMaps and Secrets the pod refers to.
fn named(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for (_, container) in crate::spec::containers(pod) {
        let (from_maps, from_secrets) = env::references(&container);
        maps.extend(from_maps.into_iter().map(str::to_owned));
        secrets.extend(from_secrets.into_iter().map(str::to_owned));
    }
    let Some(spec) = &pod.spec else { return (maps, secrets) };
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.as_ref().map(|v| v.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|v| v.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(source.config_map.as_ref().map(|s| s.name.clone()));
            secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        }
    }
    secrets.extend(spec.image_pull_secrets.iter().flatten().map(|s| s.name.clone()));
    (maps, secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_that_names_an_object_counts() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "m1"}}]}],
            "containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}}]}],
            "volumes": [{"name": "v", "configMap": {"name": "m2"}}, {"name": "w", "secret": {"secretName": "s2"}},
                {"name": "x", "projected": {"sources": [{"configMap": {"name": "m3"}}, {"secret": {"name": "s3"}}]}}]
        }}))
        .unwrap();
        let (maps, secrets) = named(&pod);
        assert_eq!(maps.into_iter().collect::<Vec<_>>(), ["m1", "m2", "m3"]);
        assert_eq!(secrets.into_iter().collect::<Vec<_>>(), ["pull", "s1", "s2", "s3"]);
    }
}
