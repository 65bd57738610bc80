//! Deletes what is in a namespace, kind by kind, and reports what is left. Pods go first: while they run, the secrets
//! and policies beside them still hold.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::discovery::ApiResource;

use crate::discovery;
use crate::template::message;

/// Kinds deleted at the same time.
const PARALLEL: usize = 8;

/// What a round of deletion met and left.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// How many objects remain, by `plural.group`.
    pub(super) remaining: BTreeMap<String, usize>,
    /// How many remaining objects wait for each finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
    /// Groups that discovery could not tell about.
    pub(super) undiscovered: Vec<String>,
    pub(super) failures: Vec<String>,
    /// The longest grace period of the remaining pods, in seconds.
    pub(super) grace_seconds: u64,
}

impl Content {
    pub(super) fn is_empty(&self) -> bool {
        self.remaining.is_empty() && self.undiscovered.is_empty() && self.failures.is_empty()
    }

    /// When to look again. What is left usually goes within moments; pods may take their grace period.
    pub(super) fn wait_millis(&self) -> u64 {
        if self.grace_seconds > 2 { 1_000 } else { 250 }
    }

    fn absorb(&mut self, left: Left) {
        for finalizer in left.finalizers {
            *self.finalizers.entry(finalizer).or_default() += 1;
        }
        if left.count > 0 {
            self.remaining.insert(left.resource, left.count);
        }
        self.failures.extend(left.failure);
        self.grace_seconds = self.grace_seconds.max(left.grace_seconds);
    }
}

#[derive(Default)]
struct Left {
    resource: String,
    count: usize,
    finalizers: Vec<String>,
    failure: Option<String>,
    grace_seconds: u64,
}

pub(super) async fn delete_all(client: &kube::Client, namespace: &str) -> Content {
    let mut content = Content::default();
    let mut resources = discover(client, &mut content).await;
    if let Some(at) = resources.iter().position(|r| r.group.is_empty() && r.plural == "pods") {
        let pods = resources.swap_remove(at);
        content.absorb(empty(client.clone(), namespace.to_owned(), pods).await);
        if !content.remaining.is_empty() || !content.failures.is_empty() {
            return content;
        }
    }
    let jobs = resources.into_iter().map(|resource| empty(client.clone(), namespace.to_owned(), resource));
    let mut rounds = stream::iter(jobs).buffer_unordered(PARALLEL);
    while let Some(left) = rounds.next().await {
        content.absorb(left);
    }
    content
}

/// Every namespaced resource that can be listed and deleted.
async fn discover(client: &kube::Client, content: &mut Content) -> Vec<ApiResource> {
    match discovery::discover(client).await {
        Ok(found) => {
            content.undiscovered = found.failed;
            let kinds = found.kinds.into_iter().filter(|k| k.namespaced && k.can("list") && k.can("delete"));
            kinds.map(|kind| kind.resource).collect()
        }
        Err(error) => {
            content.failures.push(message(&error));
            Vec::new()
        }
    }
}

async fn empty(client: kube::Client, namespace: String, resource: ApiResource) -> Left {
    let api: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &resource);
    let name = if resource.group.is_empty() {
        format!("{}.", resource.plural)
    } else {
        format!("{}.{}", resource.plural, resource.group)
    };
    let mut left = Left { resource: name, ..Left::default() };
    match api.list_metadata(&ListParams::default().limit(1)).await {
        Ok(list) if list.items.is_empty() => return left,
        Ok(_) => {}
        Err(error) if absent(&error) => return left,
        Err(error) => {
            left.failure = Some(message(&error));
            return left;
        }
    }
    let deleted = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await.map(drop);
    left.failure = deleted.err().filter(|error| !absent(error)).map(|error| message(&error));
    match api.list_metadata(&ListParams::default()).await {
        Ok(list) => {
            left.count = list.items.len();
            for meta in list.items.into_iter().map(|item| item.metadata) {
                left.finalizers.extend(meta.finalizers.unwrap_or_default());
                let grace = meta.deletion_grace_period_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
                left.grace_seconds = left.grace_seconds.max(grace);
            }
        }
        Err(error) if absent(&error) => {}
        Err(error) => left.failure = Some(message(&error)),
    }
    left
}

/// Whether the resource itself is not, or no longer, served in this way.
fn absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 405)
}
