//! One step of a job: its pods in; pods to make and delete, finalizers to take off, and status out. Pure.
//!
//! A finished pod is counted once: its UID goes into the status (`uncounted`) first, then its finalizer comes off,
//! then, when no such pod holds a finalizer any more, it moves from the UIDs to the number. Indexed successes need no
//! UIDs: the set of completed indexes is the count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::indexes::Indexes;
use super::per_index::{self, Count, Failure};
use super::policy::{self, Ruling};
use super::view;
use crate::{conditions, pods};

/// Pods created or deleted at a time.
const BURST: usize = 500;

pub(super) struct State<'a> {
    pub(super) job: &'a Job,
    /// All pods it owns.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One per pod to make; the index where the job has them.
    pub(super) create: Vec<Option<i32>>,
    /// How often the indexes in `create` have failed, where that is limited.
    counts: Option<BTreeMap<i32, Count>>,
    /// Pods that are not needed: finalizer off, then deleted.
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that are accounted for once `status` is written.
    pub(super) release: Vec<Arc<Pod>>,
    pub(super) status: JobStatus,
    /// Reason and message of a condition worth an event.
    pub(super) event: Option<(bool, String, String)>,
    pub(super) again: Option<Duration>,
}

impl Plan {
    /// What a new pod of this index is told about the ones before it.
    pub(super) fn count_before(&self, index: Option<i32>) -> Option<Count> {
        self.counts.as_ref().map(|counts| index.and_then(|index| counts.get(&index).copied()).unwrap_or_default())
    }
}

/// The counts so far.
struct Tally {
    succeeded: i32,
    failed: i32,
    completed: Indexes,
    failed_indexes: Indexes,
    uncounted_succeeded: Vec<String>,
    uncounted_failed: Vec<String>,
    fail_job: Option<String>,
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

pub(super) fn plan(state: &State<'_>) -> Plan {
    let State { job, pods, now } = *state;
    let spec = job.spec.clone().unwrap_or_default();
    let old = job.status.clone().unwrap_or_default();
    let mut plan = Plan { status: old.clone(), ..Plan::default() };
    if view::finished(job).is_some() || job.metadata.deletion_timestamp.is_some() {
        plan.release = pods.iter().filter(|pod| view::has_finalizer(pod)).cloned().collect();
        return plan;
    }
    let tally = tally(job, &spec, pods);
    let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| is_active(job, pod)).cloned().collect();
    let terminating = pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod)).count();
    let suspended = view::is_suspended(job);
    if plan.status.start_time.is_none() && !suspended {
        plan.status.start_time = Some(Time(now));
    }
    let verdict = verdict(job, &spec, &tally, pods, active.len(), plan.status.start_time.as_ref(), now);
    let latest = match verdict {
        None => per_index::latest(job, &spec, pods),
        Some(_) => BTreeMap::new(),
    };
    let due = |p: &&Arc<Pod>| view::has_finalizer(p) && is_accounted(job, p, &tally) && !is_pending(&latest, &tally, p);
    plan.release = pods.iter().filter(due).cloned().collect();
    let mut running = active.len();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    if let Some(verdict) = &verdict {
        plan.delete.clone_from(&active);
        running = 0;
        conclude(&mut plan, &mut conditions, verdict, terminating + active.len(), tally_is_open(&tally), now);
    } else if suspended {
        plan.delete.clone_from(&active);
        running = 0;
        suspend(&mut plan, &mut conditions, job, now);
    } else {
        resume(&mut plan, &mut conditions, job, now);
        manage(&mut plan, state, &spec, &tally, (&active, &latest));
        running = running + plan.create.len() - plan.delete.len();
    }
    deadline(&mut plan, &spec, now);
    write_counts(&mut plan.status, job, &tally, running, &active, terminating);
    plan.status.conditions = Some(conditions).filter(|c| !c.is_empty());
    plan
}

fn is_active(job: &Job, pod: &Pod) -> bool {
    pods::is_active(pod) && !view::has_failed(job, pod)
}

fn is_accounted(job: &Job, pod: &Pod, tally: &Tally) -> bool {
    let uid = uid(pod);
    let indexed = view::is_indexed(job) && pods::is_succeeded(pod);
    indexed || tally.uncounted_succeeded.contains(&uid) || tally.uncounted_failed.contains(&uid) || is_ignored(job, pod)
}

/// Whether the pod is the latest failure of an index that will be tried again: it holds the index's count till then.
fn is_pending(latest: &BTreeMap<i32, Failure<'_>>, tally: &Tally, pod: &Arc<Pod>) -> bool {
    let index = view::index(pod).filter(|i| !tally.failed_indexes.0.contains(i) && !tally.completed.0.contains(i));
    index.and_then(|index| latest.get(&index)).is_some_and(|failure| Arc::ptr_eq(failure.pod, pod))
}

/// Whether the failure policy takes the pod out of all counts.
fn is_ignored(job: &Job, pod: &Pod) -> bool {
    let spec = job.spec.as_ref();
    view::has_failed(job, pod) && spec.is_some_and(|spec| policy::rule_on(spec, pod) == Ruling::Ignore)
}

fn tally_is_open(tally: &Tally) -> bool {
    !tally.uncounted_succeeded.is_empty() || !tally.uncounted_failed.is_empty()
}

fn tally(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>]) -> Tally {
    let old = job.status.clone().unwrap_or_default();
    let completions = spec.completions.unwrap_or(i32::MAX);
    let uncounted = old.uncounted_terminated_pods.unwrap_or_default();
    let held: BTreeSet<String> = pods.iter().filter(|pod| view::has_finalizer(pod)).map(|pod| uid(pod)).collect();
    let split = |uids: Option<Vec<String>>| -> (Vec<String>, i32) {
        let (open, closed): (Vec<_>, Vec<_>) = uids.unwrap_or_default().into_iter().partition(|uid| held.contains(uid));
        (open, i32::try_from(closed.len()).unwrap_or(0))
    };
    let (mut uncounted_succeeded, newly_succeeded) = split(uncounted.succeeded);
    let (mut uncounted_failed, newly_failed) = split(uncounted.failed);
    let mut completed = Indexes::parse(old.completed_indexes.as_deref().unwrap_or_default(), completions);
    let mut failed_indexes = Indexes::parse(old.failed_indexes.as_deref().unwrap_or_default(), completions);
    let mut fail_job = None;
    for pod in pods.iter().filter(|pod| view::has_finalizer(pod)) {
        if pods::is_succeeded(pod) {
            if view::is_indexed(job) {
                completed.0.extend(view::index(pod).filter(|index| *index < completions));
            } else if !uncounted_succeeded.contains(&uid(pod)) {
                uncounted_succeeded.push(uid(pod));
            }
        } else if view::has_failed(job, pod) {
            let ruling = policy::rule_on(spec, pod);
            if per_index::is_last(spec, pod, &ruling) {
                failed_indexes.0.extend(view::index(pod));
            }
            if let Ruling::FailJob(message) = &ruling {
                fail_job.get_or_insert(message.clone());
            }
            if ruling != Ruling::Ignore && !uncounted_failed.contains(&uid(pod)) {
                uncounted_failed.push(uid(pod));
            }
        }
    }
    let succeeded = if view::is_indexed(job) { completed.len() } else { old.succeeded.unwrap_or(0) + newly_succeeded };
    let failed = old.failed.unwrap_or(0) + newly_failed;
    Tally { succeeded, failed, completed, failed_indexes, uncounted_succeeded, uncounted_failed, fail_job }
}

impl Tally {
    fn all_succeeded(&self) -> i32 {
        self.succeeded + i32::try_from(self.uncounted_succeeded.len()).unwrap_or(0)
    }

    fn all_failed(&self) -> i32 {
        self.failed + i32::try_from(self.uncounted_failed.len()).unwrap_or(0)
    }
}

/// How the job ends.
#[derive(Debug)]
struct Verdict {
    complete: bool,
    reason: String,
    message: String,
}

fn failure(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict { complete: false, reason: reason.to_owned(), message: message.into() }
}

fn success(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict { complete: true, reason: reason.to_owned(), message: message.into() }
}

fn verdict(
    job: &Job,
    spec: &JobSpec,
    tally: &Tally,
    pods: &[Arc<Pod>],
    active: usize,
    started: Option<&Time>,
    now: Timestamp,
) -> Option<Verdict> {
    for (target, complete) in [("SuccessCriteriaMet", true), ("FailureTarget", false)] {
        let decided = conditions::find(view::conditions(job), target).filter(|c| c.status == "True");
        if let Some(JobCondition { reason, message, .. }) = decided {
            let (reason, message) = (reason.clone().unwrap_or_default(), message.clone().unwrap_or_default());
            return Some(Verdict { complete, reason, message });
        }
    }
    if let Some(message) = &tally.fail_job {
        return Some(failure("PodFailurePolicy", message.clone()));
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    if tally.all_failed() > limit || restarts_exceed(spec, pods, limit) {
        return Some(failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    let late = started.zip(spec.active_deadline_seconds).is_some_and(|(started, seconds)| {
        !view::is_suspended(job) && now.duration_since(started.0) >= SignedDuration::from_secs(seconds)
    });
    if late {
        return Some(failure("DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    if !tally.failed_indexes.0.is_empty() {
        if spec.max_failed_indexes.is_some_and(|most| tally.failed_indexes.len() > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(failure("MaxFailedIndexesExceeded", message));
        }
        let settled = tally.failed_indexes.len() + tally.completed.len();
        if spec.completions.is_some_and(|completions| settled >= completions) {
            return Some(failure("FailedIndexes", "Job has failed indexes"));
        }
    }
    if let Some(rule) = policy::success_rule(spec, &tally.completed) {
        return Some(success("SuccessPolicy", format!("Matched rules at index {rule}")));
    }
    let complete = match spec.completions {
        None => tally.all_succeeded() > 0 && active == 0,
        Some(completions) => tally.all_succeeded() >= completions,
    };
    complete.then(|| success("CompletionsReached", "Reached expected number of succeeded pods"))
}

/// With the restart policy OnFailure the containers' restarts are the failures.
fn restarts_exceed(spec: &JobSpec, pods: &[Arc<Pod>], limit: i32) -> bool {
    let on_failure = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    let live = pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let restarts: i32 = live.flat_map(|pod| pods::container_statuses(pod)).map(|c| c.restart_count).sum();
    on_failure && if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn condition(type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: None,
    }
}

/// First says what the end will be; when the last pod is gone and counted, that it has come.
fn conclude(
    plan: &mut Plan,
    conditions: &mut Vec<JobCondition>,
    verdict: &Verdict,
    pods_left: usize,
    open: bool,
    now: Timestamp,
) {
    let (target, end) = if verdict.complete { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
    conditions::set(conditions, condition(target, "True", &verdict.reason, &verdict.message, now), now);
    if pods_left > 0 || open {
        return;
    }
    conditions::set(conditions, condition(end, "True", &verdict.reason, &verdict.message, now), now);
    if verdict.complete {
        plan.status.completion_time = Some(Time(now));
        plan.event = Some((true, "Completed".to_owned(), "Job completed".to_owned()));
    } else {
        plan.event = Some((false, verdict.reason.clone(), verdict.message.clone()));
    }
}

fn suspend(plan: &mut Plan, conditions: &mut Vec<JobCondition>, job: &Job, now: Timestamp) {
    conditions::set(conditions, condition("Suspended", "True", "JobSuspended", "Job suspended", now), now);
    plan.status.start_time = None;
    if !view::was_suspended(job) {
        plan.event = Some((true, "Suspended".to_owned(), "Job suspended".to_owned()));
    }
}

fn resume(plan: &mut Plan, conditions: &mut Vec<JobCondition>, job: &Job, now: Timestamp) {
    if view::was_suspended(job) {
        conditions::set(conditions, condition("Suspended", "False", "JobResumed", "Job resumed", now), now);
        plan.status.start_time = Some(Time(now));
        plan.event = Some((true, "Resumed".to_owned(), "Job resumed".to_owned()));
    }
}

/// Brings the number of active pods to what is wanted; `latest` are the failures whose index waits for another try.
fn manage(
    plan: &mut Plan,
    state: &State<'_>,
    spec: &JobSpec,
    tally: &Tally,
    (active, latest): (&[Arc<Pod>], &BTreeMap<i32, Failure<'_>>),
) {
    let parallelism = spec.parallelism.unwrap_or(1).max(0);
    let wanted = match spec.completions {
        None if tally.all_succeeded() > 0 => i32::try_from(active.len()).unwrap_or(i32::MAX).min(parallelism),
        None => parallelism,
        Some(completions) => parallelism.min(completions - tally.all_succeeded()).max(0),
    };
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let indexed = view::is_indexed(state.job);
    let mut keep: Vec<&Arc<Pod>> = active.iter().collect();
    keep.sort_by_key(|pod| {
        (!pods::is_ready(pod), pods::node_name(pod).is_none(), pod.metadata.creation_timestamp.clone())
    });
    let mut taken = BTreeSet::new();
    if indexed {
        // Two pods of one index, or one of an index that is done, are not needed.
        keep.retain(|pod| {
            let needed = view::index(pod).is_some_and(|i| !tally.completed.0.contains(&i) && taken.insert(i));
            if !needed {
                plan.delete.push((*pod).clone());
            }
            needed
        });
    }
    if keep.len() > wanted {
        plan.delete.extend(keep.split_off(wanted).into_iter().cloned());
        plan.delete.truncate(BURST);
        return;
    }
    let waiting = if view::replaces_failed_only(state.job) {
        state.pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod)).count()
    } else {
        0
    };
    let missing = wanted.saturating_sub(keep.len() + waiting).min(BURST);
    if missing == 0 {
        return;
    }
    if spec.backoff_limit_per_index.is_none()
        && let Some(wait) = backoff(state)
    {
        plan.again = Some(Duration::try_from(wait).unwrap_or_default());
        return;
    }
    if !indexed {
        plan.create = vec![None; missing];
        return;
    }
    let open = |i: &i32| !tally.completed.0.contains(i) && !tally.failed_indexes.0.contains(i) && !taken.contains(i);
    for index in (0..spec.completions.unwrap_or(0)).filter(open) {
        match latest.get(&index).and_then(|failure| failure.wait(state.now)) {
            Some(wait) => {
                let wait = Duration::try_from(wait).unwrap_or_default();
                plan.again = Some(plan.again.map_or(wait, |again| again.min(wait)));
            }
            None => plan.create.push(Some(index)),
        }
        if plan.create.len() == missing {
            break;
        }
    }
    if spec.backoff_limit_per_index.is_some() {
        plan.counts = Some(latest.iter().map(|(index, failure)| (*index, failure.count)).collect());
    }
}

/// How long the job as a whole makes no pod.
fn backoff(state: &State<'_>) -> Option<SignedDuration> {
    let pods = || state.pods.iter().map(|pod| &**pod);
    let failed: Vec<&Pod> =
        pods().filter(|pod| view::has_failed(state.job, pod) && !is_ignored(state.job, pod)).collect();
    let succeeded: Vec<&Pod> = pods().filter(|pod| pods::is_succeeded(pod)).collect();
    view::backoff(&failed, &succeeded, state.now)
}

/// Comes back when the deadline does.
fn deadline(plan: &mut Plan, spec: &JobSpec, now: Timestamp) {
    if let (Some(started), Some(seconds)) = (&plan.status.start_time, spec.active_deadline_seconds) {
        let left = SignedDuration::from_secs(seconds).saturating_sub(now.duration_since(started.0));
        if let Ok(left) = Duration::try_from(left) {
            plan.again = Some(plan.again.map_or(left, |again| again.min(left)));
        }
    }
}

fn write_counts(
    status: &mut JobStatus,
    job: &Job,
    tally: &Tally,
    running: usize,
    active: &[Arc<Pod>],
    terminating: usize,
) {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let some = |n: i32| Some(n).filter(|n| *n > 0);
    status.active = some(count(running));
    status.ready = Some(count(active.iter().filter(|pod| pods::is_ready(pod)).count()));
    status.terminating = Some(count(terminating));
    status.succeeded = some(tally.succeeded);
    status.failed = some(tally.failed);
    if view::is_indexed(job) {
        status.completed_indexes = Some(tally.completed.text()).filter(|text| !text.is_empty());
        status.failed_indexes = Some(tally.failed_indexes.text()).filter(|text| !text.is_empty());
    }
    let list = |uids: &[String]| Some(uids.to_vec()).filter(|uids| !uids.is_empty());
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
        succeeded: list(&tally.uncounted_succeeded),
        failed: list(&tally.uncounted_failed),
    });
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
