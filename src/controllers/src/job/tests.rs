//! Jobs against an API server that behaves.

use client::Api;
use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::view;
use crate::Config;
use crate::context::Context;

#[tokio::test]
async fn a_job_runs_to_completion_and_is_cleaned_up() {
    let fake = FakeApi::new();
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), Informers::new(fake.client()), config, CancellationToken::new());
    super::start(&context);
    let job = json!({"metadata": {"name": "j", "namespace": "ns"}, "spec": {
        "completions": 2, "parallelism": 2, "ttlSecondsAfterFinished": 0,
        "selector": {"matchLabels": {"job": "j"}},
        "template": {"metadata": {"labels": {"job": "j"}},
                     "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}});
    fake.put(&serde_json::from_value::<Job>(job).unwrap()).unwrap();
    let pods = fake.wait_for(|f| Some(f.list::<Pod>()).filter(|p| p.len() == 2)).await.expect("pods");
    assert!(pods.iter().all(view::has_finalizer));
    let api: Api<Pod> = Api::namespaced(fake.client(), "ns");
    for pod in &pods {
        let done = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
        api.patch_status(pod.metadata.name.as_deref().unwrap(), &PatchParams::default(), &done).await.unwrap();
    }
    fake.wait_for(|f| f.list::<Pod>().iter().all(|p| !view::has_finalizer(p)).then_some(())).await.expect("released");
    // The time to live of zero deletes it, in the foreground, once it is complete.
    let ending = |f: &FakeApi| f.get::<Job>("ns", "j").filter(|j| j.metadata.deletion_timestamp.is_some());
    let job = fake.wait_for(ending).await.expect("deleted after it finished");
    assert_eq!(job.status.unwrap().succeeded, Some(2));
    assert_eq!(fake.list::<Pod>().len(), 2);
}
