//! Validation of job specifications, alone and in cron jobs.

use k8s_openapi::api::batch::v1::{JobSpec, JobStatus, PodFailurePolicy, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::field::{Errors, Path};
use crate::selector::Selector;
use crate::validation::{check, immutable, labels, non_negative, one_of, pod, shown, text};

/// A job that is created: its selector was generated, or is the user's.
pub(super) fn generated_selector(errors: &mut Errors, meta: &ObjectMeta, spec: &JobSpec) {
    if spec.manual_selector == Some(true) {
        return;
    }
    let path = Path::root("spec");
    let template_labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let expected = [
        ("job-name", text(meta.name.as_ref())),
        ("batch.kubernetes.io/job-name", text(meta.name.as_ref())),
        ("controller-uid", text(meta.uid.as_ref())),
        ("batch.kubernetes.io/controller-uid", text(meta.uid.as_ref())),
    ];
    for (key, value) in expected {
        let found = template_labels.and_then(|labels| labels.get(key)).map(String::as_str).unwrap_or_default();
        if found != value {
            let path = path.child("template.metadata.labels");
            let detail = format!("must be '{value}'");
            errors.invalid(&path.key(key), found, &detail);
        }
    }
    let selector = spec.selector.as_ref().and_then(|selector| selector.match_labels.as_ref());
    if selector.is_none_or(|labels| labels.len() > 1) {
        errors.invalid(&path.child("selector"), shown(&spec.selector), "`selector` not auto-generated");
    }
}

/// `ValidateJobSpec`.
pub(super) fn spec(errors: &mut Errors, path: &Path<'_>, spec: &JobSpec) {
    match &spec.selector {
        None => errors.required(&path.child("selector"), ""),
        Some(selector) => labels::selector(errors, &path.child("selector"), Some(selector)),
    }
    if let Ok(selector) = Selector::from_label_selector(spec.selector.as_ref()) {
        let found = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        if !selector.matches_labels(found) {
            let path = path.child("template.metadata.labels");
            errors.invalid(&path, shown(&found), "`selector` does not match template `labels`");
        }
    }
    without_selector(errors, path, spec);
}

/// What holds for the job of a cron job too, whose selector comes later.
pub(super) fn without_selector(errors: &mut Errors, path: &Path<'_>, spec: &JobSpec) {
    let numbers = [
        ("parallelism", spec.parallelism),
        ("completions", spec.completions),
        ("backoffLimit", spec.backoff_limit),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ];
    for (field, number) in numbers {
        non_negative(errors, &path.child(field), number.unwrap_or(0));
    }
    non_negative(errors, &path.child("activeDeadlineSeconds"), spec.active_deadline_seconds.unwrap_or(0));
    if let Some(manager) = &spec.managed_by {
        let path = &path.child("managedBy");
        check(errors, path, manager, crate::names::qualified_name(manager));
        if manager.len() > 63 {
            errors.too_long(path, 63);
        }
    }
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    if let Some(mode) = &spec.completion_mode {
        one_of(errors, &path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
    }
    if indexed {
        if spec.completions.is_none() {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        if spec.parallelism.unwrap_or(0) > 100_000 {
            let detail = "must be less than or equal to 100000 when completion mode is Indexed";
            errors.invalid(&path.child("parallelism"), spec.parallelism.unwrap_or(0), detail);
        }
    }
    if !indexed && spec.backoff_limit_per_index.is_some() {
        let detail = "requires indexed completion mode";
        errors.invalid(&path.child("backoffLimitPerIndex"), spec.backoff_limit_per_index.unwrap_or(0), detail);
    }
    template(errors, &path.child("template"), spec);
    if let Some(policy) = &spec.pod_failure_policy {
        failure_policy(errors, &path.child("podFailurePolicy"), policy, spec);
    }
    if let Some(policy) = &spec.success_policy {
        let path = &path.child("successPolicy");
        if !indexed {
            errors.invalid(path, shown(policy), "requires indexed completion mode");
        }
        if policy.rules.is_empty() {
            errors.required(&path.child("rules"), "at least one rules must be specified");
        }
        let rules = path.child("rules");
        for (n, rule) in policy.rules.iter().enumerate() {
            if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
                errors
                    .required(&rules.index(n), "at least one of succeededCount or succeededIndexes must be specified");
            }
        }
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let supported: &[&str] =
            if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        one_of(errors, &path.child("podReplacementPolicy"), policy, supported);
    }
}

fn template(errors: &mut Errors, path: &Path<'_>, spec: &JobSpec) {
    pod::template(errors, path, &spec.template);
    let default = PodSpec::default();
    let policy = text(spec.template.spec.as_ref().unwrap_or(&default).restart_policy.as_ref());
    let path = &path.child("spec.restartPolicy");
    match policy {
        "OnFailure" | "Never" => {}
        "" => errors.required(path, "valid values: \"OnFailure\", \"Never\""),
        other => errors.not_supported(path, other, &["OnFailure", "Never"]),
    }
    if spec.pod_failure_policy.is_some() && policy != "Never" {
        errors.invalid(path, policy, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

fn failure_policy(errors: &mut Errors, path: &Path<'_>, policy: &PodFailurePolicy, spec: &JobSpec) {
    let path = path.child("rules");
    if policy.rules.len() > 20 {
        errors.too_many(&path, policy.rules.len(), 20);
    }
    for (n, rule) in policy.rules.iter().enumerate() {
        failure_rule(errors, &path.index(n), rule, spec);
    }
}

fn failure_rule(errors: &mut Errors, path: &Path<'_>, rule: &PodFailurePolicyRule, spec: &JobSpec) {
    let action = &path.child("action");
    match rule.action.as_str() {
        "" => errors.required(action, "valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\""),
        "FailIndex" if spec.backoff_limit_per_index.is_none() => {
            errors.invalid(action, "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        other => one_of(errors, action, other, &["Count", "FailIndex", "FailJob", "Ignore"]),
    }
    let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
    match (&rule.on_exit_codes, conditions.is_empty()) {
        (Some(_), false) => {
            let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.invalid(path, shown(rule), detail);
        }
        (None, true) => {
            errors.invalid(path, shown(rule), "specifying one of OnExitCodes and OnPodConditions is required");
        }
        _ => {}
    }
    let Some(codes) = &rule.on_exit_codes else { return };
    let path = &path.child("onExitCodes");
    match codes.operator.as_str() {
        "" => errors.required(&path.child("operator"), "valid values: \"In\", \"NotIn\""),
        other => one_of(errors, &path.child("operator"), other, &["In", "NotIn"]),
    }
    let values = &path.child("values");
    if codes.values.is_empty() {
        errors.required(values, "at least one value is required");
    }
    if codes.values.len() > 255 {
        errors.too_many(values, codes.values.len(), 255);
    }
    for (n, code) in codes.values.iter().enumerate() {
        if codes.operator == "In" && *code == 0 {
            errors.invalid(&values.index(n), *code, "must not be 0 for the In operator");
        }
        if codes.values[..n].contains(code) {
            errors.duplicate(&values.index(n), *code);
        } else if codes.values[..n].last().is_some_and(|last| last > code) {
            errors.invalid(values, shown(&codes.values), "must be ordered");
        }
    }
    if let Some(name) = codes.container_name.as_deref().filter(|name| !name.is_empty()) {
        let pod = spec.template.spec.clone().unwrap_or_default();
        let mut all = pod.containers.iter().chain(pod.init_containers.iter().flatten());
        if all.all(|container| container.name != name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.invalid(&path.child("containerName"), name, detail);
        }
    }
}

/// `ValidateJobUpdate`: what may change while a job is there.
pub(super) fn update(errors: &mut Errors, new: &JobSpec, old: &JobSpec, status: Option<&JobStatus>) {
    let path = &Path::root("spec");
    let elastic = new.completion_mode.as_deref() == Some("Indexed")
        && new.completions.is_some()
        && new.completions == new.parallelism;
    if !elastic {
        immutable(errors, &path.child("completions"), &new.completions, &old.completions);
    }
    immutable(errors, &path.child("selector"), &new.selector, &old.selector);
    let mut before = old.template.clone();
    let never_started = status.is_none_or(|status| status.start_time.is_none());
    if old.suspend == Some(true) && never_started {
        take_directives(&mut before, new);
    }
    immutable(errors, &path.child("template"), &new.template, &before);
    immutable(errors, &path.child("completionMode"), &new.completion_mode, &old.completion_mode);
    immutable(errors, &path.child("podFailurePolicy"), &new.pod_failure_policy, &old.pod_failure_policy);
    immutable(errors, &path.child("backoffLimitPerIndex"), &new.backoff_limit_per_index, &old.backoff_limit_per_index);
    immutable(errors, &path.child("managedBy"), &new.managed_by, &old.managed_by);
    immutable(errors, &path.child("successPolicy"), &new.success_policy, &old.success_policy);
}

/// A queue may still direct a job that has not started: labels, node selection, gates and resources.
fn take_directives(template: &mut k8s_openapi::api::core::v1::PodTemplateSpec, new: &JobSpec) {
    let meta = template.metadata.get_or_insert_default();
    let new_meta = new.template.metadata.clone().unwrap_or_default();
    meta.labels = new_meta.labels;
    meta.annotations = new_meta.annotations;
    let (Some(spec), Some(wanted)) = (&mut template.spec, &new.template.spec) else { return };
    spec.node_selector.clone_from(&wanted.node_selector);
    spec.tolerations.clone_from(&wanted.tolerations);
    spec.scheduling_gates.clone_from(&wanted.scheduling_gates);
    let node = wanted.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    match &mut spec.affinity {
        Some(affinity) => affinity.node_affinity = node,
        None => spec.affinity.clone_from(&wanted.affinity),
    }
    for (container, wanted) in spec.containers.iter_mut().zip(&wanted.containers) {
        container.resources.clone_from(&wanted.resources);
    }
}
