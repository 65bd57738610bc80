//! Metric sources of autoscalers.

use k8s_openapi::api::autoscaling::v2::{MetricIdentifier, MetricSpec, MetricTarget};

use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;
use crate::validation::{check, labels, one_of};

const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

pub(super) fn spec(errors: &mut Errors, path: &Path<'_>, metric: &MetricSpec) {
    if metric.type_.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    } else {
        one_of(errors, &path.child("type"), &metric.type_, TYPES);
    }
    let set = [
        ("object", "Object", metric.object.is_some()),
        ("external", "External", metric.external.is_some()),
        ("pods", "Pods", metric.pods.is_some()),
        ("resource", "Resource", metric.resource.is_some()),
        ("containerResource", "ContainerResource", metric.container_resource.is_some()),
    ];
    for (field, kind, is_set) in set {
        if kind == metric.type_ && !is_set {
            let detail =
                format!("must populate information for the given metric source (only \"{field}\" is populated)");
            errors.required(&path.child(field), &detail);
        } else if kind != metric.type_ && is_set && TYPES.contains(&metric.type_.as_str()) {
            let detail = "must populate the given metric source only";
            errors.forbidden(&path.child(field), detail);
        }
    }
    source(errors, path, metric);
}

fn source(errors: &mut Errors, path: &Path<'_>, metric: &MetricSpec) {
    if let Some(resource) = &metric.resource {
        let path = path.child("resource");
        if resource.name.is_empty() {
            errors.required(&path.child("name"), "must specify a resource name");
        }
        utilization(errors, &path.child("target"), &resource.target);
    }
    if let Some(resource) = &metric.container_resource {
        let path = path.child("containerResource");
        if resource.name.is_empty() {
            errors.required(&path.child("name"), "must specify a resource name");
        }
        if resource.container.is_empty() {
            errors.required(&path.child("container"), "must specify a container");
        }
        utilization(errors, &path.child("target"), &resource.target);
    }
    if let Some(pods) = &metric.pods {
        let path = path.child("pods");
        identifier(errors, &path.child("metric"), &pods.metric);
        target(errors, &path.child("target"), &pods.target);
        if pods.target.average_value.is_none() {
            errors.required(&path.child("target.averageValue"), "must specify a positive target averageValue");
        }
    }
    if let Some(object) = &metric.object {
        let path = path.child("object");
        identifier(errors, &path.child("metric"), &object.metric);
        target(errors, &path.child("target"), &object.target);
        value_or_average(errors, &path.child("target"), &object.target);
    }
    if let Some(external) = &metric.external {
        let path = path.child("external");
        identifier(errors, &path.child("metric"), &external.metric);
        target(errors, &path.child("target"), &external.target);
        value_or_average(errors, &path.child("target"), &external.target);
    }
}

fn identifier(errors: &mut Errors, path: &Path<'_>, metric: &MetricIdentifier) {
    match metric.name.as_str() {
        "" => errors.required(&path.child("name"), ""),
        name => check(errors, &path.child("name"), name, names::path_segment(name, false)),
    }
    labels::selector(errors, &path.child("selector"), metric.selector.as_ref());
}

fn target(errors: &mut Errors, path: &Path<'_>, target: &MetricTarget) {
    match target.type_.as_str() {
        "" => errors.required(&path.child("type"), "must specify a metric target type"),
        kind => one_of(errors, &path.child("type"), kind, &["AverageValue", "Utilization", "Value"]),
    }
    for (field, amount) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(amount) = amount.as_ref().filter(|amount| Quantity::of(amount) <= Quantity::ZERO) {
            errors.invalid(&path.child(field), &amount.0, "must be positive");
        }
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

fn utilization(errors: &mut Errors, path: &Path<'_>, target: &MetricTarget) {
    self::target(errors, path, target);
    match (target.average_utilization, &target.average_value) {
        (None, None) => {
            let detail = "must set either a target raw value or a target utilization";
            errors.required(&path.child("averageUtilization"), detail);
        }
        (Some(_), Some(_)) => {
            let detail = "may not set both a target raw value and a target utilization";
            errors.forbidden(&path.child("averageValue"), detail);
        }
        _ => {}
    }
}

fn value_or_average(errors: &mut Errors, path: &Path<'_>, target: &MetricTarget) {
    match (&target.value, &target.average_value) {
        (None, None) => {
            errors.required(&path.child("averageValue"), "must set either a target value or averageValue");
        }
        (Some(_), Some(_)) => {
            let detail = "may not set both a target value and averageValue";
            errors.forbidden(&path.child("value"), detail);
        }
        _ => {}
    }
}
