//! `rk kill-all` leaves nothing of what rk made: no mount, namespace, link, table, cgroup or process.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rk_tests::process::{check, output};
use rk_tests::{Cluster, Host, need, one_at_a_time};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A deployment with a volume of each kind that is a mount, and a service with a node port.
const WORKLOAD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: rk.local/busybox:test
        imagePullPolicy: Never
        command: [sh, -c, "exec sleep 100000"]
        resources: {limits: {memory: 64Mi, cpu: 100m}}
        volumeMounts: [{name: memory, mountPath: /memory}, {name: disk, mountPath: /disk}]
      volumes: [{name: memory, emptyDir: {medium: Memory}}, {name: disk, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80}]
"#;

/// What rk makes outside its data folder, as a set of lines.
fn traces(host: &Host, folder: &Path) -> BTreeSet<String> {
    let run = |what: &str, command: &mut Command| {
        let output = output(command, None).expect("run a program");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(|line| format!("{what}: {line}")).collect::<Vec<_>>()
    };
    let mut all = run("link", host.command("ip").args(["-brief", "link", "show"]));
    all.extend(run("route", host.command("ip").args(["route", "show"])));
    all.extend(run("table", host.command("nft").args(["list", "tables"])));
    let folder = folder.display().to_string();
    let named = folder.rsplit('/').next().unwrap_or_default().trim_start_matches('.').to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
    all.extend(mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount: {line}")));
    let cgroups = run("cgroup", Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", "rk-test-*"]));
    all.extend(cgroups.into_iter().filter(|line| line.contains(&named)));
    let processes = run("process", Command::new("ps").args(["-ww", "-eo", "pid,args"]));
    all.extend(processes.into_iter().filter(|line| line.contains(&folder)));
    all.into_iter().collect()
}

#[test]
fn kill_all_leaves_nothing_behind() {
    let needs = [need::CLUSTER, &[need::Need::Program("nft")]].concat();
    if !need::met("kill_all_leaves_nothing_behind", &needs) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&[]).with_busybox();
    let folder = cluster.server.folder.clone();
    let before = traces(&cluster.server.host, &folder);
    cluster.server.start();
    cluster.api_answers();
    cluster.node_ready("server");
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], WORKLOAD);
        kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    });
    let during = traces(&cluster.server.host, &folder);
    for kind in ["link", "table", "mount", "cgroup", "process"] {
        let made = during.difference(&before).any(|line| line.starts_with(kind));
        assert!(made, "the workload made no {kind}, so the comparison proves nothing: {during:#?}");
    }
    // As after a crash.
    cluster.server.stop(Signal::SIGKILL);
    check(&mut cluster.server.kill_all(), None).expect("kill-all succeeds");
    let after = traces(&cluster.server.host, &folder);
    let left: Vec<_> = after.difference(&before).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
    assert!(before.is_subset(&after), "taken away: {:#?}", before.difference(&after).collect::<Vec<_>>());
    // A second run has nothing to do, and says so by success.
    check(&mut cluster.server.kill_all(), None).expect("kill-all succeeds");
}
