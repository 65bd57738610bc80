//! Counters of the API server, in Prometheus text form at `/metrics`. Names are upstream's where the meaning is.

use std::sync::{Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Labels of a finished request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) code: u16,
}

/// Labels of a duration.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct VerbLabels {
    pub(crate) verb: String,
    pub(crate) resource: String,
}

/// All metrics of one server.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) durations: Family<VerbLabels, Histogram>,
    pub(crate) in_flight: Gauge,
    pub(crate) watchers: Gauge,
    pub(crate) panics: Counter<u64, AtomicU64>,
    pub(crate) connections: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        let buckets =
            || Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0]);
        let durations = Family::<VerbLabels, Histogram>::new_with_constructor(buckets);
        registry.register("apiserver_request_duration_seconds", "Time to answer", durations.clone());
        let (in_flight, watchers, connections) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("apiserver_current_inflight_requests", "Requests being answered", in_flight.clone());
        registry.register("apiserver_longrunning_requests", "Open watches", watchers.clone());
        registry.register("apiserver_open_connections", "Open TLS connections", connections.clone());
        let panics = Counter::default();
        registry.register("apiserver_panics", "Requests that ended in a panic", panics.clone());
        Metrics { registry: Mutex::new(registry), requests, durations, in_flight, watchers, panics, connections }
    }

    /// Adds metrics of other components of the process.
    pub(crate) fn extend(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The text exposition.
    pub(crate) fn render(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        encode(&mut out, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(out)
    }
}
