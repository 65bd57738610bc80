//! Labels, annotations and label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::check;
use crate::field::{Errors, Path};
use crate::names;

const ANNOTATIONS_LIMIT: usize = 256 * 1024;

pub fn name(errors: &mut Errors, path: &Path<'_>, key: &str) {
    check(errors, path, key, names::qualified_name(key));
}

pub fn labels(errors: &mut Errors, path: &Path<'_>, labels: Option<&BTreeMap<String, String>>) {
    for (key, value) in labels.into_iter().flatten() {
        name(errors, path, key);
        check(errors, path, value, names::label_value(value));
    }
}

pub fn annotations(errors: &mut Errors, path: &Path<'_>, annotations: Option<&BTreeMap<String, String>>) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        size += key.len() + value.len();
        check(errors, path, key, names::qualified_name(&key.to_lowercase()));
    }
    if size > ANNOTATIONS_LIMIT {
        errors.too_long(path, ANNOTATIONS_LIMIT);
    }
}

pub fn selector(errors: &mut Errors, path: &Path<'_>, selector: Option<&LabelSelector>) {
    let Some(selector) = selector else { return };
    labels(errors, &path.child("matchLabels"), selector.match_labels.as_ref());
    let expressions = path.child("matchExpressions");
    for (n, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        self::requirement(errors, &expressions.index(n), requirement);
    }
}

fn requirement(errors: &mut Errors, path: &Path<'_>, requirement: &LabelSelectorRequirement) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors
                .forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    name(errors, &path.child("key"), &requirement.key);
    let path = path.child("values");
    for (n, value) in values.iter().enumerate() {
        check(errors, &path.index(n), value, names::label_value(value));
    }
}

/// Whether a selector selects everything, being empty.
pub fn selects_all(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}
