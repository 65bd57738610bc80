//! One cached object: the store's own bytes and a projection.

use bytes::Bytes;
use k8s_openapi::serde::de::DeserializeOwned;
use objects::status::Status;
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
}

impl Entry {
    pub(crate) fn new(key: &str, kv: &KeyValue, projector: &Projector) -> Entry {
        Entry {
            key: key.into(),
            value: kv.value.clone(),
            revision: kv.mod_revision,
            projection: projector.project(&kv.value),
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

    /// The object as its type. The resourceVersion is left out: it is [`Entry::revision`].
    pub(crate) fn typed<T: DeserializeOwned>(&self) -> Result<T, Status> {
        serde_json::from_slice(&self.value).map_err(Status::internal)
    }
}
