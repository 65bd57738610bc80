//! What a pod's state means to controllers.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::conditions::{self, Conditional};

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

pub(crate) fn is_succeeded(pod: &Pod) -> bool {
    phase(pod) == "Succeeded"
}

pub(crate) fn is_failed(pod: &Pod) -> bool {
    phase(pod) == "Failed"
}

/// Whether all containers have ended for good.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    is_succeeded(pod) || is_failed(pod)
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither ended nor on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

pub(crate) fn conditions(pod: &Pod) -> &[k8s_openapi::api::core::v1::PodCondition] {
    pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    conditions::is_true(conditions(pod), "Ready")
}

/// When the pod last became ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    conditions::find(conditions(pod), "Ready").filter(|c| c.status == "True").and_then(Conditional::transition)
}

/// Whether the pod has been ready for `min_ready` seconds.
pub(crate) fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> bool {
    is_ready(pod) && available_in(pod, min_ready, now).is_none()
}

/// How long until a ready pod counts as available; `None` if it is now, or is not ready.
pub(crate) fn available_in(pod: &Pod, min_ready: i32, now: Timestamp) -> Option<Duration> {
    if min_ready <= 0 {
        return None;
    }
    let since = ready_since(pod)?;
    let left = SignedDuration::from_secs(i64::from(min_ready)) - now.duration_since(since);
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|name| !name.is_empty())
}

pub(crate) fn container_statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default()
}

pub(crate) fn restarts(pod: &Pod) -> i32 {
    container_statuses(pod).iter().map(|c| c.restart_count).max().unwrap_or(0)
}

/// The addresses of a pod, the first family's first.
pub(crate) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if listed.is_empty() { status.pod_ip.as_deref().into_iter().filter(|ip| !ip.is_empty()).collect() } else { listed }
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn label<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// Pods for the tests of plans.
#[cfg(test)]
pub(crate) mod fixture {
    use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    use super::*;

    pub(crate) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    pub(crate) fn pod(name: &str, phase: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(format!("uid-{name}")),
                creation_timestamp: Some(Time(at(0))),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec::default()),
            status: Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() }),
        }
    }

    /// A running pod on a node, ready since second `since`.
    pub(crate) fn ready(name: &str, node: &str, since: i64) -> Pod {
        let mut pod = pod(name, "Running");
        pod.spec.as_mut().unwrap().node_name = Some(node.into());
        pod.status.as_mut().unwrap().conditions = Some(vec![PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(at(since))),
            ..PodCondition::default()
        }]);
        pod
    }

    pub(crate) fn labelled(mut pod: Pod, labels: &[(&str, &str)]) -> Pod {
        pod.metadata.labels = Some(labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{at, pod, ready};
    use super::*;

    #[test]
    fn a_pod_is_available_after_its_time_of_being_ready() {
        let pod = ready("a", "n", 10);
        assert!(is_available(&pod, 0, at(10)));
        assert!(!is_available(&pod, 5, at(12)));
        assert_eq!(available_in(&pod, 5, at(12)), Some(Duration::from_secs(3)));
        assert!(is_available(&pod, 5, at(15)));
    }

    #[test]
    fn ended_and_deleted_pods_are_not_active() {
        assert!(is_active(&pod("a", "Pending")));
        assert!(!is_active(&pod("a", "Failed")));
        let mut going = pod("a", "Running");
        going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
        assert!(!is_active(&going));
    }
}
