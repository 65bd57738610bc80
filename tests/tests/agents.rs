//! A second machine: joining, pods across nodes, and the node's API through its outbound connection.
#![forbid(unsafe_code)]

use rk_tests::image::fetch;
use rk_tests::{Cluster, need, one_at_a_time};
use std::time::Duration;

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
    let agent = cluster.agent("edge", &[]);
    let mut import = agent.rk(&["images", "import"]);
    import.arg(&archive).arg(format!("--state-dir={}", agent.folder.join("run").display()));
    cluster.node_ready("edge");
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
            rk_tests::process::Background::start(kubectl.command(&["port-forward", "pod/web", "18080:8080"]), &log);
        let mut ask = cluster.server.host.command("/bin/busybox");
        ask.args(["sh", "-c", &fetch("127.0.0.1", "18080")]);
        rk_tests::until("the forwarded port answers", SOON, || {
            let page = rk_tests::process::check(&mut ask, None).map_err(|error| format!("{error:#}"))?;
            if page == "web\n" { Ok(()) } else { Err(format!("got {page:?}; {}", forward.log())) }
        });
    });
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
    cluster.agents[0].stop(nix::sys::signal::Signal::SIGTERM);
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
    cluster.server.stop(nix::sys::signal::Signal::SIGTERM);
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
