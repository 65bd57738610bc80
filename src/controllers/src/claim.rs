//! Who owns what: a controller adopts orphans that its selector matches, and releases what it owns that no longer
//! matches. Objects of other controllers are never touched. Used by all controllers that own pods or replica sets.

use std::sync::Arc;

use client::Api;
use client::informer::Observed;
use client::retry::is_not_found;
use client::{Change, Index, Informer, ObjectKey};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;
use kube::api::{Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::ReconcileError;

/// The owner reference of a controller to what it makes.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The reference to the managing controller, if there is one.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|reference| reference.controller == Some(true))
}

pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|reference| reference.uid == uid)
}

/// Whether a selector that came from an API object matches these labels.
pub(crate) fn matches(selector: &Selector, meta: &ObjectMeta) -> bool {
    meta.labels.as_ref().map_or_else(|| selector.matches(&Default::default()), |labels| selector.matches(labels))
}

pub(crate) fn selector(selector: &LabelSelector) -> Result<Selector, ReconcileError> {
    Ok(selector.clone().try_into()?)
}

/// The owners of kind `O` that a change concerns: the controllers of the object before and after; for an orphan, all
/// that could adopt it.
pub(crate) fn owner_keys<K, O>(
    change: &Change<K>,
    owners: &Informer<O>,
    label_selector: impl Fn(&O) -> Option<LabelSelector>,
) -> Vec<ObjectKey>
where
    K: Resource,
    O: Observed<DynamicType = ()>,
{
    let meta = change.object().meta();
    let namespace = meta.namespace.clone().unwrap_or_default();
    let states = [Some(change.object()), change.old()].into_iter().flatten();
    let mut keys: Vec<_> = states
        .filter_map(|object| controller_of(object.meta()))
        .filter(|reference| reference.kind == O::kind(&()))
        .map(|reference| ObjectKey::new(namespace.clone(), reference.name.clone()))
        .collect();
    if controller_of(meta).is_none() && !matches!(change, Change::Deleted(_)) {
        let selects = |owner: &O| {
            label_selector(owner).is_some_and(|s| selector(&s).is_ok_and(|s| !s.selects_all() && matches(&s, meta)))
        };
        let all = owners.in_namespace(&namespace);
        keys.extend(all.iter().filter(|owner| selects(owner)).map(|owner| ObjectKey::of(&**owner)));
    }
    keys.dedup();
    keys
}

/// What an owner in `namespace` has to look at: what refers to it, and what nobody controls.
pub(crate) fn candidates<K: Observed>(informer: &Informer<K>, namespace: &str, uid: &str) -> Vec<Arc<K>> {
    let orphans = Index { name: "orphans", values: orphan_namespace::<K> };
    let mut found = informer.by_owner(uid);
    found.retain(|object| is_controlled_by(object.meta(), uid));
    found.extend(informer.by_index(&orphans, namespace));
    found
}

fn orphan_namespace<K: Resource>(object: &K) -> Vec<String> {
    let meta = object.meta();
    if controller_of(meta).is_some() { Vec::new() } else { meta.namespace.iter().cloned().collect() }
}

/// What is to happen to ownership, by looking only.
#[derive(Debug)]
pub(crate) struct Claims<K> {
    pub(crate) owned: Vec<Arc<K>>,
    pub(crate) adopt: Vec<Arc<K>>,
    pub(crate) release: Vec<Arc<K>>,
}

/// Sorts `candidates` for the owner with `uid`. A deleted owner neither adopts nor releases.
pub(crate) fn sort<K: Resource>(
    candidates: Vec<Arc<K>>,
    selector: &Selector,
    uid: &str,
    owner_deleted: bool,
) -> Claims<K> {
    let mut claims = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for object in candidates {
        let meta = object.meta();
        let selected = matches(selector, meta);
        match controller_of(meta) {
            Some(reference) if reference.uid == uid => {
                if selected || owner_deleted {
                    claims.owned.push(object);
                } else if meta.deletion_timestamp.is_none() {
                    claims.release.push(object);
                }
            }
            Some(_) => {}
            None if selected && !owner_deleted && meta.deletion_timestamp.is_none() => claims.adopt.push(object),
            None => {}
        }
    }
    claims
}

/// Carries out `claims` and returns all that is owned afterwards. Before the first adoption the owner itself is read
/// from the server: one that was deleted or replaced meanwhile must not adopt.
pub(crate) async fn settle<O, K>(
    owners: &Api<O>,
    objects: &Api<K>,
    owner: &O,
    claims: Claims<K>,
) -> Result<Vec<Arc<K>>, ReconcileError>
where
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let Claims { mut owned, adopt, release } = claims;
    let reference = controller_reference(owner);
    if !adopt.is_empty() {
        let live = owners.get(&reference.name).await?;
        if live.meta().uid.as_deref() != Some(&reference.uid) || live.meta().deletion_timestamp.is_some() {
            return Err(ReconcileError::Blocked(format!("{} {} was replaced", reference.kind, reference.name)));
        }
    }
    for object in adopt {
        let mut references = object.meta().owner_references.clone().unwrap_or_default();
        references.push(reference.clone());
        if let Some(adopted) = set_references(objects, &*object, references).await? {
            owned.push(Arc::new(adopted));
        }
    }
    for object in release {
        let mut references = object.meta().owner_references.clone().unwrap_or_default();
        references.retain(|r| r.uid != reference.uid);
        set_references(objects, &*object, references).await?;
    }
    Ok(owned)
}

/// Writes owner references, provided that the object is still the one that was looked at.
async fn set_references<K>(api: &Api<K>, object: &K, references: Vec<OwnerReference>) -> kube::Result<Option<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let meta = object.meta();
    let references = if references.is_empty() { json!(null) } else { json!(references) };
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references
    }});
    let name = meta.name.as_deref().unwrap_or_default();
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::{labelled, pod};

    #[test]
    fn orphans_are_adopted_strays_released_and_others_left_alone() {
        let owned_by = |mut pod: k8s_openapi::api::core::v1::Pod, uid: &str| {
            let reference = OwnerReference { uid: uid.into(), controller: Some(true), ..Default::default() };
            pod.metadata.owner_references = Some(vec![reference]);
            Arc::new(pod)
        };
        let ours = [("app", "a")];
        let candidates = vec![
            owned_by(labelled(pod("mine", "Running"), &ours), "me"),
            owned_by(labelled(pod("stray", "Running"), &[("app", "b")]), "me"),
            owned_by(labelled(pod("others", "Running"), &ours), "other"),
            Arc::new(labelled(pod("orphan", "Running"), &ours)),
            Arc::new(pod("nobodys", "Running")),
        ];
        let labels = LabelSelector {
            match_labels: Some([("app".to_owned(), "a".to_owned())].into()),
            ..LabelSelector::default()
        };
        let selector = selector(&labels).unwrap();
        let names = |pods: &[Arc<k8s_openapi::api::core::v1::Pod>]| -> Vec<String> {
            pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect()
        };
        let claims = sort(candidates.clone(), &selector, "me", false);
        assert_eq!(names(&claims.owned), ["mine"]);
        assert_eq!(names(&claims.adopt), ["orphan"]);
        assert_eq!(names(&claims.release), ["stray"]);
        let claims = sort(candidates, &selector, "me", true);
        assert_eq!(names(&claims.owned), ["mine", "stray"]);
        assert!(claims.adopt.is_empty() && claims.release.is_empty());
    }
}
