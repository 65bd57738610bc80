//! Endpoint slices, and the older Endpoints objects, of services with a selector. One reconciliation per service
//! brings both up to date.

mod backend;
mod legacy;
mod mirror;
mod slices;

use std::collections::HashMap;
use std::sync::Arc;

use client::retry::{is_not_found, optional};
use client::{Change, Index, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};

use self::backend::Backend;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::pods;
use crate::runner::{Next, Reconcile};
use crate::writes::Writes;

const ZONE: &str = "topology.kubernetes.io/zone";

/// Managed slices by `namespace/service`.
const BY_SERVICE: Index<EndpointSlice> = Index {
    name: "service",
    values: |slice| service_of(&slice.metadata).map(|key| key.to_string()).into_iter().collect(),
};

/// The service that a slice of ours belongs to.
fn service_of(meta: &ObjectMeta) -> Option<ObjectKey> {
    let labels = meta.labels.as_ref()?;
    let ours = labels.get(slices::MANAGED_BY).is_some_and(|manager| manager == slices::MANAGER);
    let name = labels.get(slices::SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), name.clone()))
}

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    endpoints: Informer<Endpoints>,
    writes: Writes,
}

pub(crate) fn start(context: &Context) {
    mirror::start(context);
    let (services, pods) = (context.informers.of::<Service>(), context.informers.of::<Pod>());
    let (slices, endpoints) = (context.informers.of::<EndpointSlice>(), context.informers.of::<Endpoints>());
    let nodes = context.informers.of::<Node>();
    let queue = context.queue("endpoint-slice");
    context.feed_own(&services, &queue);
    let selecting = services.clone();
    context.feed(&pods, &queue, move |change| services_of(change, &selecting));
    context.feed(&slices, &queue, |change| {
        let states = [Some(change.object()), change.old()].into_iter().flatten();
        states.filter_map(|slice| service_of(&slice.metadata)).collect()
    });
    context.feed(&endpoints, &queue, |change| match change {
        Change::Added(_) => Vec::new(),
        Change::Modified { new: object, .. } | Change::Deleted(object) => vec![ObjectKey::of(&**object)],
    });
    let ready = vec![synced(&services), synced(&pods), synced(&slices), synced(&endpoints), synced(&nodes)];
    let context = context.clone();
    let runner = context.clone();
    let controller = Controller { context, services, pods, nodes, slices, endpoints, writes: Writes::default() };
    runner.run(queue, controller, ready);
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
    selector.is_some_and(|selector| selector.iter().all(|(name, value)| pods::label(pod, name) == Some(value)))
}

/// The services that a changed pod is, or was, behind.
fn services_of(change: &Change<Pod>, services: &Informer<Service>) -> Vec<ObjectKey> {
    let (pod, old) = (change.object(), change.old());
    if let Some(old) = old
        && !matters(old, pod)
    {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let behind = |service: &Service| selects(service, pod) || old.is_some_and(|old| selects(service, old));
    services.in_namespace(namespace).iter().filter(|s| behind(s)).map(|s| ObjectKey::of(&**s)).collect()
}

/// Whether a change of a pod can change what services list of it.
fn matters(old: &Pod, new: &Pod) -> bool {
    let face = |pod: &Pod| (pods::is_ready(pod), pods::is_terminating(pod), pods::is_terminal(pod));
    face(old) != face(new)
        || pods::addresses(old) != pods::addresses(new)
        || pods::node_name(old) != pods::node_name(new)
        || old.metadata.labels != new.metadata.labels
        || old.metadata.uid != new.metadata.uid
}

/// Carries out a plan for the slices of `key`.
async fn write_slices(
    context: &Context,
    writes: &Writes,
    key: &ObjectKey,
    plan: slices::Plan,
) -> Result<(), ReconcileError> {
    let api = context.api::<EndpointSlice>(&key.namespace);
    for slice in plan.update {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let written = api.replace(name, &PostParams::default(), &slice).await?;
        writes.wrote(key, &written);
    }
    for slice in plan.create {
        let written = api.create(&PostParams::default(), &slice).await?;
        writes.wrote(key, &written);
    }
    for slice in plan.delete {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        writes.deleted(key, &*slice);
        optional(api.delete(name, &DeleteParams::default()).await)?;
    }
    Ok(())
}

impl Controller {
    fn zones(&self, backends: &[(backend::Family, Backend)]) -> HashMap<String, String> {
        let zone = |name: &String| {
            let node = self.nodes.get("", name)?;
            Some((name.clone(), node.metadata.labels.as_ref()?.get(ZONE)?.clone()))
        };
        backends.iter().filter_map(|(_, backend)| zone(backend.node.as_ref()?)).collect()
    }

    async fn write_endpoints(&self, key: &ObjectKey, service: &Service, all: &[Backend]) -> Result<(), ReconcileError> {
        let old = self.endpoints.get_key(key);
        let new = legacy::endpoints(service, all, old.as_deref());
        let api = self.context.api::<Endpoints>(&key.namespace);
        match old {
            None => drop(api.create(&PostParams::default(), &new).await?),
            Some(old) if *old != new => drop(api.replace(&key.name, &PostParams::default(), &new).await?),
            Some(_) => {}
        }
        Ok(())
    }

    /// The service is gone: what it owned follows by garbage collection, save Endpoints, which has no owner.
    async fn clean(&self, key: &ObjectKey) -> Result<Next, ReconcileError> {
        let managed = self.endpoints.get_key(key).is_some_and(|endpoints| {
            let labels = endpoints.metadata.labels.as_ref();
            labels.is_some_and(|labels| labels.contains_key("endpoints.kubernetes.io/managed-by"))
        });
        if managed {
            let api = self.context.api::<Endpoints>(&key.namespace);
            match api.delete(&key.name, &DeleteParams::default()).await {
                Err(error) if is_not_found(&error) => {}
                other => drop(other?),
            }
        }
        self.writes.forget(key);
        Ok(Next::Done)
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(service) = self.services.get_key(&key) else { return self.clean(&key).await };
        let spec = service.spec.clone().unwrap_or_default();
        let external = spec.type_.as_deref() == Some("ExternalName");
        if external || spec.selector.is_none_or(|s| s.is_empty()) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        if !self.writes.settled(&key, &self.slices) {
            return Ok(Next::After(crate::writes::LOOK_AGAIN));
        }
        let families = backend::families(&service);
        let selected: Vec<Arc<Pod>> =
            self.pods.in_namespace(&key.namespace).into_iter().filter(|pod| selects(&service, pod)).collect();
        let backends: Vec<_> = families
            .iter()
            .flat_map(|family| selected.iter().filter_map(|p| Some((*family, backend::backend(&service, p, *family)?))))
            .collect();
        let existing = self.slices.by_index(&BY_SERVICE, &key.to_string());
        let plan = slices::plan(&service, &backends, &families, &existing, &self.zones(&backends));
        write_slices(&self.context, &self.writes, &key, plan).await?;
        let first = families.first().copied();
        let first: Vec<Backend> =
            backends.into_iter().filter(|(family, _)| Some(*family) == first).map(|(_, backend)| backend).collect();
        self.write_endpoints(&key, &service, &first).await?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests;
