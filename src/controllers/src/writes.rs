//! Whether a controller's own writes have come back through its informer. A controller that counted pods from a
//! store that lacks the pods it has just made would make them twice. Creations are settled by revision, deletions
//! by the state of the object itself, so nothing has to be counted and nothing can be missed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use client::informer::Observed;
use client::{Informer, ObjectKey};
use kube::Resource;
use tokio::time::Instant;

/// After this, a write is taken for seen: the API server answered, but its watch never told.
const GIVE_UP: Duration = Duration::from_secs(300);

/// When to look again at an owner whose writes are not settled, though their coming back will tell.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Pending {
    created: u64,
    deleted: HashMap<ObjectKey, String>,
    since: Instant,
}

/// Writes to one kind, by the key of the object on whose behalf they were done.
#[derive(Default)]
pub(crate) struct Writes {
    pending: Mutex<HashMap<ObjectKey, Pending>>,
}

impl Writes {
    fn edit(&self, owner: &ObjectKey, change: impl FnOnce(&mut Pending)) {
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Pending { created: 0, deleted: HashMap::new(), since: Instant::now() };
        let pending = all.entry(owner.clone()).or_insert_with(fresh);
        pending.since = Instant::now();
        change(pending);
    }

    /// Records that `object`, as the server returned it, was created or changed for `owner`.
    pub(crate) fn wrote<K: Resource>(&self, owner: &ObjectKey, object: &K) {
        let revision = object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
        self.edit(owner, |pending| pending.created = pending.created.max(revision));
    }

    /// Records that the object's deletion was asked for.
    pub(crate) fn deleted<K: Resource>(&self, owner: &ObjectKey, object: &K) {
        let uid = object.meta().uid.clone().unwrap_or_default();
        self.edit(owner, |pending| drop(pending.deleted.insert(ObjectKey::of(object), uid)));
    }

    /// Whether `informer` shows all that was written for `owner`.
    pub(crate) fn settled<K: Observed>(&self, owner: &ObjectKey, informer: &Informer<K>) -> bool {
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pending) = all.get_mut(owner) else { return true };
        pending.deleted.retain(|key, uid| {
            informer.get_key(key).is_some_and(|object| {
                object.meta().uid.as_ref() == Some(uid) && object.meta().deletion_timestamp.is_none()
            })
        });
        let settled = pending.deleted.is_empty() && informer.observed() >= pending.created;
        if settled || pending.since.elapsed() > GIVE_UP {
            all.remove(owner);
            return true;
        }
        false
    }

    pub(crate) fn forget(&self, owner: &ObjectKey) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use client::Api;
    use client::Informers;
    use client::testing::FakeApi;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{DeleteParams, PostParams};

    use super::*;

    #[tokio::test]
    async fn writes_are_settled_when_the_informer_shows_them() {
        let fake = FakeApi::new();
        let informers = Informers::new(fake.client());
        let informer = informers.of::<ConfigMap>();
        informer.synced().await;
        let (writes, owner) = (Writes::default(), ObjectKey::new("ns", "owner"));
        assert!(writes.settled(&owner, &informer));

        let api: Api<ConfigMap> = Api::namespaced(fake.client(), "ns");
        let mut object = ConfigMap::default();
        object.metadata.name = Some("a".into());
        let mut changes = informer.subscribe();
        let created = api.create(&PostParams::default(), &object).await.unwrap();
        writes.wrote(&owner, &created);
        changes.next().await.unwrap();
        assert!(writes.settled(&owner, &informer));

        writes.deleted(&owner, &created);
        assert!(!writes.settled(&owner, &informer));
        api.delete("a", &DeleteParams::default()).await.unwrap();
        changes.next().await.unwrap();
        assert!(writes.settled(&owner, &informer));
    }
}
