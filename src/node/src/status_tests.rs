//! The status told of pods in every stage of their life.

use super::*;
use crate::plan::view::{ContainerView, Exit, Sandbox, State};
use crate::plan::{ProbeState, Verdict, Waiting};
use k8s_openapi::api::core::v1::ContainerStatus;
use serde_json::json;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec}),
    )
    .unwrap()
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
    instance(name, 0, State::Running { started_at: at(1) })
}

fn exited(name: &str, attempt: u32, code: i32) -> ContainerView {
    let exit = Exit { code, reason: "Error".into(), message: None, started_at: Some(at(1)), finished_at: Some(at(2)) };
    instance(name, attempt, State::Exited(exit))
}

fn knows(names: &[&str]) -> Memory {
    let state =
        |name: &str| ProbeState { container_id: format!("{name}-0"), post_start_done: true, ..Default::default() };
    let probes = names.iter().map(|n| ((*n).to_owned(), state(n))).collect();
    Memory { probes, pod_ips: vec!["10.42.0.2".into()], ..Memory::default() }
}

fn get(pod: &Pod, view: &PodView, memory: &Memory, finished: bool) -> PodStatus {
    compute(pod, view, memory, &["1.2.3.4".to_owned()], finished, at(100))
}

fn first(status: &PodStatus) -> &ContainerStatus {
    &status.container_statuses.as_ref().unwrap()[0]
}

fn waiting(status: &ContainerStatus) -> Option<&str> {
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> (&'a str, Option<&'a str>, Option<&'a str>) {
    let found = conditions::find(status, kind).unwrap();
    (&found.status, found.reason.as_deref(), found.message.as_deref())
}

#[test]
fn a_pod_being_made_is_pending() {
    let status = get(&one("Always"), &PodView::default(), &Memory::default(), false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting(first(&status)), Some("ContainerCreating"));
    assert_eq!(condition(&status, "PodReadyToStartContainers").0, "False");
    let unready = ("False", Some("ContainersNotReady"), Some("containers with unready status: [c]"));
    assert_eq!(condition(&status, "Ready"), unready);
    assert_eq!(condition(&status, "PodScheduled").0, "True");
    assert_eq!(status.observed_generation, Some(3));
}

#[test]
fn a_running_pod_is_ready() {
    let status = get(&one("Always"), &view(vec![running("c")]), &knows(&["c"]), false);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = first(&status);
    assert!(container.ready && container.started == Some(true));
    assert_eq!(container.container_id.as_deref(), Some("rk://c-0"));
    assert_eq!(condition(&status, "Ready"), ("True", None, None));
    assert_eq!((status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("10.42.0.2"), Some("1.2.3.4")));
}

#[test]
fn a_readiness_probe_has_to_answer_first() {
    let pod = pod(json!({"containers": [{"name": "c", "readinessProbe": {"tcpSocket": {"port": 1}}}]}));
    let mut memory = knows(&["c"]);
    assert!(!first(&get(&pod, &view(vec![running("c")]), &memory, false)).ready);
    memory.probes.get_mut("c").unwrap().readiness = Some(true);
    assert!(first(&get(&pod, &view(vec![running("c")]), &memory, false)).ready);
}

#[test]
fn a_crash_loop_waits_with_its_end_as_last_state() {
    let mut memory = knows(&[]);
    memory.waiting.insert("c".into(), Waiting::new("CrashLoopBackOff", "back-off"));
    let status = get(&one("Always"), &view(vec![exited("c", 3, 1)]), &memory, false);
    let container = first(&status);
    assert_eq!((waiting(container), container.restart_count), (Some("CrashLoopBackOff"), 3));
    let ended = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((ended.exit_code, ended.container_id.as_deref()), (1, Some("rk://c-3")));
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn the_instance_before_is_the_last_state_even_when_the_runtime_forgot_it() {
    let mut memory = knows(&["c"]);
    memory.last_status = get(&one("Always"), &view(vec![exited("c", 0, 7)]), &memory, false);
    let again = instance("c", 1, State::Running { started_at: at(9) });
    let status = get(&one("Always"), &view(vec![again.clone()]), &memory, false);
    let last = |s: &PodStatus| first(s).last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code;
    assert_eq!((first(&status).restart_count, last(&status)), (1, 7));
    memory.last_status = status;
    assert_eq!(last(&get(&one("Always"), &view(vec![again]), &memory, false)), 7, "and stays so");
}

#[test]
fn phases_of_pods_that_end() {
    for (policy, code, phase) in [
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Always", 0, "Running"),
    ] {
        let status = get(&one(policy), &view(vec![exited("c", 0, code)]), &knows(&[]), false);
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {code}");
    }
    let status = get(&one("Never"), &view(vec![exited("c", 0, 0)]), &knows(&[]), true);
    assert_eq!(condition(&status, "Ready"), ("False", Some("PodCompleted"), None));
    assert_eq!(condition(&status, "Initialized").0, "True");
}

#[test]
fn success_is_not_told_while_a_sidecar_runs() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c"}],
        "initContainers": [{"name": "side", "restartPolicy": "Always"}]}));
    let mut memory = knows(&["side"]);
    memory.last_status.phase = Some("Running".into());
    let both = view(vec![running("side"), exited("c", 0, 0)]);
    assert_eq!(get(&pod, &both, &memory, false).phase.as_deref(), Some("Running"));
    let ended = view(vec![exited("side", 0, 143), exited("c", 0, 0)]);
    assert_eq!(get(&pod, &ended, &memory, true).phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_deleted_pod_ends_in_a_final_phase() {
    let phase = |containers| get(&one("Always"), &view(containers), &knows(&[]), true).phase.unwrap();
    assert_eq!(phase(vec![exited("c", 0, 0)]), "Succeeded");
    assert_eq!(phase(vec![exited("c", 0, 137)]), "Failed");
    assert_eq!(phase(vec![]), "Failed");
}

#[test]
fn initialization_is_told_step_by_step() {
    let pod = pod(json!({"initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "c"}]}));
    let status = get(&pod, &view(vec![exited("a", 0, 0), running("b")]), &knows(&["b"]), false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting(first(&status)), Some("PodInitializing"));
    let text = "containers with incomplete status: [b]";
    assert_eq!(condition(&status, "Initialized"), ("False", Some("ContainersNotInitialized"), Some(text)));
    let init = status.init_container_statuses.as_ref().unwrap();
    assert!(init[0].ready && !init[1].ready);
}

#[test]
fn a_failed_init_container_fails_a_never_pod() {
    let pod = pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "a"}], "containers": [{"name": "c"}]}));
    let status = get(&pod, &view(vec![exited("a", 0, 1)]), &knows(&[]), true);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

#[test]
fn what_the_runtime_lost_is_said_to_be_lost() {
    let mut memory = knows(&["c"]);
    memory.last_status = get(&one("Always"), &view(vec![running("c")]), &memory, false);
    let status = get(&one("Always"), &PodView::default(), &memory, false);
    let ended = first(&status).last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((ended.reason.as_deref(), ended.exit_code), (Some("ContainerStatusUnknown"), 137));
}

#[test]
fn the_nodes_verdict_is_a_failure_with_its_reason() {
    let mut memory = knows(&[]);
    memory.verdict = Some(Verdict { reason: "Evicted".into(), message: "low".into() });
    let status = get(&one("Always"), &view(vec![]), &memory, true);
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(status.container_statuses, None, "a waiting container would hide the reason");
    let ran = get(&one("Always"), &view(vec![exited("c", 0, 1)]), &memory, true);
    assert_eq!(ran.container_statuses.map(|list| list.len()), Some(1));
}

#[test]
fn readiness_gates_wait_for_their_conditions() {
    let pod = pod(json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "c"}]}));
    let mut memory = knows(&["c"]);
    let status = get(&pod, &view(vec![running("c")]), &memory, false);
    let text = "corresponding condition of pod readiness gate \"x/y\" does not exist.";
    assert_eq!(condition(&status, "Ready"), ("False", Some("ReadinessGatesNotReady"), Some(text)));
    assert_eq!(condition(&status, "ContainersReady").0, "True");
    memory.last_status = serde_json::from_value(json!({"conditions": [{"type": "x/y", "status": "True"}]})).unwrap();
    let status = get(&pod, &view(vec![running("c")]), &memory, false);
    assert_eq!(condition(&status, "Ready").0, "True");
    assert_eq!(condition(&status, "x/y").0, "True", "others' conditions stay");
}

#[test]
fn nothing_changes_when_nothing_happens() {
    let mut memory = knows(&["c"]);
    let running = view(vec![running("c")]);
    memory.last_status = get(&one("Always"), &running, &memory, false);
    let later = compute(&one("Always"), &running, &memory, &["1.2.3.4".to_owned()], false, at(5000));
    assert_eq!(later, memory.last_status);
}

#[test]
fn a_final_phase_is_never_left() {
    let mut memory = knows(&["c"]);
    memory.last_status.phase = Some("Failed".into());
    assert_eq!(get(&one("Always"), &view(vec![running("c")]), &memory, false).phase.as_deref(), Some("Failed"));
}

#[test]
fn an_evicted_pod_says_that_the_node_ended_it() {
    let verdict = Verdict { reason: "Evicted".into(), message: "The node was low on resource: memory. ".into() };
    let memory = Memory { verdict: Some(verdict), ..knows(&["c"]) };
    let status = get(&one("Always"), &view(vec![exited("c", 0, 137)]), &memory, true);
    assert_eq!(
        condition(&status, "DisruptionTarget"),
        ("True", Some("TerminationByKubelet"), Some("The node was low on resource: memory. "))
    );
    let mut kept = status.clone();
    conditions::pass_through(&mut kept, std::iter::empty());
    assert_eq!(kept, status, "what the API does not know yet stays");
    assert!(
        conditions::find(&get(&one("Never"), &view(vec![exited("c", 0, 1)]), &knows(&["c"]), true), "DisruptionTarget")
            .is_none()
    );
}
