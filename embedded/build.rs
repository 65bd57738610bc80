//! Packs the API's field descriptions for `kubectl explain`.
//!
//! The prose is not in this repository: it is taken, at build time, from the JSON schemas of the `k8s-openapi` crate,
//! and compressed. One line a definition or field: `@<definition>\t<text>`, then `<field>\t<text>`; line breaks in a
//! text are written `\n`.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use k8s_openapi::schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut generator = SchemaSettings::openapi3().into_generator();
    add_workloads(&mut generator);
    add_core(&mut generator);
    add_policies(&mut generator);
    add_machinery(&mut generator);
    let definitions: BTreeMap<String, Value> =
        generator.take_definitions(true).into_iter().filter(|(name, _)| name.starts_with("io.k8s.")).collect();
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for (name, definition) in &definitions {
        line(&mut out, &format!("@{name}"), definition)?;
        for (field, property) in definition.get("properties").and_then(Value::as_object).into_iter().flatten() {
            line(&mut out, field, property)?;
        }
    }
    let path = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("descriptions.gz");
    Ok(fs::write(path, out.finish()?)?)
}

fn line(out: &mut impl std::io::Write, name: &str, node: &Value) -> std::io::Result<()> {
    let text = node.get("description").and_then(Value::as_str).unwrap_or("");
    writeln!(out, "{name}\t{}", text.replace('\\', "\\\\").replace('\n', "\\n"))
}

macro_rules! roots {
    ($generator:ident, $($module:path { $($name:ident)* })*) => {
        $({
            use $module as module;
            $($generator.subschema_for::<module::$name>();)*
        })*
    };
}

fn add_core(generator: &mut SchemaGenerator) {
    roots! { generator,
        k8s_openapi::api::core::v1 {
            Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount
        }
        k8s_openapi::api::events::v1 { Event }
        k8s_openapi::api::discovery::v1 { EndpointSlice }
        k8s_openapi::api::coordination::v1 { Lease }
        k8s_openapi::api::node::v1 { RuntimeClass }
        k8s_openapi::api::scheduling::v1 { PriorityClass }
        k8s_openapi::api::storage::v1 {
            CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
        }
    }
}

fn add_workloads(generator: &mut SchemaGenerator) {
    roots! { generator,
        k8s_openapi::api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        k8s_openapi::api::batch::v1 { CronJob Job }
        k8s_openapi::api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
        k8s_openapi::api::autoscaling::v2 { HorizontalPodAutoscaler }
        k8s_openapi::api::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
    }
}

fn add_policies(generator: &mut SchemaGenerator) {
    roots! { generator,
        k8s_openapi::api::networking::v1 { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        k8s_openapi::api::policy::v1 { Eviction PodDisruptionBudget }
        k8s_openapi::api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding }
        k8s_openapi::api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview }
        k8s_openapi::api::authorization::v1 {
            LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
        }
        k8s_openapi::api::certificates::v1 { CertificateSigningRequest }
        k8s_openapi::api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
        k8s_openapi::api::admissionregistration::v1 {
            MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
        }
    }
}

fn add_machinery(generator: &mut SchemaGenerator) {
    roots! { generator,
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
        k8s_openapi::apimachinery::pkg::apis::meta::v1 { DeleteOptions ListMeta Status }
    }
}
