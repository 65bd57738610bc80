//! Servers of one cluster that come back with other addresses: one after another, most of them at once, and all of them.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rk_tests::cluster::{Machine, Server};
use rk_tests::image::fetch;
use rk_tests::members::{all_well, leader, members};
use rk_tests::process::check;
use rk_tests::{Cluster, need, one_at_a_time, until};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["server", "second", "third"];

fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: rk.local/busybox:test\n    imagePullPolicy: Never\n    command: [sh, -c, \"mkdir /tmp/www; hostname > /tmp/www/index.html; echo up; exec httpd -f -p 8080 -h /tmp/www\"]\n"
    )
}

/// Three servers, of which the first is a node, and an agent called edge; a pod on each node.
fn three_and_an_agent() -> Cluster {
    let mut cluster = Cluster::prepare(&[]).with_busybox();
    cluster.server.start();
    cluster.api_answers();
    for name in ["second", "third"] {
        let server = cluster.join_server(name, &["--disable-agent"]);
        server.drop_flags("--server=");
        server.drop_flags("--token=");
    }
    cluster.agent_with("edge", &[], Machine::lay_down_busybox);
    cluster.node_ready("server");
    cluster.node_ready("edge");
    cluster.kubectl(|kubectl| {
        for node in ["server", "edge"] {
            kubectl.ok_with(&["apply", "-f", "-"], &pod(&format!("on-{node}"), node));
        }
        kubectl.ok(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    });
    all_well(&cluster.server, 3);
    cluster
}

/// Stops servers, gives their machines other addresses, and starts them again.
fn move_all(cluster: &mut Cluster, names: &[&str], addresses: &[&str], signal: Signal) {
    for name in names {
        cluster.named(name).stop(signal);
    }
    for (name, address) in names.iter().zip(addresses) {
        let mut host = cluster.named(name).host.clone();
        cluster.network().move_host(&mut host, address);
        cluster.named(name).host = host;
    }
    for name in names {
        cluster.named(name).start();
    }
}

fn urls(cluster: &mut Cluster) -> Vec<String> {
    cluster.all_servers().map(|server| server.url()).collect()
}

/// Every server shows every server where it is now, and the cluster works by way of each of these addresses.
fn are_where_they_are(cluster: &mut Cluster) {
    let urls = urls(cluster);
    for server in cluster.all_servers() {
        server.api_answers();
        until(&format!("{} knows where the servers are", server.name), SOON, || {
            let members = members(server)?;
            let there = |url: &String| {
                let address = url.trim_start_matches("https://");
                members.iter().any(|member| member["addresses"] == serde_json::json!([address]))
            };
            if urls.iter().all(there) { Ok(()) } else { Err(format!("{members:?}")) }
        });
    }
    all_well(&cluster.server, 3);
    // The certificates hold for the new addresses: the agent's host asks each server there.
    let kubeconfig = cluster.server.kubeconfig();
    for url in &urls {
        let mut get = cluster.agents[0].host.command("kubectl");
        get.arg("--kubeconfig").arg(&kubeconfig).args(["--server", url, "get", "--raw", "/readyz"]);
        assert_eq!(check(&mut get, None).expect("the server answers at its new address"), "ok");
    }
    until("the agent knows where the servers are", SOON, || {
        let kept = std::fs::read_to_string(cluster.agents[0].data_dir().join("agent/servers.json")).unwrap_or_default();
        let current = kept.split("\"former\"").next().unwrap_or_default();
        let right = urls.iter().all(|url| current.contains(url)) && current.matches("https://").count() == urls.len();
        if right { Ok(()) } else { Err(kept) }
    });
}

/// Pods run on, are reached through each server, and reach each other.
fn pods_are_reached(cluster: &mut Cluster) {
    for server in cluster.all_servers() {
        server.kubectl(|kubectl| {
            for pod in ["on-server", "on-edge"] {
                kubectl.until(SOON, &["logs", pod], |text| text == "up\n");
            }
        });
    }
    cluster.kubectl(|kubectl| {
        for (from, to) in [("on-server", "on-edge"), ("on-edge", "on-server")] {
            let address = kubectl.ok(&["get", "pod", to, "-o", "jsonpath={.status.podIP}"]);
            let fetch = ["exec", from, "--", "sh", "-c", &fetch(&address, "8080")].map(str::to_owned);
            let fetch = fetch.each_ref().map(String::as_str);
            kubectl.until(SOON, &fetch, |text| text == format!("{to}\n"));
        }
    });
}

/// Since when the node's Ready condition is what it is.
fn ready_since(server: &Server, node: &str) -> String {
    let path = "-o=jsonpath={range .status.conditions[?(@.type=='Ready')]}{.status} {.lastTransitionTime}{end}";
    server.kubectl(|kubectl| kubectl.until(SOON, &["get", "node", node, path], |text| text.starts_with("True ")))
}

#[test]
fn servers_come_back_with_other_addresses() {
    if !need::met("servers_come_back_with_other_addresses", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = three_and_an_agent();
    let since = ready_since(&cluster.server, "edge");

    // One after another, the leader first. It stops without a farewell, and the others in order.
    let mut order = NAMES.to_vec();
    let leading = leader(&cluster.server);
    order.sort_by_key(|name| *name != leading);
    for (number, name) in order.iter().enumerate() {
        let began = Instant::now();
        let signal = if number == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
        move_all(&mut cluster, &[name], &[&format!("10.99.0.10{number}")], signal);
        are_where_they_are(&mut cluster);
        println!("{name} moved: known everywhere after {:?}", began.elapsed());
    }
    pods_are_reached(&mut cluster);
    let address = "-o=jsonpath={.status.addresses[?(@.type=='InternalIP')].address}";
    let own = cluster.server.host.address.clone();
    cluster.kubectl(|kubectl| kubectl.until(SOON, &["get", "node", "server", address], |text| text == own));
    assert_eq!(ready_since(&cluster.server, "edge"), since, "the agent was never anything but Ready");

    // Two of three: there is no majority where it was, so nobody could record where they are now.
    let began = Instant::now();
    let leading = leader(&cluster.server);
    let two: Vec<_> = [leading.as_str()].into_iter().chain(NAMES.into_iter().filter(|name| *name != leading)).collect();
    move_all(&mut cluster, &two[..2], &["10.99.0.110", "10.99.0.111"], Signal::SIGKILL);
    are_where_they_are(&mut cluster);
    println!("two of three moved: known everywhere after {:?}", began.elapsed());
    assert_eq!(ready_since(&cluster.server, "edge"), since, "the agent was never anything but Ready");

    // All: no server finds another any more, unless one of them is told where.
    let began = Instant::now();
    for name in &NAMES[1..] {
        cluster.named(name).set_flag("--server=https://10.99.0.120:6443");
    }
    cluster.agents[0].stop(Signal::SIGTERM);
    move_all(&mut cluster, &NAMES, &["10.99.0.120", "10.99.0.121", "10.99.0.122"], Signal::SIGKILL);
    cluster.agents[0].set_flag("--server=https://10.99.0.120:6443");
    cluster.agents[0].start();
    are_where_they_are(&mut cluster);
    println!("all moved: known everywhere after {:?}", began.elapsed());
    pods_are_reached(&mut cluster);
}

#[test]
fn a_server_whose_store_is_gone_comes_back_under_its_name_and_its_pods_go_on() {
    if !need::met("a_server_whose_store_is_gone_comes_back_under_its_name_and_its_pods_go_on", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = three_and_an_agent();
    let (token, through) = (
        std::fs::read_to_string(cluster.server.data_dir().join("server/token")).expect("read the token"),
        cluster.servers[0].url(),
    );
    let pod = |server: &Server| {
        let path = "-o=jsonpath={.metadata.uid} {.status.podIP} {.status.containerStatuses[0].restartCount}";
        server.kubectl(|kubectl| kubectl.ok(&["get", "pod", "on-server", path]))
    };
    let before = pod(&cluster.server);
    cluster.server.stop(Signal::SIGKILL);
    std::fs::remove_dir_all(cluster.server.data_dir().join("server")).expect("wipe the server's part");
    cluster.server.set_flag(&format!("--server={through}"));
    cluster.server.set_flag(&format!("--token={}", token.trim()));
    // Its place is taken, by itself as it was: nobody but a person can know that this one is gone for good.
    cluster.server.start();
    let process = cluster.server.process.as_mut().expect("just started");
    let status = until("the server ends by itself", SOON, || process.ended().ok_or("it runs"));
    cluster.server.process = None;
    assert!(!status.success() && cluster.server.log().contains("rk member remove server"), "{}", cluster.server.log());
    check(&mut cluster.servers[0].member(&["remove", "server"]), None).expect("remove the member that is gone");
    let began = Instant::now();
    cluster.server.start();
    cluster.api_answers();
    all_well(&cluster.servers[0], 3);
    cluster.node_ready("server");
    println!("a wiped server is back after {:?}", began.elapsed());
    assert_eq!(pod(&cluster.server), before, "the pod is the same, and was not restarted");
    pods_are_reached(&mut cluster);
    let new = "-o=jsonpath={.status.phase}";
    cluster.server.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], &self::pod("after", "server"));
        kubectl.until(SOON, &["get", "pod", "after", new], |text| text == "Running");
    });
}
