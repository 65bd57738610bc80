//! What rk is for, as its README shows it to a newcomer: the demo, and manifests of each kind that runs containers.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rk_tests::image::fetch;
use rk_tests::kubectl::Kubectl;
use rk_tests::process::check;
use rk_tests::{Cluster, need, one_at_a_time, until};
use std::collections::BTreeSet;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const WAIT: &str = "--timeout=60s";

#[test]
fn the_demo_answers_and_stops_in_order() {
    if !need::met("the_demo_answers_and_stops_in_order", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&["--demo"]);
    cluster.server.start();
    let log = until("the demo runs", SOON, || {
        let log = cluster.server.log();
        if log.contains("demo running: 3 pods ready") { Ok(log) } else { Err(log) }
    });
    let kubeconfig = cluster.server.kubeconfig().display().to_string();
    for told in ["https://", kubeconfig.as_str(), "curl http://localhost:30080", "kubectl scale"] {
        assert!(log.contains(told), "{told}: {log}");
    }
    let names = cluster.kubectl(|kubectl| {
        let pods = kubectl.ok(&[
            "get",
            "pods",
            "-l",
            "app=hello",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}\n{end}",
        ]);
        pods.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(names.len(), 3, "{names:?}");
    let mut outside = cluster.server.host.command("/bin/busybox");
    let page = check(outside.args(["sh", "-c", &fetch("127.0.0.1", "30080")]), None).expect("the node port answers");
    let shown = |line: &String| line.split(' ').all(|part| page.contains(part));
    assert!(names.iter().any(shown) && page.contains("server"), "pod, node and address of {names:?}: {page}");
    let mut process = cluster.server.process.take().expect("the server runs");
    assert!(process.end(Signal::SIGINT).success(), "{}", process.log());
}

const CONFIGURATION: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOUR: blue, file.txt: of the map}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {PASSWORD: open sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: full, labels: {app: full}, annotations: {note: written}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: first
    image: rk.local/busybox:test
    command: [sh, -c, echo one >> /shared/order]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: second
    image: rk.local/busybox:test
    command: [sh, -c, echo two >> /shared/order]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: rk.local/busybox:test
    command: [sh, -c, mkdir /tmp/w; echo ok > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w]
    envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: hidden}}, {configMapRef: {name: absent, optional: true}}]
    env:
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    - {name: SELF, value: $(COLOUR)-$$(COLOUR)}
    resources: {limits: {cpu: 250m, memory: 64Mi}}
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
    livenessProbe: {exec: {command: [test, '!', -e, /tmp/sick]}, periodSeconds: 1, failureThreshold: 1}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: memory, mountPath: /memory}
    - {name: all, mountPath: /all}
    - {name: about, mountPath: /about}
    - {name: settings, mountPath: /one.txt, subPath: file.txt}
    - {name: host, mountPath: /host, readOnly: true}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: settings, configMap: {name: settings}}
  - {name: host, hostPath: {path: /etc, type: Directory}}
  - name: about
    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: note, fieldRef: {fieldPath: 'metadata.annotations[''note'']'}}]}
  - name: all
    projected:
      sources:
      - {secret: {name: hidden, items: [{key: PASSWORD, path: deep/password, mode: 0400}]}}
      - {configMap: {name: settings}}
      - {serviceAccountToken: {path: token, audience: vault, expirationSeconds: 3600}}
";

fn inside(kubectl: &Kubectl<'_>, pod: &str, command: &str) -> String {
    kubectl.ok(&["exec", pod, "-c", "main", "--", "sh", "-c", command])
}

#[test]
fn a_pod_gets_all_that_its_manifest_asks_for() {
    if !need::met("a_pod_gets_all_that_its_manifest_asks_for", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::ready();
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], CONFIGURATION);
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/full", WAIT]);
        let facts = [
            ("cat /shared/order", "one\ntwo\n"),
            ("echo $COLOUR $PASSWORD $CPU $SELF", "blue open sesame 250 blue-$(COLOUR)\n"),
            ("cat /all/deep/password /all/file.txt /one.txt", "open sesameof the mapof the map"),
            ("stat -L -c %a /all/deep/password", "400\n"),
            ("cat /about/labels /about/note", "app=\"full\"written"),
            ("cut -d. -f2 /all/token | grep -c .", "1\n"),
            ("touch /host/x 2>/dev/null || echo read-only", "read-only\n"),
            ("grep -c ' /memory tmpfs' /proc/mounts", "1\n"),
        ];
        for (command, answer) in facts {
            assert_eq!(inside(kubectl, "full", command), answer, "{command}");
        }
        kubectl.ok(&["patch", "configmap", "settings", "-p", r#"{"data":{"file.txt":"changed"}}"#]);
        // The kubelet's own pace: volumes follow within about a minute and a half.
        let limit = Duration::from_secs(120);
        kubectl.until(limit, &["exec", "full", "-c", "main", "--", "cat", "/all/file.txt"], |text| text == "changed");
        assert_eq!(inside(kubectl, "full", "cat /one.txt"), "of the map", "a subPath stays as it was");
        inside(kubectl, "full", "touch /tmp/sick");
        let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
        kubectl.until(SOON, &["get", "pod", "full", "-o", restarts], |text| text == "1");
        kubectl.until(SOON, &["get", "events"], |text| text.contains("Liveness probe failed"));
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/full", WAIT]);
        assert_eq!(inside(kubectl, "full", "cat /shared/order"), "one\ntwo\n", "init containers do not run again");
        assert_eq!(inside(kubectl, "full", "cat /one.txt"), "changed", "a new container has the new file");
    });
}

const SETS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: peers}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: peer}
spec:
  serviceName: peers
  replicas: 3
  selector: {matchLabels: {app: peers}}
  template:
    metadata: {labels: {app: peers}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: rk.local/busybox:test
        command: [sh, -c, mkdir /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w]
        readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {selector: {app: peers}, ports: [{port: 80, targetPort: 8080}], sessionAffinity: ClientIP}
---
apiVersion: v1
kind: Service
metadata: {name: loose}
spec: {selector: {app: peers}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: rk.local/busybox:test, command: [sleep, '1000']}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: sums}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: rk.local/busybox:test, command: [sh, -c, echo $JOB_COMPLETION_INDEX]}]
";

#[test]
fn sets_jobs_and_services_of_each_kind_work() {
    if !need::met("sets_jobs_and_services_of_each_kind_work", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::ready();
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], SETS);
        kubectl.ok(&["rollout", "status", "statefulset/peer", WAIT]);
        kubectl.ok(&["rollout", "status", "daemonset/everywhere", WAIT]);
        kubectl.ok(&["wait", "--for=condition=Complete", "job/sums", WAIT]);
        let mut indexes: Vec<_> = kubectl.ok(&["logs", "-l", "job-name=sums"]).lines().map(str::to_owned).collect();
        indexes.sort();
        assert_eq!(indexes, ["0", "1", "2"]);
        let names = ["get", "pods", "-l", "app=peers", "--sort-by=.metadata.creationTimestamp", "-o", "name"];
        assert_eq!(kubectl.ok(&names), "pod/peer-0\npod/peer-1\npod/peer-2\n");
        reach(kubectl);
        kubectl.ok(&["scale", "statefulset", "peer", "--replicas=1"]);
        kubectl.until(SOON, &names, |text| text == "pod/peer-0\n");
    });
}

/// Names of single pods, of all, and how requests are spread.
fn reach(kubectl: &Kubectl<'_>) {
    let addresses = kubectl.ok(&["get", "pods", "-l", "app=peers", "-o", "jsonpath={.items[*].status.podIP}"]);
    let find = ["exec", "peer-0", "--", "sh", "-c", "nslookup peers.default.svc.cluster.local; true"];
    kubectl.until(SOON, &find, |text| addresses.split(' ').all(|address| text.contains(address)));
    let one = ["exec", "peer-0", "--", "sh", "-c", "nslookup peer-2.peers.default.svc.cluster.local; true"];
    kubectl.until(SOON, &one, |text| addresses.rsplit(' ').next().is_some_and(|last| text.contains(last)));
    let answers = |service: &str| {
        let address = kubectl.ok(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"]);
        let many = format!("for n in $(seq 40); do {}; done", fetch(&address, "80"));
        let pages =
            kubectl.until(SOON, &["exec", "peer-1", "--", "sh", "-c", &many], |text| text.lines().count() >= 40);
        pages.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert_eq!(answers("loose").len(), 3, "requests are spread over all");
    assert_eq!(answers("sticky").len(), 1, "one client stays with one pod");
}

const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: rk.local/busybox:test, command: [sleep, '1000']}]
";

#[test]
fn nodes_are_drained_terminals_opened_and_owners_deleted() {
    let needs = [need::CLUSTER, &[need::Need::Program("script")]].concat();
    if !need::met("nodes_are_drained_terminals_opened_and_owners_deleted", &needs) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::ready();
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], WEB);
        kubectl.ok(&["rollout", "status", "deployment/web", WAIT]);
        // kubectl tells the size of its own terminal a moment after the start, and the container's follows.
        let terminal = format!(
            "stty rows 33 cols 91; kubectl --kubeconfig {} exec -it deployment/web -- \
             sh -c 'until stty size | grep -q \"33 91\"; do usleep 50000; done; test -t 1 && exit 5'",
            cluster.server.kubeconfig().display()
        );
        let mut typed = cluster.server.host.command("timeout");
        typed.args(["60", "script", "-qec", &terminal, "/dev/null"]);
        let shown = rk_tests::process::output(&mut typed, Some("")).expect("script runs");
        let text = String::from_utf8_lossy(&shown.stdout);
        assert_eq!(shown.status.code(), Some(5), "a terminal of 33 rows and 91 columns: {text}");
        drain(kubectl);
        delete_owners(kubectl);
    });
}

fn drain(kubectl: &Kubectl<'_>) {
    kubectl.ok(&["drain", "server", "--ignore-daemonsets", "--delete-emptydir-data", WAIT]);
    assert!(kubectl.ok(&["get", "node", "server"]).contains("SchedulingDisabled"));
    let pending = ["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.phase}"];
    kubectl.until(SOON, &pending, |text| text == "Pending Pending");
    let told = "0/1 nodes are available: 1 node(s) were unschedulable.";
    kubectl.until(SOON, &["get", "events", "--field-selector=reason=FailedScheduling"], |text| text.contains(told));
    kubectl.ok(&["uncordon", "server"]);
    kubectl.ok(&["rollout", "status", "deployment/web", WAIT]);
    kubectl.ok(&["taint", "node", "server", "closed=yes:NoExecute"]);
    kubectl.until(SOON, &pending, |text| text == "Pending Pending");
    kubectl.ok(&["taint", "node", "server", "closed-"]);
    kubectl.ok(&["rollout", "status", "deployment/web", WAIT]);
}

fn delete_owners(kubectl: &Kubectl<'_>) {
    kubectl.ok(&["delete", "deployment", "web", "--cascade=orphan"]);
    let sets = ["get", "replicasets", "-o", "name"];
    let left = kubectl.ok(&sets);
    assert!(left.starts_with("replicaset.apps/web-"), "{left}");
    assert_eq!(kubectl.ok(&["get", "pods", "-o", "name"]).lines().count(), 2);
    kubectl.ok(&["delete", left.trim(), "--cascade=foreground", WAIT]);
    assert_eq!(kubectl.ok(&["get", "pods", "-o", "name"]), "", "the owner went last");
    kubectl.ok_with(&["apply", "-f", "-"], WEB);
    kubectl.ok(&["rollout", "status", "deployment/web", WAIT]);
    kubectl.ok(&["delete", "deployment", "web"]);
    kubectl.until(SOON, &["get", "pods,replicasets", "-o", "name"], str::is_empty);
}
