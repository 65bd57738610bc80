//! What runs on one of several servers at a time: it is followed when its server is lost, and handed over when it stops.
//! The servers that live are the endpoints of the `kubernetes` Service.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rk_tests::cluster::{START, Server};
use rk_tests::need::{self, Need};
use rk_tests::{Cluster, one_at_a_time, until};
use std::time::{Duration, Instant};

const SERVERS: &[Need] = &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter")];
const BARE: &[&str] = &["--disable-agent"];
const LEASES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
/// A Lease that nobody renews lasts 15 s; on top come an election of the store and a busy machine.
const FOLLOWED: Duration = Duration::from_secs(45);

fn named<'a>(cluster: &'a mut Cluster, name: &str) -> &'a mut Server {
    cluster.all_servers().find(|server| server.name == name).expect("there is such a server")
}

/// The server that holds a Lease; nothing while nobody does.
fn holder(server: &Server, lease: &str) -> Option<String> {
    let path = "jsonpath={.spec.holderIdentity}";
    let identity =
        server.kubectl(|kubectl| kubectl.run(&["get", "lease", "-n", "kube-system", lease, "-o", path]).ok())?;
    let (name, _) = identity.split_once('_')?;
    Some(name.to_owned())
}

fn until_endpoints(server: &Server, count: usize) {
    let path = "jsonpath={.endpoints[*].addresses[0]}";
    let read = ["get", "endpointslice", "kubernetes", "-o", path];
    server.kubectl(|kubectl| kubectl.until(FOLLOWED, &read, |text| text.split_whitespace().count() == count));
}

#[test]
fn controllers_and_scheduler_run_on_one_server_and_another_follows_when_it_is_lost() {
    if !need::met("controllers_and_scheduler_run_on_one_server_and_another_follows_when_it_is_lost", SERVERS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(BARE);
    for name in ["two", "three"] {
        cluster.join_server(name, BARE);
    }
    until_endpoints(&cluster.server, 3);
    for (round, how) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        let asked = &cluster.server;
        let held = until("the controllers' lease is held", START, || holder(asked, LEASES[0]).ok_or("by nobody"));
        let names: Vec<String> = cluster.all_servers().map(|server| server.name.clone()).collect();
        let witness = names.iter().find(|name| **name != held).expect("there is one").clone();
        named(&mut cluster, &held).stop(how);
        let stopped = Instant::now();
        let witness = &*named(&mut cluster, &witness);
        for lease in LEASES {
            until(&format!("{lease} is followed"), FOLLOWED, || match holder(witness, lease) {
                Some(next) if next != held => Ok(()),
                other => Err(format!("held by {other:?}")),
            });
        }
        println!("{how}: both leases are held by others after {:?}", stopped.elapsed());
        let name = format!("web-{round}");
        let sets = ["get", "replicasets", "-l", &format!("app={name}"), "-o", "name"];
        witness.kubectl(|kubectl| {
            kubectl.ok(&["create", "deployment", &name, "--image=none"]);
            kubectl.until(START, &sets, |found| found.contains(&name))
        });
        until_endpoints(witness, 2);
        named(&mut cluster, &held).start();
        named(&mut cluster, &held).api_answers();
        until_endpoints(&cluster.server, 3);
    }
}
