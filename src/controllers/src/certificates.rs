//! Certificate signing requests: nodes' own are approved, approved ones are signed by the cluster's CA for the signers
//! that it speaks for, and old ones are deleted.

mod approve;
mod clean;
mod sign;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pki::request::Request;

use crate::context::Context;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

pub(crate) fn start(context: &Context) {
    approve::start(context);
    clean::start(context);
    if let Some(ca) = context.config.signer.clone() {
        sign::start(context, ca);
    }
}

fn condition<'c>(csr: &'c CertificateSigningRequest, kind: &str) -> Option<&'c CertificateSigningRequestCondition> {
    csr.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|pem| !pem.0.is_empty())
}

/// A condition that holds from `now` on.
fn holds(kind: &str, reason: &str, message: String, now: jiff::Timestamp) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn usages(csr: &CertificateSigningRequest) -> Vec<&str> {
    let mut usages: Vec<&str> = csr.spec.usages.iter().flatten().map(String::as_str).collect();
    usages.sort_unstable();
    usages
}

/// Why a request is not one that a node makes to be known as a client; upstream's words.
fn not_kubelet_client(request: &Request, usages: &[&str]) -> Option<&'static str> {
    if request.subject.groups != ["system:nodes"] {
        Some("subject organization is not system:nodes")
    } else if !request.dns_names.is_empty() || !request.addresses.is_empty() || request.other_names > 0 {
        Some("DNS, IP, email and URI subjectAltNames are not allowed")
    } else if !request.subject.user.starts_with("system:node:") {
        Some("subject common name does not begin with system:node:")
    } else if !matches!(
        usages,
        ["client auth", "digital signature", "key encipherment"] | ["client auth", "digital signature"]
    ) {
        Some("usages did not match [client auth digital signature key encipherment]")
    } else {
        None
    }
}

/// Why a request is not one that a node makes to be known as a server.
fn not_kubelet_serving(request: &Request, usages: &[&str]) -> Option<&'static str> {
    if request.subject.groups != ["system:nodes"] {
        Some("subject organization is not system:nodes")
    } else if request.dns_names.is_empty() && request.addresses.is_empty() {
        Some("DNS or IP subjectAltName is required")
    } else if request.other_names > 0 {
        Some("email and URI subjectAltNames are not allowed")
    } else if !request.subject.user.starts_with("system:node:") {
        Some("subject common name does not begin with system:node:")
    } else if !matches!(
        usages,
        ["digital signature", "key encipherment", "server auth"] | ["digital signature", "server auth"]
    ) {
        Some("usages did not match [digital signature key encipherment server auth]")
    } else {
        None
    }
}
