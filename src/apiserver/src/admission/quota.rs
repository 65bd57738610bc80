//! ResourceQuota: what a namespace's objects use together stays within its quotas. Usage is counted live from the
//! caches; finished pods do not count. Creates in a namespace with a quota go one at a time, each waiting until the
//! caches show the one before it, so that two cannot both take the last of something.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodSpec, ResourceQuota, ResourceQuotaSpec, Service};
use objects::{
    quantity::Quantity,
    resources::{Amounts, QosClass, pod_limits, pod_requests},
    status::Status,
};
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{Operation, Review};
use crate::cache::Entry;

/// One create at a time for each namespace that has a quota.
#[derive(Default)]
pub(crate) struct Turns {
    namespaces: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

/// Held until the object is written and visible.
pub(crate) type Turn = OwnedMutexGuard<()>;

impl Turns {
    async fn take(&self, namespace: &str) -> Turn {
        let turn = {
            let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
            namespaces.retain(|_, turn| Arc::strong_count(turn) > 1);
            namespaces.entry(namespace.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// Checks a create against the namespace's quotas. The turn must be kept until the object is written and cached.
pub(super) async fn validate(review: &Review<'_>, object: &Value) -> Result<Option<Turn>, Status> {
    let place = review.place;
    if review.operation != Operation::Create || place.namespace.is_empty() || !place.subresource.is_empty() {
        return Ok(None);
    }
    let cache = review.inner.hub.kind("resourcequotas")?;
    if cache.len() == 0 || review.is("", "resourcequotas") && cache.list(place.namespace, |_| true).entries.is_empty() {
        return Ok(None);
    }
    let quotas = cache.list(place.namespace, |_| true).entries;
    if quotas.is_empty() {
        return Ok(None);
    }
    let turn = review.inner.quota_turns.take(place.namespace).await;
    review.inner.hub.linearize().await?;
    for entry in quotas {
        let quota: ResourceQuota = entry.typed()?;
        check(review, object, entry.name(), &quota)?;
    }
    Ok(Some(turn))
}

fn check(review: &Review<'_>, object: &Value, quota_name: &str, quota: &ResourceQuota) -> Result<(), Status> {
    let Some(spec) = &quota.spec else { return Ok(()) };
    let hard: BTreeMap<&str, Quantity> =
        spec.hard.iter().flatten().map(|(name, amount)| (name.as_str(), Quantity::of(amount))).collect();
    let resource = &review.place.resource;
    if !in_scope(spec, resource.prefix(), object) {
        return Ok(());
    }
    let name = crate::encoded::meta_str(object, "name");
    let missing = unspecified(&hard, resource.prefix(), object);
    if !missing.is_empty() {
        let why = format!("failed quota: {quota_name}: must specify {}", missing.join("; "));
        return Err(review.forbid(name, &why));
    }
    let asked = usage_of(resource.prefix(), &resource.kind.qualified_plural(), object);
    let asked: Amounts = asked.into_iter().filter(|(name, _)| hard.contains_key(name.as_str())).collect();
    if asked.values().all(|amount| amount.is_zero()) {
        return Ok(());
    }
    let used = usage(review, resource.prefix(), spec)?;
    let over: Vec<&String> = asked
        .iter()
        .filter(|(name, amount)| {
            let total = used.get(*name).copied().unwrap_or_default() + **amount;
            hard.get(name.as_str()).is_some_and(|limit| total > *limit)
        })
        .map(|(name, _)| name)
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    let list = |amount: &dyn Fn(&str) -> Quantity| {
        over.iter().map(|name| format!("{name}={}", amount(name))).collect::<Vec<_>>().join(",")
    };
    let why = format!(
        "exceeded quota: {quota_name}, requested: {}, used: {}, limited: {}",
        list(&|name| asked.get(name).copied().unwrap_or_default()),
        list(&|name| used.get(name).copied().unwrap_or_default()),
        list(&|name| hard.get(name).copied().unwrap_or_default()),
    );
    Err(review.forbid(name, &why))
}

/// What all objects of the kind in the namespace use of what this quota counts.
fn usage(review: &Review<'_>, prefix: &str, spec: &ResourceQuotaSpec) -> Result<Amounts, Status> {
    let resource = &review.place.resource;
    let cache = review.inner.hub.of(resource)?;
    let mut sum = Amounts::new();
    let entries: Vec<Arc<Entry>> = cache.list(review.place.namespace, |_| true).entries;
    for entry in entries {
        let object = entry.decode()?;
        if in_scope(spec, prefix, &object) {
            objects::resources::add(&mut sum, &usage_of(prefix, &resource.kind.qualified_plural(), &object));
        }
    }
    Ok(sum)
}

fn one() -> Quantity {
    Quantity::from_millis(1000)
}

fn is_finished(pod: &Value) -> bool {
    pod.pointer("/status/phase").is_some_and(|phase| phase == "Succeeded" || phase == "Failed")
}

/// What one object uses, by the names that quotas have for it.
fn usage_of(prefix: &str, qualified: &str, object: &Value) -> Amounts {
    let mut used = Amounts::new();
    used.insert(format!("count/{qualified}"), one());
    let typed = |used: &mut Amounts| -> Option<()> {
        match prefix {
            "pods" => {
                let pod: Pod = serde_json::from_value(object.clone()).ok()?;
                if !is_finished(object) {
                    pod_usage(&pod.spec?, used);
                }
            }
            "services" => {
                let service: Service = serde_json::from_value(object.clone()).ok()?;
                service_usage(&service, used);
            }
            "persistentvolumeclaims" => {
                let claim: PersistentVolumeClaim = serde_json::from_value(object.clone()).ok()?;
                claim_usage(&claim, used);
            }
            "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
                used.insert(prefix.to_owned(), one());
            }
            _ => {}
        }
        Some(())
    };
    // What does not parse as its kind has been refused before; it then counts as an object only.
    typed(&mut used).unwrap_or_default();
    used
}

fn pod_usage(spec: &PodSpec, used: &mut Amounts) {
    used.insert("pods".into(), one());
    for (name, amount) in pod_requests(spec) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_limits(spec) {
        used.insert(format!("limits.{name}"), amount);
    }
}

fn service_usage(service: &Service, used: &mut Amounts) {
    used.insert("services".into(), one());
    let Some(spec) = &service.spec else { return };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let ports = spec.ports.as_ref().map_or(0, Vec::len);
    if kind == "LoadBalancer" {
        used.insert("services.loadbalancers".into(), one());
    }
    if kind == "NodePort" || (kind == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false)) {
        let count = i64::try_from(ports).unwrap_or(i64::MAX / 1000);
        used.insert("services.nodeports".into(), Quantity::from_millis(count * 1000));
    }
}

fn claim_usage(claim: &PersistentVolumeClaim, used: &mut Amounts) {
    used.insert("persistentvolumeclaims".into(), one());
    let Some(spec) = &claim.spec else { return };
    let storage = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
    let storage = storage.map(Quantity::of).unwrap_or_default();
    used.insert("requests.storage".into(), storage);
    if let Some(class) = &spec.storage_class_name {
        used.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        used.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
    }
}

/// Compute amounts that the quota limits and some container does not state.
fn unspecified(hard: &BTreeMap<&str, Quantity>, prefix: &str, object: &Value) -> Vec<String> {
    if prefix != "pods" {
        return Vec::new();
    }
    let containers =
        object.pointer("/spec/containers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows = [
        ("cpu", "requests", "cpu"),
        ("memory", "requests", "memory"),
        ("requests.cpu", "requests", "cpu"),
        ("requests.memory", "requests", "memory"),
        ("limits.cpu", "limits", "cpu"),
        ("limits.memory", "limits", "memory"),
    ];
    rows.into_iter()
        .filter(|(counted, ..)| hard.contains_key(counted))
        .filter_map(|(counted, side, name)| {
            let lacking: Vec<&str> = containers
                .iter()
                .filter(|container| container.pointer(&format!("/resources/{side}/{name}")).is_none())
                .filter_map(|container| container["name"].as_str())
                .collect();
            (!lacking.is_empty()).then(|| format!("{counted} for: {}", lacking.join(",")))
        })
        .collect()
}

/// Whether a quota with scopes counts this object.
fn in_scope(spec: &ResourceQuotaSpec, prefix: &str, object: &Value) -> bool {
    let scopes = spec.scopes.iter().flatten().map(|scope| (scope.as_str(), "Exists", Vec::new()));
    let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    let selected = selected
        .map(|term| (term.scope_name.as_str(), term.operator.as_str(), term.values.clone().unwrap_or_default()));
    let mut terms = scopes.chain(selected).peekable();
    if terms.peek().is_none() {
        return true;
    }
    if prefix != "pods" {
        return false;
    }
    let Some(pod) = object.get("spec").and_then(|spec| serde_json::from_value::<PodSpec>(spec.clone()).ok()) else {
        return false;
    };
    terms.all(|(scope, operator, values)| {
        let best_effort = QosClass::of(&pod) == QosClass::BestEffort;
        match scope {
            "BestEffort" => best_effort,
            "NotBestEffort" => !best_effort,
            "Terminating" => pod.active_deadline_seconds.is_some(),
            "NotTerminating" => pod.active_deadline_seconds.is_none(),
            "PriorityClass" => {
                let class = pod.priority_class_name.as_deref().filter(|class| !class.is_empty());
                match operator {
                    "Exists" => class.is_some(),
                    "DoesNotExist" => class.is_none(),
                    "In" => class.is_some_and(|class| values.iter().any(|value| value == class)),
                    _ => class.is_none_or(|class| values.iter().all(|value| value != class)),
                }
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_finished_pod_uses_only_its_count() {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(usage_of("pods", "pods", &pod)["requests.cpu"], one());
        pod["status"] = json!({"phase": "Succeeded"});
        assert_eq!(usage_of("pods", "pods", &pod).keys().collect::<Vec<_>>(), ["count/pods"]);
    }

    #[test]
    fn containers_without_counted_amounts_are_named() {
        let pod = json!({"spec": {"containers": [{"name": "c"}]}});
        let hard = BTreeMap::from([("cpu", one())]);
        assert_eq!(unspecified(&hard, "pods", &pod), ["cpu for: c"]);
    }
}
