//! The controllers against an API server that behaves, with time that is told to pass.

use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::api::core::v1::{Event, NodeStatus, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::pods::fixture;
use crate::{Config, conditions};

fn node(name: &str, status: &str) -> Node {
    let condition = NodeCondition { type_: "Ready".into(), status: status.into(), ..NodeCondition::default() };
    Node {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        spec: None,
        status: Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() }),
    }
}

fn lease(node: &str, second: i64) -> Lease {
    let metadata =
        ObjectMeta { name: Some(node.into()), namespace: Some(LEASE_NAMESPACE.into()), ..ObjectMeta::default() };
    let renew_time = Some(MicroTime(fixture::at(second)));
    Lease { metadata, spec: Some(LeaseSpec { renew_time, ..LeaseSpec::default() }) }
}

fn started(fake: &FakeApi) -> CancellationToken {
    let stop = CancellationToken::new();
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    start(&Context::new(fake.client(), Informers::new(fake.client()), config, stop.clone()));
    stop
}

fn taints(fake: &FakeApi, node: &str) -> Vec<String> {
    let taints = fake.get::<Node>("", node).and_then(|n| n.spec?.taints).unwrap_or_default();
    taints.into_iter().map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_turns_unknown_and_its_pods_leave_while_a_living_one_stays() {
    let fake = FakeApi::new();
    for name in ["dead", "alive"] {
        fake.put(&node(name, "True")).unwrap();
        fake.put(&lease(name, 100)).unwrap();
    }
    fake.put(&fixture::ready("victim", "dead", 0)).unwrap();
    let mut patient = fixture::ready("patient", "dead", 0);
    let toleration = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
    patient.spec.as_mut().unwrap().tolerations = Some(vec![toleration]);
    fake.put(&patient).unwrap();
    let stop = started(&fake);
    let beating = fake.clone();
    let beat = stop.clone();
    tokio::spawn(beat.run_until_cancelled_owned(async move {
        for second in 101.. {
            tokio::time::sleep(Duration::from_secs(10)).await;
            beating.put(&lease("alive", second)).unwrap();
        }
    }));
    let deadline = Duration::from_secs(120);
    let gone = async {
        while !fake.get::<Pod>("ns", "victim").is_some_and(|pod| pods::is_terminating(&pod)) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(deadline, gone).await.expect("the victim is deleted");
    let dead = fake.get::<Node>("", "dead").unwrap();
    assert!(health::is_unknown(&dead));
    assert_eq!(taints(&fake, "dead"), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
    assert!(taints(&fake, "alive").is_empty());
    let victim = fake.get::<Pod>("ns", "victim").unwrap();
    let told = conditions::find(pods::conditions(&victim), "DisruptionTarget").unwrap();
    assert_eq!(told.reason.as_deref(), Some("DeletionByTaintManager"));
    let patient = fake.get::<Pod>("ns", "patient").unwrap();
    assert!(!pods::is_terminating(&patient) && !pods::is_ready(&patient));
    let reasons = |f: &FakeApi| f.list::<Event>().into_iter().filter_map(|e| e.reason).collect::<Vec<_>>();
    for reason in ["RegisteredNode", "NodeNotReady", "TaintManagerEviction"] {
        fake.wait_for(|f| reasons(f).iter().any(|r| r == reason).then_some(())).await.expect(reason);
    }
}

#[tokio::test(start_paused = true)]
async fn the_only_node_is_not_emptied_when_it_falls_silent() {
    let fake = FakeApi::new();
    fake.put(&node("lone", "True")).unwrap();
    fake.put(&fixture::ready("pod", "lone", 0)).unwrap();
    let _stop = started(&fake);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(taints(&fake, "lone"), ["unreachable:NoSchedule"]);
    let pod = fake.get::<Pod>("ns", "pod").unwrap();
    assert!(!pods::is_terminating(&pod) && !pods::is_ready(&pod));
}
