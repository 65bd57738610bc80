//! Cron jobs.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec};
use serde_json::Value;

use super::job_rules;
use crate::columns::{self, Column};
use crate::cron::Schedule;
use crate::defaults::{self, fill, fill_value};
use crate::field::{Errors, Path};
use crate::strategy::typed::{Generation, Rules, StatusPolicy};
use crate::validation::{labels, non_negative, required_one_of, text};

/// Jobs are called after their cron job, with eleven characters more.
const MAX_NAME: usize = 52;

pub struct CronJobRules;

impl Rules for CronJobRules {
    type Object = CronJob;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::workloads::CRON_JOB;

    fn default(job: &mut CronJob) {
        let spec = &mut job.spec;
        fill(&mut spec.concurrency_policy, "Allow");
        fill_value(&mut spec.suspend, false);
        fill_value(&mut spec.successful_jobs_history_limit, 3);
        fill_value(&mut spec.failed_jobs_history_limit, 1);
        defaults::pod::template(&mut spec.job_template.spec.get_or_insert_default().template);
    }

    fn validate(job: &CronJob, errors: &mut Errors) {
        spec(errors, &Path::root("spec"), &job.spec);
    }

    fn validate_create(job: &CronJob, errors: &mut Errors) {
        Self::validate(job, errors);
        let name = text(job.metadata.name.as_ref());
        if name.len() > MAX_NAME {
            errors.invalid(&Path::root("metadata").child("name"), name, "must be no more than 52 characters");
        }
    }

    fn cells(job: &CronJob, now: Timestamp) -> Vec<Value> {
        columns::workloads::cron_job(job, now)
    }
}

fn spec(errors: &mut Errors, path: &Path<'_>, spec: &CronJobSpec) {
    schedule(errors, path, spec);
    non_negative(errors, &path.child("startingDeadlineSeconds"), spec.starting_deadline_seconds.unwrap_or(0));
    let policies = ["Allow", "Forbid", "Replace"];
    required_one_of(errors, &path.child("concurrencyPolicy"), spec.concurrency_policy.as_deref(), &policies);
    let template = &path.child("jobTemplate");
    let meta = spec.job_template.metadata.as_ref();
    labels::labels(errors, &template.child("labels"), meta.and_then(|meta| meta.labels.as_ref()));
    labels::annotations(errors, &template.child("annotations"), meta.and_then(|meta| meta.annotations.as_ref()));
    let default = JobSpec::default();
    let job = spec.job_template.spec.as_ref().unwrap_or(&default);
    let job_path = &template.child("spec");
    if job.manual_selector.is_some() {
        let supported = ["nil", "false"];
        if job.manual_selector == Some(true) {
            errors.not_supported(&job_path.child("manualSelector"), true, &supported);
        }
    }
    job_rules::without_selector(errors, job_path, job);
    let limits = [
        ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
    ];
    for (field, limit) in limits {
        non_negative(errors, &path.child(field), limit.unwrap_or(0));
    }
}

fn schedule(errors: &mut Errors, path: &Path<'_>, spec: &CronJobSpec) {
    let schedule_path = &path.child("schedule");
    let schedule = spec.schedule.as_str();
    if schedule.is_empty() {
        errors.required(schedule_path, "");
    } else if schedule.contains("TZ") {
        errors.invalid(schedule_path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    } else if let Err(error) = Schedule::parse(schedule) {
        errors.invalid(schedule_path, schedule, &error.to_string());
    }
    let Some(zone) = &spec.time_zone else { return };
    let path = &path.child("timeZone");
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '/');
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    } else if !zone.chars().all(sound) {
        errors.invalid(path, zone, &format!("unknown time zone {zone}"));
    }
}

#[cfg(test)]
mod tests {
    use crate::strategy::{Context, strategy_for};
    use serde_json::{Value, json};

    fn create(spec: Value) -> Result<Value, String> {
        let context = Context { uid: "u-1", ..Context::sample(Some("default")) };
        let mut all = json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}}}}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let strategy = strategy_for("batch", "v1", "CronJob").unwrap();
        strategy.create(json!({"metadata": {"name": "c"}, "spec": all}), &context).map_err(|status| status.to_string())
    }

    #[test]
    fn cron_jobs_default_and_refuse() {
        let created = create(json!({})).unwrap();
        assert_eq!(created["spec"]["concurrencyPolicy"], "Allow");
        assert_eq!(created["spec"]["successfulJobsHistoryLimit"], 3);
        assert_eq!(
            create(json!({"schedule": "61 * * * *"})).unwrap_err(),
            "CronJob.batch \"c\" is invalid: spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61"
        );
        assert_eq!(
            create(json!({"schedule": "TZ=UTC 1 * * * *"})).unwrap_err(),
            "CronJob.batch \"c\" is invalid: spec.schedule: Invalid value: \"TZ=UTC 1 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        );
    }
}
