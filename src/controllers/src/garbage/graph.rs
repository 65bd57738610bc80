//! Who depends on whom, from metadata-only informers of every kind that can be deleted.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use client::{Index, Informer, ObjectKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::DynamicObject;
use kube::core::metadata::PartialObjectMeta;
use kube::discovery::ApiResource;
use tokio_util::sync::CancellationToken;

pub(super) type Meta = PartialObjectMeta<DynamicObject>;

const BY_UID: Index<Meta> = Index { name: "uid", values: |object| object.metadata.uid.iter().cloned().collect() };

/// A watched kind.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) resource: ApiResource,
    pub(super) namespaced: bool,
    pub(super) informer: Informer<Meta>,
    pub(super) stop: CancellationToken,
}

/// An object found in the graph.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) resource: ApiResource,
    pub(super) object: Arc<Meta>,
}

/// The name of a kind within the graph: `plural.group/version`.
pub(super) fn kind_key(resource: &ApiResource) -> String {
    format!("{}.{}/{}", resource.plural, resource.group, resource.version)
}

/// An object's key in the work queue: its kind and namespace, then its name.
pub(super) fn queue_key(resource: &ApiResource, meta: &ObjectMeta) -> ObjectKey {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    ObjectKey::new(format!("{}|{namespace}", kind_key(resource)), meta.name.clone().unwrap_or_default())
}

pub(super) fn block_owner_deletion(meta: &ObjectMeta, owner: &str) -> bool {
    meta.owner_references.iter().flatten().any(|r| r.uid == owner && r.block_owner_deletion == Some(true))
}

pub(super) fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

/// Cheap to clone; all clones are one graph.
#[derive(Clone, Default)]
pub(super) struct Graph {
    kinds: Arc<RwLock<BTreeMap<String, Watched>>>,
}

impl Graph {
    pub(super) fn kinds(&self) -> Vec<Watched> {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn kind(&self, key: &str) -> Option<Watched> {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn insert(&self, watched: Watched) {
        let key = kind_key(&watched.resource);
        self.kinds.write().unwrap_or_else(PoisonError::into_inner).insert(key, watched);
    }

    pub(super) fn remove(&self, key: &str) {
        let removed = self.kinds.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Some(watched) = removed {
            watched.stop.cancel();
        }
    }

    /// The watched kind that an owner reference means, in whatever version it names.
    pub(super) fn kind_of(&self, reference: &OwnerReference) -> Option<Watched> {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        self.kinds().into_iter().find(|w| w.resource.group == group && w.resource.kind == reference.kind)
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Found> {
        let of = |watched: Watched| {
            let objects = watched.informer.by_owner(uid);
            objects.into_iter().map(move |object| Found { resource: watched.resource.clone(), object })
        };
        self.kinds().into_iter().flat_map(of).collect()
    }

    /// The owner a reference of an object in `namespace` means, if the graph has it. An owner in another namespace is
    /// no owner.
    pub(super) fn owner(&self, reference: &OwnerReference, namespace: Option<&str>) -> Option<Found> {
        let watched = self.kind_of(reference)?;
        let object = watched.informer.by_index(&BY_UID, &reference.uid).into_iter().next()?;
        let reachable = !watched.namespaced || object.metadata.namespace.as_deref() == namespace;
        (reachable && object.metadata.name.as_deref() == Some(&reference.name))
            .then_some(Found { resource: watched.resource, object })
    }
}
