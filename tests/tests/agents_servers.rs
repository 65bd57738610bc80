//! Agents of a cluster of three servers: the loss of any one of these is nothing to them.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rk_tests::cluster::Machine;
use rk_tests::members::knows;
use rk_tests::process::check;
use rk_tests::{Cluster, need, one_at_a_time};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// From the loss of a server until a node that hung on it does its work again, on a machine with time to spare. The
/// node's lease holds four times as long.
const GOAL: Duration = Duration::from_secs(10);

fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: rk.local/busybox:test\n    imagePullPolicy: Never\n    command: [sh, -c, \"echo up; exec sleep 100000\"]\n"
    )
}

/// Three servers, of which the last is no node, and an agent called edge that was told of the first alone.
fn three_servers() -> Cluster {
    let mut cluster = Cluster::prepare(&[]).with_busybox();
    cluster.server.start();
    cluster.api_answers();
    cluster.node_ready("server");
    let archive = cluster.server.data_dir().join("agent/images/busybox.tar");
    let lay_down = |machine: &Machine| {
        let images = machine.data_dir().join("agent/images");
        std::fs::create_dir_all(&images).expect("make the images folder");
        std::fs::copy(&archive, images.join("busybox.tar")).expect("copy the image");
    };
    let second = cluster.further_server("second", &[]);
    lay_down(second);
    second.start();
    second.api_answers();
    cluster.join_server("third", &["--disable-agent"]);
    cluster.agent_with("edge", &[], lay_down);
    cluster.node_ready("second");
    cluster.node_ready("edge");
    let urls = [cluster.server.url(), cluster.servers[0].url(), cluster.servers[1].url()];
    knows(&cluster.agents[0], &urls);
    cluster
}

/// Makes a pod by way of a server, and waits until it runs.
fn runs(server: &Machine, name: &str, node: &str) {
    server.kubectl(|kubectl| {
        let manifest = pod(name, node);
        rk_tests::until("the pod is made", SOON, || {
            check(&mut kubectl.command(&["apply", "-f", "-"]), Some(&manifest)).map_err(|error| format!("{error:#}"))
        });
        let phase = ["get", "pod", name, "-o", "jsonpath={.status.phase}"];
        kubectl.until(SOON, &phase, |text| text == "Running");
    });
}

/// Logs and exec, by way of a server.
fn is_reached(server: &Machine, name: &str) {
    server.kubectl(|kubectl| {
        kubectl.until(SOON, &["logs", name], |text| text == "up\n");
        kubectl.until(SOON, &["exec", name, "--", "echo", "hi"], |text| text == "hi\n");
    });
}

/// Since when the node's Ready condition is what it is.
fn ready_since(server: &Machine, node: &str) -> String {
    let path = "-o=jsonpath={range .status.conditions[?(@.type=='Ready')]}{.status} {.lastTransitionTime}{end}";
    server.kubectl(|kubectl| kubectl.until(SOON, &["get", "node", node, path], |text| text.starts_with("True ")))
}

/// Waits until the node's lease is renewed twice, and returns how long the first took.
fn lease_renewed(server: &Machine, node: &str) -> Duration {
    let started = Instant::now();
    let arguments = ["-n", "kube-node-lease", "get", "lease", node, "-o", "jsonpath={.spec.renewTime}"];
    server.kubectl(|kubectl| {
        let before = kubectl.until(SOON, &arguments, |text| !text.is_empty());
        let first = kubectl.until(SOON, &arguments, |text| text != before);
        let took = started.elapsed();
        kubectl.until(SOON, &arguments, |text| text != first);
        took
    })
}

#[test]
fn an_agent_outlives_the_server_that_it_joined_by() {
    if !need::met("an_agent_outlives_the_server_that_it_joined_by", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = three_servers();
    runs(&cluster.server, "on-edge", "edge");
    runs(&cluster.server, "on-server", "server");
    runs(&cluster.server, "on-second", "second");
    for server in [&cluster.server, &cluster.servers[0], &cluster.servers[1]] {
        for pod in ["on-edge", "on-server", "on-second"] {
            server.kubectl(|kubectl| kubectl.until(SOON, &["logs", pod], |text| text == "up\n"));
        }
        is_reached(server, "on-edge");
    }
    let since = ready_since(&cluster.servers[0], "edge");

    cluster.server.stop(Signal::SIGKILL);
    let killed = Instant::now();
    runs(&cluster.servers[0], "after-loss", "edge");
    println!("from kill -9 of a server until a new pod runs on the agent: {:?}", killed.elapsed());
    println!("the lease was renewed after {:?}", lease_renewed(&cluster.servers[1], "edge"));
    for server in &cluster.servers {
        is_reached(server, "after-loss");
        let refusal = server.kubectl(|kubectl| kubectl.fails(&["logs", "on-server"], None));
        assert!(refusal.contains("tunnel of node \"server\" to this server"), "{refusal}");
    }
    knows(&cluster.agents[0], &[cluster.servers[0].url(), cluster.servers[1].url()]);
    assert_eq!(ready_since(&cluster.servers[0], "edge"), since, "the node was never anything but Ready");

    // It was told of the first server alone, which is gone.
    cluster.agents[0].stop(Signal::SIGKILL);
    cluster.agents[0].start();
    lease_renewed(&cluster.servers[0], "edge");
    runs(&cluster.servers[1], "after-restart", "edge");
    is_reached(&cluster.servers[0], "after-restart");

    // Back, it is a server like any other.
    cluster.server.start();
    cluster.api_answers();
    is_reached(&cluster.server, "after-restart");
}

#[test]
fn no_server_that_freezes_or_is_cut_off_holds_up_an_agent() {
    if !need::met("no_server_that_freezes_or_is_cut_off_holds_up_an_agent", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = three_servers();
    let since = ready_since(&cluster.servers[0], "edge");
    // One of them is the agent's, one leads.
    for index in 0..3 {
        let (frozen, other) = {
            let mut all: Vec<&Machine> = vec![&cluster.server, &cluster.servers[0], &cluster.servers[1]];
            (all.remove(index), all[index % 2])
        };
        let process = frozen.process.as_ref().expect("it runs");
        process.signal(Signal::SIGSTOP);
        let stopped = Instant::now();
        runs(other, &format!("while-{index}"), "edge");
        let took = stopped.elapsed();
        println!("from SIGSTOP of {} until a new pod runs on the agent: {took:?}", frozen.name);
        assert!(took < GOAL * 3, "{took:?}");
        process.signal(Signal::SIGCONT);
        frozen.api_answers();
    }
    for index in 0..3 {
        let (cut, other) = {
            let mut all: Vec<&Machine> = vec![&cluster.server, &cluster.servers[0], &cluster.servers[1]];
            (all.remove(index), all[index % 2])
        };
        cluster.network().set_link(&cut.host, false);
        let started = Instant::now();
        runs(other, &format!("cut-{index}"), "edge");
        let took = started.elapsed();
        println!("from the cut of {} until a new pod runs on the agent: {took:?}", cut.name);
        assert!(took < GOAL * 3, "{took:?}");
        cluster.network().set_link(&cut.host, true);
        cut.api_answers();
    }
    assert_eq!(ready_since(&cluster.servers[0], "edge"), since, "the node was never anything but Ready");
    is_reached(&cluster.server, "while-0");
    cluster.agents[0].stop(Signal::SIGTERM);
}

#[test]
fn any_living_server_of_those_given_will_do() {
    if !need::met("any_living_server_of_those_given_will_do", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(&[]);
    // Nobody has the address; nobody listens on the port.
    let (absent, closed) = ("https://10.99.0.250:6443", format!("https://{}:6444", cluster.server.host.address));
    let agent = cluster.agent_with("edge", &[], |_| {});
    agent.stop(Signal::SIGKILL);
    if agent.data_dir().exists() {
        std::fs::remove_dir_all(agent.data_dir()).expect("forget what it learnt");
    }
    let living = format!("https://{}", cluster.server.host.address);
    cluster.agents[0].drop_flags("--server=");
    cluster.agents[0].set_flag(&format!("--server={absent},{closed}"));
    cluster.agents[0].set_flag(&format!("--server={living}"));
    cluster.agents[0].set_flag("--node-name=several");
    cluster.agents[0].start();
    cluster.node_ready("several");
    knows(&cluster.agents[0], &[cluster.server.url()]);
}
