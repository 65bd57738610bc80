//! An agent's place in the cluster: its certificates, and where it finds its server.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rk_tests::{Cluster, need, one_at_a_time};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
const LIFE: Duration = Duration::from_secs(20);

#[test]
fn certificates_are_renewed_while_the_agent_runs_and_after_they_expired() {
    if !need::met("certificates_are_renewed_while_the_agent_runs_and_after_they_expired", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&["--agent-certificate-life=20s"]);
    cluster.server.start();
    cluster.api_answers();
    let started = Instant::now();
    cluster.agent("edge", &[]);
    cluster.node_ready("edge");
    rk_tests::until("the first certificate has expired", SOON, || {
        if started.elapsed() > LIFE + Duration::from_secs(5) { Ok(()) } else { Err("not yet") }
    });
    let log = cluster.agents[0].log();
    assert!(log.contains("certificates renewed") && !log.contains("certificates not renewed"), "{log}");
    // Every connection is a new one now, and shows a certificate that holds.
    cluster.server.stop(Signal::SIGKILL);
    cluster.server.start();
    cluster.api_answers();
    let stats = ["get", "--raw", "/api/v1/nodes/edge/proxy/healthz"];
    cluster.kubectl(|kubectl| kubectl.until(SOON, &stats, |text| text == "ok"));
    cluster.node_ready("edge");

    // Away for longer than its certificate holds, it joins again by its token.
    cluster.agents[0].stop(Signal::SIGTERM);
    let stopped = Instant::now();
    rk_tests::until("the last certificate has expired", SOON, || {
        if stopped.elapsed() > LIFE + Duration::from_secs(2) { Ok(()) } else { Err("not yet") }
    });
    cluster.agents[0].start();
    cluster.kubectl(|kubectl| kubectl.until(SOON, &stats, |text| text == "ok"));
}

#[test]
fn a_server_that_has_moved_is_found_under_its_new_address() {
    if !need::met("a_server_that_has_moved_is_found_under_its_new_address", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&[]);
    cluster.server.start();
    cluster.api_answers();
    cluster.agent("edge", &[]);
    cluster.node_ready("edge");
    cluster.agents[0].stop(Signal::SIGTERM);
    cluster.server.stop(Signal::SIGTERM);
    for change in [["addr", "flush", "dev", "eth0"].as_slice(), &["addr", "add", "10.99.0.200/24", "dev", "eth0"]] {
        let mut ip = cluster.server.host.command("ip");
        rk_tests::process::check(ip.args(change), None).expect("give the server another address");
    }
    let mut route = cluster.server.host.command("ip");
    route.args(["route", "add", "default", "via", "10.99.0.1"]);
    rk_tests::process::check(&mut route, None).expect("give it its route again");
    cluster.server.start();
    cluster.api_answers();
    // All that the agent has learnt is where the server was.
    cluster.agents[0].set_flag("--server=https://10.99.0.200:6443");
    cluster.agents[0].start();
    let reached = || {
        let sockets = rk_tests::process::check(cluster.agents[0].host.command("ss").args(["-Htn"]), None);
        sockets.map_err(|error| format!("{error:#}"))
    };
    rk_tests::until("the agent speaks to the new address", SOON, || {
        let sockets = reached()?;
        if sockets.contains("10.99.0.200:6443") { Ok(()) } else { Err(sockets) }
    });
    let health = ["get", "--raw", "/api/v1/nodes/edge/proxy/healthz"];
    cluster.kubectl(|kubectl| kubectl.until(SOON, &health, |text| text == "ok"));
}
