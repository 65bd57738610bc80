//! What happens to pods when something of rk, or of the machine, gives way.
#![forbid(unsafe_code)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rk_tests::kubectl::Kubectl;
use rk_tests::{Cluster, need, one_at_a_time, until};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);

fn pod(name: &str, policy: &str, script: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: rk.local/busybox:test\n    imagePullPolicy: Never\n    command: [sh, -c, {script:?}]\n{more}---\n"
    )
}

fn field(kubectl: &Kubectl<'_>, pod: &str, path: &str) -> String {
    kubectl.ok(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
}

/// Pids of processes whose command line holds all of `parts`.
fn processes(parts: &[&str]) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("read /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let fits = |pid: &i32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        parts.iter().all(|part| command.contains(part))
    };
    pids.filter(fits).collect()
}

fn shims(state: &Path, uid: &str) -> Vec<i32> {
    processes(&["shim", &state.join("pods").join(uid).display().to_string()])
}

#[test]
fn a_pod_whose_shim_is_killed_goes_on_as_its_policy_says() {
    if !need::met("a_pod_whose_shim_is_killed_goes_on_as_its_policy_says", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::ready();
    let state = cluster.server.folder.join("run");
    cluster.kubectl(|kubectl| {
        let pods = pod("always", "Always", "exec sleep 1000", "") + &pod("never", "Never", "exec sleep 1000", "");
        kubectl.ok_with(&["apply", "-f", "-"], &pods);
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/always", "pod/never", "--timeout=90s"]);
        for name in ["always", "never"] {
            for shim in shims(&state, &field(kubectl, name, ".metadata.uid")) {
                kill(Pid::from_raw(shim), Signal::SIGKILL).expect("kill the shim");
            }
        }
        let restarts = "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
        kubectl.until(SOON, &["get", "pod", "always", "-o", restarts], |text| text == "1 true");
        kubectl.until(SOON, &["get", "pod", "never", "-o", "jsonpath={.status.phase}"], |phase| phase == "Failed");
        let last = ".status.containerStatuses[0].lastState.terminated";
        assert_eq!(field(kubectl, "always", &format!("{last}.exitCode")), "137");
        assert_eq!(field(kubectl, "always", &format!("{last}.reason")), "ContainerStatusUnknown");
        let condition = field(kubectl, "always", ".status.conditions[?(@.type==\"Ready\")]");
        assert!(!condition.contains("unready"), "a pod that is ready does not say why it is not: {condition}");
        for name in ["always", "never"] {
            let selector = format!("--field-selector=involvedObject.name={name},reason=SandboxLost");
            let told =
                kubectl.until(SOON, &["get", "events", &selector, "-o", "jsonpath={.items[*].message}"], |text| {
                    !text.is_empty()
                });
            assert_eq!(told, "Pod sandbox was lost and its containers were ended: the shim died");
        }
    });
}

#[test]
fn too_much_memory_too_long_a_hook_and_deafness_end_as_they_should() {
    if !need::met("too_much_memory_too_long_a_hook_and_deafness_end_as_they_should", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    Cluster::ready().kubectl(|kubectl| {
        let limit = "    resources: {limits: {memory: 16Mi}}\n";
        let hook = "    lifecycle: {preStop: {exec: {command: [sleep, \"600\"]}}}\n";
        let pods = pod("greedy", "Never", "tail /dev/zero", limit)
            + &pod("hooked", "Always", "exec sleep 1000", hook)
            + &pod("deaf", "Always", "trap '' TERM; while :; do sleep 1; done", "");
        kubectl.ok_with(&["apply", "-f", "-"], &pods);
        kubectl.until(SOON, &["get", "pod", "greedy", "-o", "jsonpath={.status.phase}"], |phase| phase == "Failed");
        let end = ".status.containerStatuses[0].state.terminated";
        assert_eq!(field(kubectl, "greedy", &format!("{end}.reason")), "OOMKilled");
        assert_eq!(field(kubectl, "greedy", &format!("{end}.exitCode")), "137");
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/hooked", "pod/deaf", "--timeout=90s"]);
        kubectl.ok(&["delete", "pod", "hooked", "deaf", "--timeout=60s"]);
        let selector = "--field-selector=involvedObject.name=hooked,reason=FailedPreStopHook";
        kubectl.until(SOON, &["get", "events", selector, "-o", "jsonpath={.items[*].message}"], |text| {
            text.contains("longer than the grace period")
        });
    });
}

#[test]
fn rk_killed_while_pods_start_runs_each_of_them_once() {
    if !need::met("rk_killed_while_pods_start_runs_each_of_them_once", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::ready();
    let state = cluster.server.folder.join("run");
    // Killed once so many shims have begun: at the very start, in the middle, near the end.
    for (round, begun) in [0, 2, 5].into_iter().enumerate() {
        let names: Vec<_> = (0..6).map(|number| format!("r{round}-{number}")).collect();
        let pods: String = names.iter().map(|name| pod(name, "Always", "echo begun; exec sleep 1000", "")).collect();
        cluster.kubectl(|kubectl| kubectl.ok_with(&["create", "-f", "-"], &pods));
        until("shims begin", SOON, || {
            let count = shims(&state, "").len();
            if count >= begun { Ok(()) } else { Err(count) }
        });
        cluster.server.stop(Signal::SIGKILL);
        cluster.server.start();
        cluster.api_answers();
        cluster.kubectl(|kubectl| {
            let wanted: Vec<_> = names.iter().map(|name| format!("pod/{name}")).collect();
            let mut wait = vec!["wait", "--for=condition=Ready", "--timeout=90s"];
            wait.extend(wanted.iter().map(String::as_str));
            kubectl.ok(&wait);
            for name in &names {
                assert_eq!(field(kubectl, name, ".status.containerStatuses[0].restartCount"), "0", "{name}");
                assert_eq!(kubectl.ok(&["logs", name]), "begun\n");
                assert_eq!(shims(&state, &field(kubectl, name, ".metadata.uid")).len(), 1, "{name}");
            }
            kubectl.ok(&["delete", "pods", "--all", "--force", "--grace-period=0"]);
        });
        until("everything of the pods goes", SOON, || leftovers(&state, &cluster.server.folder));
    }
}

/// Shims, namespaces and mounts that are still there.
fn leftovers(state: &Path, folder: &Path) -> Result<(), String> {
    let count = |path: &str| std::fs::read_dir(state.join(path)).map_or(0, Iterator::count);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let folder = folder.display().to_string();
    let left = [shims(state, "").len(), count("pods"), count("netns"), mounts.matches(&folder).count()];
    if left == [0; 4] { Ok(()) } else { Err(format!("shims, pods, namespaces, mounts: {left:?}")) }
}
