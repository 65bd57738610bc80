//! The controller against an API server that behaves.

use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::apps::v1::ReplicaSetSpec;
use k8s_openapi::api::policy::v1::{PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::Config;
use crate::pods::fixture::{labelled, ready};

fn replica_set(replicas: i32) -> ReplicaSet {
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("ns".into()),
            uid: Some("set".into()),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec { replicas: Some(replicas), ..ReplicaSetSpec::default() }),
        status: None,
    }
}

fn owned(name: &str) -> Pod {
    let mut pod = labelled(ready(name, "n", 0), &[("app", "a")]);
    pod.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "apps/v1".into(),
        kind: "ReplicaSet".into(),
        name: "web".into(),
        uid: "set".into(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    pod
}

fn budget() -> PodDisruptionBudget {
    let match_labels = Some([("app".to_owned(), "a".to_owned())].into());
    PodDisruptionBudget {
        metadata: ObjectMeta { name: Some("b".into()), namespace: Some("ns".into()), ..ObjectMeta::default() },
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector { match_labels, ..LabelSelector::default() }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

fn status(fake: &FakeApi) -> Option<PodDisruptionBudgetStatus> {
    fake.get::<PodDisruptionBudget>("ns", "b")?.status
}

#[tokio::test]
async fn a_budget_follows_its_pods_and_the_number_their_owner_wants() {
    let (fake, stop) = (FakeApi::new(), CancellationToken::new());
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    start(&Context::new(fake.client(), Informers::new(fake.client()), config, stop.clone()));
    fake.put(&replica_set(3)).unwrap();
    for name in ["a", "b", "c"] {
        fake.put(&owned(name)).unwrap();
    }
    fake.put(&budget()).unwrap();
    fake.wait_for(|f| status(f).filter(|s| s.disruptions_allowed == Some(1))).await.expect("one may go");
    fake.put(&replica_set(4)).unwrap();
    let strict = fake.wait_for(|f| status(f).filter(|s| s.disruptions_allowed == Some(0))).await.expect("none may go");
    assert_eq!((strict.expected_pods, strict.desired_healthy, strict.current_healthy), (Some(4), Some(3), Some(3)));
    fake.put(&owned("d")).unwrap();
    fake.wait_for(|f| status(f).filter(|s| s.disruptions_allowed == Some(1))).await.expect("one may go again");
}
