//! The typed store behind an informer. The reflector is its only writer; readers take short read locks and share
//! the objects by reference count. Locks are never held across an await.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::Resource;
use tokio::sync::watch;

use super::Observed;
use super::subscription::{Queue, Subscription};
use crate::key::ObjectKey;

/// A named secondary index. The name identifies it, so one name must always mean the same function.
pub struct Index<K> {
    pub name: &'static str,
    pub values: fn(&K) -> Vec<String>,
}

type Postings = HashMap<String, BTreeSet<ObjectKey>>;

struct Built<K> {
    values: fn(&K) -> Vec<String>,
    postings: Postings,
}

struct Tables<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    indexes: HashMap<&'static str, Built<K>>,
    queues: Vec<std::sync::Weak<Queue<K>>>,
    closed: bool,
}

pub(super) struct Store<K> {
    tables: RwLock<Tables<K>>,
    observed: AtomicU64,
    synced: watch::Sender<bool>,
}

const OWNER: &str = "\0owner";

fn owner_uids<K: Resource>(object: &K) -> Vec<String> {
    object.meta().owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect()
}

impl<K: Observed> Store<K> {
    pub(super) fn new() -> Self {
        let owners = Built { values: owner_uids::<K>, postings: Postings::new() };
        let tables = Tables {
            objects: BTreeMap::new(),
            indexes: HashMap::from([(OWNER, owners)]),
            queues: Vec::new(),
            closed: false,
        };
        Self { tables: RwLock::new(tables), observed: AtomicU64::new(0), synced: watch::Sender::new(false) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables<K>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables<K>> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.read().objects.len()
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = Bound::Included(ObjectKey::new(namespace, ""));
        let tables = self.read();
        let range = tables.objects.range((from, Bound::Unbounded));
        range.take_while(|(key, _)| key.namespace == namespace).map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn by_owner(&self, uid: &str) -> Vec<Arc<K>> {
        self.read().lookup(OWNER, uid).unwrap_or_default()
    }

    pub(super) fn by_index(&self, index: &Index<K>, value: &str) -> Vec<Arc<K>> {
        if let Some(found) = self.read().lookup(index.name, value) {
            return found;
        }
        let mut tables = self.write();
        tables.build(index);
        tables.lookup(index.name, value).unwrap_or_default()
    }

    pub(super) fn subscribe(&self) -> Subscription<K> {
        let mut tables = self.write();
        let queue = Arc::new(Queue::new());
        for (key, object) in &tables.objects {
            queue.push(key, None, Some(object.clone()));
        }
        if tables.closed {
            queue.close();
        }
        tables.queues.retain(|queue| queue.strong_count() > 0);
        tables.queues.push(Arc::downgrade(&queue));
        Subscription::new(queue)
    }

    pub(super) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    pub(super) async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        match synced.wait_for(|synced| *synced).await {
            // The sender lives in self, so waiting can only end by the condition.
            Ok(_) | Err(_) => {}
        }
    }

    pub(super) fn observed(&self) -> u64 {
        self.observed.load(Ordering::Acquire)
    }

    /// Records that everything up to `revision` is in the store.
    pub(super) fn observe(&self, revision: u64) {
        self.observed.fetch_max(revision, Ordering::AcqRel);
    }

    pub(super) fn apply(&self, object: K) {
        let revision = revision_of(&object);
        self.write().put(Arc::new(object));
        self.observe(revision);
    }

    pub(super) fn delete(&self, object: &K) {
        self.write().remove(&ObjectKey::of(object));
        self.observe(revision_of(object));
    }

    /// Takes a complete list: what it lacks is deleted.
    pub(super) fn replace(&self, objects: Vec<K>, revision: u64) {
        let mut tables = self.write();
        let listed: BTreeSet<ObjectKey> = objects.iter().map(ObjectKey::of).collect();
        let gone: Vec<ObjectKey> = tables.objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
        for key in gone {
            tables.remove(&key);
        }
        for object in objects {
            tables.put(Arc::new(object));
        }
        drop(tables);
        // A restored store may have gone back in time: a list is the truth whatever its revision.
        self.observed.store(revision, Ordering::Release);
        self.synced.send_replace(true);
    }

    pub(super) fn close(&self) {
        let mut tables = self.write();
        tables.closed = true;
        for queue in tables.queues.iter().filter_map(std::sync::Weak::upgrade) {
            queue.close();
        }
    }
}

impl<K: Observed> Tables<K> {
    fn lookup(&self, index: &str, value: &str) -> Option<Vec<Arc<K>>> {
        let built = self.indexes.get(index)?;
        let keys = built.postings.get(value).into_iter().flatten();
        Some(keys.filter_map(|key| self.objects.get(key).cloned()).collect())
    }

    fn build(&mut self, index: &Index<K>) {
        let mut postings = Postings::new();
        for (key, object) in &self.objects {
            for value in (index.values)(object) {
                postings.entry(value).or_default().insert(key.clone());
            }
        }
        self.indexes.insert(index.name, Built { values: index.values, postings });
    }

    fn put(&mut self, object: Arc<K>) {
        let key = ObjectKey::of(&*object);
        let old = self.objects.insert(key.clone(), object.clone());
        if old.as_ref().is_some_and(|old| same_version(&**old, &*object)) {
            return;
        }
        self.reindex(&key, old.as_deref(), Some(&*object));
        self.notify(&key, old, Some(object));
    }

    fn remove(&mut self, key: &ObjectKey) {
        let Some(old) = self.objects.remove(key) else { return };
        self.reindex(key, Some(&old), None);
        self.notify(key, Some(old), None);
    }

    fn reindex(&mut self, key: &ObjectKey, old: Option<&K>, new: Option<&K>) {
        for built in self.indexes.values_mut() {
            for value in old.into_iter().flat_map(built.values) {
                if let Some(keys) = built.postings.get_mut(&value) {
                    keys.remove(key);
                    if keys.is_empty() {
                        built.postings.remove(&value);
                    }
                }
            }
            for value in new.into_iter().flat_map(built.values) {
                built.postings.entry(value).or_default().insert(key.clone());
            }
        }
    }

    fn notify(&mut self, key: &ObjectKey, old: Option<Arc<K>>, new: Option<Arc<K>>) {
        for queue in self.queues.iter().filter_map(std::sync::Weak::upgrade) {
            queue.push(key, old.clone(), new.clone());
        }
    }
}

fn same_version<K: Resource>(a: &K, b: &K) -> bool {
    a.meta().uid == b.meta().uid
        && a.meta().resource_version == b.meta().resource_version
        && a.meta().resource_version.is_some()
}

fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use k8s_openapi::api::core::v1::{Pod, PodSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    use super::super::{BY_NODE, Change};
    use super::*;

    fn pod(name: &str, revision: u64, node: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(format!("uid-{name}")),
                resource_version: Some(revision.to_string()),
                owner_references: Some(vec![OwnerReference { uid: "owner".into(), ..Default::default() }]),
                ..Default::default()
            },
            spec: Some(PodSpec { node_name: Some(node.into()), ..Default::default() }),
            ..Default::default()
        }
    }

    fn next(subscription: &mut Subscription<Pod>) -> Option<Change<Pod>> {
        subscription.next().now_or_never().flatten()
    }

    #[test]
    fn indexes_follow_the_objects() {
        let store = Store::new();
        store.apply(pod("a", 1, "n1"));
        assert_eq!(store.by_index(&BY_NODE, "n1").len(), 1);
        store.apply(pod("a", 2, "n2"));
        assert!(store.by_index(&BY_NODE, "n1").is_empty());
        assert_eq!(store.by_index(&BY_NODE, "n2").len(), 1);
        assert_eq!(store.by_owner("owner").len(), 1);
        store.delete(&pod("a", 3, "n2"));
        assert!(store.by_owner("owner").is_empty());
        assert_eq!(store.observed(), 3);
    }

    #[test]
    fn a_list_deletes_what_it_lacks_and_keeps_quiet_about_what_is_unchanged() {
        let store = Store::new();
        store.replace(vec![pod("a", 1, "n"), pod("b", 2, "n")], 5);
        let mut subscription = store.subscribe();
        assert!(matches!(next(&mut subscription), Some(Change::Added(_))));
        assert!(matches!(next(&mut subscription), Some(Change::Added(_))));
        store.replace(vec![pod("b", 2, "n")], 6);
        assert!(matches!(next(&mut subscription), Some(Change::Deleted(p)) if p.metadata.name.as_deref() == Some("a")));
        assert!(next(&mut subscription).is_none());
        assert!(store.is_synced());
    }

    #[test]
    fn namespaces_are_ranges() {
        let store = Store::new();
        for namespace in ["m", "n", "na"] {
            let mut object = pod("a", 1, "x");
            object.metadata.namespace = Some(namespace.into());
            store.apply(object);
        }
        assert_eq!(store.in_namespace("n").len(), 1);
        assert_eq!(store.list().len(), 3);
    }
}
