//! Pods on one host: attach, detach, restart, teardown.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use net::{HostPort, PodAttach, Protocol};

use crate::lab::{Ns, Segment, able, eventually};

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    (ip, port).into()
}

#[test]
fn pods_of_one_host_reach_each_other_the_host_and_the_outside() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let (a, b) = (host.pod("a"), host.pod("b"));
    assert_eq!(a.addr.ip, Ipv4Addr::new(10, 42, 1, 2));
    let _server = b.ns.serve("b", 80);
    let (name, client) = a.ns.ask(at(b.addr.ip, 80)).unwrap();
    assert_eq!((name.as_str(), client), ("b", a.addr.ip.into()), "the pod's own address is seen");
    assert_eq!(host.ns.ask(at(b.addr.ip, 80)).unwrap().0, "b");
    let _node = host.ns.serve("node", 81);
    assert_eq!(a.ns.ask(at(host.ip, 81)).unwrap().0, "node");
    let _outside = segment.ns.serve("outside", 82);
    let (name, client) = a.ns.ask(at(Ipv4Addr::new(192, 0, 2, 254), 82)).unwrap();
    assert_eq!((name.as_str(), client), ("outside", host.ip.into()), "the node's address is seen outside");
}

#[test]
fn attach_is_idempotent_and_mends_a_half_made_pod() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let a = host.pod("a");
    let again = |path| {
        let attach = PodAttach { pod_id: "a".into(), netns: path, host_ports: Vec::new() };
        host.with(async move |net| net.attach(attach).await).unwrap()
    };
    assert_eq!(again(a.ns.path()), a.addr);
    a.ns.ip(&["route", "del", "default"]);
    assert_eq!(again(a.ns.path()), a.addr);
    let _node = host.ns.serve("node", 81);
    assert_eq!(a.ns.ask(at(host.ip, 81)).unwrap().0, "node");
    // The pod's sandbox was made anew: another namespace, the same pod.
    let other = Ns::new("a2");
    assert_eq!(again(other.path()), a.addr);
    assert_eq!(other.ask(at(host.ip, 81)).unwrap().0, "node");
}

#[test]
fn a_restart_keeps_addresses_and_connections_and_sweeps_vanished_pods() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let mut host = segment.host(1);
    let (a, b) = (host.pod("a"), host.pod("b"));
    let gone = host.pod("gone");
    let _server = b.ns.serve("b", 80);
    let links = host.ns.ip(&["-o", "link"]);
    drop(gone.ns);
    host.start();
    assert_eq!(host.with(async |net| net.address("a")), Some(a.addr.clone()));
    assert_eq!(a.ns.ask(at(b.addr.ip, 80)).unwrap().0, "b");
    let alive = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    assert_eq!(host.with(async move |net| net.retain(&alive).await).unwrap(), ["gone"]);
    assert_eq!(host.with(async |net| net.address("gone")), None);
    assert!(links.contains(&a.addr.host_interface));
    let c = host.pod("c");
    assert!(![a.addr.ip, b.addr.ip].contains(&c.addr.ip));
}

#[test]
fn leases_survive_the_loss_of_their_file() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let mut host = segment.host_with(1, |_| ());
    let a = host.pod("a");
    host.stop();
    let file = host.state().join("leases.json");
    std::fs::write(&file, "not json").unwrap();
    host.start();
    assert_eq!(host.with(async |net| net.address("a")), Some(a.addr));
}

#[test]
fn host_ports_lead_to_the_pod_until_it_goes() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let mut host = segment.host(1);
    let ns = Ns::new("hp");
    let port = |protocol, host_ip| HostPort { host_ip, host_port: 8080, pod_port: 80, protocol };
    let host_ports = vec![port(Protocol::Tcp, None), port(Protocol::Udp, Some(host.ip))];
    let attach = PodAttach { pod_id: "hp".into(), netns: ns.path(), host_ports };
    host.with(async move |net| net.attach(attach).await).unwrap();
    let _server = ns.serve("hp", 80);
    let outside = &segment.ns;
    let (name, client) = outside.ask(at(host.ip, 8080)).unwrap();
    assert_eq!((name.as_str(), client.to_string().as_str()), ("hp", "192.0.2.254"));
    assert_eq!(outside.ask_udp(at(host.ip, 8080)).unwrap().0, "hp");
    assert_eq!(host.ns.ask(at(Ipv4Addr::LOCALHOST, 8080)).unwrap().0, "hp");
    assert_eq!(ns.ask(at(host.ip, 8080)).unwrap().0, "hp", "through its own host port");
    host.start();
    assert_eq!(outside.ask(at(host.ip, 8080)).unwrap().0, "hp");
    host.with(async |net| net.detach("hp").await).unwrap();
    assert!(outside.ask(at(host.ip, 8080)).is_err());
}

#[test]
fn teardown_leaves_nothing() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let mut probe = segment.host_with(9, |config| config.pod_cidr = None);
    let look = |ns: &Ns| {
        let links = ns.ip(&["-o", "link"]);
        let names: Vec<String> = links.lines().filter_map(|l| l.split(": ").nth(1)).map(str::to_owned).collect();
        (names.len(), ns.ip(&["route"]).lines().count(), ns.nft(&["list", "ruleset"]))
    };
    probe.ns.nft(&["add", "table", "ip", "foreign"]);
    let before = look(&probe.ns);
    let range: ipnet::Ipv4Net = "10.42.9.0/24".parse().unwrap();
    probe.with(async move |net| net.set_pod_cidr(range).await).unwrap();
    let _pod = probe.pod("a");
    let peer = net::Peer { node_ip: Ipv4Addr::new(192, 0, 2, 7), pod_cidr: "10.42.7.0/24".parse().unwrap() };
    probe.with(async move |net| net.set_peers(vec![peer]).await).unwrap();
    assert_ne!(look(&probe.ns), before);
    probe.with(async |net| net.teardown().await).unwrap();
    assert_eq!(look(&probe.ns), before);
    // And as an uninstaller does it: another process, which only knows the names.
    probe.start();
    probe.with(async move |net| net.set_pod_cidr(range).await).unwrap();
    let _other = probe.pod("b");
    probe.stop();
    let config = probe.config();
    probe.ns.enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(net::Net::remove(&config)).unwrap();
    });
    assert_eq!(look(&probe.ns), before);
    assert!(!probe.state().join("leases.json").exists());
}

#[test]
fn a_flushed_ruleset_and_a_deleted_bridge_are_put_back() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let a = host.pod("a");
    host.ns.nft(&["flush", "ruleset"]);
    host.ns.ip(&["link", "del", "rk0"]);
    host.with(async |net| net.repair().await).unwrap();
    let _outside = segment.ns.serve("outside", 82);
    let outside = at(Ipv4Addr::new(192, 0, 2, 254), 82);
    let (_, client) = eventually("masquerade is back", || a.ns.ask(outside));
    assert_eq!(client, host.ip);
}

#[test]
fn many_pods_at_once_each_get_their_own_address() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let pods: Vec<Ns> = (0..20).map(|_| Ns::new("many")).collect();
    let attaches: Vec<PodAttach> = pods
        .iter()
        .enumerate()
        .map(|(number, ns)| PodAttach { pod_id: format!("pod-{number}"), netns: ns.path(), host_ports: Vec::new() })
        .collect();
    let start = Instant::now();
    let addresses: BTreeSet<Ipv4Addr> = host.with(async move |net| {
        let all = attaches.into_iter().map(|attach| net.attach(attach));
        futures::future::join_all(all).await.into_iter().map(|addr| addr.unwrap().ip).collect()
    });
    eprintln!("20 pods attached in {:?}", start.elapsed());
    assert_eq!(addresses.len(), pods.len());
    let _node = host.ns.serve("node", 81);
    for pod in &pods {
        assert_eq!(pod.ask(at(host.ip, 81)).unwrap().0, "node");
    }
}
