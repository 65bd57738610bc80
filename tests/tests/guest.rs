//! A node on a machine with cgroup v2 alone and a kernel that loads its modules on demand, as Debian's is.
//!
//! All in one scenario, because an emulated machine takes its time to start.
#![forbid(unsafe_code)]

use rk_tests::guest::PATIENCE;
use rk_tests::kubectl::Kubectl;
use rk_tests::need::{self, Need};
use rk_tests::{Guest, until};
use std::io::Write as _;

const NEEDS: &[Need] = &[Need::Kubectl, Need::Program("qemu-system-x86_64"), Need::File("/bin/busybox")];
const NAME: &str = "a_node_on_pure_cgroup_v2_limits_kills_and_goes_down";

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: observer}
spec:
  hostPID: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: rk.local/busybox:test
    command: [sh, -c, "sleep 100000 & wait"]
    securityContext: {privileged: true}
    volumeMounts: [{name: host, mountPath: /host}]
  volumes: [{name: host, hostPath: {path: /}}]
---
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  containers:
  - name: main
    image: rk.local/busybox:test
    command: [sh, -c, "sleep 100000 & wait"]
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: free}
spec:
  containers:
  - {name: main, image: rk.local/busybox:test, command: [sh, -c, "sleep 100000 & wait"]}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: rk.local/busybox:test
    command: [sh, -c, "tail /dev/zero; echo the first process went on"]
    resources: {limits: {memory: 24Mi}}
"#;

#[test]
fn a_node_on_pure_cgroup_v2_limits_kills_and_goes_down() {
    if !need::met(NAME, NEEDS) {
        return;
    }
    let mut guest = match Guest::start() {
        Ok(guest) => guest,
        Err(reason) => {
            drop(writeln!(std::io::stderr(), "SKIPPED {NAME}: {reason}"));
            return;
        }
    };
    let kubeconfig = guest.kubeconfig();
    let kubectl = Kubectl::here(&kubeconfig);
    kubectl.until(PATIENCE, &["get", "nodes"], |text| text.contains(" Ready"));
    // Its admission waits for the service account.
    until("the pods are taken", PATIENCE, || {
        let mut apply = kubectl.command(&["apply", "-f", "-"]);
        rk_tests::process::check(&mut apply, Some(PODS)).map_err(|error| format!("{error:#}"))
    });
    for pod in ["observer", "limited", "free"] {
        kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=300s"]);
    }
    limits_are_in_force(&kubectl);
    memory_ends_a_container_as_a_whole(&kubectl);
    devices_are_closed_to_ordinary_containers(&kubectl);
    usage_is_told(&kubectl);
    // The first process sends SIGTERM to all. The shims' containers never see it, and are killed in time.
    kubectl.ok(&["exec", "observer", "--", "touch", "/host/down"]);
    let answers = guest.ended();
    assert!(answers.contains("all shims gone"), "{answers}");
}

/// The files of a pod's only container's cgroup, as the observer sees them.
fn cgroup(kubectl: &Kubectl<'_>, pod: &str, class: &str, file: &str) -> String {
    let path = "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID}";
    let ids = kubectl.ok(&["get", "pod", pod, "-o", path]);
    let (uid, container) = ids.split_once(" rk://").expect("an ID of rk's");
    let path = format!("/host/sys/fs/cgroup/rk/kubepods/{class}/pod{uid}/{container}/{file}");
    kubectl.ok(&["exec", "observer", "--", "cat", &path]).trim().to_owned()
}

fn limits_are_in_force(kubectl: &Kubectl<'_>) {
    let mounts = kubectl.ok(&["exec", "observer", "--", "cat", "/proc/1/mounts"]);
    assert!(mounts.contains(" /sys/fs/cgroup cgroup2 ") && !mounts.contains(" cgroup rw"), "{mounts}");
    let limited = |file| cgroup(kubectl, "limited", "burstable", file);
    assert_eq!(limited("cpu.max"), "20000 100000");
    assert_eq!(limited("memory.max"), (64 << 20).to_string());
    assert_eq!(limited("memory.swap.max"), "0");
    assert_eq!(cgroup(kubectl, "free", "besteffort", "memory.max"), "max");
    assert_eq!(cgroup(kubectl, "free", "besteffort", "memory.swap.max"), "0", "no limit is no leave to swap");
    // Seen from its own namespace, the container's cgroup is the root: an exec that is elsewhere would say so.
    assert_eq!(kubectl.ok(&["exec", "limited", "--", "cat", "/proc/self/cgroup"]), "0::/\n");
    assert_eq!(kubectl.ok(&["exec", "limited", "--", "cat", "/sys/fs/cgroup/cpu.max"]), "20000 100000\n");
    kubectl.fails(&["exec", "limited", "--", "mkdir", "/sys/fs/cgroup/own"], None);
}

fn memory_ends_a_container_as_a_whole(kubectl: &Kubectl<'_>) {
    let path = "jsonpath={.status.containerStatuses[0].state.terminated['reason','exitCode']}";
    kubectl.until(PATIENCE, &["get", "pod", "greedy", "-o", path], |text| text == "OOMKilled 137");
    assert!(!kubectl.ok(&["logs", "greedy"]).contains("went on"));
}

fn devices_are_closed_to_ordinary_containers(kubectl: &Kubectl<'_>) {
    // Memory, which no container may open, and the null device, which all may.
    let script = "cd /tmp; busybox mknod memory c 1 1; busybox mknod null c 1 3; \
                  (: <memory) 2>/dev/null && echo memory; (: <null) && echo null; (: >null) && echo written";
    assert_eq!(kubectl.ok(&["exec", "limited", "--", "sh", "-c", script]), "null\nwritten\n");
    assert_eq!(kubectl.ok(&["exec", "observer", "--", "sh", "-c", script]), "memory\nnull\nwritten\n");
}

fn usage_is_told(kubectl: &Kubectl<'_>) {
    let text = kubectl.ok(&["get", "--raw", "/api/v1/nodes/guest/proxy/stats/summary"]);
    let summary: serde_json::Value = serde_json::from_str(&text).expect("the summary is JSON");
    let pods = summary["pods"].as_array().expect("a list of pods");
    let pod = pods.iter().find(|pod| pod["podRef"]["name"] == "limited").expect("the pod is in it");
    let usage = &pod["containers"][0];
    assert!(usage["memory"]["workingSetBytes"].as_u64() > Some(0), "{usage}");
    assert!(usage["cpu"]["usageCoreNanoSeconds"].as_u64() > Some(0), "{usage}");
}
