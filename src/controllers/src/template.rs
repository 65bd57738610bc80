//! Pods made from a template, several at a time.

use client::Api;
use client::retry::is_namespace_terminating;
use client::{EventRecorder, EventType};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use kube::api::{DeleteParams, PostParams, Preconditions};

/// A pod of `template`, named by the server after `prefix`.
pub(crate) fn pod(template: &PodTemplateSpec, prefix: &str, namespace: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(generate_name(prefix)),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Names are cut so that the server's five random letters fit a DNS label.
fn generate_name(prefix: &str) -> String {
    let cut = prefix.char_indices().nth(57).map_or(prefix, |(end, _)| &prefix[..end]);
    format!("{cut}-")
}

/// Creates pods in batches of 1, 2, 4 and so on, so that a template which the server refuses costs one request, not
/// hundreds. Stops after a batch with an error. Returns what was created, and the first error.
pub(crate) async fn create_slowly(api: &Api<Pod>, pods: Vec<Pod>) -> (Vec<Pod>, Option<kube::Error>) {
    let (mut created, mut batch) = (Vec::with_capacity(pods.len()), 1);
    let mut rest = pods.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(batch.min(rest.len()));
        let params = PostParams::default();
        let mut failure = None;
        for result in join_all(now.iter().map(|pod| api.create(&params, pod))).await {
            match result {
                Ok(pod) => created.push(pod),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_some() {
            return (created, failure);
        }
        (rest, batch) = (later, batch * 2);
    }
    (created, None)
}

/// Says in the owner's events what became of its creations.
pub(crate) fn report_created<K>(events: &EventRecorder, owner: &K, created: &[Pod], error: Option<&kube::Error>)
where
    K: Resource<DynamicType = ()>,
{
    for pod in created {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        events.event(owner, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
    }
    if let Some(error) = error.filter(|error| !is_namespace_terminating(error)) {
        let message = format!("Error creating: {}", message(error));
        events.event(owner, EventType::Warning, "FailedCreate", message);
    }
}

/// The server's own words where it answered.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Deletes this very pod: not a successor of the same name. True if it was there.
pub(crate) async fn delete_pod(api: &Api<Pod>, pod: &Pod) -> kube::Result<bool> {
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let deleted = client::retry::optional(api.delete(name, &params).await);
    match deleted {
        Err(error) if client::retry::is_conflict(&error) => Ok(false),
        other => other.map(|found| found.is_some()),
    }
}
