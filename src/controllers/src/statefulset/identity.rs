//! What makes a pod of a stateful set that pod and no other: its ordinal, its name, its labels and its volumes. Pure.

use std::collections::HashSet;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::claim::controller_reference;
use crate::revisions;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(super) fn name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// The ordinal of the pod called `pod`, if it is one of `set`'s.
pub(super) fn ordinal(set: &StatefulSet, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(name(set))?.strip_prefix('-')?;
    digits.parse().ok().filter(|ordinal: &i32| ordinal.to_string() == digits)
}

pub(super) fn first_ordinal(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.ordinals.as_ref()?.start).unwrap_or(0)
}

pub(super) fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", name(set))
}

fn claim_templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_deref()).unwrap_or_default()
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.metadata.name.as_deref().unwrap_or_default(), name(set))
}

pub(super) fn claim_names(set: &StatefulSet, ordinal: i32) -> Vec<String> {
    claim_templates(set).iter().map(|template| claim_name(set, template, ordinal)).collect()
}

/// The claims of one pod, as they are to be created.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selected = set.spec.as_ref().and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    let make = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        claim.metadata.labels.get_or_insert_default().extend(selected.clone());
        claim.status = None;
        claim
    };
    claim_templates(set).iter().map(make).collect()
}

/// Gives `pod` what a pod of this ordinal has. Returns whether anything was missing.
pub(super) fn give_identity(set: &StatefulSet, ordinal: i32, pod: &mut Pod) -> bool {
    let pod_name = pod_name(set, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    let mut changed = false;
    for (label, value) in [(POD_NAME, pod_name.clone()), (POD_INDEX, ordinal.to_string())] {
        changed |= labels.insert(label.to_owned(), value.clone()) != Some(value);
    }
    changed
}

/// The pod of this ordinal, of the revision called `revision`.
pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let pod_name = pod_name(set, ordinal);
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(pod_name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|service| !service.is_empty());
    let claimed: Vec<Volume> = claim_templates(set).iter().map(|t| volume(set, t, ordinal)).collect();
    let names: HashSet<&str> = claimed.iter().map(|volume| volume.name.as_str()).collect();
    let mut volumes = spec.volumes.take().unwrap_or_default();
    volumes.retain(|volume| !names.contains(volume.name.as_str()));
    volumes.extend(claimed.iter().cloned());
    spec.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
    let mut pod = Pod {
        metadata: ObjectMeta {
            name: Some(pod_name),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    };
    give_identity(set, ordinal, &mut pod);
    pod.metadata.labels.get_or_insert_default().insert(revisions::HASH.to_owned(), revision.to_owned());
    pod
}

fn volume(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> Volume {
    Volume {
        name: template.metadata.name.clone().unwrap_or_default(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: Some(false),
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{claimed, set};
    use super::*;

    #[test]
    fn pods_are_told_by_name() {
        let set = set(3);
        assert_eq!(ordinal(&set, "db-12"), Some(12));
        for other in ["db-012", "db-", "db", "other-1", "db-x"] {
            assert_eq!(ordinal(&set, other), None, "{other}");
        }
    }

    #[test]
    fn a_pod_has_its_name_its_claims_and_its_revision() {
        let set = claimed(set(3));
        let mut template = set.spec.clone().unwrap().template;
        let own = Volume { name: "data".into(), ..Volume::default() };
        template.spec.as_mut().unwrap().volumes = Some(vec![own]);
        let pod = pod(&set, &template, "db-abc", 2);
        let labels = pod.metadata.labels.clone().unwrap();
        assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-2");
        assert_eq!(labels["apps.kubernetes.io/pod-index"], "2");
        assert_eq!(labels["controller-revision-hash"], "db-abc");
        let spec = pod.spec.unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-2"), Some("db-headless")));
        let volumes = spec.volumes.unwrap();
        assert_eq!(volumes.len(), 1);
        assert_eq!(volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-2");
        assert_eq!(claims(&set, 2)[0].metadata.labels.as_ref().unwrap()["app"], "db");
    }
}
