//! Probes and hooks on running containers.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::machine::{container, is_ready, on_a_machine, shell};

#[test]
fn an_http_probe_makes_a_pod_ready() {
    on_a_machine(|machine, rk| async move {
        let mut web = shell("c", "mkdir -p /www; echo ok > /www/healthz; exec busybox httpd -f -p 8080 -h /www");
        web["command"] =
            json!(["sh", "-c", "busybox mkdir -p /www; echo ok > /www/healthz; exec busybox httpd -f -p 8080 -h /www"]);
        web["ports"] = json!([{"name": "web", "containerPort": 8080}]);
        web["readinessProbe"] = json!({"httpGet": {"path": "/healthz", "port": "web"}, "periodSeconds": 1});
        web["startupProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30});
        machine.create("web", json!({"containers": [web]}));
        machine.pod("web", "readiness", is_ready).await;
        (machine, rk)
    });
}

#[test]
fn a_failed_liveness_probe_restarts() {
    on_a_machine(|machine, rk| async move {
        let mut sick = shell("c", "trap 'exit 0' TERM; while :; do busybox sleep 0.05; done");
        sick["livenessProbe"] = json!({"exec": {"command": ["sh", "-c", "echo sick; exit 1"]}, "periodSeconds": 1,
            "failureThreshold": 1});
        machine.create("sick", json!({"containers": [sick]}));
        let restarted = |pod: &Pod| container(pod).filter(|c| c.restart_count >= 1).map(|_| ());
        machine.pod("sick", "the restart", restarted).await;
        machine.event("sick", "Unhealthy", "Liveness probe failed: sick").await;
        machine.event("sick", "Killing", "Container c failed liveness probe, will be restarted").await;
        (machine, rk)
    });
}

#[test]
fn a_post_start_hook_runs_before_the_container_counts_as_started() {
    on_a_machine(|machine, rk| async move {
        let mut web = shell("c", "trap 'exit 0' TERM; while :; do busybox sleep 0.05; done");
        web["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", "echo hooked > /hooked"]}}});
        web["readinessProbe"] = json!({"exec": {"command": ["busybox", "test", "-f", "/hooked"]}, "periodSeconds": 1});
        machine.create("hook", json!({"containers": [web]}));
        machine.pod("hook", "readiness", is_ready).await;
        (machine, rk)
    });
}

#[test]
fn a_failed_post_start_hook_kills() {
    on_a_machine(|machine, rk| async move {
        let mut web = shell("c", "trap 'exit 0' TERM; while :; do busybox sleep 0.05; done");
        web["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", "exit 4"]}}});
        machine.create("hook", json!({"containers": [web]}));
        machine.event("hook", "FailedPostStartHook", "PostStartHook failed").await;
        let restarted = |pod: &Pod| container(pod).filter(|c| c.restart_count >= 1).map(|_| ());
        machine.pod("hook", "the restart", restarted).await;
        (machine, rk)
    });
}
