//! Which replica set is the deployment's present one, and the annotations by which revisions are told apart. Pure.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::view::{self, DESIRED, HASH, MAX, REVISION, REVISION_HISTORY};
use crate::claim::controller_reference;
use crate::hash::template_hash;

/// Revisions listed in the history annotation, in characters.
const HISTORY_LENGTH: usize = 2_000;

/// Annotations of a deployment that are its own business.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The position in `sets` of the oldest one whose template is the deployment's.
pub(super) fn find_new(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let template = &deployment.spec.as_ref()?.template;
    let same = |set: &ReplicaSet| {
        set.spec.as_ref().and_then(|s| s.template.as_ref()).is_some_and(|t| view::same_template(t, template))
    };
    let candidates = sets.iter().enumerate().filter(|(_, set)| same(set));
    candidates.min_by_key(|(_, set)| age_key(set)).map(|(position, _)| position)
}

/// Orders by creation, then name.
pub(super) fn age_key(set: &ReplicaSet) -> (Option<jiff::Timestamp>, String) {
    (set.metadata.creation_timestamp.as_ref().map(|t| t.0), view::name(set).to_owned())
}

/// Brings the present replica set's annotations up to date. `old` are all the others.
pub(super) fn annotate(deployment: &Deployment, set: &mut ReplicaSet, highest_old: i64, exists: bool) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            annotations.insert(name.clone(), value.clone());
        }
    }
    let wanted = highest_old + 1;
    let had = annotations.get(REVISION).cloned();
    if had.as_deref().and_then(|r| r.parse::<i64>().ok()).unwrap_or(0) < wanted {
        annotations.insert(REVISION.to_owned(), wanted.to_string());
        if let Some(had) = had {
            let history = annotations.get(REVISION_HISTORY).filter(|h| !h.is_empty());
            let history = history.map_or_else(|| had.clone(), |history| format!("{history},{had}"));
            annotations.insert(REVISION_HISTORY.to_owned(), cut(history));
        }
    }
    if !exists {
        set_sizes(deployment, set);
    }
}

fn cut(mut history: String) -> String {
    while history.len() > HISTORY_LENGTH
        && let Some((_, rest)) = history.split_once(',')
    {
        history = rest.to_owned();
    }
    history
}

/// Notes how large the deployment is to be, now and at most: proportional scaling goes by it.
pub(super) fn set_sizes(deployment: &Deployment, set: &mut ReplicaSet) {
    let replicas = view::replicas(deployment);
    let most = replicas.saturating_add(view::max_surge(deployment));
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), replicas.to_string());
    annotations.insert(MAX.to_owned(), most.to_string());
}

/// A replica set for the deployment's present template, still without replicas.
pub(super) fn new_set(deployment: &Deployment, highest_old: i64) -> Result<ReplicaSet, serde_json::Error> {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collision = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&spec.template, collision)?;
    let mut template = spec.template;
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate(deployment, &mut set, highest_old, false);
    Ok(set)
}
