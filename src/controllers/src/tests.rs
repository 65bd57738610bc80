//! All controllers together: started, stopped and started again in one process, as elections have it.

use std::time::Duration;

use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Config, run};

const PATIENCE: Duration = Duration::from_secs(60);

fn deployment(name: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": name}},
                 "template": {"metadata": {"labels": {"app": name}},
                              "spec": {"containers": [{"name": "c", "image": "v1"}]}}}
    }))
    .unwrap()
}

fn pods_of(fake: &FakeApi, app: &str) -> Option<()> {
    let of_app = |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|l| l.get("app").is_some_and(|a| a == app));
    (fake.list::<Pod>().iter().filter(|pod| of_app(pod)).count() == 2).then_some(())
}

/// Tasks of the process, once their number no longer changes.
async fn tasks() -> usize {
    let deadline = Instant::now() + PATIENCE;
    let (mut alive, mut same) = (0, 0);
    while same < 25 {
        let now = Handle::current().metrics().num_alive_tasks();
        same = if now == alive { same + 1 } else { 0 };
        alive = now;
        assert!(Instant::now() < deadline, "the number of tasks goes on changing: {alive}");
        sleep(Duration::from_millis(20)).await;
    }
    alive
}

#[tokio::test]
async fn controllers_stop_at_once_and_start_again_in_the_same_process() {
    let fake = FakeApi::new();
    fake.put(&serde_json::from_value::<Namespace>(json!({"metadata": {"name": "ns"}})).unwrap()).unwrap();
    let informers = Informers::new(fake.client());
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    let client = fake.client();
    let mut left = None;
    for round in ["one", "two", "three"] {
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(client.clone(), informers.borrowed(), config.clone(), stop.clone()));
        fake.put(&deployment(round)).unwrap();
        let node = format!("node-{round}");
        fake.put(&serde_json::from_value::<Node>(json!({"metadata": {"name": node}})).unwrap()).unwrap();
        fake.wait_for(|f| pods_of(f, round)).await.unwrap_or_else(|| panic!("no pods of {round}"));
        fake.wait_for(|f| f.get::<Node>("", &node)?.spec?.pod_cidr).await.expect("a range of addresses");
        fake.wait_for(|f| f.get::<ServiceAccount>("ns", "default")).await.expect("an account");
        stop.cancel();
        timeout(PATIENCE, running).await.expect("all has ended").unwrap();
        // Nothing of the work is left, nor what it watched.
        let alive = tasks().await;
        assert_eq!(informers.count(), 0, "informers that nobody needs");
        assert!(alive <= *left.get_or_insert(alive), "{alive} tasks, {left:?} after the first round");
        let idle = format!("idle-{round}");
        fake.put(&deployment(&idle)).unwrap();
        let made = |f: &FakeApi| {
            f.list::<ReplicaSet>().iter().any(|set| set.metadata.name.iter().any(|n| n.starts_with(&idle)))
        };
        assert!(!made(&fake), "nobody works");
    }
    // What came while nobody worked was seen by the next.
    assert!(pods_of(&fake, "idle-one").is_some() && pods_of(&fake, "idle-two").is_some());
}
