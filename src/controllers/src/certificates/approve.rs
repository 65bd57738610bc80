//! Approves nodes' requests for client certificates, if who asks may have them: the node itself, or whoever brings
//! nodes in.

use client::retry::optional;
use client::{Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::PostParams;
use pki::request::Request;

use super::{KUBELET_CLIENT, condition, holds, is_issued, not_kubelet_client, usages};
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};

struct Controller {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
}

pub(super) fn start(context: &Context) {
    let requests = context.informers.of::<CertificateSigningRequest>();
    let queue = context.queue("certificatesigningrequest-approving");
    context.feed_own(&requests, &queue);
    let ready = vec![synced(&requests)];
    context.run(queue, Controller { context: context.clone(), requests }, ready);
}

/// Permissions of which one lets the request through, each with what is then said.
fn permissions(csr: &CertificateSigningRequest) -> Vec<(&'static str, &'static str)> {
    let decided = condition(csr, "Approved").is_some() || condition(csr, "Denied").is_some() || is_issued(csr);
    if decided || csr.spec.signer_name != KUBELET_CLIENT {
        return Vec::new();
    }
    let pem = String::from_utf8_lossy(&csr.spec.request.0);
    let Ok(request) = Request::parse(&pem) else { return Vec::new() };
    if not_kubelet_client(&request, &usages(csr)).is_some() {
        return Vec::new();
    }
    let own = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
    let any = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
    if csr.spec.username.as_deref() == Some(&request.subject.user) { vec![own, any] } else { vec![any] }
}

impl Controller {
    async fn may(&self, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool, ReconcileError> {
        let spec = &csr.spec;
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".to_owned()),
            resource: Some("certificatesigningrequests".to_owned()),
            subresource: Some(subresource.to_owned()),
            verb: Some("create".to_owned()),
            version: Some("*".to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = self.context.cluster_api::<SubjectAccessReview>();
        let answered = api.create(&PostParams::default(), &review).await?;
        Ok(answered.status.is_some_and(|status| status.allowed))
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(csr) = self.requests.get_key(&key) else { return Ok(Next::Done) };
        for (subresource, message) in permissions(&csr) {
            if self.may(&csr, subresource).await? {
                let mut approved = (*csr).clone();
                let condition = holds("Approved", "AutoApproved", message.to_owned(), Timestamp::now());
                approved.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
                let api = self.context.cluster_api::<CertificateSigningRequest>();
                let params = PostParams::default();
                optional(api.replace_subresource("approval", &key.name, &params, &approved).await)?;
                return Ok(Next::Done);
            }
        }
        Ok(Next::Done)
    }
}
