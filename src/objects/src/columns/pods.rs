//! Pods: the STATUS column's reason, and restarts.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod, PodSpec, PodStatus};
use serde_json::Value;

use super::{Column, age, name, none_if_empty};
use crate::duration;
use crate::resources::is_sidecar;

pub const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string"),
    Column::new("Status", "string"),
    Column::new("Restarts", "string"),
    Column::AGE,
    Column::wide("IP", "string"),
    Column::wide("Node", "string"),
    Column::wide("Nominated Node", "string"),
    Column::wide("Readiness Gates", "string"),
];

/// What the containers' states add up to.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: i32,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn count_restarts(&mut self, status: &ContainerStatus) {
        self.restarts += status.restart_count;
        let ended = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let finished = ended.and_then(|ended| ended.finished_at.as_ref()).map(|time| time.0);
        self.last_restart = self.last_restart.max(finished);
    }
}

pub fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let (default_spec, default_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&default_spec);
    let status = pod.status.as_ref().unwrap_or(&default_status);
    let summary = summarize(pod, spec, status);
    let sidecars = init_containers(spec).iter().filter(|c| is_sidecar(c)).count();
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, duration::age(last, now)),
        _ => summary.restarts.to_string(),
    };
    let ip = status.pod_ips.iter().flatten().next().map(|ip| ip.ip.as_str()).unwrap_or_default();
    vec![
        name(&pod.metadata),
        format!("{}/{}", summary.ready, spec.containers.len() + sidecars).into(),
        summary.reason.into(),
        restarts.into(),
        age(&pod.metadata, now),
        none_if_empty(ip),
        none_if_empty(spec.node_name.as_deref().unwrap_or_default()),
        none_if_empty(status.nominated_node_name.as_deref().unwrap_or_default()),
        readiness_gates(spec, status),
    ]
}

fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

fn has_condition(status: &PodStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
}

fn summarize(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Summary {
    let phase = status.phase.clone().unwrap_or_default();
    let mut summary = Summary {
        reason: status.reason.clone().filter(|reason| !reason.is_empty()).unwrap_or_else(|| phase.clone()),
        ..Summary::default()
    };
    let gated = |reason: Option<&str>| reason == Some("SchedulingGated");
    if status.conditions.iter().flatten().any(|c| c.type_ == "PodScheduled" && gated(c.reason.as_deref())) {
        summary.reason = "SchedulingGated".to_owned();
    }
    let (initializing, sidecars) = init_phase(&mut summary, spec, status);
    if !initializing || has_condition(status, "Initialized") {
        // Once past initialization only the sidecars' restarts still count.
        summary.restarts = sidecars.restarts;
        summary.last_restart = sidecars.last_restart;
        main_phase(&mut summary, status);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase.as_str(), "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Goes through the init containers up to the first that is not done. Returns whether one was found, and the
/// restarts of sidecars.
fn init_phase(summary: &mut Summary, spec: &PodSpec, status: &PodStatus) -> (bool, Summary) {
    let mut sidecars = Summary::default();
    let containers = init_containers(spec);
    for (n, container) in status.init_container_statuses.iter().flatten().enumerate() {
        let sidecar = containers.iter().any(|c| c.name == container.name && is_sidecar(c));
        summary.count_restarts(container);
        if sidecar {
            sidecars.count_restarts(container);
        }
        let default = ContainerState::default();
        let state = container.state.as_ref().unwrap_or(&default);
        if state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0) {
            continue;
        }
        if sidecar && container.started == Some(true) {
            summary.ready += usize::from(container.ready);
            continue;
        }
        let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
        summary.reason = match &state.terminated {
            Some(_) => format!("Init:{}", ended_reason(state)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{n}/{}", containers.len()),
        };
        return (true, sidecars);
    }
    (false, sidecars)
}

/// `Error`, `Signal:9` or `ExitCode:1` of a container that has ended.
fn ended_reason(state: &ContainerState) -> String {
    let Some(ended) = &state.terminated else { return String::new() };
    match (ended.reason.as_deref().unwrap_or_default(), ended.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn main_phase(summary: &mut Summary, status: &PodStatus) {
    let mut running = false;
    for container in status.container_statuses.iter().flatten().rev() {
        summary.count_restarts(container);
        let Some(state) = &container.state else { continue };
        let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if state.terminated.is_some() {
            summary.reason = ended_reason(state);
        } else if container.ready && state.running.is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = has_condition(status, "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> Value {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates.iter().filter(|gate| has_condition(status, &gate.condition_type)).count();
    format!("{open}/{}", gates.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(spec: Value, status: Value, deleted: bool) -> Vec<String> {
        let mut pod: Pod = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": status}))
        .unwrap();
        if deleted {
            pod.metadata.deletion_timestamp = pod.metadata.creation_timestamp.clone();
        }
        let cells = cells(&pod, "2026-01-01T00:10:00Z".parse().unwrap());
        cells.iter().map(|cell| cell.as_str().unwrap().to_owned()).collect()
    }

    fn one() -> Value {
        json!({"containers": [{"name": "a"}], "nodeName": "n"})
    }

    fn container(name: &str, extra: Value) -> Value {
        let mut base = json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0});
        base.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        base
    }

    #[test]
    fn running_pods_show_restarts_and_addresses() {
        let status = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [container("a", json!({
            "ready": true, "restartCount": 3, "state": {"running": {}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:05:00Z"}}}))]});
        assert_eq!(
            row(one(), status, false),
            ["p", "1/1", "Running", "3 (5m ago)", "10m", "10.0.0.1", "n", "<none>", "<none>"]
        );
    }

    #[test]
    fn reasons_come_from_the_containers() {
        let waiting = |reason: &str| {
            json!({"phase": "Running", "containerStatuses":
            [container("a", json!({"state": {"waiting": {"reason": reason}}}))]})
        };
        assert_eq!(row(one(), waiting("CrashLoopBackOff"), false)[2], "CrashLoopBackOff");
        assert_eq!(row(one(), waiting("CrashLoopBackOff"), true)[2], "Terminating");
        let ended = |ended: Value| {
            json!({"phase": "Succeeded", "containerStatuses":
            [container("a", json!({"state": {"terminated": ended}}))]})
        };
        assert_eq!(row(one(), ended(json!({"exitCode": 0, "reason": "Completed"})), false)[2], "Completed");
        assert_eq!(row(one(), ended(json!({"exitCode": 2})), false)[2], "ExitCode:2");
        assert_eq!(row(one(), ended(json!({"exitCode": 137, "signal": 9})), false)[2], "Signal:9");
        assert_eq!(row(one(), json!({"phase": "Failed", "reason": "Evicted"}), false)[2], "Evicted");
        assert_eq!(row(one(), json!({"phase": "Pending"}), false)[1..3], ["0/1", "Pending"]);
    }

    #[test]
    fn initialization_shows_its_progress() {
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let first_done = container("i", json!({"state": {"terminated": {"exitCode": 0}}}));
        let running = container("j", json!({"state": {"running": {}}}));
        let status = json!({"phase": "Pending", "initContainerStatuses": [first_done, running]});
        assert_eq!(row(spec.clone(), status, false)[2], "Init:1/2");
        let failed = container("i", json!({"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}));
        let status = json!({"phase": "Pending", "initContainerStatuses": [failed]});
        assert_eq!(row(spec.clone(), status, false)[2], "Init:Error");
        let waiting = container("i", json!({"state": {"waiting": {"reason": "PodInitializing"}}}));
        let status = json!({"phase": "Pending", "initContainerStatuses": [waiting]});
        assert_eq!(row(spec, status, false)[2], "Init:0/2");
    }

    #[test]
    fn sidecars_count_as_containers() {
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
        let sidecar =
            container("s", json!({"ready": true, "started": true, "restartCount": 1, "state": {"running": {}}}));
        let main = container("a", json!({"ready": true, "state": {"running": {}}}));
        let status = json!({"phase": "Running", "initContainerStatuses": [sidecar], "containerStatuses": [main]});
        assert_eq!(row(spec, status, false)[1..4], ["2/2", "Running", "1"]);
    }
}
