//! A second machine: joining, pods across nodes, and the node's API through its outbound connection.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rk_tests::image::{fetch, fetch_path};
use rk_tests::process::Background;
use rk_tests::{Cluster, need, one_at_a_time};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: rk.local/busybox:test\n    imagePullPolicy: Never\n    command: [sh, -c, \"mkdir /tmp/www; hostname > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www\"]\n"
    )
}

/// A server and an agent called edge with the test image, both ready.
fn two_nodes() -> Cluster {
    let mut cluster = Cluster::prepare(&[]).with_busybox();
    cluster.server.start();
    cluster.api_answers();
    cluster.node_ready("server");
    let archive = cluster.server.data_dir().join("agent/images/busybox.tar");
    cluster.agent_with("edge", &[], |agent| {
        let images = agent.data_dir().join("agent/images");
        std::fs::create_dir_all(&images).expect("make the images folder");
        std::fs::copy(&archive, images.join("busybox.tar")).expect("copy the image");
    });
    cluster.node_ready("edge");
    cluster
}

#[test]
fn an_agent_joins_and_its_pods_are_reached_from_everywhere() {
    if !need::met("an_agent_joins_and_its_pods_are_reached_from_everywhere", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&[]).with_busybox();
    cluster.server.start();
    cluster.api_answers();
    let archive = cluster.server.data_dir().join("agent/images/busybox.tar");
    let started = Instant::now();
    let agent = cluster.agent("edge", &[]);
    let mut import = agent.rk(&["images", "import"]);
    import.arg(&archive).arg(format!("--state-dir={}", agent.folder.join("run").display()));
    cluster.node_ready("edge");
    println!("from the start of rk agent until kubectl shows its node Ready: {:?}", started.elapsed());
    rk_tests::process::check(&mut import, None).expect("import the image");
    cluster.kubectl(|kubectl| {
        for node in ["server", "edge"] {
            kubectl.ok_with(&["apply", "-f", "-"], &pod(&format!("on-{node}"), node));
        }
        for node in ["server", "edge"] {
            kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/on-{node}"), "--timeout=60s"]);
        }
        for (from, to) in [("on-server", "on-edge"), ("on-edge", "on-server")] {
            let address = kubectl.ok(&["get", "pod", to, "-o", "jsonpath={.status.podIP}"]);
            let fetch = fetch(&address, "8080");
            let page = kubectl.until(SOON, &["exec", from, "--", "sh", "-c", &fetch], |text| !text.is_empty());
            assert_eq!(page, format!("{to}\n"));
        }
        assert_eq!(kubectl.ok(&["logs", "on-edge"]), "");
    });
}

/// A service and its node port for the pod on the agent.
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: NodePort\n  selector: {app: web}\n  ports: [{port: 80, targetPort: 8080, nodePort: 30123}]\n";

#[test]
fn services_names_and_node_ports_work_from_both_nodes() {
    if !need::met("services_names_and_node_ports_work_from_both_nodes", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = two_nodes();
    cluster.kubectl(|kubectl| {
        for node in ["server", "edge"] {
            kubectl.ok_with(&["apply", "-f", "-"], &pod(&format!("on-{node}"), node));
        }
        kubectl.ok(&["label", "pod", "on-edge", "app=web"]);
        kubectl.ok_with(&["apply", "-f", "-"], SERVICE);
        kubectl.ok(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
        let vip = kubectl.ok(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
        for from in ["on-server", "on-edge"] {
            for (address, port) in [(vip.as_str(), "80"), ("web", "80"), ("web.default.svc.cluster.local", "80")] {
                let fetch = fetch(address, port);
                kubectl.until(SOON, &["exec", from, "--", "sh", "-c", &fetch], |text| text == "on-edge\n");
            }
            // The API itself, from the pod's own service account.
            let dial = "echo | nc -w 5 kubernetes.default 443 && echo open";
            kubectl.until(SOON, &["exec", from, "--", "sh", "-c", dial], |text| text.contains("open"));
        }
    });
    for target in [&cluster.server.host, &cluster.agents[0].host] {
        for from in [&cluster.server.host, &cluster.agents[0].host] {
            let mut command = from.command("/bin/busybox");
            command.args(["sh", "-c", &fetch(&target.address, "30123")]);
            rk_tests::until("the node port answers", SOON, || {
                let page = rk_tests::process::check(&mut command, None).map_err(|error| format!("{error:#}"))?;
                if page == "on-edge\n" { Ok(()) } else { Err(format!("got {page:?}")) }
            });
        }
    }
    let ports = |host: &rk_tests::Host| {
        let text = rk_tests::process::check(host.command("ss").args(["-Htln"]), None).expect("run ss");
        let local = text.lines().filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned);
        // The DNS server listens on the bridge's address, for pods.
        local.filter(|address| !address.starts_with("10.42.") && !address.starts_with("127.")).collect::<Vec<_>>()
    };
    assert_eq!(ports(&cluster.server.host).len(), 1, "{:?}", ports(&cluster.server.host));
    assert_eq!(ports(&cluster.agents[0].host), Vec::<String>::new());
}

#[test]
fn streams_reach_pods_through_the_tunnel() {
    if !need::met("streams_reach_pods_through_the_tunnel", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = two_nodes();
    let folder = cluster.server.folder.clone();
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], &pod("web", "edge"));
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
        let echoed = kubectl.ok_with(&["exec", "-i", "web", "--", "cat"], "through the tunnel");
        assert_eq!(echoed, "through the tunnel");
        let failed = kubectl.fails(&["exec", "web", "--", "sh", "-c", "exit 7"], None);
        assert!(failed.contains("exit code 7"), "{failed}");

        let (there, back) = (folder.join("there"), folder.join("back"));
        let content: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
        std::fs::write(&there, &content).expect("write a file");
        kubectl.ok(&["cp", &there.display().to_string(), "web:/tmp/copy"]);
        kubectl.ok(&["cp", "web:/tmp/copy", &back.display().to_string()]);
        assert!(std::fs::read(&back).expect("read the copy") == content, "the copy differs");

        let attach = "apiVersion: v1\nkind: Pod\nmetadata: {name: talker}\nspec:\n  nodeName: edge\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: main, image: \"rk.local/busybox:test\", imagePullPolicy: Never, stdin: true, stdinOnce: true, command: [cat]}\n";
        kubectl.ok_with(&["apply", "-f", "-"], attach);
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/talker", "--timeout=60s"]);
        assert_eq!(kubectl.ok_with(&["attach", "-iq", "talker"], "to the process\n"), "to the process\n");

        let log = folder.join("port-forward.log");
        let forward =
            Background::start(kubectl.command(&["port-forward", "pod/web", "18080:8080"]), &log);
        let mut ask = cluster.server.host.command("/bin/busybox");
        ask.args(["sh", "-c", &fetch("127.0.0.1", "18080")]);
        rk_tests::until("the forwarded port answers", SOON, || {
            let page = rk_tests::process::check(&mut ask, None).map_err(|error| format!("{error:#}"))?;
            if page == "web\n" { Ok(()) } else { Err(format!("got {page:?}; {}", forward.log())) }
        });
    });
}

/// A pod on the agent, whose container writes 5,000 lines of 4,000 characters, and ends when told so.
const WRITER: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: writer}\nspec:\n  nodeName: edge\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: rk.local/busybox:test\n    imagePullPolicy: Never\n    command: [sh, -c, \"awk 'BEGIN { s = sprintf(\\\"%3990s\\\", \\\"\\\"); for (i = 0; i < 5000; i++) printf(\\\"%09d%s\\\\n\\\", i, s) }'; until [ -e /tmp/end ]; do sleep 0.1; done; echo the end\"]\n";

#[test]
fn logs_come_whole_through_the_tunnel() {
    if !need::met("logs_come_whole_through_the_tunnel", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = two_nodes();
    let follow = cluster.server.folder.join("follow.log");
    let lines: String = (0..5000).map(|number| format!("{number:09}{:3990}\n", "")).collect();
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], WRITER);
        let mut follow =
            Background::start(kubectl.command(&["logs", "-f", "--pod-running-timeout=60s", "writer"]), &follow);
        // What a container has written when it is asked is its own affair: it is given the time.
        kubectl.until(SOON, &["logs", "--tail=1", "writer"], |text| text.starts_with("000004999"));
        // Many at once, beside commands.
        std::thread::scope(|scope| {
            for reader in 0..6 {
                let lines = &lines;
                scope.spawn(move || {
                    for turn in 0..5 {
                        assert!(kubectl.ok(&["logs", "writer"]) == *lines, "reader {reader}, turn {turn}");
                        assert_eq!(kubectl.ok(&["logs", "--tail=1", "writer"]).len(), 4000);
                        assert_eq!(kubectl.ok(&["exec", "writer", "--", "echo", "hi"]), "hi\n");
                    }
                });
            }
        });
        kubectl.ok(&["exec", "writer", "--", "touch", "/tmp/end"]);
        let ended = rk_tests::until("the follower ends with the container", SOON, || follow.ended().ok_or("it runs"));
        assert!(ended.success());
        assert!(follow.log() == format!("{lines}the end\n"), "the follower missed something");
        kubectl.ok(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/writer", "--timeout=60s"]);
        assert!(kubectl.ok(&["logs", "writer"]).ends_with("the end\n"));
    });
}

/// A megabyte of noise beside each pod's page, and a service of each policy for all of them.
const SPANNING: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{port: 80, targetPort: 8080}]\n---\napiVersion: v1\nkind: Service\nmetadata: {name: local}\nspec:\n  type: NodePort\n  externalTrafficPolicy: Local\n  selector: {app: web}\n  ports: [{port: 80, targetPort: 8080, nodePort: 30124}]\n";

fn reaches_all(cluster: &Cluster) {
    let pods = ["on-server", "on-edge"];
    cluster.kubectl(|kubectl| {
        for from in pods {
            for name in pods {
                let fetch = fetch("web.default.svc.cluster.local", "80");
                kubectl.until(SOON, &["exec", from, "--", "sh", "-c", &fetch], |text| text == format!("{name}\n"));
                let address = kubectl.ok(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"]);
                let noise = format!("{} | busybox sha256sum", fetch_path(&address, "8080", "noise"));
                let there = kubectl.ok(&["exec", name, "--", "busybox", "sha256sum", "/tmp/www/noise"]);
                let got = kubectl.ok(&["exec", from, "--", "sh", "-c", &noise]);
                assert_eq!(got.split(' ').next(), there.split(' ').next(), "from {from} to {name}");
            }
        }
    });
    // From another host, a node port of the Local policy leads to that node's own pods only.
    let machines = [&cluster.server, &cluster.agents[0]];
    for (from, to, name) in [(0, 1, "on-edge\n"), (1, 0, "on-server\n")] {
        let mut command = machines[from].host.command("/bin/busybox");
        command.args(["sh", "-c", &fetch(&machines[to].host.address, "30124")]);
        for _ in 0..4 {
            let page = rk_tests::process::check(&mut command, None).expect("ask the node port");
            assert_eq!(page, name);
        }
    }
}

#[test]
fn services_span_the_nodes_before_and_after_a_restart_of_the_server() {
    if !need::met("services_span_the_nodes_before_and_after_a_restart_of_the_server", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = two_nodes();
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], SPANNING);
        for node in ["server", "edge"] {
            kubectl.ok_with(&["apply", "-f", "-"], &pod(&format!("on-{node}"), node));
            kubectl.ok(&["label", "pod", &format!("on-{node}"), "app=web"]);
        }
        kubectl.ok(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
        for pod in ["on-server", "on-edge"] {
            let make = "until [ -d /tmp/www ]; do sleep 0.1; done; head -c 1000000 /dev/urandom > /tmp/www/noise";
            kubectl.ok(&["exec", pod, "--", "sh", "-c", make]);
        }
    });
    reaches_all(&cluster);
    cluster.server.stop(Signal::SIGKILL);
    cluster.server.start();
    cluster.api_answers();
    cluster.node_ready("server");
    reaches_all(&cluster);
}

#[test]
fn a_name_is_one_machines_until_its_node_is_deleted() {
    if !need::met("a_name_is_one_machines_until_its_node_is_deleted", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = two_nodes();
    for name in ["edge", "server"] {
        let flag = format!("--node-name={name}");
        let second = cluster.agent_with(&format!("second-{name}"), &[&flag], |_| {});
        let mut second = second.process.take().expect("it was started");
        rk_tests::until("the second of the name ends", SOON, || second.ended().ok_or("still running"));
        let refusal = format!("node name {name:?} belongs to another machine");
        assert!(second.log().contains(&refusal), "{}", second.log());
    }

    // As with upstream's kubelet, a deleted node is back when its agent starts again.
    cluster.kubectl(|kubectl| kubectl.ok(&["delete", "node", "edge"]));
    cluster.agents[0].stop(Signal::SIGTERM);
    cluster.agents[0].start();
    cluster.node_ready("edge");
}

#[test]
fn an_agent_that_is_first_waits_for_its_server() {
    if !need::met("an_agent_that_is_first_waits_for_its_server", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&[]);
    cluster.server.start();
    cluster.api_answers();
    cluster.server.stop(Signal::SIGTERM);
    let agent = cluster.agent("edge", &[]);
    let log = agent.folder.join("rk.log");
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    rk_tests::until("the agent says that it waits", SOON, || {
        if text().contains("server not reachable") { Ok(()) } else { Err(text()) }
    });
    cluster.server.start();
    cluster.node_ready("edge");
    assert_eq!(text().matches("server not reachable").count(), 1, "{}", text());
}
