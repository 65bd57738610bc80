//! Storage classes and drivers, webhooks and policies, aggregated APIs.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apiserverinternal::v1alpha1::StorageVersion;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIStorageCapacity, StorageClass, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::Value;

use super::{Column, age, name, none_if_empty};

pub const STORAGE_CLASS: &[Column] = &[
    Column::NAME,
    Column::new("Provisioner", "string"),
    Column::new("ReclaimPolicy", "string"),
    Column::new("VolumeBindingMode", "string"),
    Column::new("AllowVolumeExpansion", "string"),
    Column::AGE,
];

pub fn storage_class(class: &StorageClass, now: Timestamp) -> Vec<Value> {
    const DEFAULT: &[&str] =
        &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let annotations = class.metadata.annotations.as_ref();
    let is_default =
        DEFAULT.iter().any(|key| annotations.and_then(|a| a.get(*key)).is_some_and(|value| value == "true"));
    let plain = class.metadata.name.clone().unwrap_or_default();
    let text = |text: Option<&String>, default: &str| -> Value { text.map_or(default, String::as_str).into() };
    vec![
        if is_default { format!("{plain} (default)").into() } else { plain.into() },
        class.provisioner.clone().into(),
        text(class.reclaim_policy.as_ref(), "Delete"),
        text(class.volume_binding_mode.as_ref(), "Immediate"),
        class.allow_volume_expansion.unwrap_or(false).into(),
        age(&class.metadata, now),
    ]
}

pub const CSI_DRIVER: &[Column] = &[
    Column::NAME,
    Column::new("AttachRequired", "boolean"),
    Column::new("PodInfoOnMount", "boolean"),
    Column::new("StorageCapacity", "boolean"),
    Column::new("TokenRequests", "string"),
    Column::new("RequiresRepublish", "boolean"),
    Column::new("Modes", "string"),
    Column::AGE,
];

pub fn csi_driver(driver: &CSIDriver, now: Timestamp) -> Vec<Value> {
    let spec = &driver.spec;
    let audiences: Vec<&str> = spec.token_requests.iter().flatten().map(|request| request.audience.as_str()).collect();
    let tokens = if audiences.is_empty() { "<unset>".to_owned() } else { audiences.join(",") };
    vec![
        name(&driver.metadata),
        spec.attach_required.unwrap_or(true).into(),
        spec.pod_info_on_mount.unwrap_or(false).into(),
        spec.storage_capacity.unwrap_or(false).into(),
        tokens.into(),
        spec.requires_republish.unwrap_or(false).into(),
        none_if_empty(&spec.volume_lifecycle_modes.as_ref().map(|modes| modes.join(",")).unwrap_or_default()),
        age(&driver.metadata, now),
    ]
}

/// Kinds whose only fact is how many of something they hold.
pub fn count(meta: &ObjectMeta, count: usize, now: Timestamp) -> Vec<Value> {
    vec![name(meta), count.into(), age(meta, now)]
}

pub const CSI_NODE: &[Column] = &[Column::NAME, Column::new("Drivers", "integer"), Column::AGE];
pub const WEBHOOKS: &[Column] = &[Column::NAME, Column::new("Webhooks", "integer"), Column::AGE];

pub const CSI_STORAGE_CAPACITY: &[Column] =
    &[Column::NAME, Column::new("StorageClassName", "string"), Column::new("Capacity", "string")];

pub fn csi_storage_capacity(capacity: &CSIStorageCapacity) -> Vec<Value> {
    let size = capacity.capacity.as_ref().map_or("<unset>", |size| &size.0);
    vec![name(&capacity.metadata), capacity.storage_class_name.clone().into(), size.into()]
}

pub const VOLUME_ATTACHMENT: &[Column] = &[
    Column::NAME,
    Column { format: "name", ..Column::new("Attacher", "string") },
    Column::new("PV", "string"),
    Column::new("Node", "string"),
    Column::new("Attached", "boolean"),
    Column::AGE,
];

pub fn volume_attachment(attachment: &VolumeAttachment, now: Timestamp) -> Vec<Value> {
    let spec = &attachment.spec;
    vec![
        name(&attachment.metadata),
        spec.attacher.clone().into(),
        spec.source.persistent_volume_name.clone().unwrap_or_default().into(),
        spec.node_name.clone().into(),
        attachment.status.as_ref().is_some_and(|status| status.attached).into(),
        age(&attachment.metadata, now),
    ]
}

/// Columns of a name, one more text and the age.
pub const DRIVER_NAME: &[Column] = &[Column::NAME, Column::new("DriverName", "string"), Column::AGE];
pub const HANDLER: &[Column] = &[Column::NAME, Column::new("Handler", "string"), Column::AGE];
pub const SIGNER_NAME: &[Column] = &[Column::NAME, Column::new("SignerName", "string")];

pub const API_SERVICE: &[Column] =
    &[Column::NAME, Column::new("Service", "string"), Column::new("Available", "string"), Column::AGE];

pub fn api_service(service: &APIService, now: Timestamp) -> Vec<Value> {
    let target = service.spec.as_ref().and_then(|spec| spec.service.as_ref()).map(|service| {
        format!("{}/{}", service.namespace.as_deref().unwrap_or_default(), service.name.as_deref().unwrap_or_default())
    });
    let conditions = service.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let available = conditions.iter().find(|condition| condition.type_ == "Available");
    let state = available.map_or_else(
        || "Unknown".to_owned(),
        |condition| match condition.reason.as_deref().unwrap_or_default() {
            reason if condition.status != "True" && !reason.is_empty() => format!("{} ({reason})", condition.status),
            _ => condition.status.clone(),
        },
    );
    vec![
        name(&service.metadata),
        target.unwrap_or_else(|| "Local".to_owned()).into(),
        state.into(),
        age(&service.metadata, now),
    ]
}

pub const ADMISSION_POLICY: &[Column] =
    &[Column::NAME, Column::new("Validations", "integer"), Column::new("ParamKind", "string"), Column::AGE];

pub fn admission_policy(policy: &ValidatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
    let spec = policy.spec.clone().unwrap_or_default();
    let kind = spec.param_kind.map_or_else(
        || "<unset>".to_owned(),
        |kind| format!("{}/{}", kind.api_version.unwrap_or_default(), kind.kind.unwrap_or_default()),
    );
    let validations = spec.validations.map_or(0, |validations| validations.len());
    vec![name(&policy.metadata), validations.into(), kind.into(), age(&policy.metadata, now)]
}

pub const ADMISSION_POLICY_BINDING: &[Column] =
    &[Column::NAME, Column::new("PolicyName", "string"), Column::new("ParamRef", "string"), Column::AGE];

pub fn admission_policy_binding(binding: &ValidatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
    let spec = binding.spec.clone();
    let reference = spec.param_ref.map_or_else(
        || "<unset>".to_owned(),
        |reference| match (reference.namespace, reference.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            (None, Some(name)) => format!("*/{name}"),
            _ => "<unset>".to_owned(),
        },
    );
    vec![name(&binding.metadata), spec.policy_name.clone().into(), reference.into(), age(&binding.metadata, now)]
}

pub const STORAGE_VERSION: &[Column] = &[
    Column::NAME,
    Column::new("CommonEncodingVersion", "string"),
    Column::new("StorageVersions", "string"),
    Column::AGE,
];

pub fn storage_version(version: &StorageVersion, now: Timestamp) -> Vec<Value> {
    let status = version.status.clone().unwrap_or_default();
    let encoding = status.common_encoding_version.clone().unwrap_or_else(|| "<unset>".to_owned());
    let servers: Vec<String> = status
        .storage_versions
        .iter()
        .flatten()
        .map(|server| {
            let id = &server.api_server_id;
            format!("{id}={}", server.encoding_version)
        })
        .collect();
    let shown = if servers.is_empty() { "<unset>".to_owned() } else { servers.join(",") };
    vec![name(&version.metadata), encoding.into(), shown.into(), age(&version.metadata, now)]
}
