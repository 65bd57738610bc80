//! What workload kinds share: selectors that match their template, counts and percentages.

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{check, labels, pod, shown, text};
use crate::field::{BadValue, Errors, Path};
use crate::intstr;
use crate::names;
use crate::selector::Selector;

const MISMATCH: &str = "`selector` does not match template `labels`";

/// The selector of a kind that always needs one. Decoding cannot tell an absent selector from an empty one; both are
/// refused.
pub fn required_selector(errors: &mut Errors, path: &Path<'_>, selector: &LabelSelector) {
    if labels::selects_all(selector) {
        errors.required(path, "");
    }
    labels::selector(errors, path, Some(selector));
}

/// The template's labels have to satisfy the selector.
pub fn selector_matches(errors: &mut Errors, path: &Path<'_>, selector: &LabelSelector, template: &PodTemplateSpec) {
    let Ok(parsed) = Selector::from_label_selector(Some(selector)) else { return };
    let template_labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    if parsed.is_everything() || !parsed.matches_labels(template_labels) {
        errors.invalid(&path.child("metadata.labels"), shown(&template_labels), MISMATCH);
    }
}

/// A template whose pods are replaced when they end.
pub fn lasting_template(errors: &mut Errors, path: &Path<'_>, template: &PodTemplateSpec, kind: &str) {
    pod::template(errors, path, template);
    let default = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&default);
    let policy = text(spec.restart_policy.as_ref());
    if policy != "Always" {
        errors.not_supported(&path.child("spec.restartPolicy"), policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.child("spec.activeDeadlineSeconds"), &detail);
    }
}

/// A count that is not negative, or a percentage.
pub fn count_or_percent(errors: &mut Errors, path: &Path<'_>, value: Option<&IntOrString>) {
    match value {
        None => {}
        Some(IntOrString::Int(count)) => super::non_negative(errors, path, *count),
        Some(IntOrString::String(text)) => check(errors, path, text, names::percent(text)),
    }
}

pub fn at_most_100_percent(errors: &mut Errors, path: &Path<'_>, value: Option<&IntOrString>) {
    if let Some(value) = value
        && intstr::percent(value).is_some_and(|percent| percent > 100)
    {
        errors.invalid(path, int_or_string(value), "must not be greater than 100%");
    }
}

/// The number that stands in the value, percentages included.
pub fn number(value: Option<&IntOrString>) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(count)) => *count,
        Some(value) => intstr::percent(value).unwrap_or(0),
    }
}

/// As messages show it: numbers bare, texts quoted.
pub fn int_or_string(value: &IntOrString) -> BadValue {
    match value {
        IntOrString::Int(count) => BadValue::from(*count),
        IntOrString::String(text) => BadValue::from(text),
    }
}
