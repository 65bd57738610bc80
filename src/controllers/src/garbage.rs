//! The garbage collector: objects go with their owners. It watches the metadata of every kind that can be deleted,
//! custom ones included, and works on one object at a time: its owners' state decides (`plan`). Nothing is deleted
//! on the word of a cache: the object is read live, and an owner that seems gone is looked for by name and UID.

mod graph;
mod plan;

use std::time::Duration;

use client::retry::{is_conflict, optional};
use client::{Change, ObjectKey};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::discovery::ApiResource;
use serde_json::json;

use self::graph::{Found, Graph, Meta, Watched, block_owner_deletion, has_finalizer, kind_key, queue_key};
use self::plan::{Owner, Policy, Verdict};
use crate::context::{Context, synced};
use crate::discovery;
use crate::error::ReconcileError;
use crate::queue::Queue;
use crate::runner::{Next, Reconcile};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

pub(crate) fn start(context: &Context) {
    let graph = Graph::default();
    let queue = context.queue("garbage-collector");
    let kinds = context.queue("garbage-collector-kinds");
    let definitions = context.informers.of::<CustomResourceDefinition>();
    // Discovery follows a definition after a moment.
    let again = kinds.clone();
    context.feed(&definitions, &kinds, move |change| {
        if change.old().is_none_or(|old| old.status != change.object().status || old.spec != change.object().spec) {
            again.add_after(all_kinds(), Duration::from_secs(1));
        }
        Vec::new()
    });
    kinds.add(all_kinds());
    let monitor = Monitor { context: context.clone(), graph: graph.clone(), queue: queue.clone() };
    context.run(kinds.clone(), monitor, vec![synced(&definitions)]);
    context.run(queue, Collector { context: context.clone(), graph, kinds }, Vec::new());
}

fn all_kinds() -> ObjectKey {
    ObjectKey::cluster("all")
}

/// Kinds whose objects own nothing and are owned by nothing worth the memory.
fn is_ignored(resource: &ApiResource) -> bool {
    resource.kind == "Event"
}

/// Keeps the set of watched kinds equal to what discovery tells.
struct Monitor {
    context: Context,
    graph: Graph,
    queue: Queue,
}

impl Monitor {
    fn watch(&self, kind: discovery::Kind) {
        let stop = self.context.stop.child_token();
        let informer = self.context.informers.metadata(&kind.resource, stop.clone());
        let (graph, resource) = (self.graph.clone(), kind.resource.clone());
        self.context.feed(&informer, &self.queue, move |change| affected(&graph, &resource, change));
        self.graph.insert(Watched { resource: kind.resource, namespaced: kind.namespaced, informer, stop });
    }
}

impl Reconcile for Monitor {
    async fn reconcile(&self, _all: ObjectKey) -> Result<Next, ReconcileError> {
        let found = discovery::discover(&self.context.client).await?;
        let usable = |kind: &discovery::Kind| {
            ["list", "watch", "delete"].iter().all(|verb| kind.can(verb)) && !is_ignored(&kind.resource)
        };
        let kinds: Vec<_> = found.kinds.into_iter().filter(usable).collect();
        let watched = self.graph.kinds();
        for old in &watched {
            let gone = !kinds.iter().any(|kind| kind.resource == old.resource);
            let unknown = found.failed.contains(&format!("{}/{}", old.resource.group, old.resource.version));
            if gone && !unknown {
                self.graph.remove(&kind_key(&old.resource));
            }
        }
        for kind in kinds {
            if !watched.iter().any(|old| old.resource == kind.resource) {
                self.watch(kind);
            }
        }
        Ok(if found.failed.is_empty() { Next::Done } else { Next::After(Duration::from_secs(30)) })
    }
}

/// The objects whose fate a change may decide.
fn affected(graph: &Graph, resource: &ApiResource, change: &Change<Meta>) -> Vec<ObjectKey> {
    let meta = &change.object().metadata;
    let mut keys = Vec::new();
    match change {
        Change::Deleted(_) => {
            let uid = meta.uid.as_deref().unwrap_or_default();
            keys.extend(graph.dependents(uid).iter().map(|d| queue_key(&d.resource, &d.object.metadata)));
        }
        Change::Added(_) | Change::Modified { .. } => {
            let ending =
                meta.deletion_timestamp.is_some() && (has_finalizer(meta, ORPHAN) || has_finalizer(meta, FOREGROUND));
            if ending || has_lost_owner(graph, meta) {
                keys.push(queue_key(resource, meta));
            }
        }
    }
    // An owner that waits for this object to go.
    let before = change.old().map(|old| &old.metadata);
    let references = [Some(meta), before].into_iter().flatten().flat_map(|meta| meta.owner_references.iter().flatten());
    for reference in references {
        if let Some(owner) = graph.owner(reference, meta.namespace.as_deref())
            && owner.object.metadata.deletion_timestamp.is_some()
            && has_finalizer(&owner.object.metadata, FOREGROUND)
        {
            keys.push(queue_key(&owner.resource, &owner.object.metadata));
        }
    }
    keys
}

fn has_lost_owner(graph: &Graph, meta: &ObjectMeta) -> bool {
    let namespace = meta.namespace.as_deref();
    meta.owner_references.iter().flatten().any(|reference| graph.owner(reference, namespace).is_none())
}

struct Collector {
    context: Context,
    graph: Graph,
    /// To ask for discovery when an owner's kind is not known.
    kinds: Queue,
}

impl Collector {
    fn api(&self, watched: &Watched, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace.filter(|_| watched.namespaced) {
            Some(namespace) => Api::namespaced_with(self.context.client.clone(), namespace, &watched.resource),
            None => Api::all_with(self.context.client.clone(), &watched.resource),
        }
    }

    fn api_of(&self, found: &Found) -> Option<Api<DynamicObject>> {
        let watched = self.graph.kind(&kind_key(&found.resource))?;
        Some(self.api(&watched, found.object.metadata.namespace.as_deref()))
    }

    async fn owner_state(&self, reference: &OwnerReference, meta: &ObjectMeta) -> Result<Owner, ReconcileError> {
        let namespace = meta.namespace.as_deref();
        if let Some(owner) = self.graph.owner(reference, namespace) {
            return Ok(state(&owner.object.metadata, reference));
        }
        let Some(watched) = self.graph.kind_of(reference) else {
            self.kinds.add_after(all_kinds(), Duration::from_secs(1));
            let kind = format!("{} {}", reference.api_version, reference.kind);
            return Err(ReconcileError::Blocked(format!("owner of unknown kind {kind}")));
        };
        if watched.namespaced && namespace.is_none() {
            return Ok(Owner::Absent);
        }
        let live = optional(self.api(&watched, namespace).get_metadata(&reference.name).await)?;
        Ok(match live {
            Some(live) if live.metadata.uid.as_deref() == Some(&reference.uid) => state(&live.metadata, reference),
            _ => Owner::Absent,
        })
    }

    async fn collect(&self, api: &Api<DynamicObject>, meta: &ObjectMeta) -> Result<Next, ReconcileError> {
        let mut owners = Vec::new();
        for reference in meta.owner_references.iter().flatten() {
            owners.push(self.owner_state(reference, meta).await?);
        }
        let dependents = self.graph.dependents(meta.uid.as_deref().unwrap_or_default());
        let deleting = (!dependents.is_empty()).then(|| {
            let foreground = |m: &ObjectMeta| m.deletion_timestamp.is_some() && has_finalizer(m, FOREGROUND);
            dependents.iter().any(|d| foreground(&d.object.metadata))
        });
        match plan::judge(meta, &owners, deleting) {
            Verdict::Keep => {}
            Verdict::DropReferences(uids) => drop_references(api, meta, &uids).await?,
            Verdict::Delete(policy) => delete(api, meta, policy).await?,
            Verdict::UnblockAndDelete => {
                unblock(api, meta).await?;
                delete(api, meta, Policy::Foreground).await?;
            }
        }
        Ok(Next::Done)
    }

    /// Lets the dependents of an object that is to orphan them go free, then the object.
    async fn orphan(&self, api: &Api<DynamicObject>, meta: &ObjectMeta) -> Result<Next, ReconcileError> {
        let uid = meta.uid.clone().unwrap_or_default();
        for dependent in self.graph.dependents(&uid) {
            let Some(api) = self.api_of(&dependent) else { continue };
            let name = dependent.object.metadata.name.as_deref().unwrap_or_default();
            // Live, for the references may have changed, and this is not to be undone.
            let Some(live) = optional(api.get_metadata(name).await)? else { continue };
            if live.metadata.uid == dependent.object.metadata.uid {
                drop_references(&api, &live.metadata, std::slice::from_ref(&uid)).await?;
            }
        }
        remove_finalizer(api, meta, ORPHAN).await?;
        Ok(Next::Done)
    }

    /// Deletes the dependents that a foreground deletion waits for, then lets the object go.
    async fn foreground(&self, api: &Api<DynamicObject>, meta: &ObjectMeta) -> Result<Next, ReconcileError> {
        let uid = meta.uid.as_deref().unwrap_or_default();
        let dependents = self.graph.dependents(uid);
        if !dependents.iter().any(|d| block_owner_deletion(&d.object.metadata, uid)) {
            remove_finalizer(api, meta, FOREGROUND).await?;
            return Ok(Next::Done);
        }
        for dependent in dependents.iter().filter(|d| d.object.metadata.deletion_timestamp.is_none()) {
            let Some(api) = self.api_of(dependent) else { continue };
            let name = dependent.object.metadata.name.as_deref().unwrap_or_default();
            let Some(live) = optional(api.get_metadata(name).await)? else { continue };
            if live.metadata.uid == dependent.object.metadata.uid {
                self.collect(&api, &live.metadata).await?;
            }
        }
        Ok(Next::After(Duration::from_secs(5)))
    }
}

fn state(owner: &ObjectMeta, reference: &OwnerReference) -> Owner {
    let waits = owner.deletion_timestamp.is_some() && has_finalizer(owner, FOREGROUND);
    if waits && reference.block_owner_deletion == Some(true) { Owner::Waiting } else { Owner::Solid }
}

async fn patch(api: &Api<DynamicObject>, meta: &ObjectMeta, change: serde_json::Value) -> Result<(), ReconcileError> {
    let mut patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}});
    if let (Some(fields), serde_json::Value::Object(change)) = (patch["metadata"].as_object_mut(), change) {
        fields.extend(change);
    }
    let name = meta.name.as_deref().unwrap_or_default();
    optional(api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await)?;
    Ok(())
}

async fn drop_references(api: &Api<DynamicObject>, meta: &ObjectMeta, uids: &[String]) -> Result<(), ReconcileError> {
    let mut kept = meta.owner_references.clone().unwrap_or_default();
    let before = kept.len();
    kept.retain(|reference| !uids.contains(&reference.uid));
    if kept.len() == before {
        return Ok(());
    }
    let kept = if kept.is_empty() { json!(null) } else { json!(kept) };
    patch(api, meta, json!({"ownerReferences": kept})).await
}

async fn unblock(api: &Api<DynamicObject>, meta: &ObjectMeta) -> Result<(), ReconcileError> {
    let mut references = meta.owner_references.clone().unwrap_or_default();
    for reference in &mut references {
        reference.block_owner_deletion = Some(false);
    }
    patch(api, meta, json!({"ownerReferences": references})).await
}

async fn remove_finalizer(api: &Api<DynamicObject>, meta: &ObjectMeta, name: &str) -> Result<(), ReconcileError> {
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != name);
    patch(api, meta, json!({"finalizers": finalizers})).await
}

async fn delete(api: &Api<DynamicObject>, meta: &ObjectMeta, policy: Policy) -> Result<(), ReconcileError> {
    let propagation_policy = Some(match policy {
        Policy::Background => PropagationPolicy::Background,
        Policy::Foreground => PropagationPolicy::Foreground,
        Policy::Orphan => PropagationPolicy::Orphan,
    });
    let preconditions = Some(Preconditions { uid: meta.uid.clone(), resource_version: None });
    let params = DeleteParams { propagation_policy, preconditions, ..DeleteParams::default() };
    let name = meta.name.as_deref().unwrap_or_default();
    match optional(api.delete(name, &params).await) {
        // Another object of the same name: not ours to delete.
        Err(error) if is_conflict(&error) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

impl Reconcile for Collector {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let (kind, namespace) = key.namespace.split_once('|').unwrap_or_default();
        let Some(watched) = self.graph.kind(kind) else { return Ok(Next::Done) };
        let complete = is_complete(&self.graph).await;
        let api = self.api(&watched, Some(namespace).filter(|ns| !ns.is_empty()));
        let Some(live) = optional(api.get_metadata(&key.name).await)? else { return Ok(Next::Done) };
        let meta = live.metadata;
        if meta.deletion_timestamp.is_none() {
            return self.collect(&api, &meta).await;
        }
        if !complete {
            return Err(ReconcileError::Blocked("some kinds cannot be listed yet".to_owned()));
        }
        if has_finalizer(&meta, ORPHAN) {
            self.orphan(&api, &meta).await
        } else if has_finalizer(&meta, FOREGROUND) {
            self.foreground(&api, &meta).await
        } else {
            Ok(Next::Done)
        }
    }
}

/// Waits a while for all informers to have their first list. Without it an object may have dependents unseen.
async fn is_complete(graph: &Graph) -> bool {
    let all = async {
        for watched in graph.kinds() {
            tokio::select! {
                () = watched.informer.synced() => {}
                () = watched.stop.cancelled() => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.is_ok()
}

#[cfg(test)]
mod tests;
