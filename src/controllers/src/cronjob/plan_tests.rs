//! What is started, stopped and cleared away when.

use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};

use super::*;

fn when(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

/// Every ten minutes, created at midnight, changed by `change`.
fn cron(change: impl FnOnce(&mut CronJobSpec)) -> CronJob {
    let mut spec = CronJobSpec { schedule: "*/10 * * * *".into(), ..CronJobSpec::default() };
    change(&mut spec);
    CronJob {
        metadata: ObjectMeta {
            name: Some("tick".into()),
            namespace: Some("ns".into()),
            creation_timestamp: Some(Time(when("00:00:00"))),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// A job started at `second`, with a condition that is true if it has ended.
fn job(name: &str, condition: Option<&str>, second: i64) -> Arc<Job> {
    let true_ = |type_: &str| JobCondition { type_: type_.into(), status: "True".into(), ..JobCondition::default() };
    Arc::new(Job {
        metadata: ObjectMeta { name: Some(name.into()), uid: Some(format!("uid-{name}")), ..ObjectMeta::default() },
        status: Some(JobStatus {
            conditions: condition.map(|type_| vec![true_(type_)]),
            start_time: Some(Time(Timestamp::from_second(second).unwrap())),
            ..JobStatus::default()
        }),
        ..Job::default()
    })
}

fn run(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
    plan(cron, jobs, Ok(&TimeZone::UTC), when(now))
}

fn created(plan: &Plan) -> Option<Timestamp> {
    plan.create.as_ref().map(|(_, at)| *at)
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.notes.iter().map(|note| note.1).collect()
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.delete.iter().map(|job| name(job)).collect()
}

#[test]
fn a_job_is_made_for_the_last_time_that_was_due_and_once_only() {
    let mut cron = cron(|_| ());
    let early = run(&cron, &[], "00:09:30");
    assert_eq!((created(&early), early.next), (None, Some(Duration::from_secs(30))));
    let late = run(&cron, &[], "00:25:00");
    assert_eq!((created(&late), late.next), (Some(when("00:20:00")), Some(Duration::from_secs(300))));
    let (made, at) = late.create.unwrap();
    assert_eq!(name(&made), format!("tick-{}", at.as_second() / 60));
    assert_eq!(made.metadata.annotations.unwrap()[SCHEDULED_AT], "2026-01-01T00:20:00Z");
    started(cron.status.get_or_insert_default(), &job("made", None, 0), at);
    let again = run(&cron, &[job("made", None, 0)], "00:29:00");
    assert_eq!((created(&again), again.next), (None, Some(Duration::from_secs(60))));
    assert!(again.notes.is_empty());
}

#[test]
fn many_missed_starts_are_told_and_only_the_last_is_made_up_for() {
    let plan = run(&cron(|_| ()), &[], "23:59:00");
    assert_eq!(created(&plan), Some(when("23:50:00")));
    assert_eq!(reasons(&plan), ["TooManyMissedTimes"]);
    let limited = run(&cron(|spec| spec.starting_deadline_seconds = Some(900)), &[], "23:59:00");
    assert_eq!(created(&limited), Some(when("23:50:00")));
    assert!(limited.notes.is_empty());
    let strict = run(&cron(|spec| spec.starting_deadline_seconds = Some(60)), &[], "23:59:00");
    assert_eq!(created(&strict), None);
}

#[test]
fn uneven_schedules_find_their_last_time_too() {
    let mut uneven = cron(|spec| spec.schedule = "0,1 0,12 * * *".into());
    uneven.metadata.creation_timestamp = Some(Time("2025-12-01T00:30:00Z".parse().unwrap()));
    assert_eq!(created(&run(&uneven, &[], "11:00:00")), Some(when("00:01:00")));
    // The last Monday was the 29th of December.
    uneven.spec.schedule = "0,1 0 * * 1".into();
    assert_eq!(created(&run(&uneven, &[], "11:00:00")), Some("2025-12-29T00:01:00Z".parse().unwrap()));
    uneven.spec.schedule = "@every 7s".into();
    let every = created(&run(&uneven, &[], "11:00:00")).unwrap();
    assert!(when("10:59:53") < every && every <= when("11:00:00"));
}

#[test]
fn a_running_job_forbids_or_is_replaced() {
    let running = [job("running", None, 0)];
    let status = || {
        let mut status = CronJobStatus::default();
        started(&mut status, &running[0], when("00:00:00"));
        Some(status)
    };
    let mut forbid = cron(|spec| spec.concurrency_policy = Some("Forbid".into()));
    forbid.status = status();
    let plan = run(&forbid, &running, "00:10:00");
    assert_eq!((created(&plan), reasons(&plan)), (None, vec!["JobAlreadyActive"]));
    let mut replace = cron(|spec| spec.concurrency_policy = Some("Replace".into()));
    replace.status = status();
    let plan = run(&replace, &running, "00:10:00");
    assert_eq!((created(&plan), deleted(&plan)), (Some(when("00:10:00")), vec!["running"]));
    assert_eq!(plan.status.active, None);
}

#[test]
fn ended_jobs_leave_the_active_list_and_the_oldest_go() {
    let jobs: Vec<_> = (1..=5).map(|n| job(&format!("done-{n}"), Some("Complete"), n)).collect();
    let mut cron = cron(|spec| spec.suspend = Some(true));
    started(cron.status.get_or_insert_default(), &jobs[4], when("00:00:00"));
    started(cron.status.get_or_insert_default(), &job("vanished", None, 0), when("00:00:00"));
    let plan = run(&cron, &jobs, "12:00:00");
    assert_eq!(deleted(&plan), ["done-1", "done-2"]);
    assert_eq!(reasons(&plan), ["SawCompletedJob", "MissingJob"]);
    assert_eq!((plan.status.active.as_ref(), created(&plan)), (None, None));
}

#[test]
fn what_cannot_be_understood_starts_nothing_and_says_so() {
    let plan = run(&cron(|spec| spec.schedule = "often".into()), &[], "12:00:00");
    assert_eq!((created(&plan), reasons(&plan)), (None, vec!["UnparseableSchedule"]));
    let lost = super::plan(&cron(|_| ()), &[], Err("unknown".into()), when("12:00:00"));
    assert_eq!((created(&lost), reasons(&lost)), (None, vec!["UnknownTimeZone"]));
    assert_eq!(prefixed_zone("TZ=Asia/Tokyo 0 9 * * *"), Some(("Asia/Tokyo", "0 9 * * *")));
}
