//! Whether a cron job is due, what stands in its way, and which of its jobs are history. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::schedule::Schedule;
use crate::claim::controller_reference;
use crate::job::view::finished;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missed times beyond this are too many to be counted.
const MANY: usize = 100;

pub(super) struct State<'a> {
    pub(super) cron: &'a CronJob,
    pub(super) schedule: &'a Schedule,
    pub(super) zone: &'a TimeZone,
    /// The jobs it owns.
    pub(super) jobs: &'a [Arc<Job>],
    pub(super) now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Option<(Timestamp, Job)>,
    /// Running jobs that the next one replaces.
    pub(super) replace: Vec<Arc<Job>>,
    /// Finished jobs beyond the history limits.
    pub(super) forget: Vec<Arc<Job>>,
    pub(super) active: Vec<ObjectReference>,
    pub(super) last_success: Option<Time>,
    /// Why a job that was due is not made: reason and message.
    pub(super) skipped: Option<(&'static str, String)>,
    pub(super) again: Option<Duration>,
}

fn is_complete(job: &Job) -> bool {
    finished(job).is_some_and(|condition| condition.type_ == "Complete")
}

pub(super) fn plan(state: &State<'_>) -> Plan {
    let spec = &state.cron.spec;
    let running: Vec<Arc<Job>> = state.jobs.iter().filter(|job| finished(job).is_none()).cloned().collect();
    let mut plan = Plan { forget: history(state), ..Plan::default() };
    let ended =
        state.jobs.iter().filter(|job| is_complete(job)).filter_map(|j| j.status.as_ref()?.completion_time.clone());
    plan.last_success = ended.chain(state.cron.status.iter().filter_map(|s| s.last_successful_time.clone())).max();
    plan.active = running.iter().map(|job| reference(job)).collect();
    if state.cron.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
        return plan;
    }
    let next = state.schedule.next(state.now, state.zone);
    plan.again = next.and_then(|next| Duration::try_from(next.duration_since(state.now)).ok());
    let Some(due) = due(state) else { return plan };
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    if deadline.is_some_and(|deadline| state.now.duration_since(due) > deadline) {
        plan.skipped = Some(("MissSchedule", format!("Missed scheduled time to start a job: {due}")));
        return plan;
    }
    let name = job_name(state.cron, due);
    if state.jobs.iter().any(|job| job.metadata.name.as_deref() == Some(&name)) {
        return plan;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let why = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.skipped = Some(("JobAlreadyActive", why.to_owned()));
            return plan;
        }
        Some("Replace") => plan.replace = running,
        _ => {}
    }
    plan.create = Some((due, job(state.cron, name, due)));
    plan
}

/// The latest time at which a job should have started and has not.
fn due(state: &State<'_>) -> Option<Timestamp> {
    let created = state.cron.metadata.creation_timestamp.as_ref().map_or(state.now, |t| t.0);
    let last = state.cron.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()).map_or(created, |t| t.0);
    let deadline = state.cron.spec.starting_deadline_seconds;
    let earliest = deadline.and_then(|s| state.now.checked_sub(SignedDuration::from_secs(s)).ok());
    let mut from = last.max(earliest.unwrap_or(last));
    let mut found = None;
    for _ in 0..MANY {
        match state.schedule.next(from, state.zone) {
            Some(next) if next <= state.now => {
                found = Some(next);
                from = next;
            }
            _ => return found,
        }
    }
    // Very many were missed: only the latest matters, and it lies within the last interval.
    let span = state.schedule.next(from, state.zone)?.duration_since(from);
    let mut from = state.now.checked_sub(span * 2).ok()?.max(from);
    while let Some(next) = state.schedule.next(from, state.zone).filter(|next| *next <= state.now) {
        found = Some(next);
        from = next;
    }
    found
}

/// Minutes since the epoch make the name, so that one time has one job.
fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.metadata.name.as_deref().unwrap_or_default(), at.as_second() / 60)
}

fn job(cron: &CronJob, name: String, at: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.to_owned(), at.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

pub(super) fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

fn history(state: &State<'_>) -> Vec<Arc<Job>> {
    let spec = &state.cron.spec;
    let limits =
        [(true, spec.successful_jobs_history_limit.unwrap_or(3)), (false, spec.failed_jobs_history_limit.unwrap_or(1))];
    let beyond = |(complete, limit): (bool, i32)| {
        let ended = state.jobs.iter().filter(|j| finished(j).is_some() && is_complete(j) == complete);
        let mut ended: Vec<_> = ended.filter(|j| j.metadata.deletion_timestamp.is_none()).cloned().collect();
        ended.sort_by_key(|job| job.status.as_ref().and_then(|s| s.start_time.clone()));
        ended.truncate(ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
        ended
    };
    limits.into_iter().flat_map(beyond).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cron(policy: &str, last: &str) -> CronJob {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"schedule": "*/10 * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 1,
                     "jobTemplate": {"spec": {"template": {}}}},
            "status": {"lastScheduleTime": last}
        }))
        .unwrap()
    }

    fn ended(name: &str, started: &str) -> Arc<Job> {
        let job = json!({"metadata": {"name": name}, "status": {"startTime": started, "completionTime": started,
                         "conditions": [{"type": "Complete", "status": "True"}]}});
        Arc::new(serde_json::from_value(job).unwrap())
    }

    fn run(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
        let schedule = Schedule::parse("*/10 * * * *").unwrap();
        plan(&State { cron, schedule: &schedule, zone: &TimeZone::UTC, jobs, now: now.parse().unwrap() })
    }

    #[test]
    fn only_the_latest_missed_time_is_made_up_for() {
        let plan = run(&cron("Allow", "2026-01-01T00:00:00Z"), &[], "2026-01-01T00:35:00Z");
        let (at, job) = plan.create.unwrap();
        assert_eq!(at.to_string(), "2026-01-01T00:30:00Z");
        assert_eq!(job.metadata.name.unwrap(), format!("c-{}", at.as_second() / 60));
        assert_eq!(plan.again, Some(Duration::from_secs(300)));
        assert!(run(&cron("Allow", "2026-01-01T00:30:00Z"), &[], "2026-01-01T00:35:00Z").create.is_none());
        let late = run(&cron("Allow", "2026-01-01T00:00:00Z"), &[], "2027-01-01T00:05:00Z");
        assert_eq!(late.create.unwrap().0.to_string(), "2027-01-01T00:00:00Z");
    }

    #[test]
    fn a_running_job_is_awaited_or_replaced_as_the_policy_says() {
        let running = Arc::new(Job::default());
        let now = "2026-01-01T00:15:00Z";
        let plan = run(&cron("Forbid", "2026-01-01T00:00:00Z"), std::slice::from_ref(&running), now);
        assert!(plan.create.is_none() && plan.skipped.is_some());
        let plan = run(&cron("Replace", "2026-01-01T00:00:00Z"), &[running], now);
        assert_eq!((plan.create.is_some(), plan.replace.len()), (true, 1));
    }

    #[test]
    fn a_time_past_its_deadline_is_given_up() {
        let mut cron = cron("Allow", "2026-01-01T00:00:00Z");
        cron.spec.starting_deadline_seconds = Some(60);
        assert!(run(&cron, &[], "2026-01-01T00:15:00Z").create.is_none());
        assert!(run(&cron, &[], "2026-01-01T00:10:30Z").create.is_some());
    }

    #[test]
    fn history_keeps_the_latest() {
        let jobs = [ended("old", "2026-01-01T00:10:00Z"), ended("new", "2026-01-01T00:20:00Z")];
        let plan = run(&cron("Allow", "2026-01-01T00:20:00Z"), &jobs, "2026-01-01T00:21:00Z");
        assert_eq!(plan.forget[0].metadata.name.as_deref(), Some("old"));
        assert_eq!((plan.forget.len(), plan.last_success.unwrap().0.to_string()), (1, "2026-01-01T00:20:00Z".into()));
    }
}
