//! What a budget's status is to say. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::error::ReconcileError;
use crate::intstr::{Round, resolve};
use crate::{conditions, pods};

/// How long a pod that the API server agreed to evict may take until it is deleted.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) pods: i32,
    pub(super) healthy: i32,
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: PodDisruptionBudgetStatus,
    /// When the next pod's time to be deleted is over.
    pub(super) recheck: Option<Duration>,
    /// Pods whose time is over and that were not deleted.
    pub(super) not_deleted: Vec<Arc<Pod>>,
}

/// Whether the budget is relative to how many pods their owners want.
pub(super) fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// `pods` is how many there are, `scale` how many their owners want.
pub(super) fn expected(spec: &PodDisruptionBudgetSpec, pods: usize, scale: i32) -> Expected {
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => Expected { pods: scale, healthy: (scale - resolve(most, scale, Round::Up)).max(0) },
        (None, Some(IntOrString::Int(least))) => {
            Expected { pods: i32::try_from(pods).unwrap_or(i32::MAX), healthy: *least }
        }
        (None, Some(least)) => Expected { pods: scale, healthy: resolve(least, scale, Round::Up) },
        (None, None) => Expected { pods: 0, healthy: 0 },
    }
}

/// Pods on their way to be evicted: noted in the status, within their time and not yet being deleted.
struct Disrupted {
    kept: BTreeMap<String, Time>,
    next: Option<Duration>,
    not_deleted: Vec<Arc<Pod>>,
}

fn disrupted(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], now: Timestamp) -> Disrupted {
    let mut found = Disrupted { kept: BTreeMap::new(), next: None, not_deleted: Vec::new() };
    let Some(noted) = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref()) else { return found };
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let name = pods::name(pod);
        let Some(at) = noted.get(name) else { continue };
        let left = DELETION_TIMEOUT - now.duration_since(at.0);
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => {
                found.kept.insert(name.to_owned(), at.clone());
                found.next = Some(found.next.map_or(left, |next| next.min(left)));
            }
            _ => found.not_deleted.push(pod.clone()),
        }
    }
    found
}

pub(super) fn plan(budget: &PodDisruptionBudget, all: &[Arc<Pod>], expected: Expected, now: Timestamp) -> Outcome {
    let disrupted = disrupted(budget, all, now);
    let counts =
        |pod: &Pod| !pods::is_terminating(pod) && !disrupted.kept.contains_key(pods::name(pod)) && pods::is_ready(pod);
    let healthy = i32::try_from(all.iter().filter(|pod| counts(pod)).count()).unwrap_or(i32::MAX);
    let allowed = if expected.pods <= 0 { 0 } else { (healthy - expected.healthy).max(0) };
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(with_condition(budget, status, reason, String::new(), now)),
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.healthy),
        expected_pods: Some(expected.pods),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted.kept).filter(|kept| !kept.is_empty()),
        observed_generation: budget.metadata.generation,
    };
    Outcome { status, recheck: disrupted.next, not_deleted: disrupted.not_deleted }
}

/// Nothing may be disrupted while the numbers are not known.
pub(super) fn failed(budget: &PodDisruptionBudget, message: String, now: Timestamp) -> PodDisruptionBudgetStatus {
    PodDisruptionBudgetStatus {
        conditions: Some(with_condition(budget, "False", "SyncFailed", message, now)),
        disruptions_allowed: Some(0),
        observed_generation: budget.metadata.generation,
        ..budget.status.clone().unwrap_or_default()
    }
}

/// The error and its cause in one line, for people who read events and conditions.
pub(super) fn describe(error: &ReconcileError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

fn with_condition(
    budget: &PodDisruptionBudget,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> Vec<Condition> {
    let mut all = budget.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let condition = Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: Time(now),
        observed_generation: None,
    };
    conditions::set(&mut all, condition, now);
    for condition in all.iter_mut().filter(|condition| condition.type_ == "DisruptionAllowed") {
        condition.observed_generation = budget.metadata.generation;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::{at, pod, ready};

    fn spec(min: Option<IntOrString>, max: Option<IntOrString>) -> PodDisruptionBudgetSpec {
        PodDisruptionBudgetSpec { min_available: min, max_unavailable: max, ..PodDisruptionBudgetSpec::default() }
    }

    fn percent(text: &str) -> Option<IntOrString> {
        Some(IntOrString::String(text.into()))
    }

    #[test]
    fn numbers_are_of_the_pods_there_are_and_percentages_of_those_wanted() {
        let three = Some(IntOrString::Int(3));
        assert_eq!(expected(&spec(three.clone(), None), 5, 0), Expected { pods: 5, healthy: 3 });
        assert_eq!(expected(&spec(percent("28%"), None), 5, 10), Expected { pods: 10, healthy: 3 });
        assert_eq!(expected(&spec(None, percent("25%")), 5, 10), Expected { pods: 10, healthy: 7 });
        assert_eq!(expected(&spec(None, three), 2, 2), Expected { pods: 2, healthy: 0 });
    }

    #[test]
    fn what_is_healthy_beyond_the_wanted_may_be_disrupted() {
        let pods = [ready("a", "n", 0), ready("b", "n", 0), pod("c", "Pending")].map(Arc::new);
        let budget = PodDisruptionBudget::default();
        let status = plan(&budget, &pods, Expected { pods: 3, healthy: 1 }, at(9)).status;
        assert_eq!((status.current_healthy, status.disruptions_allowed), (Some(2), Some(1)));
        assert_eq!(status.conditions.unwrap()[0].reason, "SufficientPods");
        let status = plan(&budget, &pods, Expected { pods: 3, healthy: 2 }, at(9)).status;
        assert_eq!(status.disruptions_allowed, Some(0));
        assert_eq!(status.conditions.unwrap()[0].reason, "InsufficientPods");
    }

    #[test]
    fn a_pod_about_to_be_evicted_is_not_healthy_until_its_time_is_over() {
        let pods = [ready("a", "n", 0), ready("b", "n", 0)].map(Arc::new);
        let noted = ["a", "vanished"].map(|name| (name.to_owned(), Time(at(100))));
        let budget = PodDisruptionBudget {
            status: Some(PodDisruptionBudgetStatus {
                disrupted_pods: Some(noted.into()),
                ..PodDisruptionBudgetStatus::default()
            }),
            ..PodDisruptionBudget::default()
        };
        let expected = Expected { pods: 2, healthy: 1 };
        let early = plan(&budget, &pods, expected, at(160));
        assert_eq!(early.status.current_healthy, Some(1));
        assert_eq!(early.status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(early.recheck, Some(Duration::from_secs(60)));
        let late = plan(&budget, &pods, expected, at(220));
        assert_eq!((late.status.current_healthy, late.status.disrupted_pods), (Some(2), None));
        assert_eq!(late.not_deleted.len(), 1);
    }
}
