//! Empties a namespace that was deleted, then lets it go: every namespaced collection that discovery knows is
//! deleted, the conditions say what is still there, and the `kubernetes` finalizer falls when nothing is.

mod content;
mod plan;

use std::time::Duration;

use client::{Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use kube::api::PostParams;

use self::content::Content;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};

const FINALIZER: &str = "kubernetes";

pub(crate) fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
}

pub(crate) fn start(context: &Context) {
    let namespaces = context.informers.of::<Namespace>();
    let queue = context.queue("namespace");
    context.feed_own(&namespaces, &queue);
    let ready = vec![synced(&namespaces)];
    context.run(queue, Controller { context: context.clone(), namespaces }, ready);
}

fn has_finalizer(namespace: &Namespace) -> bool {
    namespace.spec.iter().flat_map(|s| s.finalizers.iter().flatten()).any(|f| f == FINALIZER)
}

impl Controller {
    async fn write_status(&self, namespace: &Namespace, content: &Content) -> Result<Namespace, ReconcileError> {
        let old = namespace.status.clone().unwrap_or_default();
        let mut conditions = old.conditions.clone().unwrap_or_default();
        plan::set_conditions(&mut conditions, content, Timestamp::now());
        let status = NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(conditions) };
        if status == old {
            return Ok(namespace.clone());
        }
        let object = Namespace { status: Some(status), ..namespace.clone() };
        let api = self.context.cluster_api::<Namespace>();
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        Ok(api.replace_status(name, &PostParams::default(), &object).await?)
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<(), ReconcileError> {
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let api = self.context.cluster_api::<Namespace>();
        let finalized = api.replace_subresource("finalize", &name, &PostParams::default(), &namespace).await;
        client::retry::optional(finalized)?;
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(cached) = self.namespaces.get_key(&key) else { return Ok(Next::Done) };
        if cached.metadata.deletion_timestamp.is_none() || !has_finalizer(&cached) {
            return Ok(Next::Done);
        }
        // The live object, so that a successor of the same name is not emptied.
        let api = self.context.cluster_api::<Namespace>();
        let Some(namespace) = client::retry::optional(api.get(&key.name).await)? else { return Ok(Next::Done) };
        if namespace.metadata.uid != cached.metadata.uid || !has_finalizer(&namespace) {
            return Ok(Next::Done);
        }
        let content = content::delete_all(&self.context.client, &key.name).await;
        let namespace = self.write_status(&namespace, &content).await?;
        if content.is_empty() {
            self.finalize(namespace).await?;
            return Ok(Next::Done);
        }
        Ok(Next::After(Duration::from_millis(content.wait_millis())))
    }
}

#[cfg(test)]
mod tests;
