//! Stateful sets and their pods for the tests.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::pods::fixture::{labelled, pod, ready};

pub(super) fn set(replicas: i32) -> StatefulSet {
    let labels = Some([("app".to_owned(), "db".to_owned())].into());
    StatefulSet {
        metadata: ObjectMeta {
            name: Some("db".into()),
            namespace: Some("ns".into()),
            uid: Some("uid-db".into()),
            ..ObjectMeta::default()
        },
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some("db-headless".into()),
            selector: LabelSelector { match_labels: labels.clone(), ..LabelSelector::default() },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
                spec: Some(PodSpec::default()),
            },
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

pub(super) fn parallel(mut set: StatefulSet) -> StatefulSet {
    set.spec.as_mut().unwrap().pod_management_policy = Some("Parallel".into());
    set
}

/// With one claim template, called `data`.
pub(super) fn claimed(mut set: StatefulSet) -> StatefulSet {
    let metadata = ObjectMeta { name: Some("data".into()), ..ObjectMeta::default() };
    let template = PersistentVolumeClaim { metadata, ..PersistentVolumeClaim::default() };
    set.spec.as_mut().unwrap().volume_claim_templates = Some(vec![template]);
    set
}

pub(super) fn of_revision(name: &str, revision: &str, is_ready: bool) -> Pod {
    let pod = if is_ready { ready(name, "n", 0) } else { pod(name, "Running") };
    let index = name.rsplit('-').next().unwrap();
    let labels = [
        ("controller-revision-hash", revision),
        ("statefulset.kubernetes.io/pod-name", name),
        ("apps.kubernetes.io/pod-index", index),
    ];
    labelled(pod, &labels)
}
