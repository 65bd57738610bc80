//! Nodes, namespaces, events, configuration, volumes, quotas.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ComponentStatus, ConfigMap, Event, Namespace, Node, NodeStatus, PersistentVolume, PersistentVolumeClaim,
    ResourceQuota, Secret, ServiceAccount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{Column, age, name, none_if_empty, since};
use crate::duration;

pub const NAMESPACE: &[Column] = &[Column::NAME, Column::new("Status", "string"), Column::AGE];

pub fn namespace(namespace: &Namespace, now: Timestamp) -> Vec<Value> {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    vec![name(&namespace.metadata), phase.into(), age(&namespace.metadata, now)]
}

pub const CONFIG_MAP: &[Column] = &[Column::NAME, Column::new("Data", "string"), Column::AGE];

pub fn config_map(map: &ConfigMap, now: Timestamp) -> Vec<Value> {
    let entries = map.data.as_ref().map_or(0, BTreeMap::len) + map.binary_data.as_ref().map_or(0, BTreeMap::len);
    vec![name(&map.metadata), entries.into(), age(&map.metadata, now)]
}

pub const SECRET: &[Column] =
    &[Column::NAME, Column::new("Type", "string"), Column::new("Data", "string"), Column::AGE];

pub fn secret(secret: &Secret, now: Timestamp) -> Vec<Value> {
    vec![
        name(&secret.metadata),
        secret.type_.clone().unwrap_or_default().into(),
        secret.data.as_ref().map_or(0, BTreeMap::len).into(),
        age(&secret.metadata, now),
    ]
}

pub const SERVICE_ACCOUNT: &[Column] = &[Column::NAME, Column::new("Secrets", "string"), Column::AGE];

pub fn service_account(account: &ServiceAccount, now: Timestamp) -> Vec<Value> {
    let secrets = account.secrets.as_ref().map_or(0, Vec::len);
    vec![name(&account.metadata), secrets.into(), age(&account.metadata, now)]
}

pub const NODE: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string"),
    Column::new("Roles", "string"),
    Column::AGE,
    Column::new("Version", "string"),
    Column::wide("Internal-IP", "string"),
    Column::wide("External-IP", "string"),
    Column::wide("OS-Image", "string"),
    Column::wide("Kernel-Version", "string"),
    Column::wide("Container-Runtime", "string"),
];

pub fn node(node: &Node, now: Timestamp) -> Vec<Value> {
    let default = NodeStatus::default();
    let status = node.status.as_ref().unwrap_or(&default);
    let info = status.node_info.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let mut states = vec![match ready.map(|condition| condition.status == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }];
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        states.push("SchedulingDisabled");
    }
    let address = |kind: &str| {
        let found = status.addresses.iter().flatten().find(|address| address.type_ == kind);
        none_if_empty(found.map(|address| address.address.as_str()).unwrap_or_default())
    };
    let known = |text: &str| -> Value { if text.is_empty() { "<unknown>".into() } else { text.into() } };
    vec![
        name(&node.metadata),
        states.join(",").into(),
        none_if_empty(&roles(&node.metadata)),
        age(&node.metadata, now),
        info.kubelet_version.clone().into(),
        address("InternalIP"),
        address("ExternalIP"),
        known(&info.os_image),
        known(&info.kernel_version),
        known(&info.container_runtime_version),
    ]
}

fn roles(meta: &ObjectMeta) -> String {
    let labels = meta.labels.iter().flatten();
    let role = |(key, value): (&String, &String)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) if !role.is_empty() => Some(role.to_owned()),
        None if key == "kubernetes.io/role" && !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    labels.filter_map(role).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",")
}

pub const EVENT: &[Column] = &[
    Column::new("Last Seen", "string"),
    Column::new("Type", "string"),
    Column::new("Reason", "string"),
    Column::new("Object", "string"),
    Column::wide("Subobject", "string"),
    Column::wide("Source", "string"),
    Column::new("Message", "string"),
    Column::wide("First Seen", "string"),
    Column::wide("Count", "string"),
    Column { priority: 1, ..Column::NAME },
];

pub fn event(event: &Event, now: Timestamp) -> Vec<Value> {
    let at = |time: Option<Timestamp>| time.map(|time| duration::age(time, now));
    let unknown = || "<unknown>".to_owned();
    let first = at(event.first_timestamp.as_ref().map(|t| t.0).or(event.event_time.as_ref().map(|t| t.0)));
    let first = first.unwrap_or_else(unknown);
    let (last, count) = match &event.series {
        Some(series) => {
            let last = at(series.last_observed_time.as_ref().map(|t| t.0)).unwrap_or_else(unknown);
            (last, series.count.unwrap_or(0))
        }
        None => {
            let last = at(event.last_timestamp.as_ref().map(|t| t.0)).unwrap_or_else(|| first.clone());
            (last, event.count.filter(|count| *count != 0).unwrap_or(1))
        }
    };
    let object = &event.involved_object;
    let kind = object.kind.as_deref().unwrap_or_default().to_lowercase();
    let target = match object.name.as_deref().unwrap_or_default() {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        event.type_.clone().unwrap_or_default().into(),
        event.reason.clone().unwrap_or_default().into(),
        target.into(),
        object.field_path.clone().unwrap_or_default().into(),
        source(event).into(),
        event.message.as_deref().unwrap_or_default().trim().into(),
        first.into(),
        count.into(),
        name(&event.metadata),
    ]
}

/// Component and host, from whichever generation of fields has them.
fn source(event: &Event) -> String {
    let source = event.source.clone().unwrap_or_default();
    let either = |old: Option<String>, new: &Option<String>| {
        old.filter(|text| !text.is_empty()).or_else(|| new.clone()).unwrap_or_default()
    };
    let component = either(source.component, &event.reporting_component);
    match either(source.host, &event.reporting_instance) {
        host if host.is_empty() => component,
        host => format!("{component}, {host}"),
    }
}

pub const PERSISTENT_VOLUME: &[Column] = &[
    Column::NAME,
    Column::new("Capacity", "string"),
    Column::new("Access Modes", "string"),
    Column::new("Reclaim Policy", "string"),
    Column::new("Status", "string"),
    Column::new("Claim", "string"),
    Column::new("StorageClass", "string"),
    Column::new("VolumeAttributesClass", "string"),
    Column::new("Reason", "string"),
    Column::AGE,
    Column::wide("VolumeMode", "string"),
];

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

fn storage_class(meta: &ObjectMeta, class: Option<&String>) -> Value {
    let annotated = meta.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    annotated.or(class).cloned().unwrap_or_default().into()
}

fn unset(text: Option<&String>) -> Value {
    text.cloned().unwrap_or_else(|| "<unset>".to_owned()).into()
}

fn access_modes(modes: Option<&Vec<String>>) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| modes.is_some_and(|modes| modes.iter().any(|m| m == mode));
    short.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn phase(meta: &ObjectMeta, phase: Option<&String>) -> Value {
    if meta.deletion_timestamp.is_some() { "Terminating".into() } else { phase.cloned().unwrap_or_default().into() }
}

pub fn persistent_volume(volume: &PersistentVolume, now: Timestamp) -> Vec<Value> {
    let spec = volume.spec.clone().unwrap_or_default();
    let status = volume.status.as_ref();
    let claim = spec.claim_ref.as_ref().map(|claim| {
        format!("{}/{}", claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default())
    });
    let size = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
    vec![
        name(&volume.metadata),
        size.map_or("0", |size| &size.0).into(),
        access_modes(spec.access_modes.as_ref()).into(),
        spec.persistent_volume_reclaim_policy.clone().unwrap_or_default().into(),
        phase(&volume.metadata, status.and_then(|status| status.phase.as_ref())),
        claim.unwrap_or_default().into(),
        storage_class(&volume.metadata, spec.storage_class_name.as_ref()),
        unset(spec.volume_attributes_class_name.as_ref()),
        status.and_then(|status| status.reason.clone()).unwrap_or_default().into(),
        age(&volume.metadata, now),
        unset(spec.volume_mode.as_ref()),
    ]
}

pub const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string"),
    Column::new("Volume", "string"),
    Column::new("Capacity", "string"),
    Column::new("Access Modes", "string"),
    Column::new("StorageClass", "string"),
    Column::new("VolumeAttributesClass", "string"),
    Column::AGE,
    Column::wide("VolumeMode", "string"),
];

pub fn persistent_volume_claim(claim: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
    let spec = claim.spec.clone().unwrap_or_default();
    let status = claim.status.clone().unwrap_or_default();
    let bound = spec.volume_name.as_ref().is_some_and(|name| !name.is_empty());
    let size = status.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
    let capacity = if bound { size.map_or("0", |size| &size.0) } else { "" };
    let modes = if bound { access_modes(status.access_modes.as_ref()) } else { String::new() };
    vec![
        name(&claim.metadata),
        phase(&claim.metadata, status.phase.as_ref()),
        spec.volume_name.clone().unwrap_or_default().into(),
        capacity.into(),
        modes.into(),
        storage_class(&claim.metadata, spec.storage_class_name.as_ref()),
        unset(spec.volume_attributes_class_name.as_ref()),
        age(&claim.metadata, now),
        unset(spec.volume_mode.as_ref()),
    ]
}

pub const RESOURCE_QUOTA: &[Column] =
    &[Column::NAME, Column::new("Request", "string"), Column::new("Limit", "string"), Column::AGE];

pub fn resource_quota(quota: &ResourceQuota, now: Timestamp) -> Vec<Value> {
    let status = quota.status.clone().unwrap_or_default();
    let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, most) in &hard {
        let now_used = used.get(resource).map_or("0", |amount| &amount.0);
        let text = format!("{resource}: {now_used}/{}", most.0);
        if resource.starts_with("limits") { limits.push(text) } else { requests.push(text) }
    }
    vec![name(&quota.metadata), requests.join(", ").into(), limits.join(", ").into(), age(&quota.metadata, now)]
}

pub const COMPONENT_STATUS: &[Column] =
    &[Column::NAME, Column::new("Status", "string"), Column::new("Message", "string"), Column::new("Error", "string")];

pub fn component_status(component: &ComponentStatus) -> Vec<Value> {
    let healthy = component.conditions.iter().flatten().find(|condition| condition.type_ == "Healthy");
    let status = match healthy.map(|condition| condition.status.as_str()) {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    let text = |text: Option<&String>| -> Value { text.cloned().unwrap_or_default().into() };
    vec![
        name(&component.metadata),
        status.into(),
        text(healthy.and_then(|condition| condition.message.as_ref())),
        text(healthy.and_then(|condition| condition.error.as_ref())),
    ]
}

pub const LEASE: &[Column] = &[Column::NAME, Column::new("Holder", "string"), Column::AGE];

/// Age of anything with a creation time, for kinds that show one more text.
pub fn name_text_age(meta: &ObjectMeta, text: &str, now: Timestamp) -> Vec<Value> {
    vec![name(meta), text.into(), since(meta.creation_timestamp.as_ref(), now).into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    #[test]
    fn nodes_show_state_roles_and_addresses() {
        let object: Node = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n",
            "labels": {"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/master": "true"}},
            "spec": {"unschedulable": true}, "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.1",
                    "containerRuntimeVersion": "rk://0.1"}}}))
        .unwrap();
        assert_eq!(
            Value::from(node(&object, now())),
            json!([
                "n",
                "Ready,SchedulingDisabled",
                "control-plane,master",
                "<unknown>",
                "v1.36.0",
                "10.0.0.1",
                "<none>",
                "Debian",
                "6.1",
                "rk://0.1"
            ])
        );
    }

    #[test]
    fn events_show_series_and_singles() {
        let cells = |extra: Value| {
            let mut object = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "type": "Normal",
                "reason": "Pulled", "message": " hello\n", "involvedObject": {"kind": "Pod", "name": "p"},
                "source": {"component": "kubelet", "host": "n"}});
            object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let object: Event = serde_json::from_value(object).unwrap();
            Value::from(event(&object, now()))
        };
        assert_eq!(
            cells(
                json!({"firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:09:00Z", "count": 4})
            ),
            json!(["60s", "Normal", "Pulled", "pod/p", "", "kubelet, n", "hello", "10m", 4, "e"])
        );
        assert_eq!(cells(json!({"eventTime": "2026-01-01T00:09:30.000000Z"}))[0], json!("30s"));
    }

    #[test]
    fn quotas_split_requests_and_limits() {
        let object: ResourceQuota = serde_json::from_value(json!({"apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "q"}, "status": {"hard": {"pods": "10", "limits.cpu": "2"}, "used": {"pods": "3"}}}))
        .unwrap();
        assert_eq!(resource_quota(&object, now())[1..3], [json!("pods: 3/10"), json!("limits.cpu: 0/2")]);
    }
}
