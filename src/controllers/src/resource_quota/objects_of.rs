//! Kinds that few quotas count: watched from the first quota on that names them, by their metadata alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::{Change, Informer, ObjectKey};
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::DynamicObject;
use kube::core::metadata::PartialObjectMeta;
use objects::quota::{self, Source};
use objects::resources::{Amounts, add};
use tokio_util::sync::CancellationToken;

use super::feed;
use crate::context::Context;
use crate::discovery;
use crate::error::ReconcileError;
use crate::queue::Queue;

type Meta = PartialObjectMeta<DynamicObject>;

struct Watched {
    informer: Informer<Meta>,
    stop: CancellationToken,
}

type Kinds = Arc<Mutex<BTreeMap<Source, Watched>>>;

/// Counts objects of any kind.
pub(super) struct Others {
    context: Context,
    quotas: Informer<ResourceQuota>,
    queue: Queue,
    kinds: Kinds,
    devices: Mutex<Option<Informer<ResourceClaim>>>,
}

impl Others {
    pub(super) fn new(context: &Context, quotas: &Informer<ResourceQuota>, queue: &Queue) -> Self {
        let definitions = context.informers.of::<CustomResourceDefinition>();
        let kinds = Kinds::default();
        let (all, later, watched) = (quotas.clone(), queue.clone(), kinds.clone());
        context.feed(&definitions, queue, move |change| {
            if let Change::Deleted(definition) = change {
                forget(&watched, definition);
            }
            // Discovery follows a definition after a moment.
            if change.old().is_none_or(|old| old.status != change.object().status) {
                let counting = all.list().into_iter().filter(|quota| counts_kind_of(quota, change));
                counting.for_each(|quota| later.add_after(ObjectKey::of(&*quota), Duration::from_secs(1)));
            }
            Vec::new()
        });
        Self {
            context: context.clone(),
            quotas: quotas.clone(),
            queue: queue.clone(),
            kinds,
            devices: Mutex::default(),
        }
    }

    /// What the objects of `source` in a namespace use together.
    pub(super) async fn used(&self, namespace: &str, source: &Source) -> Result<Amounts, ReconcileError> {
        let Source::Objects { group, plural } = source else { return Ok(self.devices(namespace).await) };
        let informer = match self.watched(source) {
            Some(informer) => Some(informer),
            None => self.watch(source, group, plural).await?,
        };
        let Some(informer) = informer else { return Ok(Amounts::new()) };
        informer.synced().await;
        let mut used = Amounts::new();
        let one = quota::of_object(group, plural);
        informer.in_namespace(namespace).iter().for_each(|_| add(&mut used, &one));
        Ok(used)
    }

    async fn devices(&self, namespace: &str) -> Amounts {
        let informer = {
            let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            devices
                .get_or_insert_with(|| {
                    let informer = self.context.informers.of::<ResourceClaim>();
                    feed(&self.context, &informer, &self.quotas, &self.queue, |old, new| old.spec != new.spec);
                    informer
                })
                .clone()
        };
        informer.synced().await;
        let mut used = Amounts::new();
        informer.in_namespace(namespace).iter().for_each(|claim| add(&mut used, &quota::of_device_claim(claim)));
        used
    }

    fn watched(&self, source: &Source) -> Option<Informer<Meta>> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.get(source).map(|watched| watched.informer.clone())
    }

    /// Starts to watch a kind, if there is such a one.
    async fn watch(
        &self,
        source: &Source,
        group: &str,
        plural: &str,
    ) -> Result<Option<Informer<Meta>>, ReconcileError> {
        let found = discovery::discover(&self.context.client).await?;
        let kind = found.kinds.into_iter().find(|kind| kind.resource.group == group && kind.resource.plural == plural);
        let Some(kind) = kind.filter(|kind| kind.namespaced && kind.can("list") && kind.can("watch")) else {
            return Ok(None);
        };
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = kinds.get(source) {
            return Ok(Some(watched.informer.clone()));
        }
        let stop = self.context.stop.child_token();
        let informer = self.context.informers.metadata(&kind.resource, stop.clone());
        feed(&self.context, &informer, &self.quotas, &self.queue, |_, _| false);
        kinds.insert(source.clone(), Watched { informer: informer.clone(), stop });
        Ok(Some(informer))
    }
}

fn source_of(definition: &CustomResourceDefinition) -> Source {
    Source::of_resource(&definition.spec.group, &definition.spec.names.plural)
}

fn forget(kinds: &Kinds, definition: &CustomResourceDefinition) {
    let removed = kinds.lock().unwrap_or_else(PoisonError::into_inner).remove(&source_of(definition));
    if let Some(watched) = removed {
        watched.stop.cancel();
    }
}

/// Whether a quota counts the objects of a definition.
fn counts_kind_of(quota: &ResourceQuota, change: &Change<CustomResourceDefinition>) -> bool {
    let source = source_of(change.object());
    let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
    hard.into_iter().any(|(name, _)| Source::of(name).as_ref() == Some(&source))
}
