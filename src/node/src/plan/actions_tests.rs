//! What the plan does next, over pods in every stage of their life.

use super::*;
use crate::plan::ProbeState;
use serde_json::json;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn one(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}))
}

fn view(containers: Vec<ContainerView>) -> PodView {
    PodView { sandbox: Sandbox::Ready, containers }
}

fn instance(name: &str, attempt: u32, state: State) -> ContainerView {
    let id = format!("{name}-{attempt}");
    ContainerView { id, name: name.into(), attempt, state, image: "i".into(), image_id: "sha256:i".into() }
}

fn running(name: &str) -> ContainerView {
    instance(name, 0, State::Running { started_at: at(0) })
}

fn exited(name: &str, attempt: u32, code: i32, finished: i64) -> ContainerView {
    instance(name, attempt, State::Exited(Exit { code, finished_at: Some(at(finished)), ..Exit::unknown("") }))
}

fn names(plan: &Plan) -> Vec<(&str, u32)> {
    plan.start.iter().map(|s| (s.name.as_str(), s.attempt)).collect()
}

/// What the worker knows once a container runs and has no probes.
fn knows(names: &[&str]) -> Memory {
    let state =
        |name: &str| ProbeState { container_id: format!("{name}-0"), post_start_done: true, ..Default::default() };
    Memory { probes: names.iter().map(|n| ((*n).to_owned(), state(n))).collect(), ..Memory::default() }
}

#[test]
fn a_new_pod_gets_its_sandbox_first() {
    let plan = decide(&one("Always"), &PodView::default(), &Memory::default(), at(0));
    assert_eq!(plan.sandbox, Some(NewSandbox::First));
    assert!(plan.start.is_empty());
    let plan = decide(&one("Always"), &view(vec![]), &Memory::default(), at(0));
    assert_eq!(names(&plan), [("c", 0)]);
}

#[test]
fn a_running_pod_is_left_alone() {
    let plan = decide(&one("Always"), &view(vec![running("c")]), &knows(&["c"]), at(0));
    assert_eq!(plan, Plan::default());
}

#[test]
fn restarts_follow_the_policy_and_count_up() {
    let ended = |code| view(vec![exited("c", 2, code, 10)]);
    let start = |policy: &str, code| {
        let plan = decide(&one(policy), &ended(code), &Memory::default(), at(10));
        plan.start.first().map(|s| s.attempt)
    };
    assert_eq!(start("Always", 0), Some(3));
    assert_eq!(start("OnFailure", 1), Some(3));
    assert_eq!(start("OnFailure", 0), None);
    assert_eq!(start("Never", 1), None);
}

#[test]
fn a_crashing_container_waits_for_its_back_off() {
    let mut memory = Memory::default();
    memory.backoff.insert("c".into(), Backoff { pause: jiff::SignedDuration::from_secs(80), updated: at(90) });
    let plan = decide(&one("Always"), &view(vec![exited("c", 1, 1, 100)]), &memory, at(120));
    assert_eq!(plan.wake_at, Some(at(180)));
    let (name, waiting) = &plan.waiting[0];
    assert_eq!((name.as_str(), waiting.reason.as_str()), ("c", "CrashLoopBackOff"));
    let text = waiting.message.as_deref().unwrap();
    assert_eq!(text, "back-off 1m20s restarting failed container=c pod=p_n(u)");
    assert_eq!(names(&decide(&one("Always"), &view(vec![exited("c", 1, 1, 100)]), &memory, at(180))), [("c", 2)]);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let pod =
        pod(json!({"initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "c"}, {"name": "d"}]}));
    let next = |containers| {
        let plan = decide(&pod, &view(containers), &Memory::default(), at(100));
        plan.start.into_iter().map(|s| s.name).collect::<Vec<_>>()
    };
    assert_eq!(next(vec![]), ["a"]);
    assert!(next(vec![running("a")]).is_empty());
    assert_eq!(next(vec![exited("a", 0, 0, 1)]), ["b"]);
    assert_eq!(next(vec![exited("a", 0, 1, 1)]), ["a"], "a failed one is tried again");
    assert_eq!(next(vec![exited("a", 0, 0, 1), exited("b", 0, 0, 2)]), ["c", "d"]);
    assert_eq!(next(vec![running("c")]), ["d"], "a running container proves the initialization");
}

#[test]
fn a_failed_init_container_of_a_never_pod_ends_it() {
    let pod = pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "a"}], "containers": [{"name": "c"}]}));
    assert_eq!(decide(&pod, &view(vec![exited("a", 0, 1, 1)]), &Memory::default(), at(9)), Plan::default());
}

#[test]
fn sidecars_start_before_and_run_beside() {
    let pod = pod(json!({"restartPolicy": "Never", "initContainers": [
        {"name": "side", "image": "i", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}}}, {"name": "b"}],
        "containers": [{"name": "c", "image": "i"}]}));
    let mut memory = knows(&["side", "c"]);
    assert!(
        decide(&pod, &view(vec![running("side")]), &memory, at(0)).start.is_empty(),
        "its startup probe has to succeed"
    );
    memory.probes.get_mut("side").unwrap().startup = Some(true);
    assert_eq!(names(&decide(&pod, &view(vec![running("side")]), &memory, at(0))), [("b", 0)]);
    let all = view(vec![exited("side", 0, 0, 0), exited("b", 0, 0, 0), running("c")]);
    assert_eq!(names(&decide(&pod, &all, &memory, at(0))), [("side", 1)], "it comes back while others run");
}

#[test]
fn failed_probes_kill() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {"tcpSocket": {"port": 1}}}]}));
    let mut memory = knows(&["c"]);
    memory.probes.get_mut("c").unwrap().liveness = Some(false);
    let plan = decide(&pod, &view(vec![running("c")]), &memory, at(0));
    assert_eq!(plan.kill[0].message, "Container c failed liveness probe, will be restarted");
    assert_eq!(plan.kill[0].cause, KillCause::Liveness);
    memory.probes.get_mut("c").unwrap().container_id = "another".into();
    assert!(decide(&pod, &view(vec![running("c")]), &memory, at(0)).kill.is_empty(), "results of a former instance");
}

#[test]
fn a_changed_image_restarts() {
    let mut changed = running("c");
    changed.image = "old".into();
    let plan = decide(&one("Always"), &view(vec![changed]), &knows(&["c"]), at(0));
    assert_eq!(plan.kill[0].message, "Container c definition changed, will be restarted");
}

#[test]
fn a_half_made_container_is_made_anew_with_its_number() {
    let plan = decide(&one("Always"), &view(vec![instance("c", 4, State::Created)]), &Memory::default(), at(0));
    assert_eq!((plan.start[0].attempt, plan.start[0].replaces.as_deref()), (4, Some("c-4")));
}

#[test]
fn a_lost_sandbox_is_made_again_and_counts_go_on() {
    let last_status = serde_json::from_value(json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "",
        "ready": true, "restartCount": 2, "containerID": "rk://x", "state": {"running": {}}}]}))
    .unwrap();
    let memory = Memory { last_status, ..Memory::default() };
    let dead = PodView { sandbox: Sandbox::Dead, containers: vec![exited("c", 2, 137, 1)] };
    assert_eq!(decide(&one("Always"), &dead, &memory, at(5)).sandbox, Some(NewSandbox::Again));
    let plan = decide(&one("Always"), &view(vec![]), &memory, at(5));
    assert_eq!(names(&plan), [("c", 3)]);
    assert_eq!(decide(&one("Never"), &dead, &memory, at(5)), Plan::default(), "a lost Never pod stays lost");
}

#[test]
fn what_was_done_before_a_loss_is_not_done_again() {
    let pod = pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}, {"name": "b"}]}));
    let last_status = serde_json::from_value(json!({"containerStatuses": [
        {"name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "containerID": "rk://x",
            "state": {"terminated": {"exitCode": 0}}}]}))
    .unwrap();
    let memory = Memory { last_status, ..Memory::default() };
    assert_eq!(names(&decide(&pod, &view(vec![]), &memory, at(5))), [("b", 0)]);
}

#[test]
fn a_failed_pull_waits_for_its_own_clock() {
    let mut memory = Memory::default();
    memory.waiting.insert("c".into(), Waiting::new("ImagePullBackOff", "x"));
    memory.retry_at.insert("c".into(), at(50));
    let plan = decide(&one("Always"), &view(vec![]), &memory, at(10));
    assert_eq!((plan.start.len(), plan.wake_at), (0, Some(at(50))));
    assert_eq!(decide(&one("Always"), &view(vec![]), &memory, at(50)).start.len(), 1);
}

#[test]
fn ephemeral_containers_run_once() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "i"}], "ephemeralContainers": [{"name": "debug"}]}));
    let plan = decide(&pod, &view(vec![running("c")]), &knows(&["c"]), at(0));
    assert_eq!(names(&plan), [("debug", 0)]);
    let done = view(vec![running("c"), exited("debug", 0, 1, 1)]);
    assert_eq!(decide(&pod, &done, &knows(&["c"]), at(9)), Plan::default());
}
