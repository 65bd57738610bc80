//! The node's Lease, renewed on a task of its own: nothing else the node does can delay it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use client::Api;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{ObjectMeta, PostParams};

use crate::context::Context;

const NAMESPACE: &str = "kube-node-lease";

/// Renews for ever.
pub(crate) fn task(context: &Arc<Context>) -> futures::future::BoxFuture<'static, ()> {
    let context = context.clone();
    Box::pin(run(context))
}

async fn run(context: Arc<Context>) {
    let api: Api<Lease> = Api::namespaced(context.client.clone(), NAMESPACE);
    let mut current: Option<Lease> = None;
    let mut pause = Duration::from_millis(200);
    loop {
        let result = match current.take() {
            Some(lease) => renew(&context, &api, lease).await,
            None => acquire(&context, &api).await,
        };
        let rest = match result {
            Ok(lease) => {
                current = Some(lease);
                pause = Duration::from_millis(200);
                context.config.timing.lease_renewal
            }
            // Without the current revision the next round reads the lease again.
            Err(error) => {
                tracing::debug!(error = %error, "cannot renew the node's lease");
                pause = (pause * 2).min(Duration::from_secs(7));
                pause
            }
        };
        tokio::time::sleep(rest).await;
    }
}

fn renew<'a>(
    context: &'a Context,
    api: &'a Api<Lease>,
    mut lease: Lease,
) -> impl Future<Output = Result<Lease, kube::Error>> + 'a {
    lease.spec = Some(spec(context, lease.spec.take()));
    async move { api.replace(&context.config.name, &PostParams::default(), &lease).await }
}

fn spec(context: &Context, old: Option<LeaseSpec>) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(context.config.name.clone()),
        lease_duration_seconds: i32::try_from(context.config.timing.lease_duration.as_secs()).ok(),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..old.unwrap_or_default()
    }
}

async fn acquire(context: &Context, api: &Api<Lease>) -> Result<Lease, kube::Error> {
    if let Some(lease) = api.get_opt(&context.config.name).await? {
        return renew(context, api, lease).await;
    }
    // Owned by the node, so that it goes with it.
    let nodes: Api<NodeObject> = Api::all(context.client.clone());
    let owner = nodes.get_opt(&context.config.name).await?.and_then(|n| n.metadata.uid);
    let owners = owner.map(|uid| {
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: context.config.name.clone(),
            uid,
            ..OwnerReference::default()
        }]
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(context.config.name.clone()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: owners,
            ..ObjectMeta::default()
        },
        spec: Some(spec(context, None)),
    };
    api.create(&PostParams::default(), &lease).await
}
