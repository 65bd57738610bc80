//! Signs approved requests, each by the rules of its signer.

use client::retry::optional;
use client::{Informer, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::PostParams;
use pki::Ca;
use pki::request::{Grant, Request, Usages};

use super::{
    CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, condition, holds, is_issued, not_kubelet_client,
    not_kubelet_serving, usages,
};
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};

/// A certificate is good for a year unless its request asks for less.
const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 365);
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);

struct Controller {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
    ca: Ca,
}

pub(super) fn start(context: &Context, ca: Ca) {
    let requests = context.informers.of::<CertificateSigningRequest>();
    let queue = context.queue("certificatesigningrequest-signing");
    context.feed_own(&requests, &queue);
    let ready = vec![synced(&requests)];
    context.run(queue, Controller { context: context.clone(), requests, ca }, ready);
}

/// Whether it is for this controller to sign the request now.
fn is_due(csr: &CertificateSigningRequest) -> bool {
    [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&csr.spec.signer_name.as_str())
        && condition(csr, "Approved").is_some()
        && condition(csr, "Denied").is_none()
        && condition(csr, "Failed").is_none()
        && !is_issued(csr)
}

/// Why the signer does not sign such a request.
fn refusal(signer: &str, request: &Request, usages: &[&str]) -> Option<&'static str> {
    match signer {
        CLIENT => {
            let allowed = ["client auth", "digital signature", "key encipherment"];
            let fits = usages.contains(&"client auth") && usages.iter().all(|usage| allowed.contains(usage));
            (!fits).then_some("invalid usages for client certificate")
        }
        KUBELET_CLIENT => not_kubelet_client(request, usages),
        KUBELET_SERVING => not_kubelet_serving(request, usages),
        _ => None,
    }
}

/// The certificate, or why there will never be one.
fn certify(ca: &Ca, csr: &CertificateSigningRequest, now: Timestamp) -> Result<String, String> {
    let pem = String::from_utf8_lossy(&csr.spec.request.0);
    let shown = |error: pki::CaError| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("unable to sign the request: {error}{cause}")
    };
    let request = Request::parse(&pem).map_err(shown)?;
    let names = usages(csr);
    if let Some(why) = refusal(&csr.spec.signer_name, &request, &names) {
        return Err(why.to_owned());
    }
    let usages = Usages::named(names).map_err(|name| format!("unrecognized usage {name:?}"))?;
    let wanted = csr.spec.expiration_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
    let lifetime = wanted.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
    ca.grant_request(&pem, &Grant { usages, lifetime }, now).map_err(shown)
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(csr) = self.requests.get_key(&key).filter(|csr| is_due(csr)) else { return Ok(Next::Done) };
        let now = Timestamp::now();
        let mut written = (*csr).clone();
        let status = written.status.get_or_insert_default();
        match certify(&self.ca, &csr, now) {
            Ok(certificate) => status.certificate = Some(ByteString(certificate.into_bytes())),
            Err(why) => {
                let failed = holds("Failed", "SignerValidationFailure", why, now);
                status.conditions.get_or_insert_default().push(failed);
            }
        }
        let api = self.context.cluster_api::<CertificateSigningRequest>();
        optional(api.replace_status(&key.name, &PostParams::default(), &written).await)?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(user: &str, group: &str, dns: &[&str]) -> Request {
        Request {
            subject: pki::Identity::new(user, &[group]),
            dns_names: dns.iter().map(|&name| name.to_owned()).collect(),
            addresses: Vec::new(),
            other_names: 0,
        }
    }

    #[test]
    fn every_signer_has_its_rules() {
        let client = ["client auth", "digital signature", "key encipherment"];
        let server = ["digital signature", "server auth"];
        let jane = request("jane", "dev", &[]);
        assert_eq!(refusal(CLIENT, &jane, &client), None);
        assert!(refusal(CLIENT, &jane, &server).is_some());
        assert!(refusal(KUBELET_CLIENT, &jane, &client).is_some());
        let node = request("system:node:a", "system:nodes", &[]);
        assert_eq!(refusal(KUBELET_CLIENT, &node, &client), None);
        assert!(refusal(KUBELET_SERVING, &node, &server).is_some());
        let serving = request("system:node:a", "system:nodes", &["a"]);
        assert_eq!(refusal(KUBELET_SERVING, &serving, &server), None);
        assert!(refusal(KUBELET_CLIENT, &serving, &client).is_some());
        assert_eq!(refusal(LEGACY, &jane, &["code signing"]), None);
    }
}
