//! The life cycle of nodes against an API server that behaves.

use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::context::Context;
use crate::pods::fixture::ready;

fn node(name: &str, ready: &str) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
    .unwrap()
}

#[tokio::test]
async fn a_node_that_is_not_ready_loses_its_pods_while_another_stands() {
    let fake = FakeApi::new();
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), Informers::new(fake.client()), config, CancellationToken::new());
    fake.put(&node("up", "True")).unwrap();
    fake.put(&node("down", "False")).unwrap();
    fake.put(&ready("pod", "down", 0)).unwrap();
    super::start(&context);
    let taints = |f: &FakeApi| f.get::<Node>("", "down")?.spec?.taints.filter(|t| t.len() == 2);
    let taints = fake.wait_for(taints).await.expect("taints");
    assert_eq!(taints[1].key, "node.kubernetes.io/not-ready");
    let pod = fake
        .wait_for(|f| f.get::<Pod>("ns", "pod").filter(|p| p.metadata.deletion_timestamp.is_some()))
        .await
        .expect("evicted");
    let types: Vec<_> = pod.status.unwrap().conditions.unwrap().into_iter().map(|c| (c.type_, c.status)).collect();
    assert!(types.contains(&("Ready".into(), "False".into())), "{types:?}");
    assert!(types.contains(&("DisruptionTarget".into(), "True".into())), "{types:?}");
    assert!(fake.get::<Node>("", "up").unwrap().spec.is_none_or(|s| s.taints.is_none()));
}
