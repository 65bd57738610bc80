//! The controller against an API server that behaves.

use std::collections::BTreeSet;

use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::core::v1::{Event, NodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::Config;

fn node(name: &str, range: Option<&str>) -> Node {
    Node {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        spec: range.map(|range| NodeSpec { pod_cidr: Some(range.into()), ..NodeSpec::default() }),
        status: None,
    }
}

fn start_with(fake: &FakeApi, cluster: &str, mask: u8) -> CancellationToken {
    let stop = CancellationToken::new();
    let mut config = Config::new(String::new(), cluster.parse().unwrap());
    config.node_cidr_mask = mask;
    start(&Context::new(fake.client(), Informers::new(fake.client()), config, stop.clone()));
    stop
}

fn ranges(fake: &FakeApi) -> Vec<String> {
    fake.list::<Node>().iter().filter_map(|node| range_of(node).map(str::to_owned)).collect()
}

#[tokio::test]
async fn every_node_gets_a_range_of_its_own_and_existing_ones_stay() {
    let fake = FakeApi::new();
    fake.put(&node("old", Some("10.42.0.0/24"))).unwrap();
    let _stop = start_with(&fake, "10.42.0.0/16", 24);
    for name in ["a", "b", "c", "d"] {
        fake.put(&node(name, None)).unwrap();
    }
    let all = fake.wait_for(|f| Some(ranges(f)).filter(|r| r.len() == 5)).await.expect("five ranges");
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 5);
    assert_eq!(fake.get::<Node>("", "old").and_then(|n| n.spec?.pod_cidr).as_deref(), Some("10.42.0.0/24"));
    let lists = fake.get::<Node>("", "a").and_then(|n| n.spec).unwrap();
    assert_eq!(lists.pod_cidrs, lists.pod_cidr.map(|range| vec![range]));
}

#[tokio::test]
async fn a_node_that_finds_nothing_left_is_served_when_another_goes() {
    let fake = FakeApi::new();
    fake.put(&node("a", Some("10.0.0.0/25"))).unwrap();
    fake.put(&node("b", Some("10.0.0.128/25"))).unwrap();
    let _stop = start_with(&fake, "10.0.0.0/24", 25);
    fake.put(&node("late", None)).unwrap();
    let reason = |f: &FakeApi| f.list::<Event>().into_iter().find_map(|event| event.reason);
    assert_eq!(fake.wait_for(reason).await.as_deref(), Some("CIDRNotAvailable"));
    fake.delete::<Node>("", "b").unwrap();
    let late = |f: &FakeApi| f.get::<Node>("", "late")?.spec?.pod_cidr;
    assert_eq!(fake.wait_for(late).await.as_deref(), Some("10.0.0.128/25"));
}

#[test]
fn a_node_whose_range_the_informer_does_not_show_yet_is_not_written_again() {
    let pool = Pool::new("10.0.0.0/16".parse().unwrap(), 24);
    let mut ledger = Ledger { pool, given: HashMap::new(), waiting: HashSet::new(), cursor: 0 };
    let with_uid = |uid: &str| {
        let mut node = node("a", None);
        node.metadata.uid = Some(uid.into());
        Arc::new(node)
    };
    let first = with_uid("1");
    let share = ledger.assign(&first, std::slice::from_ref(&first));
    assert_eq!(share, Share::Write("10.0.0.0/24".parse().unwrap()));
    assert_eq!(ledger.assign(&first, std::slice::from_ref(&first)), share, "the write has failed: the same again");
    ledger.wrote(&first);
    assert_eq!(ledger.assign(&first, std::slice::from_ref(&first)), Share::Written);
    let second = with_uid("2");
    assert_eq!(
        ledger.assign(&second, std::slice::from_ref(&second)),
        Share::Write("10.0.1.0/24".parse().unwrap()),
        "another node of the name has a share of its own"
    );
}
