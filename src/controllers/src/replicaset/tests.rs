//! The controller against an API server that behaves.

use client::Api;
use client::Informers;
use client::testing::{Failure, FakeApi};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::{Config, pods};

fn replica_set(replicas: i32) -> ReplicaSet {
    let labels = Some([("app".to_owned(), "a".to_owned())].into());
    ReplicaSet {
        metadata: ObjectMeta { name: Some("web".into()), namespace: Some("ns".into()), ..Default::default() },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            selector: LabelSelector { match_labels: labels.clone(), ..Default::default() },
            template: Some(PodTemplateSpec {
                metadata: Some(ObjectMeta { labels, ..Default::default() }),
                spec: Some(PodSpec::default()),
            }),
            min_ready_seconds: None,
        }),
        status: None,
    }
}

fn started() -> (FakeApi, CancellationToken) {
    let (fake, stop) = (FakeApi::new(), CancellationToken::new());
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), Informers::new(fake.client()), config, stop.clone());
    super::start(&context);
    (fake, stop)
}

fn status(fake: &FakeApi) -> Option<k8s_openapi::api::apps::v1::ReplicaSetStatus> {
    fake.get::<ReplicaSet>("ns", "web")?.status
}

#[tokio::test]
async fn pods_are_made_replaced_and_scaled_down_and_never_too_many() {
    let (fake, _stop) = started();
    fake.put(&replica_set(5)).unwrap();
    fake.wait_for(|f| status(f).filter(|s| s.replicas == 5)).await.expect("five pods");
    let pod = fake.list::<Pod>()[0].clone();
    fake.delete::<Pod>("ns", pods::name(&pod)).unwrap();
    fake.wait_for(|f| (f.list::<Pod>().len() == 5).then_some(())).await.expect("replaced");
    let api: Api<ReplicaSet> = Api::namespaced(fake.client(), "ns");
    let patch = Patch::Merge(json!({"spec": {"replicas": 2}}));
    api.patch("web", &PatchParams::default(), &patch).await.unwrap();
    fake.wait_for(|f| status(f).filter(|s| s.replicas == 2)).await.expect("scaled down");
    assert_eq!(fake.list::<Pod>().len(), 2);
    let created = fake.writes().iter().filter(|w| *w == "POST /api/v1/namespaces/ns/pods").count();
    assert_eq!(created, 6);
    api.delete("web", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_refusal_shows_in_the_status_until_pods_can_be_made() {
    let (fake, _stop) = started();
    for _ in 0..6 {
        fake.fail_once("POST", "/pods", Failure::new(403, "Forbidden", "exceeded quota"));
    }
    fake.put(&replica_set(1)).unwrap();
    let failed = fake
        .wait_for(|f| status(f)?.conditions?.into_iter().find(|c| c.type_ == "ReplicaFailure"))
        .await
        .expect("condition");
    assert_eq!(failed.message.as_deref(), Some("exceeded quota"));
    fake.wait_for(|f| status(f).filter(|s| s.replicas == 1 && s.conditions.is_none())).await.expect("recovered");
}

#[tokio::test]
async fn an_orphan_that_matches_is_adopted() {
    let (fake, _stop) = started();
    let orphan = pods::fixture::labelled(pods::fixture::ready("orphan", "n", 0), &[("app", "a")]);
    fake.put(&orphan).unwrap();
    fake.put(&replica_set(1)).unwrap();
    let adopted = |f: &FakeApi| f.get::<Pod>("ns", "orphan")?.metadata.owner_references;
    let owners = fake.wait_for(adopted).await.expect("adopted");
    assert_eq!((owners[0].kind.as_str(), owners[0].controller), ("ReplicaSet", Some(true)));
    fake.wait_for(|f| status(f).filter(|s| s.available_replicas == Some(1))).await.expect("counted");
    assert_eq!(fake.list::<Pod>().len(), 1);
}
