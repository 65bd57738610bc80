//! Quota status against an API server that behaves.

use client::Api;
use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::context::Context;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn used(fake: &FakeApi, name: &str) -> Option<Vec<String>> {
    let used = fake.get::<ResourceQuota>("team", "q")?.status?.used?;
    Some(used.into_iter().filter(|(n, _)| name.is_empty() || n == name).map(|(n, q)| format!("{n}={}", q.0)).collect())
}

async fn until(fake: &FakeApi, name: &str, wanted: &[&str]) {
    let seen = fake.wait_for(|f| used(f, name).filter(|used| used == wanted)).await;
    assert!(seen.is_some(), "wanted {wanted:?}, have {:?}", used(fake, name));
}

#[tokio::test]
async fn the_status_follows_what_is_there() {
    let fake = FakeApi::new();
    let config = Config::new("PEM".into(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), Informers::new(fake.client()), config, CancellationToken::new());
    super::start(&context);
    let quotas: Api<ResourceQuota> = Api::namespaced(fake.client(), "team");
    let quota: ResourceQuota = read(json!({"metadata": {"name": "q"},
        "spec": {"hard": {"pods": "2", "requests.cpu": "1", "configmaps": "5", "services": "1"}}}));
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    until(&fake, "", &["configmaps=0", "pods=0", "requests.cpu=0", "services=0"]).await;
    let hard = fake.get::<ResourceQuota>("team", "q").unwrap().status.unwrap().hard;
    assert_eq!(hard, quota.spec.unwrap().hard);

    let pods: Api<Pod> = Api::namespaced(fake.client(), "team");
    let pod: Pod = read(json!({"metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}}}]}}));
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(fake.client(), "team");
    maps.create(&PostParams::default(), &read(json!({"metadata": {"name": "m"}}))).await.unwrap();
    until(&fake, "", &["configmaps=1", "pods=1", "requests.cpu=300m", "services=0"]).await;

    let done = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status("p", &PatchParams::default(), &done).await.unwrap();
    maps.delete("m", &DeleteParams::default()).await.unwrap();
    until(&fake, "", &["configmaps=0", "pods=0", "requests.cpu=0", "services=0"]).await;

    let fewer = Patch::Merge(json!({"spec": {"hard": {"configmaps": null, "services": null, "requests.cpu": null}}}));
    quotas.patch("q", &PatchParams::default(), &fewer).await.unwrap();
    until(&fake, "", &["pods=0"]).await;
}
