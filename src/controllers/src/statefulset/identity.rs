//! The names that make a stateful set's pods distinct: ordinal, host name, labels and claims. Pure.

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::claim::controller_reference;
use crate::{pods, revisions, template};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

fn set_name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

pub(super) fn start(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.ordinals.as_ref()?.start).unwrap_or(0)
}

pub(super) fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set_name(set))
}

/// The ordinal in a pod's name, if it is a name of this set.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = pods::name(pod).rsplit_once('-')?;
    ordinal.parse().ok().filter(|_| parent == set_name(set))
}

fn claims(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_deref()).unwrap_or_default()
}

fn claim_name(set: &StatefulSet, claim: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}", claim.metadata.name.as_deref().unwrap_or_default(), pod_name(set, ordinal))
}

/// The claims of one pod. They outlive it, and are found again by name.
pub(super) fn claims_of(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selector = set.spec.as_ref().and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    let make = |claim: &PersistentVolumeClaim| {
        let mut labels = claim.metadata.labels.clone().unwrap_or_default();
        labels.extend(selector.clone());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(set, claim, ordinal)),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: claim.metadata.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: claim.spec.clone(),
            status: None,
        }
    };
    claims(set).iter().map(make).collect()
}

/// The template that a revision holds.
pub(super) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The pod of an ordinal, from the template of a revision.
pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, hash: &str, ordinal: i32) -> Pod {
    let name = pod_name(set, ordinal);
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = template::pod(template, &name, namespace, controller_reference(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(revisions::HASH.to_owned(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone());
    let volumes = spec.volumes.get_or_insert_default();
    for claim in claims(set) {
        let name = claim.metadata.name.clone().unwrap_or_default();
        volumes.retain(|volume| volume.name != name);
        volumes.push(Volume {
            name,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, claim, ordinal),
                read_only: Some(false),
            }),
            ..Volume::default()
        });
    }
    spec.volumes = spec.volumes.take().filter(|volumes| !volumes.is_empty());
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_has_its_name_host_name_and_own_claims() {
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "ns"}, "spec": {
            "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": {},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}}))
        .unwrap();
        let pod = pod(&set, &PodTemplateSpec::default(), "h", 2);
        assert_eq!(pods::name(&pod), "db-2");
        assert_eq!(ordinal(&set, &pod), Some(2));
        let spec = pod.spec.unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-2"), Some("db")));
        let claim = spec.volumes.unwrap()[0].persistent_volume_claim.clone().unwrap();
        assert_eq!(claim.claim_name, "data-db-2");
        let made = &claims_of(&set, 2)[0];
        assert_eq!(made.metadata.name.as_deref(), Some("data-db-2"));
        assert_eq!(made.metadata.labels.as_ref().unwrap()["app"], "db");
    }
}
