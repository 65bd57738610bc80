//! Counters of the work queues, under the names that dashboards for Kubernetes expect.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueueLabel {
    pub(crate) name: &'static str,
}

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) depth: Family<QueueLabel, Gauge>,
    pub(crate) adds: Family<QueueLabel, Counter>,
    pub(crate) retries: Family<QueueLabel, Counter>,
    pub(crate) panics: Family<QueueLabel, Counter>,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("workqueue_depth", "Keys waiting to be reconciled", self.depth.clone());
        registry.register("workqueue_adds", "Keys added to the queue", self.adds.clone());
        registry.register("workqueue_retries", "Reconciliations tried again after a failure", self.retries.clone());
        registry.register("workqueue_panics", "Reconciliations that panicked", self.panics.clone());
    }
}
