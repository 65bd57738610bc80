//! Which strategy each built-in kind follows.

use k8s_openapi::api;
use serde::Deserialize;
use serde_json::Value;

use super::typed::{Plain, PlainWithStatus, Typed};
use super::{
    SelectableField, Strategy, admission, apps, autoscaling, batch, certificates, core, extensions, flow_control,
    networking, policy, rbac, scheduling, storage,
};
use crate::kinds::Kind;
use crate::status::{Qualified, Status};

/// The strategy of a built-in kind; `None` for kinds that are not stored (reviews, bindings) or not built in.
pub fn strategy_for(group: &str, version: &str, kind: &str) -> Option<&'static dyn Strategy> {
    let of_kind = |strategy: &&&dyn Strategy| {
        let facts = strategy.facts();
        facts.kind == kind && facts.group == group && facts.version == version
    };
    KINDS.iter().chain(PLAIN).chain(PLAIN_WITH_STATUS).find(of_kind).copied()
}

/// Every built-in strategy.
pub fn all() -> impl Iterator<Item = &'static dyn Strategy> {
    KINDS.iter().chain(PLAIN).chain(PLAIN_WITH_STATUS).copied()
}

macro_rules! strategies {
    ($($rules:ty),* $(,)?) => { &[$(&Typed::<$rules>::NEW),*] };
}

macro_rules! wrapped {
    ($wrapper:ident: $($kind:ty),* $(,)?) => { &[$(&Typed::<$wrapper<$kind>>::NEW),*] };
}

/// Kinds with rules of their own.
static KINDS: &[&dyn Strategy] = strategies![
    core::pod::PodRules,
    core::namespace::NamespaceRules,
    core::service::ServiceRules,
    core::config::ConfigMapRules,
    core::config::SecretRules,
    core::config::ServiceAccountRules,
    apps::deployment::DeploymentRules,
    apps::replica_set::ReplicaSetRules,
    apps::replica_set::ReplicationControllerRules,
    apps::daemon_set::DaemonSetRules,
    apps::stateful_set::StatefulSetRules,
    apps::revision::ControllerRevisionRules,
    apps::revision::PodTemplateRules,
    core::node::NodeRules,
    core::event::EventRules,
    core::endpoints::EndpointsRules,
    core::endpoints::EndpointSliceRules,
    core::volume::PersistentVolumeRules,
    core::volume::PersistentVolumeClaimRules,
    core::quota::ResourceQuotaRules,
    core::quota::LimitRangeRules,
    batch::job::JobRules,
    batch::cron_job::CronJobRules,
    rbac::RoleRules,
    rbac::ClusterRoleRules,
    rbac::RoleBindingRules,
    rbac::ClusterRoleBindingRules,
    networking::ingress::IngressRules,
    networking::ingress::IngressClassRules,
    networking::policy::NetworkPolicyRules,
    networking::addresses::ServiceCidrRules,
    networking::addresses::IpAddressRules,
    networking::addresses::ServiceCidrBetaRules,
    networking::addresses::IpAddressBetaRules,
    policy::PodDisruptionBudgetRules,
    storage::StorageClassRules,
    storage::CsiDriverRules,
    storage::CsiNodeRules,
    storage::CsiStorageCapacityRules,
    storage::VolumeAttachmentRules,
    storage::VolumeAttributesClassRules,
    storage::VolumeAttributesClassBetaRules,
    scheduling::PriorityClassRules,
    scheduling::RuntimeClassRules,
    scheduling::LeaseRules,
    autoscaling::HorizontalPodAutoscalerRules,
    certificates::CertificateSigningRequestRules,
    certificates::ClusterTrustBundleRules,
    certificates::ClusterTrustBundleAlphaRules,
    admission::ValidatingWebhookRules,
    admission::MutatingWebhookRules,
    admission::ValidatingAdmissionPolicyRules,
    admission::ValidatingAdmissionPolicyBindingRules,
    extensions::CustomResourceDefinitionRules,
    extensions::ApiServiceRules,
    flow_control::FlowSchemaRules,
    flow_control::PriorityLevelRules,
    flow_control::StorageVersionRules,
    flow_control::ComponentStatusRules,
];

/// Kinds that are decoded and have their metadata checked, and no more.
static PLAIN: &[&dyn Strategy] = wrapped![Plain:
    api::coordination::v1alpha2::LeaseCandidate,
    api::coordination::v1beta1::LeaseCandidate,
    api::resource::v1::ResourceClaimTemplate,
    api::resource::v1beta1::ResourceClaimTemplate,
    api::resource::v1beta2::ResourceClaimTemplate,
    api::scheduling::v1alpha2::Workload,
];

/// Plain kinds with a status part and generations.
static PLAIN_WITH_STATUS: &[&dyn Strategy] = wrapped![PlainWithStatus:
    api::admissionregistration::v1::MutatingAdmissionPolicy,
    api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
    api::admissionregistration::v1alpha1::MutatingAdmissionPolicy,
    api::admissionregistration::v1alpha1::MutatingAdmissionPolicyBinding,
    api::admissionregistration::v1beta1::MutatingAdmissionPolicy,
    api::admissionregistration::v1beta1::MutatingAdmissionPolicyBinding,
    api::certificates::v1beta1::PodCertificateRequest,
    api::resource::v1::DeviceClass,
    api::resource::v1::ResourceClaim,
    api::resource::v1::ResourceSlice,
    api::resource::v1alpha3::DeviceTaintRule,
    api::resource::v1alpha3::ResourcePoolStatusRequest,
    api::resource::v1beta1::DeviceClass,
    api::resource::v1beta1::ResourceClaim,
    api::resource::v1beta1::ResourceSlice,
    api::resource::v1beta2::DeviceClass,
    api::resource::v1beta2::DeviceTaintRule,
    api::resource::v1beta2::ResourceClaim,
    api::resource::v1beta2::ResourceSlice,
    api::scheduling::v1alpha2::PodGroup,
    api::storagemigration::v1beta1::StorageVersionMigration,
];

/// The strategy of a row of the KINDS table: that of the form its objects are stored in. `None` for rows of custom resources and for kinds that are not stored.
pub fn for_kind(kind: &Kind) -> Option<&'static dyn Strategy> {
    strategy_for(&kind.storage_group, &kind.storage_version, &kind.kind)
}

/// The fields that a field selector may name on a row of the KINDS table: its own names for what is stored.
pub fn fields_of(kind: &Kind) -> &'static [SelectableField] {
    match (&*kind.group, &*kind.kind) {
        ("events.k8s.io", "Event") => core::event::VIEW_FIELDS,
        _ => for_kind(kind).map_or(&[], |strategy| strategy.selectable_fields()),
    }
}

/// What a row asks for beyond the rules of the form its objects are stored in: `new` and `old` are in that form.
///
/// # Errors
/// The `Invalid` that lists what is wrong.
pub fn check_view(kind: &Kind, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    if (&*kind.group, &*kind.kind) != ("events.k8s.io", "Event") {
        return Ok(());
    }
    let event = |value: &Value| api::core::v1::Event::deserialize(value).map_err(Status::internal);
    let errors = core::event::check_view(&event(new)?, old.map(event).transpose()?.as_ref());
    if errors.is_empty() {
        return Ok(());
    }
    let name = new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    Err(Status::invalid(Qualified::new("", &kind.kind), name, errors.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_kind_has_a_strategy_that_agrees_with_its_row() {
        for kind in crate::kinds::KINDS.iter().filter(|kind| kind.is_stored()) {
            let strategy = for_kind(kind);
            assert!(strategy.is_some(), "{} {}", kind.api_version(), kind.kind);
            let facts = strategy.unwrap().facts();
            assert_eq!(facts.resource, kind.plural);
            assert_eq!(facts.namespaced, kind.is_namespaced(), "{}", kind.kind);
        }
    }

    /// An object of every kind with nothing but a name: refused or not, it must be handled.
    #[test]
    fn every_strategy_handles_a_bare_object() {
        let context = crate::strategy::Context::sample(Some("default"));
        for strategy in all() {
            let facts = strategy.facts();
            let bare = serde_json::json!({"metadata": {"name": "x"}});
            let decoded = strategy.decode(bare).unwrap();
            assert_eq!(decoded["kind"], facts.kind);
            let again = strategy.decode(decoded.clone()).unwrap();
            assert_eq!(again, decoded, "defaults of {} are not stable", facts.kind);
            assert_eq!(strategy.cells(&decoded, context.now).len(), strategy.columns().len(), "{}", facts.kind);
            assert!(strategy.selectable_fields().iter().any(|field| field.label == "metadata.name"));
            let context =
                crate::strategy::Context { namespace: context.namespace.filter(|_| facts.namespaced), ..context };
            if let Err(status) = strategy.create(decoded, &context) {
                assert_eq!(status.code(), 422, "{}: {status}", facts.kind);
            }
        }
    }

    #[test]
    fn no_kind_is_listed_twice() {
        let mut seen = std::collections::HashSet::new();
        for facts in all().map(Strategy::facts) {
            assert!(seen.insert((facts.group, facts.version, facts.kind)), "{} {}", facts.version, facts.kind);
        }
    }
}
