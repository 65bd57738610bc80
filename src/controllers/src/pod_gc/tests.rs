//! The controller against an API server that behaves, with time that is told to pass.

use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::Config;
use crate::pods::fixture;

fn started(fake: &FakeApi, threshold: usize) -> CancellationToken {
    let stop = CancellationToken::new();
    let mut config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    config.terminated_pod_threshold = threshold;
    start(&Context::new(fake.client(), Informers::new(fake.client()), config, stop.clone()));
    stop
}

fn node(name: &str) -> Node {
    Node { metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }, ..Node::default() }
}

#[tokio::test(start_paused = true)]
async fn pods_outlive_their_node_by_the_quarantine_only() {
    let fake = FakeApi::new();
    fake.put(&node("kept")).unwrap();
    fake.put(&node("removed")).unwrap();
    fake.put(&fixture::ready("stays", "kept", 0)).unwrap();
    fake.put(&fixture::ready("goes", "removed", 0)).unwrap();
    let _stop = started(&fake, 100);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(fake.list::<Pod>().len(), 2);
    fake.delete::<Node>("", "removed").unwrap();
    tokio::time::sleep(QUARANTINE - Duration::from_secs(1)).await;
    assert_eq!(fake.list::<Pod>().len(), 2);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let left: Vec<String> = fake.list::<Pod>().iter().map(|pod| pods::name(pod).to_owned()).collect();
    assert_eq!(left, ["stays"]);
    let status = "PUT /api/v1/namespaces/ns/pods/goes/status";
    assert!(fake.writes().iter().any(|write| write == status), "{:?}", fake.writes());
}

#[tokio::test]
async fn ended_pods_are_limited() {
    let fake = FakeApi::new();
    let _stop = started(&fake, 2);
    for second in 0..4 {
        let mut pod = fixture::pod(&format!("p{second}"), "Succeeded");
        pod.metadata.creation_timestamp = Some(Time(fixture::at(second)));
        fake.put(&pod).unwrap();
    }
    let names = |f: &FakeApi| f.list::<Pod>().iter().map(|pod| pods::name(pod).to_owned()).collect::<Vec<_>>();
    let left = fake.wait_for(|f| Some(names(f)).filter(|names| names.len() == 2)).await;
    assert_eq!(left, Some(vec!["p2".to_owned(), "p3".to_owned()]));
}
