//! Servers that are nodes as well, lost one after another while clients ask a service all the time: what the users of a
//! cluster notice of it, which is to be nothing.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rk_tests::cluster::{Machine, START, Server};
use rk_tests::members::{all_well, leader};
use rk_tests::need::Need;
use rk_tests::process::check;
use rk_tests::traffic::{Ask, Traffic};
use rk_tests::workload::{Web, client, endpoints, service};
use rk_tests::{Cluster, need, one_at_a_time, until};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// A machine that is cut off keeps its endpoints until its node is NotReady, 40 s to 50 s later.
const GIVEN_UP: Duration = Duration::from_secs(90);
/// The longest that clients of endpoints that live may wait, on a machine that has little to spare.
const NOTHING: Duration = Duration::from_secs(3);
const NODE_PORT: u16 = 30080;
const EVERYWHERE: usize = 4;

/// Pods of the agent alone, and one pod on each node.
fn workload() -> String {
    let spread = "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: \
                  kubernetes.io/hostname, labelSelector: {matchLabels: {app: spread}}}]}}";
    let steady = Web {
        name: "steady",
        replicas: 2,
        node_port: Some(NODE_PORT),
        place: "nodeSelector: {kubernetes.io/hostname: edge}",
        lingers: 0,
    };
    [
        steady.manifest(),
        Web { name: "spread", replicas: EVERYWHERE, node_port: None, place: spread, lingers: 0 }.manifest(),
        client("client", "edge"),
        client("client-of-server", "server"),
    ]
    .concat()
}

/// Three servers that are nodes, and an agent called edge.
fn three_nodes_and_an_agent() -> Cluster {
    let mut cluster = Cluster::prepare(&[]).with_busybox();
    cluster.server.start();
    cluster.api_answers();
    for name in ["second", "third"] {
        let server = cluster.further_server(name, &[]);
        server.lay_down_busybox();
        server.start();
        server.api_answers();
    }
    cluster.agent_with("edge", &[], Machine::lay_down_busybox);
    for node in ["server", "second", "third", "edge"] {
        cluster.node_ready(node);
    }
    all_well(&cluster.server, 3);
    cluster
}

/// What each pod is: its node, and all that must not change as long as nobody touches it.
fn pods(server: &Server) -> BTreeMap<String, String> {
    let path = "-o=jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.phase} {.status.podIP} \
                {.metadata.uid} {.status.containerStatuses[0].restartCount} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let text = server.kubectl(|kubectl| kubectl.until(SOON, &["get", "pods", path], |text| !text.is_empty()));
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, rest)| (name.to_owned(), rest.to_owned()))
        .collect()
}

/// The pods that a machine has, whoever knows of them.
fn sandboxes(machine: &Machine) -> BTreeSet<String> {
    let entries = std::fs::read_dir(machine.folder.join("run/netns")).expect("list the pods' networks");
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Clients of what must never fail; those of one server's machine, which may be cut off; and one of what is spread over all
/// nodes.
struct Clients {
    steady: Vec<Traffic>,
    names: Traffic,
    on_server: Traffic,
    names_on_server: Traffic,
    spread: Traffic,
}

impl Clients {
    fn start(cluster: &Cluster) -> Self {
        let uid = cluster.kubectl(|kubectl| kubectl.ok(&["get", "pod", "client", "-o=jsonpath={.metadata.uid}"]));
        let edge = &cluster.agents[0];
        let (host, pod) = (edge.host.network_namespace(), edge.pod_namespace(&uid));
        let page = |ip, port| Ask::Page(SocketAddrV4::new(ip, port));
        let uid =
            cluster.kubectl(|kubectl| kubectl.ok(&["get", "pod", "client-of-server", "-o=jsonpath={.metadata.uid}"]));
        let other = cluster.server.pod_namespace(&uid);
        let (steady, spread) = (service(&cluster.server, "steady"), service(&cluster.server, "spread"));
        let own = edge.host.address.parse().expect("an address");
        // As it stands in a pod's resolv.conf.
        let text =
            cluster.kubectl(|kubectl| kubectl.ok(&["exec", "client-of-server", "--", "cat", "/etc/resolv.conf"]));
        let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver ")?.parse().ok());
        let names = Ask::Name { servers: servers.collect(), name: "steady.default.svc.cluster.local".to_owned() };
        let clients = Self {
            steady: vec![
                Traffic::start("the service from the agent's host", &host, page(steady, 80)),
                Traffic::start("the service from a pod", &pod, page(steady, 80)),
                Traffic::start("the node port of the agent", &host, page(own, NODE_PORT)),
            ],
            names: Traffic::start("names in a pod", &pod, names.clone()),
            on_server: Traffic::start("the service from a pod of the server", &other, page(steady, 80)),
            names_on_server: Traffic::start("names in a pod of the server", &other, names),
            spread: Traffic::start("the service on all nodes", &pod, page(spread, 80)),
        };
        clients.all().for_each(|traffic| traffic.goes_on(1, START));
        clients.all().for_each(|traffic| drop(traffic.take()));
        clients
    }

    fn all(&self) -> impl Iterator<Item = &Traffic> {
        self.steady.iter().chain([&self.names, &self.spread, &self.on_server, &self.names_on_server])
    }

    /// All of them have so many more answers, and a few of those that are slow while the server is frozen.
    fn go_on(&self, more: usize) {
        let more = |traffic| if std::ptr::eq(traffic, &raw const self.names_on_server) { 2 } else { more };
        let wanted: Vec<_> = self.all().map(|traffic| (traffic, traffic.answered() + more(traffic))).collect();
        wanted.into_iter().for_each(|(traffic, wanted)| traffic.has_answered(wanted, SOON));
    }

    /// Nothing that lives on the agent alone has failed or been slow.
    fn noticed_nothing(&self, when: &str) {
        for traffic in self.steady.iter().chain([&self.names]) {
            let longest = traffic.never_failed(when);
            assert!(longest < NOTHING, "{when}: {longest:?}");
        }
    }
}

/// kubectl's writes by this server are acknowledged.
fn works(server: &Server, name: &str) -> Duration {
    let began = Instant::now();
    server.kubectl(|kubectl| {
        until("a write is acknowledged", SOON, || {
            let outcome = kubectl.run(&["create", "configmap", name, "--request-timeout=5s"]);
            outcome.or_else(|error| {
                if format!("{error:#}").contains("already exists") {
                    Ok(String::new())
                } else {
                    Err(format!("{error:#}"))
                }
            })
        })
    });
    began.elapsed()
}

/// The names of the servers, and one that is not `name`.
fn other_than(cluster: &mut Cluster, name: &str) -> String {
    cluster.all_servers().find(|server| server.name != name).expect("there are others").name.clone()
}

#[test]
fn pods_and_services_notice_nothing_when_a_server_is_killed_or_frozen_or_cut_off() {
    let needs = [need::CLUSTER, &[Need::Program("nft")]].concat();
    if !need::met("pods_and_services_notice_nothing_when_a_server_is_killed_or_frozen_or_cut_off", &needs) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = three_nodes_and_an_agent();
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], &workload());
        kubectl.ok(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    });
    endpoints(&cluster.server, "spread", EVERYWHERE, SOON);
    let before = pods(&cluster.server);
    let kept: Vec<_> = cluster.all_servers().map(|server| sandboxes(server)).collect();
    let clients = Clients::start(&cluster);

    for name in ["server", "second", "third"] {
        killed(&mut cluster, &clients, name);
    }
    let leading = leader(&cluster.server);
    let follower = other_than(&mut cluster, &leading);
    for name in [leading, follower] {
        frozen(&mut cluster, &clients, &name);
    }
    let leading = leader(&cluster.server);
    cut_off(&mut cluster, &clients, &leading);

    assert_eq!(pods(&cluster.server), before, "no pod is another one, and none was restarted");
    let now: Vec<_> = cluster.all_servers().map(|server| sandboxes(server)).collect();
    assert_eq!(now, kept, "no pod has a twin, and none is left over");
}

/// `kill -9` leaves the containers alone, so clients notice nothing at all, wherever the pods are.
fn killed(cluster: &mut Cluster, clients: &Clients, name: &str) {
    let witness = other_than(cluster, name);
    cluster.named(name).stop(Signal::SIGKILL);
    let waited = works(cluster.named(&witness), &format!("killed-{name}"));
    println!("{name} killed: the next write by {witness} took {waited:?}");
    clients.go_on(20);
    cluster.named(name).start();
    cluster.named(name).api_answers();
    all_well(cluster.named(&witness), 3);
    clients.go_on(20);
    let when = format!("{name} killed and started");
    clients.noticed_nothing(&when);
    clients.spread.never_failed(&when);
    clients.on_server.never_failed(&when);
    clients.names_on_server.never_failed(&when);
}

/// A process that stands still: its containers go on, as after `kill -9`.
fn frozen(cluster: &mut Cluster, clients: &Clients, name: &str) {
    let witness = other_than(cluster, name);
    let signal = |cluster: &mut Cluster, signal| {
        cluster.named(name).process.as_ref().expect("it runs").signal(signal);
    };
    signal(cluster, Signal::SIGSTOP);
    let waited = works(cluster.named(&witness), &format!("frozen-{name}"));
    println!("{name} frozen: the next write by {witness} took {waited:?}");
    clients.go_on(20);
    signal(cluster, Signal::SIGCONT);
    cluster.named(name).api_answers();
    all_well(cluster.named(&witness), 3);
    let when = format!("{name} frozen and thawed");
    clients.noticed_nothing(&when);
    clients.spread.never_failed(&when);
    clients.on_server.never_failed(&when);
    clients.names_on_server.never_failed(&when);
}

/// A machine that is cut off takes its pods with it: their service heals when its node is given up, and takes them back.
fn cut_off(cluster: &mut Cluster, clients: &Clients, name: &str) {
    let witness = other_than(cluster, name);
    let host = cluster.named(name).host.clone();
    let ready = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    clients.all().for_each(|traffic| drop(traffic.take()));
    let edge = cluster.agents[0].host.clone();
    let here = format!("--field-selector=spec.nodeName={name}");
    let lost = ["get", "pods", "-l=app=spread", &here, "-o=jsonpath={.items[*].status.podIP}"];
    let lost = cluster.kubectl(|kubectl| kubectl.ok(&lost));
    cluster.network().set_link(&host, false);
    let cut = Instant::now();
    let waited = works(cluster.named(&witness), &format!("cut-{name}"));
    println!("{name} cut off: the next write by {witness} took {waited:?}");
    let witness = cluster.named(&witness);
    endpoints(witness, "spread", EVERYWHERE - 1, GIVEN_UP);
    println!("{name} cut off: its endpoint is gone after {:?}", cut.elapsed());
    // From here on nobody is sent there, from whichever port he asks.
    until("the agent's node sends nobody there", SOON, || {
        let table = check(edge.command("nft").args(["list", "map", "ip", "rk", "endpoints"]), None);
        let table = table.map_err(|error| format!("{error:#}"))?;
        if table.contains(&format!("{lost} .")) { Err(table) } else { Ok(()) }
    });
    let healed = Instant::now();
    clients.spread.goes_on(100, SOON);
    let seen = clients.spread.take();
    let (late, early): (Vec<_>, Vec<_>) = seen.failures.iter().partition(|(asked, _)| *asked > healed);
    println!("{name} cut off: of {} requests {} failed until then", seen.answered(), early.len());
    assert!(late.is_empty(), "{late:?}");
    witness.kubectl(|kubectl| kubectl.until(SOON, &["get", "node", name, ready], |text| text != "True"));
    cluster.network().set_link(&host, true);
    let mended = Instant::now();
    cluster.named(name).api_answers();
    cluster.node_ready(name);
    endpoints(&cluster.server, "spread", EVERYWHERE, SOON);
    println!("{name} mended: all endpoints are back after {:?}", mended.elapsed());
    clients.go_on(20);
    clients.spread.never_failed(&format!("{name} mended"));
    clients.noticed_nothing(&format!("{name} cut off and mended"));
    all_well(&cluster.server, 3);
}
