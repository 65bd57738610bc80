//! Certificate signing requests: what was approved is signed, for the signers that are the cluster's own, and what is
//! over is removed. `judge` decides, and is pure; approving is for people and other controllers.

use std::time::Duration;

use client::{Informer, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use pki::request::Requested;
use serde_json::json;

use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};

const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 365);
const PENDING_KEPT: SignedDuration = SignedDuration::from_hours(24);
const SETTLED_KEPT: SignedDuration = SignedDuration::from_hours(1);

struct Controller {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
    ca: pki::Ca,
}

/// Does nothing where the configuration has no CA.
pub(crate) fn start(context: &Context) {
    let Some(ca) = context.config.signing_ca.clone() else { return };
    let requests = context.informers.of::<CertificateSigningRequest>();
    let queue = context.queue("certificate-signer");
    context.feed_own(&requests, &queue);
    let ready = vec![synced(&requests)];
    context.run(queue, Controller { context: context.clone(), requests, ca }, ready);
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Sign,
    /// Approved, but not what its signer signs; why not.
    Refuse(String),
    Remove,
    /// Nothing before this time, if one is set.
    Wait(Option<Timestamp>),
}

fn condition<'a>(csr: &'a CertificateSigningRequest, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    csr.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

fn judge(csr: &CertificateSigningRequest, now: Timestamp) -> Verdict {
    let issued = csr.status.as_ref().is_some_and(|status| status.certificate.is_some());
    let approved = condition(csr, "Approved");
    let ended = condition(csr, "Denied").or_else(|| condition(csr, "Failed"));
    if approved.is_some() && ended.is_none() && !issued {
        return match check(csr) {
            Some(Ok(())) => Verdict::Sign,
            Some(Err(why)) => Verdict::Refuse(why),
            None => Verdict::Wait(None),
        };
    }
    let since = match ended.or(approved) {
        Some(settled) => settled.last_update_time.as_ref().map(|time| (time.0, SETTLED_KEPT)),
        None => csr.metadata.creation_timestamp.as_ref().map(|time| (time.0, PENDING_KEPT)),
    };
    match since.and_then(|(since, kept)| since.checked_add(kept).ok()) {
        Some(until) if until <= now => Verdict::Remove,
        until => Verdict::Wait(until),
    }
}

/// Whether the signer that is asked signs such a request. `None`: it is not one of ours.
fn check(csr: &CertificateSigningRequest) -> Option<Result<(), String>> {
    let spec = &csr.spec;
    let usages: Vec<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    let asked = || {
        let request = String::from_utf8_lossy(&spec.request.0);
        Requested::parse(&request).ok_or_else(|| "the request cannot be read".to_owned())
    };
    Some(match spec.signer_name.as_str() {
        "kubernetes.io/kube-apiserver-client" => check_usages(&usages, "client auth"),
        "kubernetes.io/kube-apiserver-client-kubelet" => {
            check_usages(&usages, "client auth").and_then(|()| check_node(&asked()?, false))
        }
        "kubernetes.io/kubelet-serving" => {
            check_usages(&usages, "server auth").and_then(|()| check_node(&asked()?, true))
        }
        "kubernetes.io/legacy-unknown" => Ok(()),
        _ => return None,
    })
}

/// `required`, and at most what goes along with it.
fn check_usages(usages: &[&str], required: &str) -> Result<(), String> {
    let kind = required.split(' ').next().unwrap_or_default();
    for usage in usages {
        if *usage != required && !["digital signature", "key encipherment"].contains(usage) {
            return Err(format!("invalid usage for {kind} certificate: {usage}"));
        }
    }
    if !usages.contains(&required) {
        return Err(format!("missing required usage for {kind} certificate: {required}"));
    }
    Ok(())
}

fn check_node(asked: &Requested, serving: bool) -> Result<(), String> {
    let named = !asked.dns_names.is_empty() || !asked.addresses.is_empty();
    let problem = match () {
        () if asked.organizations != ["system:nodes"] => "subject organization is not system:nodes",
        () if !asked.common_name.starts_with("system:node:") => "subject common name does not begin with system:node:",
        () if asked.other_names > 0 => "only DNS and IP subjectAltNames are allowed",
        () if serving && !named => "DNS or IP subjectAltName is required",
        () if !serving && named => "subjectAltNames are not allowed",
        () => return Ok(()),
    };
    Err(problem.to_owned())
}

impl Controller {
    async fn sign(&self, csr: &CertificateSigningRequest, now: Timestamp) -> Result<(), ReconcileError> {
        let spec = &csr.spec;
        let wanted = spec.expiration_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
        let request = String::from_utf8_lossy(&spec.request.0);
        let usages = spec.usages.as_deref().unwrap_or_default();
        match self.ca.grant(&request, usages, wanted.map_or(LONGEST, |wanted| wanted.min(LONGEST)), now) {
            Ok(pem) => self.write(csr, json!({"certificate": ByteString(pem.into_bytes())})).await,
            Err(error) => self.refuse(csr, error.to_string(), now).await,
        }
    }

    async fn refuse(
        &self,
        csr: &CertificateSigningRequest,
        message: String,
        now: Timestamp,
    ) -> Result<(), ReconcileError> {
        let mut conditions = csr.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        conditions.push(CertificateSigningRequestCondition {
            type_: "Failed".to_owned(),
            status: "True".to_owned(),
            reason: Some("SignerValidationFailure".to_owned()),
            message: Some(message),
            last_update_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        });
        self.write(csr, json!({"conditions": conditions})).await
    }

    async fn write(&self, csr: &CertificateSigningRequest, status: serde_json::Value) -> Result<(), ReconcileError> {
        let name = csr.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({"metadata": {"resourceVersion": csr.metadata.resource_version}, "status": status});
        let api = self.context.cluster_api::<CertificateSigningRequest>();
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(csr) = self.requests.get_key(&key) else { return Ok(Next::Done) };
        let now = Timestamp::now();
        match judge(&csr, now) {
            Verdict::Sign => self.sign(&csr, now).await?,
            Verdict::Refuse(why) => self.refuse(&csr, why, now).await?,
            Verdict::Remove => {
                let preconditions = Some(Preconditions { uid: csr.metadata.uid.clone(), resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::default() };
                let api = self.context.cluster_api::<CertificateSigningRequest>();
                client::retry::optional(api.delete(&key.name, &params).await)?;
            }
            Verdict::Wait(None) => {}
            Verdict::Wait(Some(until)) => {
                let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                return Ok(Next::After(left.max(Duration::from_secs(1))));
            }
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn csr(signer: &str, usages: &[&str], conditions: &[&str]) -> CertificateSigningRequest {
        let conditions: Vec<_> =
            conditions.iter().map(|kind| json!({"type": kind, "status": "True", "lastUpdateTime": at(1000)})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "c", "creationTimestamp": at(0)},
            "spec": {"request": "", "signerName": format!("kubernetes.io/{signer}"), "usages": usages},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn approved_requests_are_signed_by_the_clusters_own_signers_alone() {
        let client = |conditions: &[&str]| judge(&csr("kube-apiserver-client", &["client auth"], conditions), at(1001));
        assert_eq!(client(&["Approved"]), Verdict::Sign);
        assert_eq!(client(&["Approved", "Failed"]), Verdict::Wait(Some(at(4600))));
        assert_eq!(client(&["Denied"]), Verdict::Wait(Some(at(4600))));
        assert_eq!(client(&[]), Verdict::Wait(Some(at(86_400))));
        let mut foreign = csr("kube-apiserver-client", &["client auth"], &["Approved"]);
        foreign.spec.signer_name = "example.com/mine".into();
        assert_eq!(judge(&foreign, at(1_000_000)), Verdict::Wait(None));
        let server = csr("kube-apiserver-client", &["client auth", "server auth"], &["Approved"]);
        let Verdict::Refuse(why) = judge(&server, at(1001)) else { panic!("a client certificate serves nobody") };
        assert_eq!(why, "invalid usage for client certificate: server auth");
    }

    #[test]
    fn what_is_over_is_removed() {
        let mut issued = csr("kube-apiserver-client", &["client auth"], &["Approved"]);
        issued.status.as_mut().unwrap().certificate = Some(ByteString(b"pem".to_vec()));
        assert_eq!(judge(&issued, at(1001)), Verdict::Wait(Some(at(4600))));
        assert_eq!(judge(&issued, at(4600)), Verdict::Remove);
        assert_eq!(judge(&csr("legacy-unknown", &[], &[]), at(86_400)), Verdict::Remove);
    }

    #[test]
    fn certificates_of_nodes_name_a_node() {
        let node = Requested {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
            ..Requested::default()
        };
        let named = Requested { dns_names: vec!["a".into()], ..node.clone() };
        assert_eq!((check_node(&node, false), check_node(&named, true)), (Ok(()), Ok(())));
        assert!(check_node(&node, true).is_err() && check_node(&named, false).is_err());
        assert!(
            check_node(&Requested { organizations: vec!["system:masters".into()], ..node.clone() }, false).is_err()
        );
        assert!(check_node(&Requested { common_name: "admin".into(), ..node }, false).is_err());
    }
}
