//! Daemon sets against an API server that behaves.

use client::Api;
use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::target::node_of;
use crate::context::Context;
use crate::{Config, pods, revisions};

fn put_node(fake: &FakeApi, name: &str) {
    let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    fake.put(&node).unwrap();
}

#[tokio::test]
async fn pods_follow_nodes_and_template() {
    let fake = FakeApi::new();
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), Informers::new(fake.client()), config, CancellationToken::new());
    super::start(&context);
    put_node(&fake, "a");
    let set = json!({"metadata": {"name": "agent", "namespace": "ns"}, "spec": {"selector": {"matchLabels": {"d": "a"}},
        "template": {"metadata": {"labels": {"d": "a"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}}});
    fake.put(&serde_json::from_value::<DaemonSet>(set).unwrap()).unwrap();
    fake.wait_for(|f| (f.list::<Pod>().len() == 1).then_some(())).await.expect("first node");
    put_node(&fake, "b");
    let pods = fake.wait_for(|f| Some(f.list::<Pod>()).filter(|p| p.len() == 2)).await.expect("second node");
    let mut nodes: Vec<_> = pods.iter().filter_map(node_of).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["a", "b"]);
    let api: Api<DaemonSet> = Api::namespaced(fake.client(), "ns");
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    api.patch("agent", &PatchParams::default(), &Patch::Merge(&image)).await.unwrap();
    // No pod ever became ready, so none has to be kept: all are replaced.
    let renewed = |f: &FakeApi| {
        let newest =
            f.list::<ControllerRevision>().into_iter().max_by_key(|r| r.revision).filter(|r| r.revision == 2)?;
        let pods = f.list::<Pod>();
        let new = |p: &Pod| pods::label(p, revisions::HASH) == Some(revisions::hash(&newest));
        (pods.len() == 2 && pods.iter().all(new)).then_some(())
    };
    fake.wait_for(renewed).await.expect("new template everywhere");
    let status =
        fake.wait_for(|f| f.get::<DaemonSet>("ns", "agent")?.status.filter(|s| s.updated_number_scheduled == Some(2)));
    assert_eq!(status.await.expect("status").desired_number_scheduled, 2);
}
