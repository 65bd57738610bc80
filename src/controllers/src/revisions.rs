//! The history of a template as ControllerRevision objects, for daemon sets and stateful sets. Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use serde_json::{Value, json};

use crate::claim::controller_reference;
use crate::hash::template_hash;

/// The label by which pods and revisions say which template they are of.
pub(crate) const HASH: &str = "controller-revision-hash";

/// What the history needs.
#[derive(Debug)]
pub(crate) struct History {
    /// The present template's revision: an existing one, renumbered if it comes back, or a new one.
    pub(crate) current: ControllerRevision,
    pub(crate) change: Change,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Create,
    /// The revision exists under a lower number.
    Renumber,
}

pub(crate) fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn hash(revision: &ControllerRevision) -> &str {
    let label = revision.metadata.labels.as_ref().and_then(|labels| labels.get(HASH));
    label.map_or_else(|| name(revision), String::as_str)
}

/// The patch that brings an object back to this template, as upstream stores it.
fn data(template: &PodTemplateSpec) -> Result<Value, serde_json::Error> {
    let mut template = serde_json::to_value(template)?;
    template["$patch"] = "replace".into();
    Ok(json!({"spec": {"template": template}}))
}

/// Finds or makes the revision of `template` among `existing`, all of them owned by `owner`.
pub(crate) fn current<O: Resource<DynamicType = ()>>(
    owner: &O,
    template: &PodTemplateSpec,
    collision: Option<i32>,
    existing: &[Arc<ControllerRevision>],
) -> Result<History, serde_json::Error> {
    let data = data(template)?;
    let highest = existing.iter().map(|r| r.revision).max().unwrap_or(0);
    let same = existing.iter().filter(|r| r.data.as_ref().is_some_and(|d| d.0 == data)).max_by_key(|r| r.revision);
    if let Some(same) = same {
        let mut current = (**same).clone();
        let change = if current.revision < highest { Change::Renumber } else { Change::None };
        if change == Change::Renumber {
            current.revision = highest + 1;
        }
        return Ok(History { current, change });
    }
    let hash = template_hash(template, collision)?;
    let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let meta = owner.meta();
    let current = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta.name.as_deref().unwrap_or_default())),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: highest + 1,
    };
    Ok(History { current, change: Change::Create })
}

/// The oldest revisions beyond `limit` that are neither present nor used by a pod.
pub(crate) fn surplus(
    existing: &[Arc<ControllerRevision>],
    used: impl Fn(&ControllerRevision) -> bool,
    limit: Option<i32>,
) -> Vec<Arc<ControllerRevision>> {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let mut idle: Vec<_> = existing.iter().filter(|revision| !used(revision)).cloned().collect();
    idle.sort_by_key(|revision| revision.revision);
    idle.truncate(idle.len().saturating_sub(limit));
    idle
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;

    use super::*;

    fn template(label: &str) -> PodTemplateSpec {
        let labels = Some([("v".to_owned(), label.to_owned())].into());
        PodTemplateSpec { metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }), spec: None }
    }

    #[test]
    fn a_template_that_comes_back_is_renumbered_not_stored_twice() {
        let owner = DaemonSet::default();
        let first = current(&owner, &template("1"), None, &[]).unwrap();
        assert_eq!((first.current.revision, first.change), (1, Change::Create));
        let mut stored = vec![Arc::new(first.current)];
        let second = current(&owner, &template("2"), None, &stored).unwrap();
        assert_eq!((second.current.revision, second.change), (2, Change::Create));
        stored.push(Arc::new(second.current));
        let back = current(&owner, &template("1"), None, &stored).unwrap();
        assert_eq!((back.current.revision, back.change), (3, Change::Renumber));
        assert_eq!(name(&back.current), name(&stored[0]));
        assert_eq!(surplus(&stored, |_| false, Some(1)), [stored[0].clone()]);
        assert!(surplus(&stored, |_| true, Some(0)).is_empty());
    }
}
