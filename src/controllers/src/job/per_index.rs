//! The back-off limit of each index (`backoffLimitPerIndex`): how often an index has failed, when it may be tried
//! again, and when it is given up. Pure.
//!
//! The count is kept on the pods: a pod says how many failures its index had before it. So the latest failed pod of
//! an index keeps its finalizer until another pod has taken its place, whoever deletes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;

use super::policy::{self, Ruling};
use super::view;

/// Failures that count, before this pod.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Failures that the failure policy ignores, before this pod.
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How often an index has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) failures: i32,
    pub(super) ignored: i32,
}

impl Count {
    fn before(pod: &Pod) -> Count {
        let read = |name: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(name)?.parse().ok()).unwrap_or(0);
        Count { failures: read(FAILURES), ignored: read(IGNORED) }
    }

    fn total(self) -> i32 {
        self.failures.saturating_add(self.ignored)
    }
}

/// The latest pod of an index, which has failed.
pub(super) struct Failure<'a> {
    pub(super) pod: &'a Arc<Pod>,
    /// With this failure.
    pub(super) count: Count,
}

impl Failure<'_> {
    /// How long the index is not to be tried again.
    pub(super) fn wait(&self, now: Timestamp) -> Option<SignedDuration> {
        view::wait_after(view::ended_at(self.pod)?, self.count.total(), now)
    }
}

/// Whether this failure is the last that its index may have.
pub(super) fn is_last(spec: &JobSpec, pod: &Pod, ruling: &Ruling) -> bool {
    match ruling {
        Ruling::FailIndex => true,
        Ruling::Count => spec.backoff_limit_per_index.is_some_and(|limit| Count::before(pod).failures >= limit),
        _ => false,
    }
}

/// The failures that no other pod has replaced, by index. None without a limit per index.
pub(super) fn latest<'a>(job: &Job, spec: &JobSpec, pods: &'a [Arc<Pod>]) -> BTreeMap<i32, Failure<'a>> {
    let mut newest: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    if spec.backoff_limit_per_index.is_none() {
        return BTreeMap::new();
    }
    for pod in pods {
        let Some(index) = view::index(pod) else { continue };
        let rank = |pod: &Pod| (Count::before(pod).total(), !view::has_failed(job, pod));
        let held = newest.entry(index).or_insert(pod);
        if rank(pod) > rank(held) {
            *held = pod;
        }
    }
    newest.retain(|_, pod| view::has_failed(job, pod));
    let count = |pod: &Pod| {
        let mut count = Count::before(pod);
        match policy::rule_on(spec, pod) {
            Ruling::Ignore => count.ignored += 1,
            _ => count.failures += 1,
        }
        count
    };
    newest.into_iter().map(|(index, pod)| (index, Failure { pod, count: count(pod) })).collect()
}
