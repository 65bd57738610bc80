//! Cron jobs: start a job at each scheduled time, one timer for the next one. A job's name is made of its time, so
//! that a time is never served twice, whatever was lost in between.

mod plan;
mod zone;

use std::sync::Arc;
use std::time::Duration;

use client::retry::{is_already_exists, is_conflict, is_namespace_terminating, optional};
use client::{EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};
use crate::writes::{LOOK_AGAIN, Writes};
use crate::{claim, template};

/// Timers run on a clock that is never set; the schedule is by one that may be. So no wait is longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

struct Controller {
    context: Context,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    /// Jobs made and deleted.
    writes: Writes,
    /// Statuses written: one that is out of date would start a job anew.
    statuses: Writes,
    events: EventRecorder,
}

pub(crate) fn start(context: &Context) {
    let (crons, jobs) = (context.informers.of::<CronJob>(), context.informers.of::<Job>());
    let queue = context.queue("cronjob");
    context.feed_own(&crons, &queue);
    let owners = crons.clone();
    context.feed(&jobs, &queue, move |change| claim::owner_keys(change, &owners, |_: &CronJob| None));
    let ready = vec![synced(&crons), synced(&jobs)];
    let events = context.recorder("cronjob-controller");
    let (writes, statuses) = (Writes::default(), Writes::default());
    context.run(queue, Controller { context: context.clone(), crons, jobs, writes, statuses, events }, ready);
}

/// The zone that the schedule is meant in: the controllers' own is UTC.
fn zone_of(cron: &CronJob) -> Result<TimeZone, String> {
    let spec = &cron.spec;
    let prefixed = plan::prefixed_zone(&spec.schedule).map(|(zone, _)| zone);
    let Some(name) = spec.time_zone.as_deref().or(prefixed) else { return Ok(TimeZone::UTC) };
    zone::find(name).ok_or_else(|| format!("invalid timeZone: \"{name}\": unknown time zone {name}"))
}

impl Controller {
    async fn delete(&self, key: &ObjectKey, cron: &CronJob, job: &Job) -> Result<(), ReconcileError> {
        self.writes.deleted(key, job);
        let preconditions = Preconditions { uid: job.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        let name = plan::name(job);
        match optional(self.context.api::<Job>(&key.namespace).delete(name, &params).await) {
            Err(error) if !is_conflict(&error) => {
                self.writes.forget(key);
                self.events.event(
                    cron,
                    EventType::Warning,
                    "FailedDelete",
                    format!("Deleted job: {}", template::message(&error)),
                );
                Err(error.into())
            }
            Err(_) | Ok(None) => Ok(()),
            Ok(Some(_)) => {
                self.events.event(cron, EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
                Ok(())
            }
        }
    }

    /// Creates the job, or finds that an earlier attempt did.
    async fn create(&self, key: &ObjectKey, cron: &CronJob, job: &Job) -> Result<Option<Job>, ReconcileError> {
        let api = self.context.api::<Job>(&key.namespace);
        match api.create(&PostParams::default(), job).await {
            Ok(created) => {
                self.writes.wrote(key, &created);
                let message = format!("Created job {}", plan::name(&created));
                self.events.event(cron, EventType::Normal, "SuccessfulCreate", message);
                Ok(Some(created))
            }
            Err(error) if is_already_exists(&error) => {
                let found = api.get(plan::name(job)).await?;
                if claim::is_controlled_by(&found.metadata, cron.metadata.uid.as_deref().unwrap_or_default()) {
                    return Ok(Some(found));
                }
                let message = format!("Error creating job: {}", template::message(&error));
                self.events.event(cron, EventType::Warning, "FailedCreate", message);
                Err(error.into())
            }
            Err(error) if is_namespace_terminating(&error) => Ok(None),
            Err(error) => {
                let message = format!("Error creating job: {}", template::message(&error));
                self.events.event(cron, EventType::Warning, "FailedCreate", message);
                Err(error.into())
            }
        }
    }

    async fn write_status(&self, key: &ObjectKey, cron: &CronJob, status: CronJobStatus) -> Result<(), ReconcileError> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let written = CronJob { status: Some(status), ..cron.clone() };
        let api = self.context.api::<CronJob>(&key.namespace);
        if let Some(stored) = optional(api.replace_status(&key.name, &PostParams::default(), &written).await)? {
            self.statuses.wrote(key, &stored);
        }
        Ok(())
    }

    async fn carry_out(&self, key: &ObjectKey, cron: &CronJob, plan: plan::Plan) -> Result<(), ReconcileError> {
        for plan::Note(kind, reason, message) in plan.notes {
            self.events.event(cron, kind, reason, message);
        }
        for job in &plan.delete {
            self.delete(key, cron, job).await?;
        }
        let mut status = plan.status;
        if let Some((job, at)) = plan.create
            && let Some(created) = self.create(key, cron, &job).await?
        {
            plan::started(&mut status, &created, at);
        }
        self.write_status(key, cron, status).await
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(cron) = self.crons.get_key(&key) else {
            self.writes.forget(&key);
            self.statuses.forget(&key);
            return Ok(Next::Done);
        };
        if !self.writes.settled(&key, &self.jobs) || !self.statuses.settled(&key, &self.crons) {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let uid = cron.metadata.uid.as_deref().unwrap_or_default();
        let mut jobs: Vec<Arc<Job>> = self.jobs.by_owner(uid);
        jobs.retain(|job| claim::is_controlled_by(&job.metadata, uid));
        let zone = zone_of(&cron);
        let plan = plan::plan(&cron, &jobs, zone.as_ref().map_err(Clone::clone), Timestamp::now());
        let next = plan.next;
        self.carry_out(&key, &cron, plan).await?;
        Ok(Next::soonest([next.map(|wait| wait.min(LONGEST_WAIT))]))
    }
}

#[cfg(test)]
mod tests;
