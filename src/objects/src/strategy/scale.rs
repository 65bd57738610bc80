//! The `/scale` view of workloads (`autoscaling/v1` Scale).
//!
//! Replica sets, deployments, stateful sets and replication controllers have one; `kubectl scale` and the
//! autoscaler read and write it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::columns::{self, Column};

/// What `kubectl get --subresource=scale` shows.
pub const COLUMNS: &[Column] =
    &[Column::NAME, Column::new("Desired", "integer"), Column::new("Available", "integer"), Column::AGE];

/// The numbers and the selector behind a Scale object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scale {
    pub spec_replicas: i32,
    pub status_replicas: i32,
    /// Selector in string form.
    pub selector: String,
}

impl Scale {
    /// The cells of [`COLUMNS`] for a workload.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let meta = object.get("metadata").and_then(|meta| ObjectMeta::deserialize(meta).ok()).unwrap_or_default();
        let (desired, available) = (self.spec_replicas.into(), self.status_replicas.into());
        vec![columns::name(&meta), desired, available, columns::age(&meta, now)]
    }

    /// The `autoscaling/v1` object for a workload with the given metadata.
    pub fn to_object(&self, object: &Value) -> Value {
        let metadata = object.get("metadata");
        let mut kept = serde_json::Map::new();
        for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = metadata.and_then(|m| m.get(key)) {
                kept.insert(key.to_owned(), value.clone());
            }
        }
        let mut spec = serde_json::Map::new();
        if self.spec_replicas != 0 {
            spec.insert("replicas".to_owned(), self.spec_replicas.into());
        }
        let mut status = serde_json::Map::new();
        status.insert("replicas".to_owned(), self.status_replicas.into());
        if !self.selector.is_empty() {
            status.insert("selector".to_owned(), self.selector.clone().into());
        }
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": spec, "status": status})
    }
}
