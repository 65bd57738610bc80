//! Pods that a controller ends on its own account say so in a `DisruptionTarget` condition before they are deleted,
//! so that jobs can tell a disruption from a failure. Used by taint eviction and pod garbage collection.

use client::Api;
use client::retry::optional;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::api::PostParams;

use crate::{conditions, pods};

/// Why a pod is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disruption {
    pub(crate) reason: &'static str,
    pub(crate) message: &'static str,
}

/// `pod` with the condition, if it is not there yet, and with phase `Failed`, if it is to `fail` and has not ended.
/// `None` if nothing changes.
pub(crate) fn marked(pod: &Pod, disruption: Option<Disruption>, fail: bool, now: Timestamp) -> Option<Pod> {
    let mut marked = pod.clone();
    let status = marked.status.get_or_insert_default();
    let mut changed = false;
    if let Some(disruption) = disruption {
        let condition = PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some(disruption.reason.into()),
            message: Some(disruption.message.into()),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
        changed = conditions::set(status.conditions.get_or_insert_default(), condition, now);
    }
    if fail && !pods::is_terminal(pod) {
        status.phase = Some("Failed".into());
        changed = true;
    }
    changed.then_some(marked)
}

/// Writes what [`marked`] makes of the pod. False if the pod is gone.
pub(crate) async fn mark(
    api: &Api<Pod>,
    pod: &Pod,
    disruption: Option<Disruption>,
    fail: bool,
    now: Timestamp,
) -> kube::Result<bool> {
    let Some(marked) = marked(pod, disruption, fail, now) else { return Ok(true) };
    let written = optional(api.replace_status(pods::name(pod), &PostParams::default(), &marked).await)?;
    Ok(written.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::{at, pod};

    const GONE: Disruption = Disruption { reason: "DeletionByPodGC", message: "PodGC: node no longer exists" };

    #[test]
    fn a_pod_is_marked_once_and_an_ended_one_keeps_its_phase() {
        let marked_pod = marked(&pod("a", "Running"), Some(GONE), true, at(1)).expect("marked");
        assert!(pods::is_failed(&marked_pod));
        assert!(conditions::is_true(pods::conditions(&marked_pod), "DisruptionTarget"));
        assert_eq!(marked(&marked_pod, Some(GONE), true, at(2)), None);
        assert_eq!(marked(&pod("done", "Succeeded"), None, true, at(2)), None);
    }
}
