//! Jobs: generated selectors and labels, immutability.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use serde_json::Value;

use super::job_rules;
use crate::columns::{self, Column};
use crate::defaults::{self, fill, fill_value};
use crate::field::{Errors, Path};
use crate::strategy::typed::{Generation, Rules, StatusPolicy};
use crate::strategy::{Context, Part, Propagation, SelectableField};
use crate::validation::{immutable, non_negative};

const FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: "" },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: "" },
    SelectableField { label: "status.successful", path: &["status", "succeeded"], absent: "0" },
];

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";

pub struct JobRules;

impl Rules for JobRules {
    type Object = Job;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const FIELDS: &'static [SelectableField] = FIELDS;
    const COLUMNS: &'static [Column] = columns::workloads::JOB;
    const PROPAGATION: Propagation = Propagation::Orphan;

    fn default(job: &mut Job) {
        let spec = job.spec.get_or_insert_default();
        spec_defaults(spec);
        let template_labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        if job.metadata.labels.as_ref().is_none_or(BTreeMap::is_empty)
            && let Some(labels) = template_labels
        {
            job.metadata.labels = Some(labels);
        }
    }

    fn prepare_create(job: &mut Job, _context: &Context<'_>) {
        let (name, uid) = (job.metadata.name.clone().unwrap_or_default(), job.metadata.uid.clone().unwrap_or_default());
        if let Some(spec) = &mut job.spec
            && spec.manual_selector != Some(true)
        {
            generate_selector(spec, &name, &uid);
        }
        job.status = Some(JobStatus::default());
    }

    fn validate_create(job: &Job, errors: &mut Errors) {
        let default = JobSpec::default();
        let spec = job.spec.as_ref().unwrap_or(&default);
        job_rules::generated_selector(errors, &job.metadata, spec);
        job_rules::spec(errors, &Path::root("spec"), spec);
    }

    fn validate_update(new: &Job, old: &Job, errors: &mut Errors) {
        let default = JobSpec::default();
        let (spec, before) = (new.spec.as_ref().unwrap_or(&default), old.spec.as_ref().unwrap_or(&default));
        job_rules::spec(errors, &Path::root("spec"), spec);
        job_rules::update(errors, spec, before, old.status.as_ref());
    }

    fn validate_part(_part: Part, new: &Job, old: &Job, errors: &mut Errors) {
        let (Some(status), path) = (&new.status, &Path::root("status")) else { return };
        let counts = [
            ("active", status.active),
            ("succeeded", status.succeeded),
            ("failed", status.failed),
            ("ready", status.ready),
            ("terminating", status.terminating),
        ];
        for (field, count) in counts {
            non_negative(errors, &path.child(field), count.unwrap_or(0));
        }
        let before = old.status.as_ref();
        if let Some(done) = before.and_then(|status| status.completion_time.as_ref()) {
            immutable(errors, &path.child("completionTime"), &status.completion_time, &Some(done.clone()));
        }
        let ended = |status: &JobStatus, kind: &str| {
            status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
        };
        if ended(status, "Complete") && ended(status, "Failed") {
            errors.invalid(&path.child("conditions"), "", "cannot set Complete=True and Failed=true conditions");
        }
    }

    fn cells(job: &Job, now: Timestamp) -> Vec<Value> {
        columns::workloads::job(job, now)
    }
}

fn spec_defaults(spec: &mut JobSpec) {
    defaults::pod::template(&mut spec.template);
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    fill_value(&mut spec.parallelism, 1);
    fill_value(&mut spec.backoff_limit, if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
    fill(&mut spec.completion_mode, "NonIndexed");
    fill_value(&mut spec.suspend, false);
    fill_value(&mut spec.manual_selector, false);
    let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
    fill(&mut spec.pod_replacement_policy, replacement);
    if let Some(policy) = &mut spec.pod_failure_policy {
        for condition in policy.rules.iter_mut().flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
            fill(&mut condition.status, "True");
        }
    }
}

/// Pods of a job carry its name and UID, and its selector asks for the UID.
fn generate_selector(spec: &mut JobSpec, name: &str, uid: &str) {
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (key, value) in
        [("job-name", name), ("batch.kubernetes.io/job-name", name), ("controller-uid", uid), (UID_LABEL, uid)]
    {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let selector = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selector.entry(UID_LABEL.to_owned()).or_insert_with(|| uid.to_owned());
}

#[cfg(test)]
mod tests {
    use crate::strategy::{Context, Part, strategy_for};
    use serde_json::{Value, json};

    fn context() -> Context<'static> {
        Context { uid: "u-1", ..Context::sample(Some("default")) }
    }

    fn create(spec: Value) -> Result<Value, String> {
        let strategy = strategy_for("batch", "v1", "Job").unwrap();
        let object = strategy.decode(json!({"metadata": {"name": "j"}, "spec": spec})).map_err(|s| s.to_string())?;
        strategy.create(object, &context()).map_err(|status| status.to_string())
    }

    fn template(policy: Value) -> Value {
        json!({"spec": {"restartPolicy": policy, "containers": [{"name": "a", "image": "b"}]}})
    }

    #[test]
    fn jobs_get_a_selector_of_their_own() {
        let job = create(json!({"template": template(json!("Never"))})).unwrap();
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}));
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!(job["spec"]["backoffLimit"], 6);
        assert_eq!(job["spec"]["completions"], 1);
        assert_eq!(job["status"], json!({}));
    }

    #[test]
    fn the_restart_policy_has_to_let_jobs_end() {
        assert_eq!(
            create(json!({"template": template(Value::Null)})).unwrap_err(),
            "Job.batch \"j\" is invalid: spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported values: \"OnFailure\", \"Never\""
        );
    }

    #[test]
    fn the_template_is_immutable_and_parallelism_is_not() {
        let mut old = create(json!({"template": template(json!("Never"))})).unwrap();
        old["metadata"]["resourceVersion"] = json!("1");
        let strategy = strategy_for("batch", "v1", "Job").unwrap();
        let mut new = old.clone();
        new["spec"]["parallelism"] = json!(3);
        assert!(strategy.update(Part::Main, new, &old, &context()).is_ok());
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("z");
        let message = strategy.update(Part::Main, new, &old, &context()).unwrap_err().to_string();
        assert!(
            message.contains("spec.template: Invalid value: ") && message.ends_with(": field is immutable"),
            "{message}"
        );
    }
}
