//! Between the version of a request and the version an object is stored in. Versions of one shape differ in their
//! header alone; the two Events and the two HorizontalPodAutoscalers are views with fields of other names.

use serde_json::{Map, Value, json};

use crate::registry::Resource;

/// The stored form as the resource's own version.
pub(crate) fn from_stored(resource: &Resource, mut object: Value) -> Value {
    if !resource.same_shape && !resource.kind.custom {
        match (resource.kind.group.as_ref(), resource.kind.kind.as_ref()) {
            ("events.k8s.io", "Event") => rename(&mut object, EVENT_FIELDS, |(core, new)| (core, new)),
            ("autoscaling", "HorizontalPodAutoscaler") => hpa_to_v1(&mut object),
            _ => {}
        }
    }
    if !resource.same_shape && resource.kind.custom {
        objects::schema::default(&mut object, &resource.schema);
    }
    object["apiVersion"] = resource.api_version.as_str().into();
    object["kind"] = resource.kind.kind.as_ref().into();
    object
}

/// The resource's own version as the stored form.
pub(crate) fn to_stored(resource: &Resource, mut object: Value) -> Value {
    if !resource.same_shape && !resource.kind.custom {
        match (resource.kind.group.as_ref(), resource.kind.kind.as_ref()) {
            ("events.k8s.io", "Event") => rename(&mut object, EVENT_FIELDS, |(core, new)| (new, core)),
            ("autoscaling", "HorizontalPodAutoscaler") => hpa_to_v2(&mut object),
            _ => {}
        }
    }
    object["apiVersion"] = resource.storage_api_version.as_str().into();
    object["kind"] = resource.kind.kind.as_ref().into();
    object
}

/// Fields of core/v1 Event and their names in events.k8s.io/v1.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(
    object: &mut Value,
    fields: &'static [(&'static str, &'static str)],
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map) = object.as_object_mut() else { return };
    for pair in fields {
        let (from, to) = direction(*pair);
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}

/// Annotation in which v1 keeps what it has no fields for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric.pointer("/resource/name").is_some_and(|name| name == "cpu")
}

fn hpa_to_v1(object: &mut Value) {
    let mut kept: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(Value::Array(metrics)) = spec.remove("metrics") {
            let (cpu, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(|metric| {
                is_cpu_utilization(metric) && metric.pointer("/resource/target/averageUtilization").is_some()
            });
            if let Some(target) = cpu.first().and_then(|m| m.pointer("/resource/target/averageUtilization")) {
                spec.insert("targetCPUUtilizationPercentage".into(), target.clone());
            }
            if !others.is_empty() {
                kept.push((METRICS, Value::Array(others)));
            }
        }
        if let Some(behavior) = spec.remove("behavior") {
            kept.push((BEHAVIOR, behavior));
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(current) = status.remove("currentMetrics") {
            let cpu = current.as_array().into_iter().flatten().find(|metric| is_cpu_utilization(metric));
            if let Some(now) = cpu.and_then(|m| m.pointer("/resource/current/averageUtilization")) {
                status.insert("currentCPUUtilizationPercentage".into(), now.clone());
            }
            kept.push((CURRENT, current));
        }
        if let Some(conditions) = status.remove("conditions") {
            kept.push((CONDITIONS, conditions));
        }
    }
    if !kept.is_empty() {
        let metadata = crate::encoded::metadata_mut(object);
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        for (name, value) in kept {
            annotations[name] = value.to_string().into();
        }
    }
}

fn hpa_to_v2(object: &mut Value) {
    let mut annotation = |name: &str| -> Option<Value> {
        let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
        let value = annotations.remove(name)?;
        serde_json::from_str(value.as_str()?).ok()
    };
    let (metrics, behavior) = (annotation(METRICS), annotation(BEHAVIOR));
    let (current, conditions) = (annotation(CURRENT), annotation(CONDITIONS));
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut list = match metrics {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        };
        if let Some(target) = spec.remove("targetCPUUtilizationPercentage") {
            let target = json!({"type": "Utilization", "averageUtilization": target});
            list.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !list.is_empty() {
            spec.insert("metrics".into(), Value::Array(list));
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("currentCPUUtilizationPercentage");
        for (name, value) in [("currentMetrics", current), ("conditions", conditions)] {
            if let Some(value) = value {
                status.insert(name.into(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hpa_views_round_trip() {
        let v2 = json!({
            "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "behavior": {"scaleUp": {}}, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Pods", "pods": {}}]},
            "status": {"conditions": [{"type": "x"}]}
        });
        let mut object = v2.clone();
        hpa_to_v1(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 50);
        assert!(object["spec"].get("metrics").is_none());
        hpa_to_v2(&mut object);
        object["metadata"].as_object_mut().unwrap().remove("annotations");
        assert_eq!(object, v2);
    }
}
