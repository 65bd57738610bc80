//! ResourceQuota: what a namespace's objects use together stays within its quotas.
//!
//! Usage is counted from the objects themselves, not from a quota's status, which the quota controller writes later.
//! Writes that a quota counts go one at a time in each namespace: each holds its [`Turn`] until it is written and the
//! caches show it. Between servers the turn is a key of the store that every such write compares and rewrites.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota};
use objects::{
    quantity::Quantity,
    quota::{self, Scopes, Source},
    resources::{self, Amounts},
    status::Status,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use storage::{Compare, Op, RangeRequest, Revision};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{Operation, Review};
use crate::{alloc::Extra, encoded::meta_str, keys};

/// One counted write at a time for each namespace that has a quota.
#[derive(Default)]
pub(crate) struct Turns {
    namespaces: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

/// Held until the object is written and visible.
pub(crate) struct Turn {
    _alone: OwnedMutexGuard<()>,
    key: Bytes,
    revision: Revision,
}

impl Turn {
    /// Lets the write happen only if no other server had its turn meanwhile.
    pub(crate) fn guard(&self, extra: &mut Extra) {
        extra.compares.push(Compare::unchanged(self.key.clone(), self.revision));
        extra.ops.push(Op::put(self.key.clone(), Bytes::new()));
    }
}

impl Turns {
    async fn take(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
            namespaces.retain(|_, turn| Arc::strong_count(turn) > 1);
            namespaces.entry(namespace.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// A quota of the namespace.
struct Quota {
    name: String,
    hard: BTreeMap<String, Quantity>,
    scopes: Scopes,
}

/// An object as far as quotas are concerned.
struct Counted {
    item: Item,
    used: Amounts,
}

enum Item {
    Pod(Box<Pod>),
    Claim(Box<PersistentVolumeClaim>),
    Other,
}

impl Counted {
    fn of(source: &Source, json: impl Json) -> Result<Counted, Status> {
        Ok(match source {
            Source::Pods => {
                let pod: Pod = json.read()?;
                Counted { used: quota::of_pod(&pod, Timestamp::now()), item: Item::Pod(Box::new(pod)) }
            }
            Source::Services => Counted { used: quota::of_service(&json.read()?), item: Item::Other },
            Source::Claims => {
                let claim: PersistentVolumeClaim = json.read()?;
                Counted { used: quota::of_claim(&claim), item: Item::Claim(Box::new(claim)) }
            }
            Source::DeviceClaims => Counted { used: quota::of_device_claim(&json.read()?), item: Item::Other },
            Source::Objects { group, plural } => Counted { used: quota::of_object(group, plural), item: Item::Other },
        })
    }

    fn in_scope(&self, scopes: &Scopes) -> bool {
        match &self.item {
            Item::Pod(pod) => scopes.cover_pod(pod),
            Item::Claim(claim) => scopes.cover_claim(claim),
            Item::Other => scopes.cover_others(),
        }
    }
}

/// JSON as a tree or as the store has it.
trait Json {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Status>;
}

impl Json for &Value {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Status> {
        T::deserialize(*self).map_err(Status::internal)
    }
}

impl Json for &Bytes {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Status> {
        serde_json::from_slice(self).map_err(Status::internal)
    }
}

/// Whether quotas look at this write: creates, and the updates by which an object may use more.
fn is_counted(review: &Review<'_>, source: &Source) -> bool {
    let sub = review.place.subresource;
    match review.operation {
        Operation::Create => sub.is_empty(),
        Operation::Update => match source {
            Source::Pods => sub == "resize",
            Source::Services | Source::Claims => sub.is_empty(),
            Source::DeviceClaims | Source::Objects { .. } => false,
        },
        Operation::Delete => false,
    }
}

/// Checks a write against the namespace's quotas. The turn must be kept until the object is written and cached.
pub(super) async fn validate(review: &Review<'_>, object: &Value) -> Result<Option<Turn>, Status> {
    let (place, kind) = (review.place, &review.place.resource.kind);
    let source = Source::of_resource(&kind.group, &kind.plural);
    if place.namespace.is_empty() || !is_counted(review, &source) {
        return Ok(None);
    }
    // From the store, which the request has waited for: a quota made a moment ago counts, whatever the caches show.
    let quotas: Vec<Quota> = quotas(review)?
        .into_iter()
        .filter(|quota| quota.hard.keys().any(|name| Source::of(name).as_ref() == Some(&source)))
        .collect();
    if quotas.is_empty() {
        return Ok(None);
    }
    let new = Counted::of(&source, object)?;
    let quotas: Vec<Quota> = quotas.into_iter().filter(|quota| new.in_scope(&quota.scopes)).collect();
    let name = meta_str(object, "name");
    for quota in &quotas {
        if let Item::Pod(pod) = &new.item
            && let Some(why) = quota::unspecified(quota.hard.keys().map(String::as_str), pod)
        {
            return Err(review.forbid(name, &format!("failed quota: {}: {why}", quota.name)));
        }
    }
    let asked = asked(review, &source, &new)?;
    let negative: Vec<&str> =
        asked.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        let why = format!("quota usage is negative for resource(s): {}", negative.join(","));
        return Err(review.forbid(name, &why));
    }
    let touches = |quota: &Quota| asked.keys().any(|name| quota.hard.contains_key(name));
    if !quotas.iter().any(touches) {
        return Ok(None);
    }
    let turn = take_turn(review).await?;
    let used = usage(review, &source, &quotas)?;
    for (quota, used) in quotas.iter().zip(&used) {
        within(quota, &asked, used).map_err(|why| review.forbid(name, &why))?;
    }
    Ok(Some(turn))
}

fn quotas(review: &Review<'_>) -> Result<Vec<Quota>, Status> {
    let request = RangeRequest::prefix(keys::collection("resourcequotas", review.place.namespace));
    let stored = review.inner.config.store.range(&request).map_err(Status::internal)?;
    let read = |value: &Bytes| -> Option<Quota> {
        let stored: ResourceQuota = serde_json::from_slice(value).ok()?;
        let spec = stored.spec?;
        let scopes = Scopes::of(&spec);
        let hard = spec.hard.iter().flatten().map(|(name, amount)| (name.clone(), Quantity::of(amount))).collect();
        Some(Quota { name: stored.metadata.name?, hard, scopes })
    };
    Ok(stored.kvs.iter().filter_map(|kv| read(&kv.value)).collect())
}

/// What the write adds to what is used; without amounts of nothing.
fn asked(review: &Review<'_>, source: &Source, new: &Counted) -> Result<Amounts, Status> {
    let mut asked = new.used.clone();
    if let Some(old) = review.old {
        let old = Counted::of(source, old)?;
        for (name, amount) in &mut asked {
            *amount = (*amount - old.used.get(name).copied().unwrap_or_default()).max(Quantity::ZERO);
        }
    }
    asked.retain(|_, amount| !amount.is_zero());
    Ok(asked)
}

async fn take_turn(review: &Review<'_>) -> Result<Turn, Status> {
    let inner = review.inner;
    let alone = inner.quota_turns.take(review.place.namespace).await;
    inner.hub.linearize().await?;
    let key = keys::object("rk.io/quotaturns", "", review.place.namespace);
    let found = inner.config.store.range(&RangeRequest::key(key.clone())).map_err(Status::internal)?;
    let revision = found.kvs.first().map_or(0, |kv| kv.mod_revision);
    // Whatever the last turn wrote, the count must see.
    inner.hub.wait_for(revision).await?;
    Ok(Turn { _alone: alone, key, revision })
}

/// What the objects of the kind in the namespace use of each quota.
fn usage(review: &Review<'_>, source: &Source, quotas: &[Quota]) -> Result<Vec<Amounts>, Status> {
    let cache = review.inner.hub.of(&review.place.resource)?;
    let mut sums = vec![Amounts::new(); quotas.len()];
    for entry in cache.list(review.place.namespace, |_| true).entries {
        // What cannot be read as its kind was not written by this server.
        let Ok(counted) = Counted::of(source, &entry.value) else { continue };
        for (quota, sum) in quotas.iter().zip(&mut sums) {
            if counted.in_scope(&quota.scopes) {
                resources::add(sum, &counted.used);
            }
        }
    }
    Ok(sums)
}

/// Upstream's refusal when a quota does not have the room.
fn within(quota: &Quota, asked: &Amounts, used: &Amounts) -> Result<(), String> {
    let of = |name: &str| used.get(name).copied().unwrap_or_default();
    let over: Vec<(&str, Quantity, Quantity)> = asked
        .iter()
        .filter_map(|(name, amount)| {
            let limit = *quota.hard.get(name)?;
            (of(name) + *amount > limit).then_some((name.as_str(), *amount, limit))
        })
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    let list = |pick: &dyn Fn(&(&str, Quantity, Quantity)) -> Quantity| {
        over.iter().map(|row| format!("{}={}", row.0, pick(row))).collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name,
        list(&|row| row.1),
        list(&|row| of(row.0)),
        list(&|row| row.2),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(pairs: &[(&str, &str)]) -> Amounts {
        pairs.iter().map(|(name, amount)| ((*name).to_owned(), amount.parse().unwrap())).collect()
    }

    #[test]
    fn a_refusal_names_only_what_is_exceeded() {
        let quota = Quota {
            name: "q".into(),
            hard: amounts(&[("pods", "2"), ("requests.cpu", "1"), ("requests.memory", "1Gi")]),
            scopes: Scopes::default(),
        };
        let asked = amounts(&[("pods", "1"), ("requests.cpu", "600m"), ("requests.memory", "512Mi"), ("cpu", "9")]);
        let used = amounts(&[("pods", "1"), ("requests.cpu", "500m"), ("requests.memory", "600Mi")]);
        assert_eq!(
            within(&quota, &asked, &used).unwrap_err(),
            "exceeded quota: q, requested: requests.cpu=600m,requests.memory=512Mi, \
             used: requests.cpu=500m,requests.memory=600Mi, limited: requests.cpu=1,requests.memory=1Gi"
        );
        assert_eq!(within(&quota, &asked, &Amounts::new()), Ok(()));
    }
}
