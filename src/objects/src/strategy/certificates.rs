//! Certificate signing requests and trust bundles.

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::api::certificates::{v1alpha1, v1beta1};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::typed::{Rules, StatusPolicy};
use super::{Context, Part, SelectableField};
use crate::columns::{self, Column};
use crate::field::{Errors, Path};
use crate::names::{self, NameRule};
use crate::validation::{check, immutable, shown};

const FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: "" },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: "" },
    SelectableField { label: "spec.signerName", path: &["spec", "signerName"], absent: "" },
];

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub struct CertificateSigningRequestRules;

impl Rules for CertificateSigningRequestRules {
    type Object = CertificateSigningRequest;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const NAMES: NameRule = names::path_segment;
    const FIELDS: &'static [SelectableField] = FIELDS;
    const COLUMNS: &'static [Column] = columns::policy::CERTIFICATE_SIGNING_REQUEST;

    fn default(csr: &mut CertificateSigningRequest) {
        stamp(csr, None);
    }

    /// Who asks is what the server saw, whatever the body says.
    fn prepare_create(csr: &mut CertificateSigningRequest, context: &Context<'_>) {
        let spec = &mut csr.spec;
        let user = context.user.cloned().unwrap_or_default();
        spec.username = Some(user.name);
        spec.uid = Some(user.uid).filter(|uid| !uid.is_empty());
        spec.groups = (!user.groups.is_empty()).then_some(user.groups);
        spec.extra = (!user.extra.is_empty()).then(|| user.extra.into_iter().collect());
        csr.status = None;
    }

    fn validate_create(csr: &CertificateSigningRequest, errors: &mut Errors) {
        let path = &Path::root("spec");
        let spec = &csr.spec;
        let request = String::from_utf8_lossy(&spec.request.0);
        let is_pem = request.contains("-----BEGIN CERTIFICATE REQUEST-----")
            || request.contains("-----BEGIN NEW CERTIFICATE REQUEST-----");
        if !is_pem {
            let detail = "PEM block type must be CERTIFICATE REQUEST";
            errors.invalid(&path.child("request"), shown(&spec.request), detail);
        }
        let usages = spec.usages.as_deref().unwrap_or_default();
        let usages_path = path.child("usages");
        if usages.is_empty() {
            errors.required(&usages_path, "");
        }
        for (n, usage) in usages.iter().enumerate() {
            if !USAGES.contains(&usage.as_str()) {
                errors.not_supported(&usages_path.index(n), usage, USAGES);
            }
            if usages[..n].contains(usage) {
                errors.duplicate(&usages_path.index(n), usage);
            }
        }
        signer_name(errors, &path.child("signerName"), &spec.signer_name);
        if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < 600) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(&path.child("expirationSeconds"), seconds, detail);
        }
    }

    fn prepare_update(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        new.spec = old.spec.clone();
    }

    fn validate_update(_new: &CertificateSigningRequest, _old: &CertificateSigningRequest, _errors: &mut Errors) {}

    /// Approval changes conditions alone; `/status` everything but approval.
    fn prepare_part(part: Part, new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        new.spec = old.spec.clone();
        let old_status = old.status.clone().unwrap_or_default();
        let status = new.status.get_or_insert_default();
        if part == Part::Approval {
            status.certificate = old_status.certificate;
        }
        stamp(new, Some(old));
    }

    fn validate_part(
        part: Part,
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
        errors: &mut Errors,
    ) {
        let default = CertificateSigningRequestStatus::default();
        let (status, before) = (new.status.as_ref().unwrap_or(&default), old.status.as_ref().unwrap_or(&default));
        let path = Path::root("status");
        conditions(errors, &path.child("conditions"), status, before, part);
        if before.certificate.is_some() {
            immutable(errors, &path.child("certificate"), &status.certificate, &before.certificate);
        }
    }

    fn cells(csr: &CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
        columns::policy::certificate_signing_request(csr, now)
    }
}

/// Keeps the transition time of conditions that did not change. New ones get theirs from the approver's update time.
fn stamp(csr: &mut CertificateSigningRequest, old: Option<&CertificateSigningRequest>) {
    let before = old.and_then(|old| old.status.as_ref()?.conditions.clone()).unwrap_or_default();
    for condition in csr.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
        let same =
            |old: &&CertificateSigningRequestCondition| old.type_ == condition.type_ && old.status == condition.status;
        if condition.last_transition_time.is_none() {
            let kept: Option<Time> = before.iter().find(same).and_then(|old| old.last_transition_time.clone());
            condition.last_transition_time = kept.or_else(|| condition.last_update_time.clone());
        }
    }
}

fn signer_name(errors: &mut Errors, path: &Path<'_>, name: &str) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, rest)) = name.split_once('/') else {
        return errors.invalid(
            path,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
    };
    check(errors, path, domain, names::dns1123_subdomain(domain));
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    for segment in rest.split('.') {
        check(errors, path, segment, names::dns1123_subdomain(segment));
    }
}

fn conditions(
    errors: &mut Errors,
    path: &Path<'_>,
    status: &CertificateSigningRequestStatus,
    before: &CertificateSigningRequestStatus,
    part: Part,
) {
    let list = status.conditions.as_deref().unwrap_or_default();
    for (n, condition) in list.iter().enumerate() {
        let path = path.index(n);
        if condition.type_.is_empty() {
            errors.required(&path.child("type"), "");
        }
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("Approved" | "Denied" | "Failed", status) if status != "True" => {
                errors.not_supported(&path.child("status"), status, &["True"]);
            }
            (_, "True" | "False" | "Unknown") => {}
            (_, "") => errors.required(&path.child("status"), ""),
            (_, other) => errors.not_supported(&path.child("status"), other, &["False", "True", "Unknown"]),
        }
        if list[..n].iter().any(|other| other.type_ == condition.type_) {
            errors.duplicate(&path.child("type"), &condition.type_);
        }
    }
    let has = |list: &[CertificateSigningRequestCondition], kind: &str| list.iter().any(|c| c.type_ == kind);
    if has(list, "Approved") && has(list, "Denied") {
        errors.invalid(path, "Denied", "Approved and Denied conditions are mutually exclusive");
    }
    let old = before.conditions.as_deref().unwrap_or_default();
    for kind in ["Approved", "Denied", "Failed"] {
        let (was, is) = (has(old, kind), has(list, kind));
        if was && !is {
            errors.forbidden(path, &format!("updates may not remove a condition of type \"{kind}\""));
        }
        if !was && is && kind != "Failed" && part == Part::Status {
            errors.forbidden(path, &format!("updates may not add a condition of type \"{kind}\""));
        }
    }
}

macro_rules! trust_bundle {
    ($version:ident, $rules:ident) => {
        pub struct $rules;

        impl Rules for $rules {
            type Object = $version::ClusterTrustBundle;
            const NAMES: NameRule = names::path_segment;
            const COLUMNS: &'static [Column] = columns::cluster::SIGNER_NAME;

            fn validate(bundle: &$version::ClusterTrustBundle, errors: &mut Errors) {
                let path = Path::root("spec");
                if !bundle.spec.trust_bundle.contains("-----BEGIN CERTIFICATE-----") {
                    errors.invalid(
                        &path.child("trustBundle"),
                        "<value omitted>",
                        "at least one trust anchor must be provided",
                    );
                }
            }

            fn cells(bundle: &$version::ClusterTrustBundle, _now: Timestamp) -> Vec<Value> {
                let signer = bundle.spec.signer_name.clone().unwrap_or_default();
                vec![columns::name(&bundle.metadata), columns::none_if_empty(&signer)]
            }
        }
    };
}

trust_bundle!(v1alpha1, ClusterTrustBundleAlphaRules);
trust_bundle!(v1beta1, ClusterTrustBundleRules);

#[cfg(test)]
mod tests {
    use crate::strategy::{Context, Part, User, strategy_for};
    use serde_json::json;

    #[test]
    fn the_requester_is_who_the_server_saw() {
        let strategy = strategy_for("certificates.k8s.io", "v1", "CertificateSigningRequest").unwrap();
        let user = User { name: "alice".to_owned(), groups: vec!["dev".to_owned()], ..User::default() };
        let context = Context { user: Some(&user), ..Context::sample(None) };
        let request = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0=";
        let object = json!({"metadata": {"name": "c"}, "spec": {"request": request, "signerName": "example.com/x",
            "usages": ["client auth"], "username": "root", "groups": ["system:masters"]}});
        let mut created = strategy.create(object, &context).unwrap();
        assert_eq!(created["spec"]["username"], "alice");
        assert_eq!(created["spec"]["groups"], json!(["dev"]));
        created["metadata"]["resourceVersion"] = json!("1");

        let mut approved = created.clone();
        approved["status"] =
            json!({"conditions": [{"type": "Approved", "status": "True", "lastUpdateTime": "2026-01-02T03:04:05Z"}]});
        let stored = strategy.update(Part::Approval, approved.clone(), &created, &context).unwrap();
        assert_eq!(stored["status"]["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
        let refused = strategy.update(Part::Status, approved, &created, &context).unwrap_err();
        assert!(refused.message().contains("updates may not add a condition of type \"Approved\""));
    }
}
