//! Horizontal pod autoscalers. Objects are kept as `autoscaling/v2`; `autoscaling/v1` is a view ([`crate::convert`]).

mod metrics;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
    ResourceMetricSource,
};
use serde_json::Value;

use super::typed::{Rules, StatusPolicy};
use crate::columns::{self, Column};
use crate::defaults::{fill, fill_value};
use crate::field::{Errors, Path};
use crate::names;
use crate::validation::{check, non_negative, one_of};

const DEFAULT_CPU_PERCENT: i32 = 80;

pub struct HorizontalPodAutoscalerRules;

impl Rules for HorizontalPodAutoscalerRules {
    type Object = HorizontalPodAutoscaler;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const COLUMNS: &'static [Column] = columns::policy::HORIZONTAL_POD_AUTOSCALER;

    fn default(hpa: &mut HorizontalPodAutoscaler) {
        let spec = &mut hpa.spec;
        fill_value(&mut spec.min_replicas, 1);
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            spec.metrics = Some(vec![cpu_metric(DEFAULT_CPU_PERCENT)]);
        }
        if let Some(behavior) = &mut spec.behavior {
            let up = behavior.scale_up.get_or_insert_default();
            fill_value(&mut up.stabilization_window_seconds, 0);
            rules(up, &[("Pods", 4), ("Percent", 100)]);
            rules(behavior.scale_down.get_or_insert_default(), &[("Percent", 100)]);
        }
        hpa.status.get_or_insert_default();
    }

    fn validate(hpa: &HorizontalPodAutoscaler, errors: &mut Errors) {
        spec(errors, &Path::root("spec"), &hpa.spec);
    }

    fn cells(hpa: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        columns::policy::horizontal_pod_autoscaler(hpa, now)
    }
}

/// The metric that `targetCPUUtilizationPercentage` of v1 stands for.
pub(crate) fn cpu_metric(percent: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

fn rules(rules: &mut HPAScalingRules, policies: &[(&str, i32)]) {
    fill(&mut rules.select_policy, "Max");
    if rules.policies.as_ref().is_none_or(Vec::is_empty) {
        let policy = |(kind, value): &(&str, i32)| HPAScalingPolicy {
            type_: (*kind).to_owned(),
            value: *value,
            period_seconds: 15,
        };
        rules.policies = Some(policies.iter().map(policy).collect());
    }
}

fn spec(errors: &mut Errors, path: &Path<'_>, spec: &HorizontalPodAutoscalerSpec) {
    let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    if min < 1 {
        errors.invalid(&path.child("minReplicas"), min, "must be greater than or equal to 1");
    }
    if max < 1 {
        errors.invalid(&path.child("maxReplicas"), max, "must be greater than 0");
    }
    if max < min {
        errors.invalid(&path.child("maxReplicas"), max, "must be greater than or equal to `minReplicas`");
    }
    let target = path.child("scaleTargetRef");
    for (field, value) in [("kind", &spec.scale_target_ref.kind), ("name", &spec.scale_target_ref.name)] {
        match value.as_str() {
            "" => errors.required(&target.child(field), ""),
            value => check(errors, &target.child(field), value, names::path_segment(value, false)),
        }
    }
    let metrics_path = path.child("metrics");
    for (n, metric) in spec.metrics.iter().flatten().enumerate() {
        metrics::spec(errors, &metrics_path.index(n), metric);
    }
    let Some(behavior) = &spec.behavior else { return };
    let path = path.child("behavior");
    for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
        if let Some(rules) = rules {
            scaling(errors, &path.child(field), rules);
        }
    }
}

fn scaling(errors: &mut Errors, path: &Path<'_>, rules: &HPAScalingRules) {
    let window_path = path.child("stabilizationWindowSeconds");
    let window = rules.stabilization_window_seconds.unwrap_or(0);
    non_negative(errors, &window_path, window);
    if window > 3600 {
        errors.invalid(&window_path, window, "must be less than or equal to 3600");
    }
    if let Some(policy) = &rules.select_policy {
        one_of(errors, &path.child("selectPolicy"), policy, &["Disabled", "Max", "Min"]);
    }
    let policies = path.child("policies");
    let list = rules.policies.as_deref().unwrap_or_default();
    if list.is_empty() {
        errors.required(&policies, "must specify at least one Policy");
    }
    for (n, policy) in list.iter().enumerate() {
        let path = policies.index(n);
        one_of(errors, &path.child("type"), &policy.type_, &["Percent", "Pods"]);
        for (field, value) in [("value", policy.value), ("periodSeconds", policy.period_seconds)] {
            if value <= 0 {
                errors.invalid(&path.child(field), value, "must be greater than zero");
            }
        }
        if policy.period_seconds > 1800 {
            let detail = "must be less than or equal to 1800";
            errors.invalid(&path.child("periodSeconds"), policy.period_seconds, detail);
        }
    }
}
