//! One cached object: the store's own bytes and a projection.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use k8s_openapi::serde::de::DeserializeOwned;
use objects::{protobuf::Definition, status::Status};
use serde_json::Value;
use storage::{KeyValue, Revision};

use super::projection::{Projection, Projector};
use crate::encoded;

/// An object as of one revision. Immutable; shared by the cache, the window and running responses.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `namespace/name`, or `name` for a cluster-scoped kind.
    pub(crate) key: Box<str>,
    pub(crate) value: Bytes,
    pub(crate) revision: Revision,
    pub(crate) projection: Projection,
    /// Size as an item of a protobuf list, below the number of the definition (plus one) that it was written by.
    protobuf: AtomicU64,
}

impl Entry {
    pub(crate) fn new(key: &str, kv: &KeyValue, projector: &Projector) -> Entry {
        Entry {
            key: key.into(),
            value: kv.value.clone(),
            revision: kv.mod_revision,
            projection: projector.project(&kv.value),
            protobuf: AtomicU64::new(0),
        }
    }

    /// Namespace of the object; empty for a cluster-scoped kind.
    pub(crate) fn namespace(&self) -> &str {
        self.key.rsplit_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// Name of the object.
    pub(crate) fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&*self.key, |(_, name)| name)
    }

    /// The whole object, its resourceVersion included.
    pub(crate) fn decode(&self) -> Result<Value, Status> {
        encoded::decode(&self.value, self.revision)
    }

    /// Its size as an item of a protobuf list, where it was written by this definition last.
    pub(crate) fn protobuf_size(&self, definition: Definition) -> Option<usize> {
        let known = self.protobuf.load(Ordering::Relaxed);
        let ours = known >> 32 == u64::from(definition.number()) + 1;
        usize::try_from(known & u64::from(u32::MAX)).ok().filter(|_| ours)
    }

    pub(crate) fn keep_protobuf_size(&self, definition: Definition, size: usize) {
        if let Ok(size) = u32::try_from(size) {
            let known = (u64::from(definition.number()) + 1) << 32 | u64::from(size);
            self.protobuf.store(known, Ordering::Relaxed);
        }
    }

    /// The object as its type. The resourceVersion is left out: it is [`Entry::revision`].
    pub(crate) fn typed<T: DeserializeOwned>(&self) -> Result<T, Status> {
        serde_json::from_slice(&self.value).map_err(Status::internal)
    }
}
