//! Mirrors Endpoints that were written by hand, for services without a selector, into endpoint slices: node agents
//! and DNS read slices alone.

mod plan;

use client::{Index, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::slices::{MANAGED_BY, SERVICE_NAME};
use super::write_slices;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};
use crate::writes::Writes;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Objects that hold a leader election's record list no endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// Mirrored slices by `namespace/service`.
const BY_SERVICE: Index<EndpointSlice> = Index {
    name: "mirrored-service",
    values: |slice| mirrored(&slice.metadata).map(|key| key.to_string()).into_iter().collect(),
};

/// The Endpoints that a slice of ours mirrors.
fn mirrored(meta: &ObjectMeta) -> Option<ObjectKey> {
    let labels = meta.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    let name = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), name.clone()))
}

struct Controller {
    context: Context,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    endpoints: Informer<Endpoints>,
    writes: Writes,
}

pub(super) fn start(context: &Context) {
    let services = context.informers.of::<Service>();
    let (slices, endpoints) = (context.informers.of::<EndpointSlice>(), context.informers.of::<Endpoints>());
    let queue = context.queue("endpoint-slice-mirroring");
    context.feed_own(&services, &queue);
    context.feed_own(&endpoints, &queue);
    context.feed(&slices, &queue, |change| {
        let states = [Some(change.object()), change.old()].into_iter().flatten();
        states.filter_map(|slice| mirrored(&slice.metadata)).collect()
    });
    let ready = vec![synced(&services), synced(&slices), synced(&endpoints)];
    let context = context.clone();
    let runner = context.clone();
    let controller = Controller { context, services, slices, endpoints, writes: Writes::default() };
    runner.run(queue, controller, ready);
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta.labels.as_ref().and_then(|labels| labels.get(SKIP)).is_some_and(|value| value == "true");
    let leader = meta.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER));
    !skipped && !leader && meta.deletion_timestamp.is_none()
}

/// The service's selector fills slices by itself; without one they are for others to write.
fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty())
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        if !self.writes.settled(&key, &self.slices) {
            return Ok(Next::After(crate::writes::LOOK_AGAIN));
        }
        let endpoints = self.endpoints.get_key(&key).filter(|endpoints| is_mirrored(endpoints));
        let service = self.services.get_key(&key).filter(|service| !has_selector(service));
        let existing = self.slices.by_index(&BY_SERVICE, &key.to_string());
        let source = endpoints.filter(|_| service.is_some());
        let plan = plan::plan(source.as_deref(), &existing);
        write_slices(&self.context, &self.writes, &key, plan).await?;
        if existing.is_empty() && source.is_none() {
            self.writes.forget(&key);
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests;
