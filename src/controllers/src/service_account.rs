//! Keeps a service account named `default` in every namespace.

use client::retry::{is_already_exists, is_namespace_terminating};
use client::{Change, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::namespace::is_active;
use crate::runner::{Next, Reconcile};

const NAME: &str = "default";

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

pub(crate) fn start(context: &Context) {
    let (namespaces, accounts) = (context.informers.of::<Namespace>(), context.informers.of::<ServiceAccount>());
    let queue = context.queue("serviceaccount");
    context.feed_own(&namespaces, &queue);
    context.feed(&accounts, &queue, |change| match change {
        Change::Deleted(account) => account.metadata.namespace.iter().map(ObjectKey::cluster).collect(),
        Change::Added(_) | Change::Modified { .. } => Vec::new(),
    });
    let ready = vec![synced(&namespaces), synced(&accounts)];
    context.run(queue, Controller { context: context.clone(), namespaces, accounts }, ready);
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let active = self.namespaces.get_key(&key).is_some_and(|namespace| is_active(&namespace));
        if !active || self.accounts.get(&key.name, NAME).is_some() {
            return Ok(Next::Done);
        }
        let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        match self.context.api::<ServiceAccount>(&key.name).create(&PostParams::default(), &account).await {
            Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => {}
            other => drop(other?),
        }
        Ok(Next::Done)
    }
}
