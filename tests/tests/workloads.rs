//! Pods on a server's own node, driven by kubectl.
#![forbid(unsafe_code)]

use rk_tests::image::fetch;
use rk_tests::kubectl::Kubectl;
use rk_tests::{Cluster, need, one_at_a_time};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn pod(name: &str, command: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: rk.local/busybox:test\n    imagePullPolicy: Never\n    command: [sh, -c, {command:?}]\n{more}"
    )
}

fn wait_ready(kubectl: &Kubectl<'_>, name: &str) {
    kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
}

#[test]
fn logs_exec_cp_attach_and_port_forward_reach_a_container() {
    if !need::met("logs_exec_cp_attach_and_port_forward_reach_a_container", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::ready();
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], &pod("tool", "echo first; echo second; exec sleep 1000", ""));
        wait_ready(kubectl, "tool");
        assert_eq!(kubectl.ok(&["logs", "tool"]), "first\nsecond\n");
        assert_eq!(kubectl.ok(&["logs", "tool", "--tail=1"]), "second\n");
        let stamped = kubectl.ok(&["logs", "tool", "--timestamps", "--since=1h", "-c", "main"]);
        assert!(stamped.lines().all(|line| line.starts_with("20") && line.contains("Z ")), "{stamped}");
        assert_eq!(kubectl.ok(&["exec", "tool", "--", "echo", "hello"]), "hello\n");
        assert_eq!(kubectl.ok_with(&["exec", "-i", "tool", "--", "cat"], "through"), "through");
        let failed = kubectl.fails(&["exec", "tool", "--", "sh", "-c", "exit 3"], None);
        assert!(failed.contains("exit code 3"), "{failed}");
        let folder = tempfile::tempdir().expect("make a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "copied").expect("write a file");
        kubectl.ok(&["cp", &file.display().to_string(), "tool:/tmp/file"]);
        assert_eq!(kubectl.ok(&["exec", "tool", "--", "cat", "/tmp/file"]), "copied");
        let described = kubectl.ok(&["describe", "pod", "tool"]);
        assert!(described.contains("Started container main") || described.contains("Container started"), "{described}");
        kubectl.ok(&["delete", "pod", "tool", "--timeout=30s"]);
    });
}

#[test]
fn configuration_reaches_the_container() {
    if !need::met("configuration_reaches_the_container", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let more = "    env:\n    - {name: PLAIN, value: a}\n    - {name: MAP, valueFrom: {configMapKeyRef: {name: conf, key: k}}}\n    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}\n    volumeMounts:\n    - {name: conf, mountPath: /conf}\n    - {name: scratch, mountPath: /scratch}\n  volumes:\n  - {name: conf, configMap: {name: conf}}\n  - {name: scratch, emptyDir: {}}\n";
    let cluster = Cluster::ready();
    cluster.kubectl(|kubectl| {
        kubectl.ok(&["create", "configmap", "conf", "--from-literal=k=v"]);
        kubectl.ok_with(
            &["apply", "-f", "-"],
            &pod("conf", "echo $PLAIN $MAP $NODE $(cat /conf/k); touch /scratch/x; exec sleep 1000", more),
        );
        wait_ready(kubectl, "conf");
        assert_eq!(kubectl.ok(&["logs", "conf"]), "a v server v\n");
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        let token = kubectl.ok(&["exec", "conf", "--", "cat", &format!("{account}/token")]);
        assert_eq!(token.split('.').count(), 3, "a service-account token is a JWT");
        assert_eq!(kubectl.ok(&["exec", "conf", "--", "cat", &format!("{account}/namespace")]), "default");
    });
}

#[test]
fn a_failing_container_backs_off_and_shows_its_former_log() {
    if !need::met("a_failing_container_backs_off_and_shows_its_former_log", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::ready();
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], &pod("crash", "echo about to fail; exit 7", ""));
        kubectl.until(SOON, &["get", "pod", "crash", "--no-headers"], |text| text.contains("CrashLoopBackOff"));
        assert_eq!(kubectl.ok(&["logs", "crash", "--previous"]), "about to fail\n");
        let code = "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}";
        assert_eq!(kubectl.ok(&["get", "pod", "crash", "-o", code]), "7");
        kubectl.ok_with(&["apply", "-f", "-"], &pod("absent", "true", "").replace("busybox:test", "nothing:test"));
        kubectl.until(SOON, &["get", "pod", "absent", "--no-headers"], |text| text.contains("ErrImageNeverPull"));
    });
}

#[test]
fn services_and_names_lead_to_pods() {
    if !need::met("services_and_names_lead_to_pods", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::ready();
    let serve = "mkdir -p /tmp/www; hostname > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www";
    cluster.kubectl(|kubectl| {
        let probe = "    ports: [{name: http, containerPort: 8080}]\n    readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}\n";
        kubectl.ok_with(&["apply", "-f", "-"], &pod("web", serve, probe));
        kubectl.ok(&["expose", "pod", "web", "--port=80", "--target-port=8080", "--type=NodePort"]);
        kubectl.ok_with(&["apply", "-f", "-"], &pod("client", "exec sleep 1000", ""));
        wait_ready(kubectl, "web");
        wait_ready(kubectl, "client");
        let address = kubectl.ok(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
        for name in ["web", "web.default.svc.cluster.local"] {
            let found = kubectl.until(SOON, &["exec", "client", "--", "sh", "-c", &format!("nslookup {name}; true")], |text| {
                text.contains(&address)
            });
            assert!(found.contains("10.43.0.10"), "the cluster's DNS answers: {found}");
        }
        kubectl.until(SOON, &["exec", "client", "--", "sh", "-c", &fetch(&address, "80")], |page| page == "web\n");
        let port = kubectl.ok(&["get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
        let mut outside = cluster.server.host.command("/bin/busybox");
        outside.args(["sh", "-c", &fetch(&cluster.server.host.address, &port)]);
        assert_eq!(rk_tests::process::check(&mut outside, None).expect("the node port answers"), "web\n");
    });
}

#[test]
fn containers_outlive_kill_9_and_are_adopted() {
    if !need::met("containers_outlive_kill_9_and_are_adopted", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::ready();
    let identity = "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.podIP}";
    let before = cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], &pod("stays", "while true; do date; sleep 1; done", ""));
        wait_ready(kubectl, "stays");
        kubectl.ok(&["get", "pod", "stays", "-o", identity])
    });
    cluster.server.stop(nix::sys::signal::Signal::SIGKILL);
    cluster.server.start();
    cluster.api_answers();
    cluster.node_ready("server");
    cluster.kubectl(|kubectl| {
        wait_ready(kubectl, "stays");
        assert_eq!(kubectl.ok(&["exec", "stays", "--", "echo", "alive"]), "alive\n");
        assert_eq!(kubectl.ok(&["get", "pod", "stays", "-o", identity]), before);
        kubectl.ok(&["delete", "pod", "stays", "--timeout=30s"]);
    });
}
