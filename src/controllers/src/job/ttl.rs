//! Deletes finished jobs after the time their spec gives them.

use std::time::Duration;

use client::retry::optional;
use client::{Informer, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Preconditions};

use super::view;
use crate::conditions::Conditional;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};

struct Controller {
    context: Context,
    jobs: Informer<Job>,
}

pub(super) fn start(context: &Context) {
    let jobs = context.informers.of::<Job>();
    let queue = context.queue("ttl-after-finished");
    context.feed(&jobs, &queue, |change| {
        let job = change.object();
        let limited = job.spec.as_ref().is_some_and(|s| s.ttl_seconds_after_finished.is_some());
        let due = limited && view::finished(job).is_some() && job.metadata.deletion_timestamp.is_none();
        if due { vec![ObjectKey::of(&**job)] } else { Vec::new() }
    });
    let ready = vec![synced(&jobs)];
    context.run(queue, Controller { context: context.clone(), jobs }, ready);
}

/// How long a finished job has left; `None` if it stays.
fn time_left(job: &Job, now: Timestamp) -> Option<SignedDuration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let finished = view::finished(job)?.transition()?;
    Some(SignedDuration::from_secs(i64::from(ttl)) - now.duration_since(finished))
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let api = self.context.api::<Job>(&key.namespace);
        let Some(cached) = self.jobs.get_key(&key) else { return Ok(Next::Done) };
        let Some(left) = time_left(&cached, Timestamp::now()) else { return Ok(Next::Done) };
        if left.is_positive() {
            return Ok(Next::After(Duration::try_from(left).unwrap_or_default()));
        }
        // Read live: the time may have been lengthened.
        let Some(job) = optional(api.get(&key.name).await)? else { return Ok(Next::Done) };
        if time_left(&job, Timestamp::now()).is_some_and(|left| !left.is_positive()) {
            let preconditions =
                Some(Preconditions { uid: job.metadata.uid, resource_version: job.metadata.resource_version });
            let params = DeleteParams { preconditions, ..DeleteParams::foreground() };
            optional(api.delete(&key.name, &params).await)?;
        }
        Ok(Next::Done)
    }
}
