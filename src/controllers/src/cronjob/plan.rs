//! What is due for one cron job: which job to start, which to stop or clear away, what to write down. Pure: time and
//! time zone are parameters.

use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use objects::cron::Schedule;

use crate::claim::controller_reference;
use crate::conditions;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Beyond this many starts missed in a row something is wrong, and somebody is told.
const MANY_MISSED: i64 = 100;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note(pub(super) EventType, pub(super) &'static str, pub(super) String);

fn normal(reason: &'static str, message: impl Into<String>) -> Note {
    Note(EventType::Normal, reason, message.into())
}

fn warning(reason: &'static str, message: impl Into<String>) -> Note {
    Note(EventType::Warning, reason, message.into())
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: CronJobStatus,
    pub(super) notes: Vec<Note>,
    /// Jobs to delete before anything is created.
    pub(super) delete: Vec<Arc<Job>>,
    /// A job to create, and when it was due.
    pub(super) create: Option<(Job, Timestamp)>,
    pub(super) next: Option<Duration>,
}

pub(super) fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

/// `Complete` or `Failed`, for a job that has ended.
fn ended(job: &Job) -> Option<&'static str> {
    let all = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    ["Complete", "Failed"].into_iter().find(|type_| conditions::is_true(all, type_))
}

pub(super) fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// `jobs` are those the cron job controls. `zone` is the error where the name of the zone is unknown.
pub(super) fn plan(cron: &CronJob, jobs: &[Arc<Job>], zone: Result<&TimeZone, String>, now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    take_stock(jobs, &mut plan);
    if cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let spec = &cron.spec;
    clear_away(spec, jobs, &mut plan);
    let zone = match zone {
        Ok(zone) => zone,
        Err(error) => {
            plan.notes.push(warning("UnknownTimeZone", error));
            return plan;
        }
    };
    if spec.suspend == Some(true) {
        return plan;
    }
    match Schedule::parse(bare(&spec.schedule)) {
        Ok(schedule) => start(cron, (&schedule, zone), jobs, now, &mut plan),
        Err(error) => {
            let message = format!("unparseable schedule: \"{}\" : {error}", spec.schedule);
            plan.notes.push(warning("UnparseableSchedule", message));
        }
    }
    plan
}

/// The schedule without a leading `TZ=…`, and the zone it names.
pub(super) fn prefixed_zone(schedule: &str) -> Option<(&str, &str)> {
    let rest = schedule.strip_prefix("CRON_TZ=").or_else(|| schedule.strip_prefix("TZ="))?;
    rest.split_once(' ').map(|(zone, rest)| (zone, rest.trim()))
}

fn bare(schedule: &str) -> &str {
    prefixed_zone(schedule).map_or(schedule, |(_, rest)| rest)
}

/// Brings the list of active jobs in line with the jobs there are.
fn take_stock(jobs: &[Arc<Job>], plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in jobs {
        let listed = active.iter().position(|reference| reference.uid == job.metadata.uid);
        match (listed, ended(job)) {
            (Some(at), Some(condition)) => {
                active.remove(at);
                let message = format!("Saw completed job: {}, condition: {condition}", name(job));
                plan.notes.push(normal("SawCompletedJob", message));
            }
            (None, None) => {
                let message = format!("Saw a job that the controller did not create or forgot: {}", name(job));
                plan.notes.push(warning("UnexpectedJob", message));
            }
            _ => {}
        }
        let completed = job.status.as_ref().and_then(|s| s.completion_time.as_ref());
        if ended(job) == Some("Complete")
            && completed.is_some_and(|at| plan.status.last_successful_time.as_ref().is_none_or(|last| last.0 < at.0))
        {
            plan.status.last_successful_time = completed.cloned();
        }
    }
    active.retain(|reference| {
        let exists = jobs.iter().any(|job| job.metadata.uid == reference.uid);
        if !exists {
            let name = reference.name.as_deref().unwrap_or_default();
            plan.notes.push(normal("MissingJob", format!("Active job went missing: {name}")));
        }
        exists
    });
    plan.status.active = Some(active).filter(|active| !active.is_empty());
}

/// Deletes the oldest ended jobs beyond the limits.
fn clear_away(spec: &CronJobSpec, jobs: &[Arc<Job>], plan: &mut Plan) {
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (condition, limit) in limits {
        let mut old: Vec<_> = jobs.iter().filter(|job| ended(job) == Some(condition)).cloned().collect();
        old.sort_by_key(|job| {
            (job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0), name(job).to_owned())
        });
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.retain(|job| job.metadata.deletion_timestamp.is_none());
        plan.delete.extend(old.into_iter().take(surplus));
    }
}

/// The time for which a job is due by `now`, and the next after that.
struct Due {
    at: Option<Timestamp>,
    next: Option<Timestamp>,
    missed: i64,
}

/// Finds the last scheduled time up to `now`, without stepping through all that were missed.
fn due(schedule: &Schedule, zone: &TimeZone, earliest: Timestamp, now: Timestamp) -> Result<Due, &'static str> {
    let Some(first) = schedule.next(earliest, zone) else { return Ok(Due { at: None, next: None, missed: 0 }) };
    if first > now {
        return Ok(Due { at: None, next: Some(first), missed: 0 });
    }
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return Ok(Due { at: Some(first), next: schedule.next(first, zone), missed: 0 });
    };
    let between = second.duration_since(first).as_secs();
    if between < 1 {
        return Err("time difference between two schedules is less than 1 second");
    }
    let missed = now.duration_since(first).as_secs() / between + 1;
    let (at, next) = match schedule {
        Schedule::Every(_) => {
            let latest = first + SignedDuration::from_secs((missed - 1) * between);
            (latest, schedule.next(latest, zone))
        }
        Schedule::At(_) => last_before(schedule, zone, first, now),
    };
    Ok(Due { at: Some(at), next, missed })
}

/// The last time up to `now`, and the next. Looks back a day, and ever further if the schedule is sparse.
fn last_before(
    schedule: &Schedule,
    zone: &TimeZone,
    first: Timestamp,
    now: Timestamp,
) -> (Timestamp, Option<Timestamp>) {
    let mut window = SignedDuration::from_hours(24);
    loop {
        let from = now.checked_sub(window).map_or(first, |from| from.max(first));
        let mut latest = (from == first).then_some(first);
        let mut next = schedule.next(from, zone);
        while let Some(time) = next.filter(|time| *time <= now) {
            latest = Some(time);
            next = schedule.next(time, zone);
        }
        if let Some(latest) = latest {
            return (latest, next);
        }
        window = window.saturating_mul(8);
    }
}

fn start(cron: &CronJob, (schedule, zone): (&Schedule, &TimeZone), jobs: &[Arc<Job>], now: Timestamp, plan: &mut Plan) {
    let spec = &cron.spec;
    let last = plan.status.last_schedule_time.as_ref().or(cron.metadata.creation_timestamp.as_ref());
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let mut earliest = last.map_or(now, |t| t.0);
    if let Some(limit) = deadline.and_then(|deadline| now.checked_sub(deadline).ok()) {
        earliest = earliest.max(limit);
    }
    let due = match due(schedule, zone, earliest, now) {
        Ok(due) => due,
        Err(error) => {
            let message = format!("invalid schedule: {} : {error}", spec.schedule);
            plan.notes.push(warning("InvalidSchedule", message));
            return;
        }
    };
    plan.next = due.next.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
    let Some(at) = due.at else { return };
    if due.missed > MANY_MISSED {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.notes.push(warning("TooManyMissedTimes", message));
    }
    if deadline.is_some_and(|deadline| at.checked_add(deadline).is_ok_and(|limit| limit < now)) {
        let when = at.to_zoned(zone.clone()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string();
        plan.notes.push(warning("MissSchedule", format!("Missed scheduled time to start a job: {when}")));
        return;
    }
    if plan.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == at) {
        return;
    }
    let is_active = |job: &Arc<Job>| ended(job).is_none();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if plan.status.active.is_some() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.notes.push(normal("JobAlreadyActive", message));
            return;
        }
        Some("Replace") => {
            plan.delete.extend(jobs.iter().filter(|job| is_active(job)).cloned());
            plan.status.active = None;
        }
        _ => {}
    }
    plan.create = Some((job(cron, at, zone), at));
}

/// The job for one scheduled time. Its name tells the time, so that no time gets two.
fn job(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let spec = &cron.spec;
    let meta = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let when = at.to_zoned(zone.clone());
    let when =
        if spec.time_zone.is_some() { when.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string() } else { at.to_string() };
    annotations.insert(SCHEDULED_AT.to_owned(), when);
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", at.as_second().div_euclid(60))),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

/// Notes in the status that `job` was started for `at`.
pub(super) fn started(status: &mut CronJobStatus, job: &Job, at: Timestamp) {
    let active = status.active.get_or_insert_default();
    if !active.iter().any(|reference| reference.uid == job.metadata.uid) {
        active.push(reference(job));
    }
    status.last_schedule_time = Some(Time(at));
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
