//! The order in which pods come, go and are updated.

use k8s_openapi::api::apps::v1::RollingUpdateStatefulSetStrategy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::fixture::{of_revision, parallel, set};
use super::*;
use crate::pods::fixture::{at, pod};

fn version(name: &str) -> Version {
    Version { name: name.into(), template: PodTemplateSpec::default() }
}

fn steps(set: &StatefulSet, pods: Vec<Pod>) -> Vec<String> {
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    let (current, update) = (version("old"), version("new"));
    let steps = View::new(set, (&current, &update), &pods, at(100)).steps();
    let told = |step: Step| match step {
        Step::Create { pod, .. } => format!("create {} {}", pods::name(&pod), revision_of(&pod)),
        Step::Replace(pod) => format!("replace {}", pods::name(&pod)),
        Step::ScaleDown { pod, .. } => format!("delete {}", pods::name(&pod)),
        Step::Update(pod) => format!("update {}", pods::name(&pod)),
        Step::Repair(pod) => format!("repair {}", pods::name(&pod)),
        Step::Claims { ordinal, .. } => format!("claims {ordinal}"),
    };
    steps.into_iter().map(told).collect()
}

fn healthy(names: &[(&str, &str)]) -> Vec<Pod> {
    names.iter().map(|(name, revision)| of_revision(name, revision, true)).collect()
}

fn rolling(mut set: StatefulSet, partition: i32, most: Option<i32>) -> StatefulSet {
    let strategy = set.spec.as_mut().unwrap().update_strategy.get_or_insert_default();
    strategy.rolling_update = Some(RollingUpdateStatefulSetStrategy {
        partition: Some(partition),
        max_unavailable: most.map(IntOrString::Int),
    });
    set
}

#[test]
fn pods_are_created_in_order_each_after_the_one_before_is_ready() {
    assert_eq!(steps(&set(3), vec![]), ["create db-0 new"]);
    assert_eq!(steps(&set(3), vec![of_revision("db-0", "new", false)]), Vec::<String>::new());
    assert_eq!(steps(&set(3), healthy(&[("db-0", "new")])), ["create db-1 new"]);
    assert_eq!(steps(&parallel(set(3)), vec![]), ["create db-0 new", "create db-1 new", "create db-2 new"]);
}

#[test]
fn a_ready_pod_has_to_last_before_the_next_follows() {
    let mut set = set(2);
    set.spec.as_mut().unwrap().min_ready_seconds = Some(1_000);
    assert!(steps(&set, healthy(&[("db-0", "new")])).is_empty());
}

#[test]
fn an_ended_pod_is_replaced_and_a_pending_one_gets_its_claims() {
    let mut ended = pod("db-0", "Failed");
    assert_eq!(steps(&set(1), vec![ended.clone()]), ["replace db-0"]);
    ended.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
    assert!(steps(&set(1), vec![ended]).is_empty());
    assert_eq!(steps(&set(1), vec![pod("db-0", "Pending")]), ["claims 0"]);
}

#[test]
fn the_highest_pod_goes_first_and_alone_unless_in_parallel() {
    let all = || healthy(&[("db-0", "new"), ("db-1", "new"), ("db-2", "new")]);
    assert_eq!(steps(&set(1), all()), ["delete db-2"]);
    assert_eq!(steps(&parallel(set(1)), all()), ["delete db-2", "delete db-1"]);
    let mut unhealthy = all();
    unhealthy[1] = of_revision("db-1", "new", false);
    unhealthy[2] = of_revision("db-2", "new", false);
    assert!(steps(&set(1), unhealthy.clone()).is_empty(), "the lowest unhealthy pod blocks those above");
    unhealthy.pop();
    assert_eq!(steps(&set(1), unhealthy), ["delete db-1"]);
}

#[test]
fn updates_go_down_one_by_one_and_stop_at_the_partition() {
    let all = || healthy(&[("db-0", "old"), ("db-1", "old"), ("db-2", "old")]);
    assert_eq!(steps(&set(3), all()), ["update db-2"]);
    assert_eq!(steps(&set(3), healthy(&[("db-0", "old"), ("db-1", "old"), ("db-2", "new")])), ["update db-1"]);
    assert!(steps(&rolling(set(3), 3, None), all()).is_empty());
    let partial = healthy(&[("db-0", "old"), ("db-2", "new")]);
    assert_eq!(steps(&rolling(set(3), 2, None), partial), ["create db-1 old"]);
    let mut manual = set(3);
    manual.spec.as_mut().unwrap().update_strategy.get_or_insert_default().type_ = Some("OnDelete".into());
    assert!(steps(&manual, all()).is_empty());
}

#[test]
fn as_many_are_updated_at_once_as_may_be_unavailable() {
    let set = parallel(rolling(set(4), 0, Some(2)));
    let mut all = healthy(&[("db-0", "old"), ("db-1", "old"), ("db-2", "old"), ("db-3", "old")]);
    assert_eq!(steps(&set, all.clone()), ["update db-3", "update db-2"]);
    all[3] = of_revision("db-3", "new", false);
    assert_eq!(steps(&set, all.clone()), ["update db-2"]);
    all[0] = of_revision("db-0", "old", false);
    assert_eq!(steps(&set, all), ["update db-0"], "a pod that is down already may be replaced");
}

#[test]
fn ordinals_start_where_they_are_told_to() {
    let mut set = set(2);
    set.spec.as_mut().unwrap().ordinals.get_or_insert_default().start = Some(5);
    assert_eq!(steps(&set, vec![]), ["create db-5 new"]);
    assert_eq!(steps(&set, healthy(&[("db-0", "new"), ("db-5", "new"), ("db-6", "new")])), ["delete db-0"]);
}
