//! What a job's fields mean, and its pods. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::per_index::{self, Count};
use crate::claim::controller_reference;
use crate::{conditions, pods, template};

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The wait after a first failure, and the longest.
const BACKOFF: SignedDuration = SignedDuration::from_secs(10);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_mins(10);

pub(super) fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|s| s.completion_mode.as_deref()) == Some("Indexed")
}

pub(super) fn conditions(job: &Job) -> &[JobCondition] {
    job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

/// The condition that ended the job, if it has ended.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    conditions(job).iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

pub(super) fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|s| s.suspend).unwrap_or(false)
}

pub(super) fn was_suspended(job: &Job) -> bool {
    conditions::is_true(conditions(job), "Suspended")
}

/// Whether a pod is replaced only when it has ended, not while it is being deleted.
pub(super) fn replaces_failed_only(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    spec.and_then(|s| s.pod_replacement_policy.as_deref())
        .map_or_else(|| spec.is_some_and(|s| s.pod_failure_policy.is_some()), |policy| policy == "Failed")
}

pub(super) fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Whether the pod counts as failed. One being deleted does, unless only ended pods are replaced.
pub(super) fn has_failed(job: &Job, pod: &Pod) -> bool {
    pods::is_failed(pod) || (!replaces_failed_only(job) && pods::is_terminating(pod) && !pods::is_succeeded(pod))
}

pub(super) fn index(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// When a pod's last container ended.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let ended = pods::container_statuses(pod)
        .iter()
        .filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0));
    ended
        .max()
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().or(pod.metadata.creation_timestamp.as_ref()).map(|t| t.0))
}

/// How long no new pod is to be made, after the failures since the last success.
pub(super) fn backoff(failed: &[&Pod], succeeded: &[&Pod], now: Timestamp) -> Option<SignedDuration> {
    let last_success = succeeded.iter().filter_map(|pod| ended_at(pod)).max();
    let since = failed.iter().filter_map(|pod| ended_at(pod)).filter(|at| last_success.is_none_or(|last| *at > last));
    let times: Vec<Timestamp> = since.collect();
    let last = times.iter().max()?;
    wait_after(*last, i32::try_from(times.len()).unwrap_or(i32::MAX), now)
}

/// How long after the last of `failures` at `last` nothing is tried.
pub(super) fn wait_after(last: Timestamp, failures: i32, now: Timestamp) -> Option<SignedDuration> {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(0).min(10);
    let wait = (BACKOFF * 2_i32.pow(doublings)).min(BACKOFF_MAX);
    let left = wait - now.duration_since(last);
    left.is_positive().then_some(left)
}

/// A pod of the job, for a completion index where it has them; `count` are the index's failures where they are limited.
pub(super) fn pod(job: &Job, index: Option<i32>, count: Option<Count>) -> Pod {
    let (name, namespace) = (job.metadata.name.as_deref().unwrap_or_default(), job.metadata.namespace.as_deref());
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let prefix = index.map_or_else(|| name.to_owned(), |index| format!("{name}-{index}"));
    let mut pod = template::pod(&template, &prefix, namespace.unwrap_or_default(), controller_reference(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = index else { return pod };
    let value = index.to_string();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), value.clone());
    if let Some(count) = count {
        annotations.insert(per_index::FAILURES.to_owned(), count.failures.to_string());
        if count.ignored > 0 {
            annotations.insert(per_index::IGNORED.to_owned(), count.ignored.to_string());
        }
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), value);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|var| var.name == "JOB_COMPLETION_INDEX") {
            env.push(index_variable());
        }
    }
    pod
}

fn index_variable() -> EnvVar {
    let field_ref = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), ..Default::default() };
    EnvVar {
        name: "JOB_COMPLETION_INDEX".to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() }),
        value: None,
    }
}
