//! Deployment and replica set controllers together against an API server that behaves, with a stand-in for nodes.

use client::Api;
use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::context::Context;

/// Makes every new pod ready.
fn run_pods(fake: &FakeApi, informers: &Informers) {
    let (fake, mut changes) = (fake.clone(), informers.of::<Pod>().subscribe());
    tokio::spawn(async move {
        let api = |ns: &str| Api::<Pod>::namespaced(fake.client(), ns);
        while let Some(change) = changes.next().await {
            let pod = change.object();
            if matches!(change, client::Change::Added(_)) && pod.status.is_none() {
                let status = json!({"status": {"phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
                let name = pod.metadata.name.as_deref().unwrap();
                let patch = Patch::Merge(&status);
                api("ns").patch_status(name, &PatchParams::default(), &patch).await.ok();
            }
        }
    });
}

#[tokio::test]
async fn a_deployment_comes_up_rolls_and_keeps_its_history() {
    let (fake, stop) = (FakeApi::new(), CancellationToken::new());
    let informers = Informers::new(fake.client());
    run_pods(&fake, &informers);
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), informers, config, stop);
    super::start(&context);
    crate::replicaset::start(&context);
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}},
                              "spec": {"containers": [{"name": "c", "image": "v1"}]}}}
    }))
    .unwrap();
    fake.put(&deployment).unwrap();
    let complete = |f: &FakeApi, revision: &str| {
        let deployment = f.get::<Deployment>("ns", "web")?;
        let status = deployment.status.clone()?;
        (status.updated_replicas == Some(3)
            && status.available_replicas == Some(3)
            && status.replicas == Some(3)
            && deployment.metadata.annotations?.get(super::view::REVISION)? == revision)
            .then_some(status)
    };
    fake.wait_for(|f| complete(f, "1")).await.expect("first rollout");
    let api: Api<Deployment> = Api::namespaced(fake.client(), "ns");
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    api.patch("web", &PatchParams::default(), &Patch::Merge(&image)).await.unwrap();
    fake.wait_for(|f| complete(f, "2")).await.expect("second rollout");
    let sets = fake.list::<ReplicaSet>();
    let mut sizes: Vec<_> = sets.iter().map(super::view::set_replicas).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 3]);
}
