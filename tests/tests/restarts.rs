//! Deaths, restarts and cut cables: what runs goes on, and what was lost is found again by itself.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rk_tests::kubectl::Kubectl;
use rk_tests::process::Background;
use rk_tests::{Cluster, need, one_at_a_time};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// The node lifecycle controller's patience, and some.
const LOST: Duration = Duration::from_secs(90);
const PATIENT: Duration = Duration::from_secs(5);
/// Both ends of a tunnel give the other up after 25 to 28 s of silence; the rest is for a busy machine.
const CUT_IS_NOTICED: Duration = Duration::from_secs(45);

/// A pod that says "up" once and then waits.
fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: rk.local/busybox:test\n    imagePullPolicy: Never\n    command: [sh, -c, \"echo up; exec sleep 100000\"]\n"
    )
}

/// A server and an agent called edge, each with a running pod.
fn two_nodes() -> Cluster {
    let mut cluster = Cluster::prepare(&[]).with_busybox();
    cluster.server.start();
    cluster.api_answers();
    let archive = cluster.server.data_dir().join("agent/images/busybox.tar");
    let agent = cluster.agent_with("edge", &[], |agent| {
        let images = agent.data_dir().join("agent/images");
        std::fs::create_dir_all(&images).expect("make the images folder");
        std::fs::copy(&archive, images.join("busybox.tar")).expect("copy the image");
    });
    assert!(agent.process.is_some());
    cluster.node_ready("edge");
    cluster.node_ready("server");
    cluster.kubectl(|kubectl| {
        for node in ["server", "edge"] {
            kubectl.ok_with(&["apply", "-f", "-"], &pod(&format!("on-{node}"), node));
        }
        for node in ["server", "edge"] {
            kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/on-{node}"), "--timeout=60s"]);
        }
    });
    cluster
}

/// Container id and restart count of a pod's container.
fn container(kubectl: &Kubectl<'_>, pod: &str) -> String {
    let path = "-o=jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    kubectl.ok(&["get", "pod", pod, path])
}

fn answers(kubectl: &Kubectl<'_>, pod: &str) {
    kubectl.until(SOON, &["logs", pod], |text| text == "up\n");
    kubectl.until(SOON, &["exec", pod, "--", "echo", "hi"], |text| text == "hi\n");
}

/// The service-account token in a pod.
fn token_of(kubectl: &Kubectl<'_>, pod: &str) -> String {
    kubectl.ok(&["exec", pod, "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"])
}

/// Lines of a log at warning or error level.
fn complaints(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect()
}

#[test]
fn pods_survive_the_death_of_the_agent_and_of_the_server() {
    if !need::met("pods_survive_the_death_of_the_agent_and_of_the_server", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = two_nodes();
    let before = cluster.kubectl(|kubectl| [container(kubectl, "on-server"), container(kubectl, "on-edge")]);
    cluster.kubectl(|kubectl| answers(kubectl, "on-edge"));

    cluster.agents[0].stop(Signal::SIGKILL);
    cluster.agents[0].start();
    cluster.kubectl(|kubectl| answers(kubectl, "on-edge"));

    cluster.server.stop(Signal::SIGKILL);
    cluster.server.start();
    cluster.api_answers();
    cluster.kubectl(|kubectl| {
        answers(kubectl, "on-edge");
        answers(kubectl, "on-server");
        // A pod made now shows that the agent's watches are back.
        kubectl.ok_with(&["apply", "-f", "-"], &pod("later", "edge"));
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/later", "--timeout=60s"]);
        assert_eq!([container(kubectl, "on-server"), container(kubectl, "on-edge")], before);
    });
    let log = cluster.agents[0].log();
    let complaints = complaints(&log);
    assert!(complaints.len() < 40, "the agent's log is spammed:\n{}", complaints.join("\n"));
}

#[test]
fn both_stop_in_order_when_asked_and_come_back_the_same() {
    if !need::met("both_stop_in_order_when_asked_and_come_back_the_same", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = two_nodes();
    let before = cluster.kubectl(|kubectl| [container(kubectl, "on-server"), container(kubectl, "on-edge")]);
    let token = cluster.kubectl(|kubectl| token_of(kubectl, "on-edge"));
    secrets_are_private(&cluster.server.data_dir().join("server"));
    secrets_are_private(&cluster.agents[0].data_dir().join("agent/pki"));
    for machine in [&mut cluster.agents[0], &mut cluster.server] {
        let mut process = machine.process.take().expect("it runs");
        let asked = Instant::now();
        let status = process.end(Signal::SIGTERM);
        assert!(asked.elapsed() < PATIENT, "took {:?} to stop: {}", asked.elapsed(), machine.log());
        assert!(status.success(), "{status}: {}", machine.log());
        let log = machine.log();
        assert!(!log.contains("ERROR"), "{log}");
    }
    // The agent first: it waits for its server, and says so once.
    cluster.agents[0].start();
    let log = cluster.agents[0].folder.join("rk.log");
    rk_tests::until("the agent says that it waits", SOON, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("cannot register yet") { Ok(()) } else { Err(text) }
    });
    cluster.server.start();
    cluster.api_answers();
    cluster.kubectl(|kubectl| {
        answers(kubectl, "on-edge");
        answers(kubectl, "on-server");
        assert_eq!([container(kubectl, "on-server"), container(kubectl, "on-edge")], before);
        // Without the kubeconfig, whose certificate would win over the token.
        let url = format!("--server=https://{}:6443", cluster.server.host.address);
        let mut whoami = cluster.server.host.command("kubectl");
        whoami.args(["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &url, "--token", &token]);
        whoami.args(["auth", "whoami", "-o=jsonpath={.status.userInfo.username}"]);
        let user = rk_tests::process::check(&mut whoami, None).expect("the token is still good");
        assert_eq!(user, "system:serviceaccount:default:default");
    });
    assert_eq!(cluster.agents[0].log().matches("cannot register yet").count(), 1);
}

/// The folder is root's alone, or else every file in it is.
fn secrets_are_private(folder: &Path) {
    let mode = |path: &Path| path.metadata().expect("ask for the mode").permissions().mode() & 0o777;
    if mode(folder) & 0o077 == 0 {
        return;
    }
    for entry in std::fs::read_dir(folder).expect("read the folder") {
        let path = entry.expect("read the folder").path();
        let mode = mode(&path);
        assert!(path.is_dir() || mode & 0o077 == 0, "{} has mode {mode:o}", path.display());
        if path.is_dir() {
            secrets_are_private(&path);
        }
    }
}

#[test]
fn a_node_behind_a_cut_cable_is_not_ready_and_comes_back() {
    if !need::met("a_node_behind_a_cut_cable_is_not_ready_and_comes_back", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = two_nodes();
    let before = cluster.kubectl(|kubectl| container(kubectl, "on-edge"));
    let follow = cluster.server.folder.join("follow.log");
    let mut follow = cluster.kubectl(|kubectl| Background::start(kubectl.command(&["logs", "-f", "on-edge"]), &follow));
    rk_tests::until("the log is followed", SOON, || if follow.log() == "up\n" { Ok(()) } else { Err(follow.log()) });
    cluster.network().set_link(&cluster.agents[0].host, false);
    let cut = Instant::now();
    let refusal = cluster.kubectl(|kubectl| kubectl.fails(&["logs", "on-edge"], None));
    println!("logs behind a cut link fail after {:?}: {refusal}", cut.elapsed());
    assert!(cut.elapsed() < CUT_IS_NOTICED, "{:?}", cut.elapsed());
    // The tunnel, or what was under way on it: whichever is noticed first.
    assert!(refusal.contains("ServiceUnavailable") && refusal.contains("was lost"), "{refusal}");
    let ended = rk_tests::until("the follower ends", SOON, || follow.ended().ok_or("it runs"));
    assert!(!ended.success(), "the half of a log is not the whole");
    let refusal = cluster.kubectl(|kubectl| kubectl.fails(&["exec", "on-edge", "--", "true"], None));
    assert!(refusal.contains("to this server is not up"), "{refusal}");
    let ready = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status} {.status.conditions[?(@.type=='Ready')].reason} {.spec.taints[*].key}";
    cluster.kubectl(|kubectl| {
        kubectl.until(LOST, &["get", "node", "edge", ready], |text| {
            text.starts_with("Unknown NodeStatusUnknown ") && text.contains("node.kubernetes.io/unreachable")
        });
        let pod_ready = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        kubectl.until(SOON, &["get", "pod", "on-edge", pod_ready], |text| text == "False");
        cluster.network().set_link(&cluster.agents[0].host, true);
        kubectl.until(SOON, &["get", "node", "edge", ready], |text| text == "True KubeletReady ");
        kubectl.until(SOON, &["get", "pod", "on-edge", pod_ready], |text| text == "True");
        answers(kubectl, "on-edge");
        assert_eq!(container(kubectl, "on-edge"), before);
    });
}
