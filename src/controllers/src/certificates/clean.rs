//! Deletes requests that are done with: decided ones after an hour, undecided ones after a day.

use std::time::Duration;

use client::retry::optional;
use client::{Informer, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{DeleteParams, Preconditions};

use super::{condition, is_issued};
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};

const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

struct Controller {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
}

pub(super) fn start(context: &Context) {
    let requests = context.informers.of::<CertificateSigningRequest>();
    let queue = context.queue("certificatesigningrequest-cleaner");
    context.feed_own(&requests, &queue);
    let ready = vec![synced(&requests)];
    context.run(queue, Controller { context: context.clone(), requests }, ready);
}

/// When a request is done with. One that is approved waits for its signer, however long.
fn end(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let since = |kind: &str| {
        let condition = condition(csr, kind)?;
        condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref()).map(|time| time.0)
    };
    let decided = [since("Denied"), since("Failed"), since("Approved").filter(|_| is_issued(csr))];
    if let Some(at) = decided.into_iter().flatten().min() {
        return at.checked_add(DECIDED).ok();
    }
    let waits = condition(csr, "Approved").is_none() && condition(csr, "Denied").is_none();
    let made = csr.metadata.creation_timestamp.as_ref().filter(|_| waits)?.0;
    made.checked_add(PENDING).ok()
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(csr) = self.requests.get_key(&key) else { return Ok(Next::Done) };
        let Some(end) = end(&csr) else { return Ok(Next::Done) };
        let now = Timestamp::now();
        if now < end {
            let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
            return Ok(Next::After(left + Duration::from_secs(1)));
        }
        let preconditions = Preconditions { uid: csr.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        optional(self.context.cluster_api::<CertificateSigningRequest>().delete(&key.name, &params).await)?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ends(conditions: serde_json::Value, certificate: Option<&str>) -> Option<String> {
        let csr: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"creationTimestamp": "2026-01-02T00:00:00Z"},
            "spec": {"request": "", "signerName": "x/y"},
            "status": {"conditions": conditions, "certificate": certificate}}))
        .unwrap();
        end(&csr).map(|at| at.to_string())
    }

    #[test]
    fn requests_end_by_what_became_of_them() {
        let with = |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-02T05:00:00Z"}]);
        assert_eq!(ends(json!([]), None).as_deref(), Some("2026-01-03T00:00:00Z"));
        assert_eq!(ends(with("Denied"), None).as_deref(), Some("2026-01-02T06:00:00Z"));
        assert_eq!(ends(with("Failed"), None).as_deref(), Some("2026-01-02T06:00:00Z"));
        assert_eq!(ends(with("Approved"), None), None);
        assert_eq!(ends(with("Approved"), Some("YQ==")).as_deref(), Some("2026-01-02T06:00:00Z"));
    }
}
