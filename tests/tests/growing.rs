//! A cluster that grows from one server to five and shrinks to three, while its users go on: what runs on nodes that stay
//! notices nothing, and nobody has to be stopped or told.
#![forbid(unsafe_code)]

use rk_tests::cluster::{Machine, START, Server};
use rk_tests::members::{all_well, knows, leader};
use rk_tests::process::check;
use rk_tests::traffic::{Ask, Traffic};
use rk_tests::workload::{Web, client, endpoints, service};
use rk_tests::writer::{Target, Writer};
use rk_tests::{Cluster, need, one_at_a_time, until};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// The longest that users may wait for an answer, on a machine that has little to spare.
const NOTHING: Duration = Duration::from_secs(3);
/// The longest that a write may wait, whichever servers are asked for it: what docs/api-guarantees.md says of one of them.
const WRITE: Duration = Duration::from_secs(8);
/// The cluster's address for its own API, and for names.
const API: &str = "https://10.43.0.1:443";
const NAMES: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);
const SITE: &str = "web.default.svc.cluster.local";

/// Clients by the node that they live on, and the writer. A node that goes takes its clients with it.
struct Users {
    clients: BTreeMap<String, Vec<Traffic>>,
    writer: Writer,
    /// Where kubectl runs.
    seat: Target,
}

impl Users {
    fn start(cluster: &Cluster) -> Self {
        let edge = &cluster.agents[0];
        let page = Ask::Page(SocketAddrV4::new(service(&cluster.server, "web"), 80));
        let named = |servers| Ask::NamedPage { servers, name: SITE.to_owned() };
        let mut clients = BTreeMap::new();
        for (machine, pod) in [(edge, "client"), (&cluster.server, "client-of-server")] {
            let (host, inside) = (machine.host.network_namespace(), pod_of(cluster, machine, pod));
            let text = cluster.kubectl(|kubectl| kubectl.ok(&["exec", pod, "--", "cat", "/etc/resolv.conf"]));
            let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver ")?.parse().ok()).collect();
            let all = vec![
                Traffic::start(&format!("by address from the host {}", machine.name), &host, page.clone()),
                Traffic::start(&format!("by name from the host {}", machine.name), &host, named(vec![NAMES])),
                Traffic::start(&format!("by address from a pod of {}", machine.name), &inside, page.clone()),
                Traffic::start(&format!("by name from a pod of {}", machine.name), &inside, named(servers)),
            ];
            all.iter().for_each(|traffic| traffic.goes_on(1, START));
            clients.insert(machine.name.clone(), all);
        }
        let url = cluster.server.url();
        let seat =
            Target { host: edge.host.clone(), kubeconfig: cluster.server.kubeconfig(), url: Some(API.to_owned()) };
        let writer = Writer::balanced(vec![seat.clone(), Target { url: Some(url), ..seat.clone() }], "w");
        let users = Self { clients, writer, seat };
        users.noticed_nothing("at first");
        users
    }

    /// A server that has come is written to as well; one that goes stays in the list, as with a load balancer.
    fn write_also_to(&self, server: &Server) {
        self.writer.also(Target { url: Some(server.url()), ..self.seat.clone() });
    }

    /// All go on for a while, and nothing has failed or been slow since the last time.
    fn noticed_nothing(&self, when: &str) {
        let all = || self.clients.values().flatten();
        let wanted: Vec<_> = all().map(|traffic| (traffic, traffic.answered() + 20)).collect();
        wanted.into_iter().for_each(|(traffic, wanted)| traffic.has_answered(wanted, SOON));
        for traffic in all() {
            let longest = traffic.never_failed(when);
            assert!(longest < NOTHING, "{when}: {longest:?}");
        }
        let longest = self.writer.goes_on(3);
        println!("{when}: {} writes, longest wait {longest:?}", self.writer.count());
        self.writer.refused().iter().for_each(|refusal| println!("{when}: not written at once: {refusal}"));
        assert!(longest < WRITE, "{when}: {longest:?}");
    }
}

fn pod_of(cluster: &Cluster, machine: &Machine, pod: &str) -> std::fs::File {
    let uid = cluster.kubectl(|kubectl| kubectl.ok(&["get", "pod", pod, "-o=jsonpath={.metadata.uid}"]));
    machine.pod_namespace(&uid)
}

/// Pods of a web server on as many nodes as there are, one away at a time.
fn workload() -> String {
    let spread = "affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, \
                  podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}}]}}";
    let budget = "apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
";
    let web = Web { name: "web", replicas: 2, node_port: None, place: spread, lingers: 3 };
    [&web.manifest(), &client("client", "edge"), &client("client-of-server", "server"), budget].concat()
}

/// One server that is a node, and an agent called edge.
fn a_server_and_an_agent() -> Cluster {
    let mut cluster = Cluster::prepare(&[]).with_busybox();
    cluster.server.start();
    cluster.api_answers();
    cluster.agent_with("edge", &[], Machine::lay_down_busybox);
    cluster.node_ready("server");
    cluster.node_ready("edge");
    cluster.kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], &workload());
        kubectl.ok(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    });
    endpoints(&cluster.server, "web", 2, SOON);
    cluster
}

/// Two more servers, both at once.
fn grow(cluster: &mut Cluster, users: &Users, names: [&str; 2]) {
    let began = Instant::now();
    for name in names {
        let server = cluster.further_server(name, &[]);
        server.lay_down_busybox();
        server.start();
    }
    for name in names {
        cluster.named(name).api_answers();
        cluster.node_ready(name);
        users.write_also_to(cluster.named(name));
    }
    let count = cluster.all_servers().count();
    all_well(&cluster.server, count);
    println!("{count} servers after {:?}", began.elapsed());
    let urls: Vec<_> = cluster.all_servers().map(|server| server.url()).collect();
    knows(&cluster.agents[0], &urls);
}

/// As docs/servers.md has it: drain, remove, clear the machine, delete the node.
fn remove(cluster: &mut Cluster, users: &mut Users, name: &str) {
    let began = Instant::now();
    users.clients.remove(name);
    let witness = cluster.all_servers().find(|server| server.name != name).expect("there are others").name.clone();
    let witness = cluster.named(&witness);
    witness.kubectl(|kubectl| {
        let drain = ["drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s"];
        println!("{}", kubectl.ok(&drain));
    });
    let tell = |what: &str| println!("{name} {what} after {:?}", began.elapsed());
    tell("is drained");
    let text = check(&mut witness.member(&["remove", name]), None).expect("remove a member");
    assert!(text.contains("rk kill-all") && text.contains(&format!("kubectl delete node {name}")), "{text}");
    tell("is told to go");
    let gone = cluster.named(name);
    let process = gone.process.as_mut().expect("it was running");
    let status = until("the removed server ends", START, || process.ended().ok_or("it runs"));
    assert_eq!(status.code(), Some(78), "{}", gone.log());
    tell("has ended");
    gone.process = None;
    check(&mut gone.kill_all(), None).expect("clear the machine");
    tell("is cleared");
    let index = cluster.servers.iter().position(|server| server.name == name);
    match index {
        Some(index) => drop(cluster.servers.remove(index)),
        // The first server stays what it is to the harness; another takes its place.
        None => cluster.server = cluster.servers.remove(0),
    }
    cluster.kubectl(|kubectl| kubectl.ok(&["delete", "node", name]));
    let urls: Vec<_> = cluster.all_servers().map(|server| server.url()).collect();
    tell("is no node");
    all_well(&cluster.server, urls.len());
    tell("is no member");
    knows(&cluster.agents[0], &urls);
    tell("is known to be gone");
}

/// All servers, by their process.
fn processes(cluster: &mut Cluster) -> BTreeMap<String, u32> {
    let running = |server: &mut Server| {
        let process = server.process.as_mut().expect("it was started");
        assert!(process.ended().is_none(), "{} has ended", server.name);
        (server.name.clone(), process.pid())
    };
    cluster.all_servers().map(running).collect()
}

#[test]
fn one_server_becomes_three_and_five_and_three_again_and_its_users_notice_nothing() {
    if !need::met("one_server_becomes_three_and_five_and_three_again_and_its_users_notice_nothing", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = a_server_and_an_agent();
    let first = processes(&mut cluster);
    let mut users = Users::start(&cluster);

    grow(&mut cluster, &users, ["two", "three"]);
    users.noticed_nothing("one to three");
    grow(&mut cluster, &users, ["four", "five"]);
    users.noticed_nothing("three to five");
    let before = processes(&mut cluster);
    assert!(first.iter().all(|(name, pid)| before.get(name) == Some(pid)), "{first:?} {before:?}");

    // On every node, so also on those that go.
    cluster.kubectl(|kubectl| kubectl.ok(&["scale", "deployment", "web", "--replicas=6"]));
    endpoints(&cluster.server, "web", 6, SOON);
    users.noticed_nothing("a pod on every node");
    let leading = leader(&cluster.server);
    let follower = if leading == "five" { "four" } else { "five" };
    remove(&mut cluster, &mut users, follower);
    users.noticed_nothing("five to four");
    remove(&mut cluster, &mut users, &leading);
    users.noticed_nothing("four to three");
    endpoints(&cluster.server, "web", 6, SOON);

    let after = processes(&mut cluster);
    assert_eq!(after.len(), 3);
    assert!(after.iter().all(|(name, pid)| before.get(name) == Some(pid)), "{before:?} {after:?}");
    users.noticed_nothing("in the end");
    users.writer.end(cluster.all_servers().map(|server| &*server).collect::<Vec<_>>());
}
