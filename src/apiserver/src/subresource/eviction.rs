//! `pods/eviction`: deletes a pod unless a disruption budget forbids it. The budget's own status is the ledger: the
//! eviction is entered there by compare-and-swap before the pod is deleted, so that two cannot spend the same one.

use http::Response;
use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use objects::{
    selector::Selector,
    status::Status,
    strategy::{Part, deletion::rfc3339},
};
use serde_json::{Value, json};

use crate::{
    admission::node_restriction,
    body::Body,
    encoded::child_mut,
    handler::Call,
    respond,
    rest::{
        Place, body, delete, options,
        options::WriteOptions,
        store,
        update::{self, Change, Mode, Outcome},
    },
};

/// Answers the POST of an Eviction.
pub(super) async fn create(call: &mut Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let write = WriteOptions::of(call)?;
    let eviction = body::optional_value(call, "Eviction").await?.unwrap_or_else(|| json!({}));
    let (mut options, dry) = options::delete_options(&call.query, eviction.get("deleteOptions"))?;
    let dry_run = dry || write.dry_run;
    let kv = store::read(&call.inner, &place.store_key()).await?.ok_or_else(|| place.not_found())?;
    let pod: Pod = serde_json::from_slice(&kv.value).map_err(Status::internal)?;
    node_restriction::eviction(&call.user, place, &pod)?;
    // What was judged is this pod, not one of the same name that comes after it.
    if options.uid.is_none() {
        options.uid = pod.metadata.uid.clone();
    }
    if !goes_anyway(&pod)
        && let Some(budget) = budget_of(call, place, &pod).await?
    {
        spend(call, place, &budget, &pod, dry_run).await?;
    }
    if options.resource_version.as_ref().is_none_or(|asked| *asked == kv.mod_revision.to_string()) && !dry_run {
        // What was asked for is met; the mark makes a revision of its own.
        options.resource_version = mark(call, place, &pod).await?.filter(|_| options.resource_version.is_some());
    }
    let pod_place =
        Place { resource: place.resource.clone(), namespace: place.namespace, name: place.name, subresource: "" };
    delete::delete_object(&call.inner, &call.user, &pod_place, &options, dry_run, &mut call.warnings).await?;
    respond::value(call, 201, &serde_json::to_value(Status::success(201)).map_err(Status::internal)?)
}

/// Lets the pod say why it goes, before it does: whoever counts its failures may forgive this one. Answers the revision.
async fn mark(call: &mut Call, place: &Place<'_>, pod: &Pod) -> Result<Option<String>, Status> {
    let status_place =
        Place { resource: place.resource.clone(), namespace: place.namespace, name: place.name, subresource: "status" };
    let options = WriteOptions::default();
    let (inner, user) = (call.inner.clone(), call.user.clone());
    let change = Change { inner: &inner, user: &user, part: Part::Status, options: &options, mode: Mode::Direct };
    let next = |old: &Value| {
        if old.pointer("/metadata/uid").and_then(Value::as_str) != pod.metadata.uid.as_deref() {
            let why = "Precondition failed: the pod is another by now";
            return Err(Status::conflict(place.resource.qualified(), place.name, why));
        }
        Ok(marked(old, &rfc3339(jiff::Timestamp::now())))
    };
    Ok(match update::apply(&change, &status_place, &mut call.warnings, next).await? {
        Outcome::Stored(_, revision) => Some(revision.to_string()),
        Outcome::Removed(_) | Outcome::Dry(_) => None,
    })
}

fn marked(old: &Value, now: &str) -> Value {
    let mut new = old.clone();
    let conditions = child_mut(&mut new, "status").entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return new };
    let is_target = |c: &&mut Value| c["type"] == "DisruptionTarget";
    let mut condition = json!({"type": "DisruptionTarget", "status": "True", "lastTransitionTime": now,
        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"});
    match conditions.iter_mut().find(is_target) {
        Some(stored) => {
            if stored["status"] == "True" {
                condition["lastTransitionTime"] = stored["lastTransitionTime"].take();
            }
            *stored = condition;
        }
        None => conditions.push(condition),
    }
    new
}

/// Whether the pod does not count for any budget: it is finished, going already, or has not started yet.
fn goes_anyway(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod.metadata.deletion_timestamp.is_some()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The budget that covers a pod.
async fn budget_of(call: &Call, place: &Place<'_>, pod: &Pod) -> Result<Option<PodDisruptionBudget>, Status> {
    call.inner.hub.linearize().await?;
    let budgets = call.inner.hub.kind("policy/poddisruptionbudgets")?.list(place.namespace, |_| true).entries;
    let mut covering = budgets.iter().filter_map(|entry| entry.typed::<PodDisruptionBudget>().ok()).filter(|budget| {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        Selector::from_label_selector(selector)
            .is_ok_and(|selector| selector.matches_labels(pod.metadata.labels.as_ref()))
    });
    let first = covering.next();
    if covering.next().is_some() {
        return Err(Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    Ok(first)
}

/// Enters the eviction into the budget, or refuses.
async fn spend(
    call: &mut Call,
    place: &Place<'_>,
    budget: &PodDisruptionBudget,
    pod: &Pod,
    dry_run: bool,
) -> Result<(), Status> {
    let Some(resource) = call.inner.registry.load().find("policy/v1", "poddisruptionbudgets").cloned() else {
        return Ok(());
    };
    let name = budget.metadata.name.clone().unwrap_or_default();
    let budget_place = Place { resource, namespace: place.namespace, name: &name, subresource: "status" };
    let options = WriteOptions { dry_run, ..WriteOptions::default() };
    let (inner, user) = (call.inner.clone(), call.user.clone());
    let change = Change { inner: &inner, user: &user, part: Part::Status, options: &options, mode: Mode::Direct };
    let pod_name = place.name.to_owned();
    let ready = is_ready(pod);
    let next = |old: &Value| enter(old, &pod_name, ready);
    match update::apply(&change, &budget_place, &mut call.warnings, next).await {
        Ok(_) => Ok(()),
        // Gone in between: nothing forbids it any more.
        Err(status) if status.is_not_found() => Ok(()),
        Err(status) => Err(status),
    }
}

fn enter(old: &Value, pod: &str, ready: bool) -> Result<Value, Status> {
    let number = |pointer: &str| old.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let refuse =
        |cause: &str| {
            Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
                .with_cause("DisruptionBudget", cause, "")
        };
    if number("/status/observedGeneration") < number("/metadata/generation") {
        let cause = "The disruption budget is still being processed by the server.";
        return Err(refuse(cause).with_retry_after(10));
    }
    let (allowed, healthy) = (number("/status/disruptionsAllowed"), number("/status/currentHealthy"));
    let desired = number("/status/desiredHealthy");
    let always = old.pointer("/spec/unhealthyPodEvictionPolicy").is_some_and(|policy| policy == "AlwaysAllow");
    if !ready && (always || (healthy >= desired && desired > 0)) {
        return Ok(old.clone());
    }
    if allowed <= 0 {
        let name = crate::encoded::meta_str(old, "name");
        let cause = format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
        return Err(refuse(&cause));
    }
    let disrupted = old.pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, |pods| pods.len());
    if disrupted > 2000 {
        return Err(Status::internal("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    let mut new = old.clone();
    let status = child_mut(&mut new, "status");
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    let pods = status.entry("disruptedPods").or_insert_with(|| json!({}));
    pods[pod] = rfc3339(jiff::Timestamp::now()).into();
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evicted_pod_says_so_once() {
        let pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let once = marked(&pod, "2026-01-01T00:00:00Z");
        let condition = &once["status"]["conditions"][1];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("DisruptionTarget"), &json!("True")));
        assert_eq!(condition["reason"], "EvictionByEvictionAPI");
        assert_eq!(marked(&once, "2026-01-02T00:00:00Z"), once);
    }

    #[test]
    fn an_eviction_spends_one_disruption() {
        let budget = json!({"metadata": {"name": "b", "generation": 1, "resourceVersion": "5"},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2}});
        let spent = enter(&budget, "p", true).unwrap();
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert!(spent["status"]["disruptedPods"]["p"].is_string());
        assert_eq!(enter(&spent, "q", true).unwrap_err().code(), 429);
        assert!(enter(&spent, "q", false).is_ok());
    }
}
