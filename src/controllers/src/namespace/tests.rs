//! Namespace deletion against an API server that behaves.

use client::Api;
use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::context::Context;

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

#[tokio::test]
async fn a_namespace_is_furnished_then_emptied_and_goes_when_the_last_finalizer_falls() {
    let fake = FakeApi::new();
    let config = Config::new("PEM".into(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), Informers::new(fake.client()), config, CancellationToken::new());
    super::start(&context);
    crate::root_ca::start(&context);
    crate::service_account::start(&context);
    let namespaces: Api<Namespace> = Api::all(fake.client());
    let namespace = Namespace { metadata: meta("team"), ..Namespace::default() };
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    fake.wait_for(|f| f.get::<ServiceAccount>("team", "default")).await.expect("service account");
    let map = fake.wait_for(|f| f.get::<ConfigMap>("team", "kube-root-ca.crt")).await.expect("root CA");
    assert_eq!(map.data.unwrap()["ca.crt"], "PEM");

    let secrets: Api<Secret> = Api::namespaced(fake.client(), "team");
    let mut held = Secret { metadata: meta("held"), ..Secret::default() };
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    secrets.create(&PostParams::default(), &held).await.unwrap();
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    let condition = |f: &FakeApi, type_: &str| {
        f.get::<Namespace>("", "team")?.status?.conditions?.into_iter().find(|c| c.type_ == type_)
    };
    let left = fake
        .wait_for(|f| condition(f, "NamespaceFinalizersRemaining").filter(|c| c.status == "True"))
        .await
        .expect("condition");
    assert_eq!(
        left.message.as_deref(),
        Some("Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances")
    );
    assert!(fake.get::<ConfigMap>("team", "kube-root-ca.crt").is_none());
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    secrets.patch("held", &PatchParams::default(), &patch).await.unwrap();
    fake.wait_for(|f| f.get::<Namespace>("", "team").is_none().then_some(())).await.expect("gone");
}

#[tokio::test]
async fn nothing_else_is_deleted_while_there_are_pods() {
    let fake = FakeApi::new();
    let config = Config::new("PEM".into(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), Informers::new(fake.client()), config, CancellationToken::new());
    super::start(&context);
    let namespaces: Api<Namespace> = Api::all(fake.client());
    let namespace = Namespace { metadata: meta("team"), ..Namespace::default() };
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(fake.client(), "team");
    let mut held = Pod { metadata: meta("held"), ..Pod::default() };
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    pods.create(&PostParams::default(), &held).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(fake.client(), "team");
    maps.create(&PostParams::default(), &ConfigMap { metadata: meta("map"), ..ConfigMap::default() }).await.unwrap();
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    let told = |f: &FakeApi| {
        let conditions = f.get::<Namespace>("", "team")?.status?.conditions?;
        conditions.into_iter().find(|c| c.type_ == "NamespaceContentRemaining" && c.status == "True")
    };
    let left = fake.wait_for(told).await.expect("condition");
    assert_eq!(left.message.as_deref(), Some("Some resources are remaining: pods. has 1 resource instances"));
    assert!(fake.get::<Pod>("team", "held").unwrap().metadata.deletion_timestamp.is_some());
    assert!(fake.get::<ConfigMap>("team", "map").is_some(), "deleted before the pod was gone");
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pods.patch("held", &PatchParams::default(), &patch).await.unwrap();
    fake.wait_for(|f| f.get::<Namespace>("", "team").is_none().then_some(())).await.expect("gone");
}
