//! Garbage collection against an API server that behaves.

use client::Api;
use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DeleteParams;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::context::Context;

/// A deployment that owns a replica set that owns a pod.
async fn family() -> (FakeApi, CancellationToken) {
    let (fake, stop) = (FakeApi::new(), CancellationToken::new());
    let owner = |kind: &str, uid: &str| {
        json!([{"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": uid, "controller": true,
                "blockOwnerDeletion": true}])
    };
    let meta = |uid: &str, owners| json!({"name": "web", "namespace": "ns", "uid": uid, "ownerReferences": owners});
    let deployment = json!({"metadata": meta("d", json!([]))});
    fake.put(&serde_json::from_value::<Deployment>(deployment).unwrap()).unwrap();
    let set = json!({"metadata": meta("r", owner("Deployment", "d"))});
    fake.put(&serde_json::from_value::<ReplicaSet>(set).unwrap()).unwrap();
    let pod = json!({"metadata": meta("p", owner("ReplicaSet", "r"))});
    fake.put(&serde_json::from_value::<Pod>(pod).unwrap()).unwrap();
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), Informers::new(fake.client()), config, stop.clone());
    super::start(&context);
    (fake, stop)
}

async fn delete(fake: &FakeApi, params: DeleteParams) {
    Api::<Deployment>::namespaced(fake.client(), "ns").delete("web", &params).await.unwrap();
}

#[tokio::test]
async fn in_the_background_dependents_follow_their_owner() {
    let (fake, _stop) = family().await;
    delete(&fake, DeleteParams::background()).await;
    assert!(fake.get::<Deployment>("ns", "web").is_none());
    let gone = |f: &FakeApi| (f.list::<ReplicaSet>().is_empty() && f.list::<Pod>().is_empty()).then_some(());
    fake.wait_for(gone).await.expect("dependents gone");
}

#[tokio::test]
async fn in_the_foreground_the_owner_goes_last() {
    let (fake, _stop) = family().await;
    delete(&fake, DeleteParams::foreground()).await;
    assert!(fake.get::<Deployment>("ns", "web").is_some());
    fake.wait_for(|f| f.list::<Deployment>().is_empty().then_some(())).await.expect("owner gone");
    assert!(fake.list::<ReplicaSet>().is_empty() && fake.list::<Pod>().is_empty());
}

#[tokio::test]
async fn orphans_stay_without_their_reference() {
    let (fake, _stop) = family().await;
    delete(&fake, DeleteParams::orphan()).await;
    fake.wait_for(|f| f.list::<Deployment>().is_empty().then_some(())).await.expect("owner gone");
    let set = fake.get::<ReplicaSet>("ns", "web").expect("orphan stays");
    assert_eq!(set.metadata.owner_references, None::<Vec<OwnerReference>>);
    assert!(fake.get::<Pod>("ns", "web").is_some());
}

#[tokio::test]
async fn an_object_whose_owner_never_was_is_collected_and_one_of_an_unknown_kind_is_not() {
    let (fake, _stop) = family().await;
    let stray = |name: &str, kind: &str, group: &str| -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns", "ownerReferences":
            [{"apiVersion": format!("{group}/v1"), "kind": kind, "name": "x", "uid": "none"}]}}))
        .unwrap()
    };
    fake.put(&stray("unknown", "Widget", "example.com")).unwrap();
    fake.put(&stray("stray", "ReplicaSet", "apps")).unwrap();
    fake.wait_for(|f| f.get::<Pod>("ns", "stray").is_none().then_some(())).await.expect("collected");
    assert!(fake.get::<Pod>("ns", "unknown").is_some());
}
