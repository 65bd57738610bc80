//! Views: kinds that are served in a second form of the objects that are stored.
//!
//! `autoscaling/v1` autoscalers are stored as `autoscaling/v2`, `events.k8s.io/v1` events as core events. The API
//! server converts at its edge, request bodies to the stored form and answers back, with [`to_stored`] and
//! [`from_stored`].

mod event;
mod hpa;

use serde_json::Value;

use crate::decode::{DecodeError, decode};

/// The stored form of an object of a view. Other kinds pass through.
///
/// # Errors
/// When the object does not decode as its kind.
pub fn to_stored(group: &str, version: &str, kind: &str, object: Value) -> Result<Value, DecodeError> {
    match (group, version, kind) {
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => {
            let typed: k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler = decode(object)?;
            to_value(&hpa::to_v2(&typed))
        }
        ("events.k8s.io", "v1", "Event") => to_value(&event::to_core(decode(object)?)),
        _ => Ok(object),
    }
}

/// A view's form of a stored object. Other kinds pass through.
///
/// # Errors
/// When the stored object does not decode, which means it was not stored by this server.
pub fn from_stored(group: &str, version: &str, kind: &str, object: Value) -> Result<Value, DecodeError> {
    match (group, version, kind) {
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => to_value(&hpa::to_v1(decode(object)?)),
        ("events.k8s.io", "v1", "Event") => to_value(&event::from_core(decode(object)?)),
        _ => Ok(object),
    }
}

fn to_value(object: &impl serde::Serialize) -> Result<Value, DecodeError> {
    serde_json::to_value(object).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn autoscalers_go_there_and_back() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
            "targetCPUUtilizationPercentage": 50}, "status": {"currentReplicas": 1, "desiredReplicas": 2}});
        let stored = to_stored("autoscaling", "v1", "HorizontalPodAutoscaler", v1.clone()).unwrap();
        assert_eq!(stored["apiVersion"], "autoscaling/v2");
        assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        assert_eq!(from_stored("autoscaling", "v1", "HorizontalPodAutoscaler", stored).unwrap(), v1);
    }

    #[test]
    fn metrics_that_v1_cannot_say_survive_in_annotations() {
        let v2 = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}]},
            "status": {"desiredReplicas": 0}});
        let v1 = from_stored("autoscaling", "v1", "HorizontalPodAutoscaler", v2.clone()).unwrap();
        assert!(v1["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"].is_string());
        let back = to_stored("autoscaling", "v1", "HorizontalPodAutoscaler", v1).unwrap();
        assert_eq!(back["spec"]["metrics"], v2["spec"]["metrics"]);
        assert!(back["metadata"].get("annotations").is_none());
    }

    #[test]
    fn events_change_their_names() {
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"},
            "eventTime": "2026-01-01T00:00:00.000001Z", "note": "hello", "regarding": {"kind": "Pod", "name": "p"},
            "reportingController": "c", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal",
            "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
        let stored = to_stored("events.k8s.io", "v1", "Event", new.clone()).unwrap();
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["message"], "hello");
        assert_eq!(stored["involvedObject"], json!({"kind": "Pod", "name": "p"}));
        assert_eq!(from_stored("events.k8s.io", "v1", "Event", stored).unwrap(), new);
    }
}
