//! The plan of a job, case by case.

use serde_json::json;

use super::*;
use crate::pods::fixture::{at, pod as plain};

fn job(spec: serde_json::Value) -> Job {
    let mut spec = spec;
    spec["template"] = json!({"spec": {"containers": [], "restartPolicy": "Never"}});
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "ns"}, "spec": spec})).unwrap()
}

fn pod(name: &str, phase: &str) -> Arc<Pod> {
    let mut pod = plain(name, phase);
    pod.metadata.finalizers = Some(vec![view::FINALIZER.into()]);
    Arc::new(pod)
}

fn released(pod: &Arc<Pod>) -> Arc<Pod> {
    let mut pod = (**pod).clone();
    pod.metadata.finalizers = None;
    Arc::new(pod)
}

/// Runs the plan and stores its status in the job.
fn step(job: &mut Job, pods: &[Arc<Pod>], second: i64) -> Plan {
    let plan = plan(&State { job, pods, now: at(second) });
    job.status = Some(plan.status.clone());
    plan
}

fn reason(job: &Job, type_: &str) -> Option<String> {
    conditions::find(view::conditions(job), type_)?.reason.clone()
}

#[test]
fn a_success_is_counted_once_across_the_three_steps_and_completes_the_job() {
    let mut job = job(json!({"completions": 1, "parallelism": 1}));
    assert_eq!(step(&mut job, &[], 0).create.len(), 1);
    let done = pod("p", "Succeeded");
    let plan = step(&mut job, std::slice::from_ref(&done), 10);
    assert_eq!((plan.create.len(), plan.release.len(), plan.status.succeeded), (0, 1, None));
    assert_eq!(reason(&job, "Complete"), None);
    let plan = step(&mut job, &[released(&done)], 11);
    assert_eq!((plan.release.len(), plan.status.succeeded), (0, Some(1)));
    assert_eq!(reason(&job, "Complete").as_deref(), Some("CompletionsReached"));
    assert_eq!(plan.event.unwrap().1, "Completed");
    assert!(step(&mut job, &[released(&done)], 12).create.is_empty());
}

#[test]
fn parallelism_bounds_the_active_pods_and_completions_what_is_left() {
    let mut job = job(json!({"completions": 5, "parallelism": 3}));
    assert_eq!(step(&mut job, &[], 0).create.len(), 3);
    let pods = [pod("a", "Succeeded"), pod("b", "Succeeded"), pod("c", "Succeeded"), pod("d", "Running")];
    assert_eq!(step(&mut job, &pods, 1).create.len(), 1);
}

#[test]
fn failures_are_retried_with_growing_delays_until_the_limit() {
    let mut job = job(json!({"completions": 1, "backoffLimit": 1}));
    let failed = [pod("a", "Failed")];
    let plan = step(&mut job, &failed, 5);
    assert_eq!((plan.create.len(), plan.again), (0, Some(Duration::from_secs(5))));
    assert_eq!(step(&mut job, &[released(&failed[0])], 10).create.len(), 1);
    let twice = [released(&failed[0]), pod("b", "Failed")];
    let plan = step(&mut job, &twice, 20);
    assert!(plan.create.is_empty());
    assert_eq!(reason(&job, "FailureTarget").as_deref(), Some("BackoffLimitExceeded"));
    step(&mut job, &[released(&twice[0]), released(&twice[1])], 21);
    assert_eq!(reason(&job, "Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(job.status.unwrap().failed, Some(2));
}

#[test]
fn the_deadline_ends_the_job_and_its_pods() {
    let mut job = job(json!({"completions": 1, "activeDeadlineSeconds": 30}));
    assert_eq!(step(&mut job, &[], 0).again, Some(Duration::from_secs(30)));
    let plan = step(&mut job, &[pod("a", "Running")], 30);
    assert_eq!(plan.delete.len(), 1);
    assert_eq!(reason(&job, "FailureTarget").as_deref(), Some("DeadlineExceeded"));
    assert_eq!(reason(&job, "Failed"), None);
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_its_clock_anew() {
    let mut job = job(json!({"completions": 1, "suspend": true}));
    let plan = step(&mut job, &[pod("a", "Running")], 0);
    assert_eq!((plan.delete.len(), plan.status.start_time), (1, None));
    assert_eq!(plan.event.unwrap().1, "Suspended");
    job.spec.as_mut().unwrap().suspend = Some(false);
    let plan = step(&mut job, &[], 50);
    assert_eq!((plan.create.len(), plan.status.start_time), (1, Some(Time(at(50)))));
}

#[test]
fn an_indexed_job_runs_each_index_until_it_succeeds() {
    let mut job = job(json!({"completions": 3, "parallelism": 2, "completionMode": "Indexed"}));
    assert_eq!(step(&mut job, &[], 0).create, [Some(0), Some(1)]);
    let indexed = |name: &str, phase: &str, index: i32| {
        let mut made = view::pod(&job, Some(index), None);
        made.metadata.name = Some(name.into());
        made.metadata.uid = Some(name.into());
        made.status = plain(name, phase).status;
        Arc::new(made)
    };
    let pods = [indexed("a", "Running", 0), indexed("b", "Succeeded", 1)];
    let mut job2 = job.clone();
    let plan = step(&mut job2, &pods, 1);
    assert_eq!((plan.create, plan.release.len()), (vec![Some(2)], 1));
    assert_eq!(job2.status.unwrap().completed_indexes.as_deref(), Some("1"));
}

#[test]
fn a_success_policy_ends_the_job_with_its_pods_before_all_indexes_are_done() {
    let mut job = job(json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}));
    let indexed = |name: &str, phase: &str, index: i32| {
        let mut made = view::pod(&job, Some(index), None);
        made.metadata.name = Some(name.into());
        made.metadata.uid = Some(name.into());
        made.status = plain(name, phase).status;
        Arc::new(made)
    };
    let pods = [indexed("a", "Succeeded", 0), indexed("b", "Running", 1)];
    let plan = step(&mut job, &pods, 1);
    assert_eq!((plan.create.len(), plan.delete.len()), (0, 1));
    assert_eq!(reason(&job, "SuccessCriteriaMet").as_deref(), Some("SuccessPolicy"));
    assert_eq!(reason(&job, "Complete"), None);
    step(&mut job, &[released(&pods[0])], 2);
    assert_eq!(reason(&job, "Complete").as_deref(), Some("SuccessPolicy"));
    let conditions = job.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().all(|c| c.message.as_deref() == Some("Matched rules at index 0")));
}

#[test]
fn a_work_queue_job_starts_no_pods_after_the_first_success() {
    let mut job = job(json!({"parallelism": 2}));
    let pods = [pod("a", "Succeeded"), pod("b", "Running")];
    let plan = step(&mut job, &pods, 0);
    assert!(plan.create.is_empty() && plan.delete.is_empty());
    assert_eq!(reason(&job, "SuccessCriteriaMet"), None);
}

/// A pod as the plan would have it made.
fn made(job: &Job, plan: &Plan, name: &str, phase: &str, index: i32) -> Arc<Pod> {
    let mut made = view::pod(job, Some(index), plan.count_before(Some(index)));
    made.metadata.name = Some(name.into());
    made.metadata.uid = Some(name.into());
    made.status = plain(name, phase).status;
    made.metadata.creation_timestamp = plain(name, phase).metadata.creation_timestamp;
    Arc::new(made)
}

#[test]
fn an_index_is_retried_to_its_own_limit_and_the_others_go_on() {
    let mut job = job(json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed",
        "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1}));
    let plan = step(&mut job, &[], 0);
    assert_eq!(plan.create, [Some(0), Some(1)]);
    let (first, other) = (made(&job, &plan, "a", "Failed", 0), made(&job, &plan, "b", "Succeeded", 1));
    // The failure keeps its finalizer, with it the count, until its index has another pod.
    let plan = step(&mut job, &[first.clone(), other.clone()], 5);
    assert_eq!((plan.create.len(), plan.again), (0, Some(Duration::from_secs(5))));
    assert_eq!(plan.release.iter().map(|p| uid(p)).collect::<Vec<_>>(), ["b"]);
    let plan = step(&mut job, &[first.clone(), released(&other)], 10);
    assert_eq!((plan.create.clone(), plan.release.len()), (vec![Some(0)], 0));
    let second = made(&job, &plan, "c", "Running", 0);
    assert_eq!(second.metadata.annotations.as_ref().unwrap()[per_index::FAILURES], "1");
    let plan = step(&mut job, &[first.clone(), released(&other), second.clone()], 11);
    assert_eq!((plan.create.len(), plan.release.len()), (0, 1));
    let mut failed = (*second).clone();
    failed.status = plain("c", "Failed").status;
    let failed = Arc::new(failed);
    step(&mut job, &[released(&first), released(&other), failed.clone()], 20);
    assert_eq!(reason(&job, "FailureTarget").as_deref(), Some("FailedIndexes"));
    step(&mut job, &[released(&first), released(&other), released(&failed)], 21);
    assert_eq!(reason(&job, "Failed").as_deref(), Some("FailedIndexes"));
    let status = job.status.unwrap();
    assert_eq!((status.failed, status.succeeded), (Some(2), Some(1)));
    assert_eq!((status.failed_indexes.as_deref(), status.completed_indexes.as_deref()), (Some("0"), Some("1")));
}

#[test]
fn too_many_failed_indexes_end_the_job() {
    let mut job = job(json!({"completions": 4, "parallelism": 1, "completionMode": "Indexed",
        "backoffLimit": i32::MAX, "backoffLimitPerIndex": 0, "maxFailedIndexes": 0}));
    let plan = step(&mut job, &[], 0);
    let failed = made(&job, &plan, "a", "Failed", 0);
    let plan = step(&mut job, std::slice::from_ref(&failed), 1);
    assert_eq!((plan.create.len(), plan.release.len()), (0, 1));
    assert_eq!(reason(&job, "FailureTarget").as_deref(), Some("MaxFailedIndexesExceeded"));
    step(&mut job, &[released(&failed)], 2);
    assert_eq!(reason(&job, "Failed").as_deref(), Some("MaxFailedIndexesExceeded"));
    let status = job.status.unwrap();
    assert_eq!((status.failed, status.failed_indexes.as_deref()), (Some(1), Some("0")));
}
