//! Which strategy each built-in kind follows.

use k8s_openapi::api::{
    admissionregistration, apiserverinternal, apps, autoscaling, batch, certificates, coordination, core, discovery,
    events, flowcontrol, networking, node, policy, rbac, resource, scheduling, storage, storagemigration,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;

use super::Strategy;
use super::typed::{Plain, PlainWithStatus, Typed};
use crate::kinds::Kind;

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
static KINDS: &[&dyn Strategy] = strategies![];

/// Kinds that are decoded and have their metadata checked, and no more.
static PLAIN: &[&dyn Strategy] = wrapped![Plain:
    core::v1::ComponentStatus,
    core::v1::ConfigMap,
    core::v1::Endpoints,
    core::v1::Event,
    core::v1::LimitRange,
    core::v1::PodTemplate,
    core::v1::Secret,
    core::v1::ServiceAccount,
    apps::v1::ControllerRevision,
    certificates::v1alpha1::ClusterTrustBundle,
    certificates::v1beta1::ClusterTrustBundle,
    coordination::v1::Lease,
    coordination::v1alpha2::LeaseCandidate,
    coordination::v1beta1::LeaseCandidate,
    discovery::v1::EndpointSlice,
    events::v1::Event,
    networking::v1::IPAddress,
    networking::v1::IngressClass,
    networking::v1beta1::IPAddress,
    node::v1::RuntimeClass,
    rbac::v1::ClusterRole,
    rbac::v1::ClusterRoleBinding,
    rbac::v1::Role,
    rbac::v1::RoleBinding,
    resource::v1::ResourceClaimTemplate,
    resource::v1beta1::ResourceClaimTemplate,
    resource::v1beta2::ResourceClaimTemplate,
    scheduling::v1::PriorityClass,
    scheduling::v1alpha2::Workload,
    storage::v1::CSIDriver,
    storage::v1::CSINode,
    storage::v1::CSIStorageCapacity,
    storage::v1::StorageClass,
    storage::v1::VolumeAttributesClass,
    storage::v1beta1::VolumeAttributesClass,
];

/// Plain kinds with a status part and generations.
static PLAIN_WITH_STATUS: &[&dyn Strategy] = wrapped![PlainWithStatus:
    core::v1::Namespace,
    core::v1::Node,
    core::v1::PersistentVolume,
    core::v1::PersistentVolumeClaim,
    core::v1::Pod,
    core::v1::ReplicationController,
    core::v1::ResourceQuota,
    core::v1::Service,
    admissionregistration::v1::MutatingAdmissionPolicy,
    admissionregistration::v1::MutatingAdmissionPolicyBinding,
    admissionregistration::v1::MutatingWebhookConfiguration,
    admissionregistration::v1::ValidatingAdmissionPolicy,
    admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    admissionregistration::v1::ValidatingWebhookConfiguration,
    admissionregistration::v1alpha1::MutatingAdmissionPolicy,
    admissionregistration::v1alpha1::MutatingAdmissionPolicyBinding,
    admissionregistration::v1beta1::MutatingAdmissionPolicy,
    admissionregistration::v1beta1::MutatingAdmissionPolicyBinding,
    apiserverinternal::v1alpha1::StorageVersion,
    apps::v1::DaemonSet,
    apps::v1::Deployment,
    apps::v1::ReplicaSet,
    apps::v1::StatefulSet,
    autoscaling::v1::HorizontalPodAutoscaler,
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::CronJob,
    batch::v1::Job,
    certificates::v1::CertificateSigningRequest,
    certificates::v1beta1::PodCertificateRequest,
    flowcontrol::v1::FlowSchema,
    flowcontrol::v1::PriorityLevelConfiguration,
    networking::v1::Ingress,
    networking::v1::NetworkPolicy,
    networking::v1::ServiceCIDR,
    networking::v1beta1::ServiceCIDR,
    policy::v1::PodDisruptionBudget,
    resource::v1::DeviceClass,
    resource::v1::ResourceClaim,
    resource::v1::ResourceSlice,
    resource::v1alpha3::DeviceTaintRule,
    resource::v1alpha3::ResourcePoolStatusRequest,
    resource::v1beta1::DeviceClass,
    resource::v1beta1::ResourceClaim,
    resource::v1beta1::ResourceSlice,
    resource::v1beta2::DeviceClass,
    resource::v1beta2::DeviceTaintRule,
    resource::v1beta2::ResourceClaim,
    resource::v1beta2::ResourceSlice,
    scheduling::v1alpha2::PodGroup,
    storage::v1::VolumeAttachment,
    storagemigration::v1beta1::StorageVersionMigration,
    apiextensions::v1::CustomResourceDefinition,
    apiregistration::v1::APIService,
];

/// The strategy of a row of the KINDS table; `None` for rows of custom resources and for kinds that are not stored.
pub fn for_kind(kind: &Kind) -> Option<&'static dyn Strategy> {
    strategy_for(&kind.group, &kind.version, &kind.kind)
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
}
