//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may approve and sign for a signer, and
//! that nobody asks for a certificate that may do everything.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use objects::status::Status;
use serde::Deserialize;
use serde_json::Value;
use x509_parser::{certification_request::X509CertificationRequest, pem::parse_x509_pem, prelude::FromDer};

use super::{Operation, Review};
use crate::{
    authn::user::{ETCD_CLIENTS, MASTERS, SERVERS},
    authz::{Attributes, Decision},
    encoded::meta_str,
};

const GROUP: &str = "certificates.k8s.io";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// What the names of the signers begin with that the cluster's CA signs for.
const BUILT_IN: &str = "kubernetes.io/";

/// Checks a write of a certificate signing request.
pub(super) fn validate(review: &Review<'_>, object: &Value) -> Result<(), Status> {
    if !review.is(GROUP, "certificatesigningrequests") {
        return Ok(());
    }
    match (review.operation, review.place.subresource) {
        (Operation::Create, "") => restrict_subject(review, object),
        (Operation::Update, "approval") => permit(review, "approve", object),
        (Operation::Update, "status") if signs(review.old, object) => permit(review, "sign", object),
        _ => Ok(()),
    }
}

/// Whether an update of the status is a signer's: it sets the certificate, or gives up.
fn signs(old: Option<&Value>, new: &Value) -> bool {
    let certificate = |request: &Value| request.pointer("/status/certificate").cloned();
    let failed = |request: &Value| {
        let conditions = request.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        conditions.filter(|condition| condition["type"] == "Failed").count()
    };
    old.is_none_or(|old| certificate(old) != certificate(new) || failed(old) != failed(new))
}

/// Asks whether the user may do `verb` for the signer, by its name or by all names of its domain.
fn permit(review: &Review<'_>, verb: &str, object: &Value) -> Result<(), Status> {
    let signer = review.old.unwrap_or(object).pointer("/spec/signerName").and_then(Value::as_str).unwrap_or_default();
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let may = |name: &str| {
        let base = Attributes::of(review.user);
        let wanted = Attributes { verb, group: GROUP, resource: "signers", name, ..base };
        matches!(review.inner.authz.authorize(&wanted), Decision::Allow(_))
    };
    if may(signer) || may(&domain) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName \"{signer}\"");
    Err(review.forbid(meta_str(object, "name"), &why))
}

fn restrict_subject(review: &Review<'_>, object: &Value) -> Result<(), Status> {
    let request = CertificateSigningRequest::deserialize(object).map_err(Status::internal)?;
    let signer = request.spec.signer_name.as_str();
    // Servers know each other by both sides' certificates, so no signer of the cluster's CA may give one out.
    let reserved: &[&str] = match signer {
        CLIENT => &[MASTERS, ETCD_CLIENTS, SERVERS],
        _ if signer.starts_with(BUILT_IN) => &[SERVERS],
        _ => return Ok(()),
    };
    let name = meta_str(object, "name");
    let Ok((_, pem)) = parse_x509_pem(&request.spec.request.0) else {
        return Err(review.forbid(name, "unable to parse CSR: PEM block type must be CERTIFICATE REQUEST"));
    };
    let Ok((_, parsed)) = X509CertificationRequest::from_der(&pem.contents) else {
        return Err(review.forbid(name, "unable to parse CSR: malformed certification request"));
    };
    let mut groups = parsed.certification_request_info.subject.iter_organization();
    if let Some(group) = groups.find_map(|group| reserved.iter().find(|reserved| group.as_str() == Ok(**reserved))) {
        let why = format!("use of {signer} signer with {group} group is not allowed");
        return Err(review.forbid(name, &why));
    }
    Ok(())
}
