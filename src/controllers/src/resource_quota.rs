//! The status of resource quotas: the limits in force and what the namespace's objects use of them, counted by the
//! rules that admission counts by (`objects::quota`). Admission does not read this: it counts for itself.

mod objects_of;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client::informer::Observed;
use client::retry::optional;
use client::{Change, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use kube::api::PostParams;
use objects::quantity::Quantity;
use objects::quota::{self, Scopes, Source};
use objects::resources::{Amounts, add};

use self::objects_of::Others;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::queue::Queue;
use crate::runner::{Next, Reconcile};

/// Changes that come together are counted together.
const GATHER: Duration = Duration::from_millis(50);

struct Controller {
    context: Context,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    others: Others,
}

pub(crate) fn start(context: &Context) {
    let quotas = context.informers.of::<ResourceQuota>();
    let pods = context.informers.of::<Pod>();
    let services = context.informers.of::<Service>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let queue = context.queue("resourcequota");
    context.feed(&quotas, &queue, |change| match change {
        Change::Deleted(_) => Vec::new(),
        other => vec![ObjectKey::of(&**other.object())],
    });
    feed(context, &pods, &quotas, &queue, |old, new| {
        let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
        old.spec != new.spec
            || phase(old) != phase(new)
            || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
    });
    feed(context, &services, &quotas, &queue, |old, new| old.spec != new.spec);
    feed(context, &claims, &quotas, &queue, |old, new| old.spec != new.spec || old.status != new.status);
    let ready = vec![synced(&quotas), synced(&pods), synced(&services), synced(&claims)];
    let others = Others::new(context, &quotas, &queue);
    context.run(queue, Controller { context: context.clone(), quotas, pods, services, claims, others }, ready);
}

/// Counts a namespace's quotas anew when an object comes, goes, or `matters`.
fn feed<K: Observed>(
    context: &Context,
    informer: &Informer<K>,
    quotas: &Informer<ResourceQuota>,
    queue: &Queue,
    matters: impl Fn(&K, &K) -> bool + Send + 'static,
) {
    let (quotas, later) = (quotas.clone(), queue.clone());
    context.feed(informer, queue, move |change| {
        if change.old().is_none_or(|old| matters(old, change.object())) {
            let namespace = change.object().meta().namespace.as_deref().unwrap_or_default();
            for quota in quotas.in_namespace(namespace) {
                later.add_after(ObjectKey::of(&*quota), GATHER);
            }
        }
        Vec::new()
    });
}

/// What the objects that a quota counts use, and when that changes by time alone.
#[derive(Debug, Default)]
struct Count {
    used: Amounts,
    again: Option<Timestamp>,
}

impl Controller {
    async fn count(
        &self,
        namespace: &str,
        scopes: &Scopes,
        sources: BTreeSet<Source>,
        now: Timestamp,
    ) -> Result<Count, ReconcileError> {
        let mut count = Count::default();
        for source in sources {
            match source {
                Source::Pods => {
                    for pod in self.pods.in_namespace(namespace).iter().filter(|pod| scopes.cover_pod(pod)) {
                        add(&mut count.used, &quota::of_pod(pod, now));
                        count.again =
                            [count.again, quota::overdue(pod).filter(|at| *at >= now)].into_iter().flatten().min();
                    }
                }
                Source::Claims => {
                    for claim in self.claims.in_namespace(namespace).iter().filter(|claim| scopes.cover_claim(claim)) {
                        add(&mut count.used, &quota::of_claim(claim));
                    }
                }
                _ if !scopes.cover_others() => {}
                Source::Services => {
                    for service in self.services.in_namespace(namespace) {
                        add(&mut count.used, &quota::of_service(&service));
                    }
                }
                other => add(&mut count.used, &self.others.used(namespace, &other).await?),
            }
        }
        Ok(count)
    }
}

/// The status a quota is to have. Every amount that something counts is in it, also when nothing is used of it.
fn status(hard: &BTreeMap<String, Wire>, used: &Amounts) -> ResourceQuotaStatus {
    let counted = hard.keys().filter(|name| Source::of(name).is_some());
    let used = counted.map(|name| (name.clone(), used.get(name).copied().unwrap_or(Quantity::ZERO).to_wire()));
    ResourceQuotaStatus {
        hard: Some(hard.clone()).filter(|hard| !hard.is_empty()),
        used: Some(used.collect::<BTreeMap<_, _>>()).filter(|used| !used.is_empty()),
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(quota) = self.quotas.get_key(&key) else { return Ok(Next::Done) };
        let spec = quota.spec.clone().unwrap_or_default();
        let hard = spec.hard.clone().unwrap_or_default();
        let sources = hard.keys().filter_map(|name| Source::of(name)).collect();
        let now = Timestamp::now();
        let count = self.count(&key.namespace, &Scopes::of(&spec), sources, now).await?;
        let wanted = status(&hard, &count.used);
        if quota.status.as_ref() != Some(&wanted) {
            let mut written = (*quota).clone();
            written.status = Some(wanted);
            let api = self.context.api::<ResourceQuota>(&key.namespace);
            optional(api.replace_status(&key.name, &PostParams::default(), &written).await)?;
        }
        let again = count.again.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        Ok(Next::soonest([again.map(|wait| wait + Duration::from_secs(1))]))
    }
}
