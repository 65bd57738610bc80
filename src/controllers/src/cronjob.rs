//! Cron jobs: make a job whenever the schedule says so.

mod plan;
mod schedule;

use client::retry::{is_already_exists, optional};
use client::{EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, PostParams};

use self::schedule::Schedule;
use crate::claim;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};
use crate::template::message;
use crate::writes::{LOOK_AGAIN, Writes};

struct Controller {
    context: Context,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    writes: Writes,
    events: EventRecorder,
}

pub(crate) fn start(context: &Context) {
    let (crons, jobs) = (context.informers.of::<CronJob>(), context.informers.of::<Job>());
    let queue = context.queue("cronjob");
    context.feed_own(&crons, &queue);
    let owners = crons.clone();
    context.feed(&jobs, &queue, move |change| claim::owner_keys(change, &owners, |_| None));
    let ready = vec![synced(&crons), synced(&jobs)];
    let events = context.recorder("cronjob-controller");
    let controller = Controller { context: context.clone(), crons, jobs, writes: Writes::default(), events };
    context.run(queue, controller, ready);
}

/// The schedule and its time zone, or why there is none.
fn parse(cron: &CronJob) -> Result<(Schedule, TimeZone), (&'static str, String)> {
    let spec = &cron.spec;
    let zone = match spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => {
            TimeZone::get(name).map_err(|error| ("UnknownTimeZone", format!("invalid timeZone: {name:?}: {error}")))?
        }
    };
    let unparsable = |error| ("UnparseableSchedule", format!("unparseable schedule: {:?}: {error}", spec.schedule));
    Ok((Schedule::parse(&spec.schedule).map_err(unparsable)?, zone))
}

impl Controller {
    async fn delete(&self, key: &ObjectKey, cron: &CronJob, job: &Job) -> Result<(), ReconcileError> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        self.writes.deleted(key, job);
        let api = self.context.api::<Job>(&key.namespace);
        optional(api.delete(name, &DeleteParams::background()).await)?;
        self.events.event(cron, EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
        Ok(())
    }

    /// Makes the job that is due and returns it.
    async fn create(&self, key: &ObjectKey, cron: &CronJob, job: &Job) -> Result<Option<Job>, ReconcileError> {
        let name = job.metadata.name.clone().unwrap_or_default();
        match self.context.api::<Job>(&key.namespace).create(&PostParams::default(), job).await {
            Ok(created) => {
                self.writes.wrote(key, &created);
                self.events.event(cron, EventType::Normal, "SuccessfulCreate", format!("Created job {name}"));
                Ok(Some(created))
            }
            Err(error) if is_already_exists(&error) => Ok(None),
            Err(error) => {
                let text = format!("Error creating job: {}", message(&error));
                self.events.event(cron, EventType::Warning, "FailedCreate", text);
                Err(error.into())
            }
        }
    }

    async fn write_status(&self, cron: &CronJob, status: CronJobStatus) -> Result<(), ReconcileError> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let object = CronJob { status: Some(status), ..cron.clone() };
        let api = self.context.api::<CronJob>(cron.metadata.namespace.as_deref().unwrap_or_default());
        let name = cron.metadata.name.as_deref().unwrap_or_default();
        api.replace_status(name, &PostParams::default(), &object).await?;
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(cron) = self.crons.get_key(&key) else {
            self.writes.forget(&key);
            return Ok(Next::Done);
        };
        if !self.writes.settled(&key, &self.jobs) {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let (schedule, zone) = match parse(&cron) {
            Ok(parsed) => parsed,
            Err((reason, message)) => {
                self.events.event(&*cron, EventType::Warning, reason, message);
                return Ok(Next::Done);
            }
        };
        let uid = cron.metadata.uid.as_deref().unwrap_or_default();
        let mut jobs = self.jobs.by_owner(uid);
        jobs.retain(|job| claim::is_controlled_by(&job.metadata, uid));
        let state = plan::State { cron: &cron, schedule: &schedule, zone: &zone, jobs: &jobs, now: Timestamp::now() };
        let plan = plan::plan(&state);
        for job in plan.forget.iter().chain(&plan.replace) {
            self.delete(&key, &cron, job).await?;
        }
        if let Some((reason, message)) = plan.skipped {
            self.events.event(&*cron, EventType::Warning, reason, message);
        }
        let mut active = plan.active;
        active.retain(|job| !plan.replace.iter().any(|gone| gone.metadata.uid == job.uid));
        let mut last = cron.status.as_ref().and_then(|s| s.last_schedule_time.clone());
        if let Some((at, job)) = &plan.create {
            active.extend(self.create(&key, &cron, job).await?.iter().map(plan::reference));
            last = Some(Time(*at));
        }
        let status = CronJobStatus {
            active: Some(active).filter(|active| !active.is_empty()),
            last_schedule_time: last,
            last_successful_time: plan.last_success,
        };
        self.write_status(&cron, status).await?;
        Ok(Next::soonest([plan.again]))
    }
}
