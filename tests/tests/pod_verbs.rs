//! kubectl's less common verbs and flags, as a demanding user tries them, on pods of a server's own node.
#![forbid(unsafe_code)]

use rk_tests::image::fetch;
use rk_tests::kubectl::Kubectl;
use rk_tests::process::{Background, check};
use rk_tests::{Cluster, need, one_at_a_time, until};
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const WAIT: &str = "--timeout=60s";
const IMAGE: &str = "rk.local/busybox:test";

const TOOL: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: tool, labels: {app: tool}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: rk.local/busybox:test
    command: [sh, -c, echo first; echo second; exec sleep 1111]
    resources: {requests: {cpu: 100m, example.com/toy: 1}, limits: {memory: 128Mi, example.com/toy: 1}}
    ports: [{containerPort: 8080, hostPort: 18080}]
  - name: web
    image: rk.local/busybox:test
    command: [sh, -c, mkdir -p /tmp/w; echo page > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w]
";

const DEPLOYMENT: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: rk.local/busybox:test, command: [sleep, '1000']}]
";

#[test]
fn pods_are_described_debugged_copied_from_and_reached() {
    if !need::met("pods_are_described_debugged_copied_from_and_reached", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::ready();
    cluster.kubectl(|kubectl| {
        shows_its_role_and_takes_resources(kubectl);
        kubectl.ok_with(&["apply", "-f", "-"], TOOL);
        kubectl.ok(&["wait", "pod/tool", "--for=condition=Ready", WAIT]);
        describes(kubectl);
        logs(kubectl);
        copies(kubectl);
        debugs(kubectl);
        runs(kubectl);
    });
    let mut outside = cluster.server.host.command("/bin/busybox");
    outside.args(["sh", "-c", &fetch(&cluster.server.host.address, "18080")]);
    assert_eq!(check(&mut outside, None).expect("the host port answers"), "page\n");
    cluster.kubectl(|kubectl| {
        kubectl.ok(&["delete", "pod", "tool", "--force", "--grace-period=0"]);
        let gone = kubectl.fails(&["get", "pod", "tool"], None);
        assert!(gone.contains(r#"pods "tool" not found"#), "{gone}");
    });
}

fn shows_its_role_and_takes_resources(kubectl: &Kubectl<'_>) {
    let nodes = kubectl.ok(&["get", "nodes", "--no-headers"]);
    assert!(nodes.contains(" control-plane "), "{nodes}");
    let hostname = r"jsonpath={.metadata.labels.kubernetes\.io/hostname}";
    assert_eq!(kubectl.ok(&["get", "node", "server", "-o", hostname]), "server");
    // What the documentation tells users to do for an extended resource.
    let toys = r#"[{"op":"add","path":"/status/capacity/example.com~1toy","value":"1"}]"#;
    kubectl.ok(&["patch", "node", "server", "--subresource=status", "--type=json", "-p", toys]);
    let allocatable = r"jsonpath={.status.allocatable.example\.com/toy}";
    kubectl.until(SOON, &["get", "node", "server", "-o", allocatable], |text| text == "1");
}

fn describes(kubectl: &Kubectl<'_>) {
    let pod = kubectl.until(SOON, &["describe", "pod", "tool"], |text| text.contains("Container started"));
    for part in ["Successfully assigned default/tool to server", "TokenExpirationSeconds:  3607", "QoS Class:"] {
        assert!(pod.contains(part), "{part}: {pod}");
    }
    assert!(!pod.contains("memory-pressure"), "{pod}");
    let node = kubectl.ok(&["describe", "node", "server"]);
    for part in
        ["Roles:              control-plane", "Allocated resources", "tool", "NodeReady", "HolderIdentity:  server"]
    {
        assert!(node.contains(part), "{part}: {node}");
    }
}

fn logs(kubectl: &Kubectl<'_>) {
    let all = kubectl.ok(&["logs", "-l", "app=tool", "--all-containers", "--prefix", "--tail=1"]);
    assert_eq!(all, "[pod/tool/main] second\n");
    assert_eq!(kubectl.ok(&["logs", "tool", "-c", "main", "--limit-bytes=5"]), "first");
    assert_eq!(kubectl.ok(&["logs", "tool", "-c", "main", "--since-time=2000-01-01T00:00:00Z"]), "first\nsecond\n");
    let follow = ["logs", "-l", "app=tool", "-f", "--all-containers", "--max-log-requests=1"];
    assert!(kubectl.fails(&follow, None).contains("maximum allowed concurrency is 1"));
}

fn copies(kubectl: &Kubectl<'_>) {
    let folder = tempfile::tempdir().expect("make a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    fs::write(path("big"), &content).expect("write a file");
    kubectl.ok(&["cp", &path("big"), "tool:/tmp/big", "-c", "main"]);
    kubectl.ok(&["cp", "tool:/tmp/big", &path("back"), "-c", "main"]);
    assert!(fs::read(path("back")).expect("read the copy") == content, "the copy is the same");
}

fn debugs(kubectl: &Kubectl<'_>) {
    let image = format!("--image={IMAGE}");
    kubectl.ok(&["debug", "tool", &image, "--target=main", "-c", "spy", "--profile=general", "--", "ps"]);
    let seen = kubectl.until(SOON, &["logs", "tool", "-c", "spy", "--ignore-errors"], |text| text.contains(" ps"));
    assert!(seen.contains("sleep 1111") && !seen.contains("httpd"), "the processes of main alone: {seen}");
    assert!(kubectl.ok(&["describe", "pod", "tool"]).contains("Ephemeral Containers"));
}

fn runs(kubectl: &Kubectl<'_>) {
    let image = format!("--image={IMAGE}");
    let run = ["run", "once", &image, "--rm", "-i", "--quiet", "--restart=Never", "--", "cat"];
    assert_eq!(kubectl.ok_with(&run, "through\n"), "through\n");
    let gone = kubectl.fails(&["get", "pod", "once"], None);
    assert!(gone.contains("not found"), "{gone}");
}

#[test]
fn deployments_recreate_adopt_and_release() {
    if !need::met("deployments_recreate_adopt_and_release", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::ready();
    let folder = tempfile::tempdir().expect("make a folder");
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], DEPLOYMENT);
        kubectl.ok(&["rollout", "status", "deploy/web", WAIT]);
        let states = "custom-columns=H:.metadata.labels.pod-template-hash,P:.status.phase";
        let watch = ["get", "pods", "-l", "app=web", "--watch-only", "-o", states, "--no-headers"];
        let watcher = Background::start(kubectl.command(&watch), &folder.path().join("watched"));
        kubectl.ok(&["set", "env", "deploy/web", "A=1"]);
        kubectl.ok(&["rollout", "status", "deploy/web", WAIT]);
        let hash = r"jsonpath={.items[0].metadata.labels.pod-template-hash}";
        let new = kubectl.ok(&["get", "pods", "-l", "app=web", "-o", hash]);
        let log = until("the watch saw the new pods run", SOON, || {
            let log = watcher.log();
            if log.lines().any(|line| line.starts_with(&new) && line.contains("Running")) { Ok(log) } else { Err(log) }
        });
        let first_new = log.lines().position(|line| line.starts_with(&new)).unwrap_or_default();
        let old_after = log.lines().skip(first_new).filter(|line| !line.starts_with(&new) && line.contains("Running"));
        assert_eq!(old_after.count(), 0, "no new pod before the old ones have ended: {log}");

        let pods = kubectl.ok(&["get", "pods", "-l", "app=web", "-o", "name"]);
        let taken = pods.lines().next().expect("a pod").to_owned();
        kubectl.ok(&["label", &taken, "app=aside", "--overwrite"]);
        let owner = ["get", &taken, "-o", "jsonpath={.metadata.ownerReferences[*].kind}"];
        kubectl.until(SOON, &owner, str::is_empty);
        kubectl.until(SOON, &["get", "pods", "-l", "app=web", "-o", "name"], |text| text.lines().count() == 2);
        kubectl.ok(&["scale", "deploy", "web", "--replicas=3"]);
        kubectl.until(SOON, &["get", "pods", "-l", "app=web", "-o", "name"], |text| text.lines().count() == 3);
        kubectl.ok(&["label", &taken, "app=web", "--overwrite"]);
        kubectl.until(SOON, &["get", "deploy", "web", "-o", "jsonpath={.status.replicas}"], |text| text == "3");
        kubectl.until(SOON, &["get", "pods", "-l", "app=web", "-o", "name"], |text| text.lines().count() == 3);
    });
}
