//! Client and informers against the fake server.

use std::time::Duration;

use crate::Api;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::{Failure, FakeApi};
use crate::{Change, EventRecorder, EventType, Informers, Scope};

fn config_map(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.into()), namespace: Some("default".into()), ..ObjectMeta::default() };
    ConfigMap { metadata, ..ConfigMap::default() }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_informer_lists_then_follows() {
    let fake = FakeApi::new();
    let api: Api<ConfigMap> = Api::namespaced(fake.client(), "default");
    api.create(&PostParams::default(), &config_map("before")).await.unwrap();
    let informers = Informers::new(fake.client());
    let informer = informers.of::<ConfigMap>();
    informer.synced().await;
    assert!(informer.get("default", "before").is_some());
    let mut changes = informer.subscribe();
    assert!(matches!(changes.next().await, Some(Change::Added(_))));
    let patch = Patch::Merge(json!({"data": {"k": "v"}}));
    let written = api.patch("before", &PatchParams::default(), &patch).await.unwrap();
    assert!(matches!(changes.next().await, Some(Change::Modified { old, new })
        if old.data.is_none() && new.data.is_some()));
    assert_eq!(informer.observed().to_string(), written.metadata.resource_version.unwrap());
    api.delete("before", &Default::default()).await.unwrap();
    assert!(matches!(changes.next().await, Some(Change::Deleted(_))));
    assert!(informer.list().is_empty());
}

#[tokio::test]
async fn an_informer_lists_again_when_its_revision_is_gone_or_the_server_fails() {
    let fake = FakeApi::new();
    fake.fail_once("GET", "configmaps", Failure::new(500, "InternalError", "not yet"));
    fake.put(&config_map("a")).unwrap();
    let informers = Informers::new(fake.client());
    let informer = informers.of::<ConfigMap>();
    informer.synced().await;
    fake.fail_once("GET", "configmaps", Failure::new(410, "Expired", "too old"));
    fake.put(&config_map("b")).unwrap();
    until("b is seen", || informer.get("default", "b").is_some()).await;
}

#[tokio::test]
async fn one_kind_and_scope_has_one_informer() {
    let fake = FakeApi::new();
    let informers = Informers::new(fake.client());
    let scope = Scope::fields("spec.nodeName=n1");
    let pods = informers.scoped::<Pod>(scope.clone());
    pods.synced().await;
    let mut pod = Pod { metadata: config_map("p").metadata, ..Pod::default() };
    pod.spec = Some(Default::default());
    fake.put(&pod).unwrap();
    let api: Api<Pod> = Api::namespaced(fake.client(), "default");
    let patch = Patch::Merge(json!({"spec": {"nodeName": "n1"}}));
    api.patch("p", &PatchParams::default(), &patch).await.unwrap();
    until("the bound pod is seen", || informers.scoped::<Pod>(scope.clone()).get("default", "p").is_some()).await;
    let patch = Patch::Merge(json!({"spec": {"nodeName": "n2"}}));
    api.patch("p", &PatchParams::default(), &patch).await.unwrap();
    until("a pod that left the selector is gone", || pods.list().is_empty()).await;
}

#[tokio::test]
async fn a_repeated_event_counts_up() {
    let fake = FakeApi::new();
    let recorder = EventRecorder::new(fake.client(), "kubelet", "edge-1");
    let node =
        Node { metadata: ObjectMeta { name: Some("edge-1".into()), ..Default::default() }, ..Default::default() };
    for _ in 0..3 {
        recorder.event(&node, EventType::Normal, "Starting", "Starting kubelet.");
    }
    let event = fake.wait_for(|fake| fake.list::<Event>().into_iter().find(|e| e.count == Some(3))).await.unwrap();
    assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(event.source.unwrap().host.as_deref(), Some("edge-1"));
    assert_eq!(fake.list::<Event>().len(), 1);
}

#[tokio::test]
async fn shutdown_ends_subscriptions() {
    let fake = FakeApi::new();
    let informers = Informers::new(fake.client());
    let mut changes = informers.of::<ConfigMap>().subscribe();
    informers.shutdown().await;
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn what_was_borrowed_stops_with_the_last_borrower_unless_somebody_else_has_it() {
    let fake = FakeApi::new();
    let informers = Informers::new(fake.client());
    let own = informers.of::<ConfigMap>();
    let (first, second) = (informers.borrowed(), informers.borrowed());
    let mut shared = first.of::<ConfigMap>().subscribe();
    let mut pods = first.clone().of::<Pod>().subscribe();
    let mut nodes = first.of::<Node>().subscribe();
    second.of::<Pod>();
    assert_eq!(informers.count(), 3);
    drop(first);
    assert!(nodes.next().await.is_none(), "nobody wants nodes any more");
    assert_eq!(informers.count(), 2);
    own.synced().await;
    fake.put(&config_map("later")).unwrap();
    assert!(matches!(shared.next().await, Some(Change::Added(_))));
    drop(second);
    assert!(pods.next().await.is_none());
    assert_eq!(informers.count(), 1);
    // Asked for again, they are there again.
    fake.put(&Node { metadata: config_map("n").metadata, ..Node::default() }).unwrap();
    let third = informers.borrowed();
    let nodes = third.of::<Node>();
    nodes.synced().await;
    assert_eq!((nodes.list().len(), informers.count()), (1, 2));
}
