//! The plan of a deployment, case by case.

use k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::pods::fixture::at;

fn deployment(replicas: i32, image: &str) -> Deployment {
    let labels = Some([("app".to_owned(), "a".to_owned())].into());
    let container = Container { name: "c".into(), image: Some(image.into()), ..Container::default() };
    Deployment {
        metadata: ObjectMeta { name: Some("web".into()), namespace: Some("ns".into()), ..Default::default() },
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: LabelSelector { match_labels: labels.clone(), ..Default::default() },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels, ..Default::default() }),
                spec: Some(PodSpec { containers: vec![container], ..Default::default() }),
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(1)),
                }),
            }),
            ..Default::default()
        }),
        status: None,
    }
}

fn step(deployment: &Deployment, sets: Vec<ReplicaSet>) -> Plan {
    plan(State { deployment, sets, old_pods_running: false, now: at(100) }).unwrap()
}

/// The replica set of an image, with all its pods available.
fn set(image: &str, replicas: i32, created: i64) -> ReplicaSet {
    let mut set = step(&deployment(replicas, image), vec![]).create.unwrap();
    set.metadata.creation_timestamp = Some(Time(at(created)));
    settle(&mut set);
    set
}

fn settle(set: &mut ReplicaSet) {
    let replicas = view::set_replicas(set);
    set.status = Some(ReplicaSetStatus {
        replicas,
        ready_replicas: Some(replicas),
        available_replicas: Some(replicas),
        ..Default::default()
    });
}

fn sizes(plan: &Plan) -> Vec<i32> {
    plan.create.iter().chain(&plan.sets).map(view::set_replicas).collect()
}

#[test]
fn a_new_deployment_gets_a_full_replica_set_named_by_its_template() {
    let plan = step(&deployment(3, "v1"), vec![]);
    let set = plan.create.unwrap();
    assert_eq!(view::set_replicas(&set), 3);
    assert_eq!(view::revision(&set), 1);
    assert_eq!(plan.revision.as_deref(), Some("1"));
    let hash = &set.metadata.labels.as_ref().unwrap()[view::HASH];
    assert_eq!(set.metadata.name.as_deref(), Some(format!("web-{hash}").as_str()));
    assert_eq!(set.spec.unwrap().selector.match_labels.unwrap()[view::HASH], *hash);
}

#[test]
fn a_rolling_update_ends_with_all_pods_new_and_never_leaves_its_bounds() {
    let deployment = deployment(4, "v2");
    let mut sets = vec![set("v1", 4, 1)];
    for _ in 0..20 {
        let plan = step(&deployment, sets.clone());
        let total: i32 = sizes(&plan).iter().sum();
        assert!(total <= 5, "surge: {:?}", sizes(&plan));
        sets = plan.create.into_iter().chain(plan.sets).collect();
        let available: i32 = sets.iter().map(|s| view::available(s).min(view::set_replicas(s))).sum();
        assert!(available >= 3, "too few available");
        sets.iter_mut().for_each(settle);
    }
    let plan = step(&deployment, sets);
    assert_eq!(plan.status.updated_replicas, Some(4));
    assert_eq!(sizes(&plan).iter().sum::<i32>(), 4);
    assert_eq!(plan.revision.as_deref(), Some("2"));
    let progressing = plan.status.conditions.unwrap().into_iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("NewReplicaSetAvailable"));
}

#[test]
fn an_update_whose_pods_never_come_up_keeps_the_old_ones() {
    let deployment = deployment(4, "v2");
    let mut sets = vec![set("v1", 4, 1)];
    for _ in 0..5 {
        let plan = step(&deployment, sets);
        sets = plan.create.into_iter().chain(plan.sets).collect();
    }
    let old = sets.iter().find(|s| view::revision(s) == 1).unwrap();
    assert_eq!(view::set_replicas(old), 3);
}

#[test]
fn rolling_back_gives_the_old_replica_set_a_new_revision() {
    let mut first = set("v1", 0, 1);
    let mut second = set("v2", 2, 2);
    second.metadata.annotations.get_or_insert_default().insert(view::REVISION.into(), "2".into());
    first.metadata.annotations.get_or_insert_default().insert(view::REVISION.into(), "1".into());
    let plan = step(&deployment(2, "v1"), vec![first, second]);
    assert!(plan.create.is_none());
    assert_eq!(plan.revision.as_deref(), Some("3"));
    assert_eq!(view::annotation(&plan.sets[0], view::REVISION_HISTORY), Some("1"));
}

#[test]
fn recreate_waits_for_the_old_pods_to_end() {
    let mut deployment = deployment(2, "v2");
    deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap().type_ = Some("Recreate".into());
    let plan = step(&deployment, vec![set("v1", 2, 1)]);
    assert_eq!((plan.create.is_some(), sizes(&plan)), (false, vec![0]));
    let mut stopped = plan.sets;
    let running = State { deployment: &deployment, sets: stopped.clone(), old_pods_running: true, now: at(0) };
    assert!(super::plan(running).unwrap().create.is_none());
    stopped.iter_mut().for_each(settle);
    let plan = step(&deployment, stopped);
    assert_eq!(view::set_replicas(plan.create.as_ref().unwrap()), 2);
}

#[test]
fn scaling_in_mid_rollout_keeps_proportions() {
    let deployment = deployment(20, "v2");
    let mut old = set("v1", 8, 1);
    let mut new = set("v2", 3, 2);
    for set in [&mut old, &mut new] {
        let annotations = set.metadata.annotations.get_or_insert_default();
        annotations.insert(view::DESIRED.into(), "10".into());
        annotations.insert(view::MAX.into(), "11".into());
    }
    let plan = step(&deployment, vec![old, new]);
    assert_eq!(sizes(&plan), [6, 15]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut deployment = deployment(5, "v2");
    deployment.spec.as_mut().unwrap().paused = Some(true);
    let plan = step(&deployment, vec![set("v1", 3, 1)]);
    assert_eq!((plan.create.is_some(), sizes(&plan)), (false, vec![5]));
}

#[test]
fn history_beyond_the_limit_is_deleted_when_the_rollout_is_over() {
    let mut deployment = deployment(1, "v9");
    deployment.spec.as_mut().unwrap().revision_history_limit = Some(1);
    let mut sets: Vec<_> = (1..4).map(|i| set(&format!("v{i}"), 0, i)).collect();
    for (i, set) in sets.iter_mut().enumerate() {
        set.metadata.annotations.get_or_insert_default().insert(view::REVISION.into(), (i + 1).to_string());
    }
    let (first, second) = (view::name(&sets[0]).to_owned(), view::name(&sets[1]).to_owned());
    let mut current = set("v9", 1, 9);
    current.metadata.annotations.get_or_insert_default().insert(view::REVISION.into(), "4".into());
    sets.push(current);
    assert_eq!(step(&deployment, sets).delete, [first, second]);
}

#[test]
fn a_rollout_that_stands_still_past_its_deadline_has_failed() {
    let deployment = deployment(1, "v1");
    let plan1 = step(&deployment, vec![]);
    assert!(plan1.again.is_some());
    let mut later = deployment.clone();
    later.status = Some(plan1.status);
    let sets = plan1.create.into_iter().collect();
    let state = State { deployment: &later, sets, old_pods_running: false, now: at(100 + 601) };
    let conditions = plan(state).unwrap().status.conditions.unwrap();
    let progressing = conditions.iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("ProgressDeadlineExceeded"));
}

/// Somebody resized replica sets themselves, and then the deployment to the same number.
#[test]
fn a_size_that_fits_already_does_not_hold_the_rollout_up() {
    let noted = |mut set: ReplicaSet, size: &str| {
        set.metadata.annotations.get_or_insert_default().insert(view::DESIRED.into(), size.into());
        set
    };
    let mut deployment = deployment(1, "v2");
    let first = step(&deployment, vec![noted(set("v1", 1, 1), "2")]);
    assert_eq!((first.create.is_some(), sizes(&first)), (false, vec![1]));
    assert_eq!(view::annotation(&first.sets[0], view::DESIRED), Some("1"));
    assert!(step(&deployment, first.sets).create.is_some());
    deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap().type_ = Some("Recreate".into());
    let first = step(&deployment, vec![noted(set("v0", 1, 0), "2"), noted(set("v1", 1, 1), "2")]);
    assert_eq!(sizes(&first), [1, 1]);
    assert_eq!(sizes(&step(&deployment, first.sets)), [0, 0]);
}
