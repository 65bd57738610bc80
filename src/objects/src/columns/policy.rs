//! Budgets, autoscalers, RBAC, certificates, priorities, admission and flow control.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{RoleRef, Subject};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{Column, age, name, none_if_empty};
use crate::{duration, intstr};

pub const POD_DISRUPTION_BUDGET: &[Column] = &[
    Column::NAME,
    Column::new("Min Available", "string"),
    Column::new("Max Unavailable", "string"),
    Column::new("Allowed Disruptions", "integer"),
    Column::AGE,
];

pub fn pod_disruption_budget(budget: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
    let spec = budget.spec.clone().unwrap_or_default();
    let shown = |value: Option<&_>| value.map_or_else(|| "N/A".to_owned(), intstr::display).into();
    vec![
        name(&budget.metadata),
        shown(spec.min_available.as_ref()),
        shown(spec.max_unavailable.as_ref()),
        budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0).into(),
        age(&budget.metadata, now),
    ]
}

pub const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    Column::NAME,
    Column::new("Reference", "string"),
    Column::new("Targets", "string"),
    Column::new("MinPods", "string"),
    Column::new("MaxPods", "string"),
    Column::new("Replicas", "string"),
    Column::AGE,
];

pub fn horizontal_pod_autoscaler(hpa: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
    let spec = &hpa.spec;
    let status = hpa.status.clone().unwrap_or_default();
    let current = status.current_metrics.unwrap_or_default();
    vec![
        name(&hpa.metadata),
        format!("{}/{}", spec.scale_target_ref.kind, spec.scale_target_ref.name).into(),
        metrics(spec.metrics.as_deref().unwrap_or_default(), &current).into(),
        spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |min| min.to_string()).into(),
        spec.max_replicas.into(),
        status.current_replicas.unwrap_or(0).into(),
        age(&hpa.metadata, now),
    ]
}

/// Two metrics in full, the rest counted.
fn metrics(specs: &[MetricSpec], statuses: &[MetricStatus]) -> String {
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let shown: Vec<String> = specs.iter().enumerate().take(2).map(|(n, spec)| metric(spec, statuses.get(n))).collect();
    match specs.len() {
        1 | 2 => shown.join(", "),
        more => format!("{} + {} more...", shown.join(", "), more - 2),
    }
}

fn metric(spec: &MetricSpec, status: Option<&MetricStatus>) -> String {
    let same = status.filter(|status| status.type_ == spec.type_);
    if let Some(source) = &spec.resource {
        let current = same.and_then(|status| status.resource.as_ref()).map(|status| &status.current);
        return format!("{}: {}", source.name, utilization(&source.target, current));
    }
    if let Some(source) = &spec.container_resource {
        let current = same.and_then(|status| status.container_resource.as_ref()).map(|status| &status.current);
        return format!("{}: {}", source.name, utilization(&source.target, current));
    }
    if let Some(source) = &spec.pods {
        let current = same.and_then(|status| status.pods.as_ref()).map(|status| &status.current);
        return values(&source.target, current);
    }
    if let Some(source) = &spec.object {
        let current = same.and_then(|status| status.object.as_ref()).map(|status| &status.current);
        return values(&source.target, current);
    }
    match &spec.external {
        Some(source) => {
            let current = same.and_then(|status| status.external.as_ref()).map(|status| &status.current);
            values(&source.target, current)
        }
        None => "<unknown type>".to_owned(),
    }
}

const UNKNOWN: &str = "<unknown>";

fn utilization(target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    if target.average_value.is_some() {
        return values(target, current);
    }
    let percent = |value: Option<i32>, unknown: &str| value.map_or_else(|| unknown.to_owned(), |n| format!("{n}%"));
    let now = percent(current.and_then(|current| current.average_utilization), UNKNOWN);
    format!("{now}/{}", percent(target.average_utilization, "<auto>"))
}

fn values(target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    let amount = |quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        quantity.map_or_else(|| UNKNOWN.to_owned(), |quantity| quantity.0.clone())
    };
    if let Some(average) = &target.average_value {
        let now = amount(current.and_then(|current| current.average_value.as_ref()));
        let suffix = if target.type_ == "AverageValue" && target.value.is_none() { "" } else { " (avg)" };
        return format!("{now}/{}{suffix}", average.0);
    }
    format!("{}/{}", amount(current.and_then(|current| current.value.as_ref())), amount(target.value.as_ref()))
}

pub const ROLE_BINDING: &[Column] = &[
    Column::NAME,
    Column::new("Role", "string"),
    Column::AGE,
    Column::wide("Users", "string"),
    Column::wide("Groups", "string"),
    Column::wide("ServiceAccounts", "string"),
];

pub fn role_binding(meta: &ObjectMeta, role: &RoleRef, subjects: Option<&Vec<Subject>>, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str, show: fn(&Subject) -> String| -> Value {
        let all: Vec<String> = subjects.into_iter().flatten().filter(|s| s.kind == kind).map(show).collect();
        all.join(", ").into()
    };
    let account = |subject: &Subject| format!("{}/{}", subject.namespace.as_deref().unwrap_or_default(), subject.name);
    vec![
        name(meta),
        format!("{}/{}", role.kind, role.name).into(),
        age(meta, now),
        of("User", |subject| subject.name.clone()),
        of("Group", |subject| subject.name.clone()),
        of("ServiceAccount", account),
    ]
}

pub const CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    Column::NAME,
    Column::AGE,
    Column::new("SignerName", "string"),
    Column::new("Requestor", "string"),
    Column::new("RequestedDuration", "string"),
    Column::new("Condition", "string"),
];

pub fn certificate_signing_request(csr: &CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
    let status = csr.status.clone().unwrap_or_default();
    let has = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status != "False");
    let mut state = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if status.certificate.as_ref().is_some_and(|certificate| !certificate.0.is_empty()) {
        state.push_str(",Issued");
    }
    let wanted = csr.spec.expiration_seconds.map(|seconds| duration::human(SignedDuration::from_secs(seconds.into())));
    let signer = csr.spec.signer_name.as_str();
    vec![
        name(&csr.metadata),
        age(&csr.metadata, now),
        none_if_empty(signer),
        csr.spec.username.clone().unwrap_or_default().into(),
        none_if_empty(&wanted.unwrap_or_default()),
        state.into(),
    ]
}

pub const PRIORITY_CLASS: &[Column] = &[
    Column::NAME,
    Column::new("Value", "integer"),
    Column::new("Global-Default", "boolean"),
    Column::AGE,
    Column::new("PreemptionPolicy", "string"),
];

pub fn priority_class(class: &PriorityClass, now: Timestamp) -> Vec<Value> {
    vec![
        name(&class.metadata),
        class.value.unwrap_or(0).into(),
        class.global_default.unwrap_or(false).into(),
        age(&class.metadata, now),
        class.preemption_policy.clone().unwrap_or_default().into(),
    ]
}

pub const FLOW_SCHEMA: &[Column] = &[
    Column::NAME,
    Column::new("PriorityLevel", "string"),
    Column::new("MatchingPrecedence", "string"),
    Column::new("DistinguisherMethod", "string"),
    Column::AGE,
    Column::new("MissingPL", "string"),
];

pub fn flow_schema(schema: &FlowSchema, now: Timestamp) -> Vec<Value> {
    let spec = schema.spec.clone().unwrap_or_default();
    let conditions = schema.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let dangling = conditions.iter().find(|c| c.type_.as_deref() == Some("Dangling"));
    let missing = dangling.and_then(|condition| condition.status.as_deref()).unwrap_or("?");
    let method = spec.distinguisher_method.map(|method| method.type_).unwrap_or_default();
    vec![
        name(&schema.metadata),
        spec.priority_level_configuration.name.clone().into(),
        spec.matching_precedence.unwrap_or(0).into(),
        none_if_empty(&method),
        age(&schema.metadata, now),
        missing.into(),
    ]
}

pub const PRIORITY_LEVEL: &[Column] = &[
    Column::NAME,
    Column::new("Type", "string"),
    Column::new("NominalConcurrencyShares", "string"),
    Column::new("Queues", "string"),
    Column::new("HandSize", "string"),
    Column::new("QueueLengthLimit", "string"),
    Column::AGE,
];

pub fn priority_level(level: &PriorityLevelConfiguration, now: Timestamp) -> Vec<Value> {
    let spec = level.spec.clone().unwrap_or_default();
    let shares = match (&spec.limited, &spec.exempt) {
        (Some(limited), _) => limited.nominal_concurrency_shares,
        (None, Some(exempt)) => exempt.nominal_concurrency_shares,
        (None, None) => None,
    };
    let queuing = spec.limited.as_ref().and_then(|limited| limited.limit_response.as_ref()?.queuing.clone());
    let number = |number: Option<i32>| -> Value { number.map_or_else(|| "<none>".into(), Value::from) };
    vec![
        name(&level.metadata),
        spec.type_.clone().into(),
        number(shares),
        number(queuing.as_ref().and_then(|queuing| queuing.queues)),
        number(queuing.as_ref().and_then(|queuing| queuing.hand_size)),
        number(queuing.as_ref().and_then(|queuing| queuing.queue_length_limit)),
        age(&level.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn autoscalers_show_current_and_target() {
        let hpa: HorizontalPodAutoscaler = serde_json::from_value(json!({"apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": {"minReplicas": 1, "maxReplicas": 5,
            "scaleTargetRef": {"kind": "Deployment", "name": "web"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]}}))
        .unwrap();
        let cells = horizontal_pod_autoscaler(&hpa, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..6], [json!("Deployment/web"), json!("cpu: <unknown>/80%"), json!("1"), json!(5), json!(0)]);
    }

    #[test]
    fn signing_requests_show_their_condition() {
        let csr: CertificateSigningRequest = serde_json::from_value(json!({"apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest", "metadata": {"name": "c"},
            "spec": {"request": "", "signerName": "a/b", "username": "me"},
            "status": {"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True"}]}}))
        .unwrap();
        let cells = certificate_signing_request(&csr, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[2..], [json!("a/b"), json!("me"), json!("<none>"), json!("Approved,Issued")]);
    }
}
