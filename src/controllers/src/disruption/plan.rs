//! How many pods of a budget may be disrupted now. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::intstr::{Round, resolve};
use crate::{conditions, pods};

/// An eviction that was admitted but whose pod is still there after this has failed.
const EVICTION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// `expected` is how many pods the owners of the matching ones want; needed where the budget is relative to it.
pub(super) fn plan(
    budget: &PodDisruptionBudget,
    matching: &[Arc<Pod>],
    expected: Result<i32, String>,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let old = budget.status.clone().unwrap_or_default();
    let (disrupted, again) = still_disrupted(old.disrupted_pods.clone().unwrap_or_default(), matching, now);
    let healthy = matching
        .iter()
        .filter(|pod| pods::is_ready(pod) && !pods::is_terminating(pod) && !disrupted.contains_key(pods::name(pod)));
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let (expected, failure) = match expected {
        Ok(expected) => (expected, None),
        Err(message) => (0, Some(message)),
    };
    let desired = desired(budget, expected, matching.len());
    let allowed = if failure.is_some() || expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let (status, reason) = match (&failure, allowed) {
        (Some(_), _) => ("False", "SyncFailed"),
        (None, 0) => ("False", "InsufficientPods"),
        (None, _) => ("True", "SufficientPods"),
    };
    let condition = Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: failure.unwrap_or_default(),
        observed_generation: budget.metadata.generation,
        last_transition_time: Time(now),
    };
    conditions::set(&mut conditions, condition, now);
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    (status, again)
}

/// Whether the count of the owners' replicas matters, not just that of the pods.
pub(super) fn is_relative(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    spec.is_some_and(|s| s.max_unavailable.is_some() || matches!(s.min_available, Some(IntOrString::String(_))))
}

fn desired(budget: &PodDisruptionBudget, expected: i32, matching: usize) -> i32 {
    let spec = budget.spec.as_ref();
    if let Some(unavailable) = spec.and_then(|s| s.max_unavailable.as_ref()) {
        return (expected - resolve(unavailable, expected, Round::Up)).max(0);
    }
    match spec.and_then(|s| s.min_available.as_ref()) {
        Some(available) => resolve(available, expected, Round::Up),
        None => i32::try_from(matching.min(1)).unwrap_or(1),
    }
}

/// Pods whose eviction was admitted and that are still going.
fn still_disrupted(
    all: BTreeMap<String, Time>,
    matching: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut again: Option<Duration> = None;
    let mut kept = all;
    kept.retain(|name, since| {
        let left = EVICTION_TIMEOUT - now.duration_since(since.0);
        let there = matching.iter().any(|pod| pods::name(pod) == name && !pods::is_terminating(pod));
        let waits = there && left.is_positive();
        if let Ok(left) = Duration::try_from(left)
            && waits
        {
            again = Some(again.map_or(left, |again| again.min(left)));
        }
        waits
    });
    (kept, again)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::fixture::{at, pod, ready};

    fn budget(spec: serde_json::Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": spec})).unwrap()
    }

    fn allowed(budget: &PodDisruptionBudget, expected: i32) -> i32 {
        let pods = [ready("a", "n", 0), ready("b", "n", 0), pod("c", "Pending")].map(Arc::new);
        plan(budget, &pods, Ok(expected), at(10)).0.disruptions_allowed.unwrap()
    }

    #[test]
    fn what_is_above_the_bound_may_go() {
        assert_eq!(allowed(&budget(json!({"minAvailable": 1})), 3), 1);
        assert_eq!(allowed(&budget(json!({"minAvailable": "67%"})), 3), 0);
        assert_eq!(allowed(&budget(json!({"maxUnavailable": 2})), 3), 1);
        assert_eq!(allowed(&budget(json!({"maxUnavailable": 1})), 3), 0);
    }

    #[test]
    fn an_admitted_eviction_counts_until_it_is_done_or_too_old() {
        let mut budget = budget(json!({"minAvailable": 1}));
        budget.status = serde_json::from_value(json!({"disruptedPods": {"a": "1970-01-01T00:00:05Z"},
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}))
        .unwrap();
        assert_eq!(allowed(&budget, 3), 0);
        let pods = [Arc::new(ready("a", "n", 0)), Arc::new(ready("b", "n", 0))];
        let (status, again) = plan(&budget, &pods, Ok(2), at(200));
        assert_eq!((status.disruptions_allowed, status.disrupted_pods, again), (Some(1), None, None));
    }

    #[test]
    fn an_unknown_expectation_allows_nothing() {
        let (status, _) = plan(&budget(json!({"maxUnavailable": 1})), &[], Err("no controller".into()), at(0));
        assert_eq!(status.disruptions_allowed, Some(0));
        assert_eq!(status.conditions.unwrap()[0].reason, "SyncFailed");
    }
}
