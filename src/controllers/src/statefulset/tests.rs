//! The controller against an API server that behaves; the tests play the node.

use client::Informers;
use client::testing::FakeApi;
use kube::api::Patch;
use tokio_util::sync::CancellationToken;

use super::fixture::{claimed, set};
use super::*;
use crate::Config;
use crate::pods::fixture::ready;

fn started(fake: &FakeApi) -> CancellationToken {
    let stop = CancellationToken::new();
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    start(&Context::new(fake.client(), Informers::new(fake.client()), config, stop.clone()));
    stop
}

/// Waits for a pod that is not ready yet and makes it ready.
async fn run_pod(fake: &FakeApi, name: &str) -> Pod {
    let fresh = |f: &FakeApi| f.get::<Pod>("ns", name).filter(|pod| !pods::is_terminating(pod) && !pods::is_ready(pod));
    let mut pod = fake.wait_for(fresh).await.unwrap_or_else(|| panic!("{name} is made"));
    pod.status = ready(name, "n", 0).status;
    fake.put(&pod).unwrap();
    pod
}

fn names(fake: &FakeApi) -> Vec<String> {
    fake.list::<Pod>().iter().map(|pod| pods::name(pod).to_owned()).collect()
}

fn status(fake: &FakeApi) -> Option<StatefulSetStatus> {
    fake.get::<StatefulSet>("ns", "db")?.status
}

#[tokio::test]
async fn pods_come_in_order_with_their_claims_and_are_updated_from_the_last() {
    let fake = FakeApi::new();
    let _stop = started(&fake);
    fake.put(&claimed(set(2))).unwrap();
    let first = run_pod(&fake, "db-0").await;
    assert_eq!(names(&fake), ["db-0"]);
    run_pod(&fake, "db-1").await;
    let done = fake.wait_for(|f| status(f).filter(|s| s.ready_replicas == Some(2))).await.expect("both ready");
    assert_eq!(done.current_revision, done.update_revision);
    let claims: Vec<_> = fake.list::<PersistentVolumeClaim>().into_iter().filter_map(|c| c.metadata.name).collect();
    assert_eq!(claims, ["data-db-0", "data-db-1"]);

    let api: Api<StatefulSet> = Api::namespaced(fake.client(), "ns");
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"v": "2"}}}}});
    api.patch("db", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let second = run_pod(&fake, "db-1").await;
    assert_ne!(plan::revision_of(&second), plan::revision_of(&first));
    let again = run_pod(&fake, "db-0").await;
    assert_eq!(plan::revision_of(&again), plan::revision_of(&second));
    let through = |s: &StatefulSetStatus| s.current_revision.as_deref() == Some(plan::revision_of(&second));
    fake.wait_for(|f| status(f).filter(through)).await.expect("the new revision is the current one");
    assert_eq!(fake.list::<ControllerRevision>().len(), 2);
}

#[tokio::test]
async fn scaling_down_keeps_the_claims() {
    let fake = FakeApi::new();
    let _stop = started(&fake);
    fake.put(&claimed(set(2))).unwrap();
    run_pod(&fake, "db-0").await;
    run_pod(&fake, "db-1").await;
    fake.wait_for(|f| status(f).filter(|s| s.ready_replicas == Some(2))).await.expect("both ready");
    let api: Api<StatefulSet> = Api::namespaced(fake.client(), "ns");
    api.patch("db", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 1}}))).await.unwrap();
    fake.wait_for(|f| (names(f) == ["db-0"]).then_some(())).await.expect("one is left");
    assert_eq!(fake.list::<PersistentVolumeClaim>().len(), 2);
}
