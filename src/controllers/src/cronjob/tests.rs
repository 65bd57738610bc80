//! The controller against an API server that behaves.

use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::batch::v1::{CronJobSpec, JobCondition};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::Config;

fn started(fake: &FakeApi) -> CancellationToken {
    let stop = CancellationToken::new();
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    start(&Context::new(fake.client(), Informers::new(fake.client()), config, stop.clone()));
    stop
}

/// Due for the first time long ago.
fn cron(schedule: &str) -> CronJob {
    CronJob {
        metadata: ObjectMeta {
            name: Some("tick".into()),
            namespace: Some("ns".into()),
            creation_timestamp: Some(Time(Timestamp::from_second(1_700_000_000).unwrap())),
            ..ObjectMeta::default()
        },
        spec: CronJobSpec { schedule: schedule.into(), ..CronJobSpec::default() },
        status: None,
    }
}

fn status(fake: &FakeApi) -> Option<CronJobStatus> {
    fake.get::<CronJob>("ns", "tick")?.status
}

#[tokio::test]
async fn a_missed_start_is_made_up_for_once_and_its_end_is_noted() {
    let fake = FakeApi::new();
    let _stop = started(&fake);
    fake.put(&cron("0 0 1 1 *")).unwrap();
    let active = fake.wait_for(|f| status(f)?.active).await.expect("a job is active");
    let mut job = fake.get::<Job>("ns", active[0].name.as_deref().unwrap()).expect("the job exists");
    let done = JobCondition { type_: "Complete".into(), status: "True".into(), ..JobCondition::default() };
    let now = Some(Time(Timestamp::now()));
    job.status = Some(k8s_openapi::api::batch::v1::JobStatus {
        conditions: Some(vec![done]),
        completion_time: now,
        ..Default::default()
    });
    fake.put(&job).unwrap();
    let ended = |s: &CronJobStatus| s.active.is_none() && s.last_successful_time.is_some();
    fake.wait_for(|f| status(f).filter(ended)).await.expect("its end is noted");
    assert_eq!(fake.list::<Job>().len(), 1);
}

#[tokio::test]
async fn an_unknown_zone_is_told() {
    let fake = FakeApi::new();
    let _stop = started(&fake);
    let mut lost = cron("@hourly");
    lost.spec.time_zone = Some("Mars/Olympus".into());
    fake.put(&lost).unwrap();
    let told = |f: &FakeApi| f.list::<Event>().into_iter().find(|e| e.reason.as_deref() == Some("UnknownTimeZone"));
    fake.wait_for(told).await.expect("an event");
    assert!(fake.list::<Job>().is_empty());
}
