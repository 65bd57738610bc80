//! `autoscaling/v1` and `autoscaling/v2` autoscalers.
//!
//! v1 knows a CPU target only. What else v2 says goes through v1 as upstream's annotations, so that an update by an
//! old client loses nothing.

use k8s_openapi::api::autoscaling::v1;
use k8s_openapi::api::autoscaling::v2;
use serde::Serialize;
use serde::de::DeserializeOwned;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

type Annotations = Option<std::collections::BTreeMap<String, String>>;

fn take<T: DeserializeOwned>(annotations: &mut Annotations, key: &str) -> Option<T> {
    let map = annotations.as_mut()?;
    let text = map.remove(key)?;
    if map.is_empty() {
        *annotations = None;
    }
    serde_json::from_str(&text).ok()
}

fn put<T: Serialize>(annotations: &mut Annotations, key: &str, value: Option<T>) {
    if let Some(text) = value.and_then(|value| serde_json::to_string(&value).ok()) {
        annotations.get_or_insert_default().insert(key.to_owned(), text);
    }
}

/// The stored form.
pub(super) fn to_v2(hpa: &v1::HorizontalPodAutoscaler) -> v2::HorizontalPodAutoscaler {
    let mut metadata = hpa.metadata.clone();
    let spec = hpa.spec.clone();
    let cpu = spec.target_cpu_utilization_percentage.map(crate::strategy::autoscaling::cpu_metric);
    let others: Option<Vec<v2::MetricSpec>> = take(&mut metadata.annotations, METRICS);
    let metrics: Vec<v2::MetricSpec> = others.into_iter().flatten().chain(cpu).collect();
    let status = hpa.status.clone().unwrap_or_default();
    let mut current: Vec<v2::MetricStatus> = take(&mut metadata.annotations, CURRENT_METRICS).unwrap_or_default();
    if let Some(percent) = status.current_cpu_utilization_percentage {
        current.push(cpu_status(percent));
    }
    v2::HorizontalPodAutoscaler {
        spec: v2::HorizontalPodAutoscalerSpec {
            behavior: take(&mut metadata.annotations, BEHAVIOR),
            max_replicas: spec.max_replicas,
            metrics: (!metrics.is_empty()).then_some(metrics),
            min_replicas: spec.min_replicas,
            scale_target_ref: v2::CrossVersionObjectReference {
                api_version: spec.scale_target_ref.api_version,
                kind: spec.scale_target_ref.kind,
                name: spec.scale_target_ref.name,
            },
        },
        status: Some(v2::HorizontalPodAutoscalerStatus {
            conditions: take(&mut metadata.annotations, CONDITIONS),
            current_metrics: (!current.is_empty()).then_some(current),
            current_replicas: Some(status.current_replicas),
            desired_replicas: status.desired_replicas,
            last_scale_time: status.last_scale_time,
            observed_generation: status.observed_generation,
        }),
        metadata,
    }
}

fn cpu_status(percent: i32) -> v2::MetricStatus {
    v2::MetricStatus {
        type_: "Resource".to_owned(),
        resource: Some(v2::ResourceMetricStatus {
            name: "cpu".to_owned(),
            current: v2::MetricValueStatus { average_utilization: Some(percent), ..Default::default() },
        }),
        ..Default::default()
    }
}

/// The CPU target, if the metric is just that.
fn cpu_target(metric: &v2::MetricSpec) -> Option<i32> {
    let resource = metric.resource.as_ref().filter(|resource| resource.name == "cpu")?;
    resource.target.average_utilization
}

fn cpu_current(metric: &v2::MetricStatus) -> Option<i32> {
    let resource = metric.resource.as_ref().filter(|resource| resource.name == "cpu")?;
    resource.current.average_utilization
}

pub(super) fn to_v1(hpa: v2::HorizontalPodAutoscaler) -> v1::HorizontalPodAutoscaler {
    let mut metadata = hpa.metadata;
    let spec = hpa.spec;
    let status = hpa.status.unwrap_or_default();
    let (cpu, others): (Vec<_>, Vec<_>) =
        spec.metrics.into_iter().flatten().partition(|metric| cpu_target(metric).is_some());
    let (cpu_now, others_now): (Vec<_>, Vec<_>) =
        status.current_metrics.into_iter().flatten().partition(|metric| cpu_current(metric).is_some());
    put(&mut metadata.annotations, METRICS, (!others.is_empty()).then_some(others));
    put(&mut metadata.annotations, CURRENT_METRICS, (!others_now.is_empty()).then_some(others_now));
    put(&mut metadata.annotations, CONDITIONS, status.conditions);
    put(&mut metadata.annotations, BEHAVIOR, spec.behavior);
    v1::HorizontalPodAutoscaler {
        metadata,
        spec: v1::HorizontalPodAutoscalerSpec {
            max_replicas: spec.max_replicas,
            min_replicas: spec.min_replicas,
            scale_target_ref: v1::CrossVersionObjectReference {
                api_version: spec.scale_target_ref.api_version,
                kind: spec.scale_target_ref.kind,
                name: spec.scale_target_ref.name,
            },
            target_cpu_utilization_percentage: cpu.first().and_then(cpu_target),
        },
        status: Some(v1::HorizontalPodAutoscalerStatus {
            current_cpu_utilization_percentage: cpu_now.first().and_then(cpu_current),
            current_replicas: status.current_replicas.unwrap_or(0),
            desired_replicas: status.desired_replicas,
            last_scale_time: status.last_scale_time,
            observed_generation: status.observed_generation,
        }),
    }
}
