//! Two hosts: pods, services and node ports across them.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use net::{Backend, Endpoint, Peer, Protocol, ServicePort, ServiceTable, TrafficPolicy};

use crate::lab::{Host, Pod, Segment, able};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    (ip, port).into()
}

fn peer(number: u8) -> Peer {
    Peer { node_ip: Ipv4Addr::new(192, 0, 2, number), pod_cidr: format!("10.42.{number}.0/24").parse().unwrap() }
}

fn join(one: &Host, two: &Host) {
    one.with(async |net| net.set_peers(vec![peer(2)]).await).unwrap();
    two.with(async |net| net.set_peers(vec![peer(1)]).await).unwrap();
}

fn service(pod: &Pod, host: &Host, policy: TrafficPolicy) {
    let endpoint = Endpoint { ip: pod.addr.ip, port: 8080, local: false };
    let ports = vec![ServicePort {
        name: "web".into(),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ip: Some(VIP),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        node_port: Some(30080),
        endpoints: vec![endpoint],
        affinity: Some(Duration::from_secs(10)),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: policy,
    }];
    host.with(async move |net| net.set_services(ServiceTable { ports }).await).unwrap();
}

#[test]
fn pods_and_services_reach_across_hosts() {
    if !able() {
        return;
    }
    for backend in [Backend::Vxlan, Backend::HostGw] {
        let segment = Segment::new();
        let one = segment.host_with(1, |config| config.backend = backend);
        let two = segment.host_with(2, |config| config.backend = backend);
        join(&one, &two);
        let (a, b) = (one.pod("a"), two.pod("b"));
        let _servers = [a.ns.serve("a", 8080), b.ns.serve("b", 8080), two.ns.serve("two", 81)];
        let (name, client) = a.ns.ask(at(b.addr.ip, 8080)).unwrap();
        assert_eq!((name.as_str(), client), ("b", a.addr.ip.into()), "{backend:?}: the pod's address is kept");
        assert_eq!(b.ns.ask_udp(at(a.addr.ip, 8080)).unwrap().0, "a");
        assert_eq!(one.ns.ask(at(b.addr.ip, 8080)).unwrap().0, "b", "host to pod of another host");
        assert_eq!(a.ns.ask(at(two.ip, 81)).unwrap().0, "two", "pod to another host");
        service(&b, &one, TrafficPolicy::Cluster);
        assert_eq!(a.ns.ask(at(VIP, 80)).unwrap().0, "b", "{backend:?}: service");
        assert_eq!(one.ns.ask(at(VIP, 80)).unwrap().0, "b", "{backend:?}: service from the host");
        assert_eq!(segment.ns.ask(at(one.ip, 30080)).unwrap().0, "b", "{backend:?}: node port");
        assert_eq!(one.ns.ask(at(Ipv4Addr::LOCALHOST, 30080)).unwrap().0, "b", "{backend:?}: on loopback");
    }
}

#[test]
fn full_sized_packets_pass_the_tunnel() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let (one, two) = (segment.host(1), segment.host(2));
    join(&one, &two);
    let (a, b) = (one.pod("a"), two.pod("b"));
    assert!(a.ns.ip(&["link", "show", "eth0"]).contains("mtu 1450"));
    let ping = |size: &str| {
        let (size, to) = (size.to_owned(), b.addr.ip.to_string());
        a.ns.enter(move || {
            let output =
                std::process::Command::new("ping").args(["-c", "1", "-W", "2", "-M", "do", "-s", &size, &to]).output();
            output.ok().map(|output| output.status.success())
        })
    };
    match ping("1422") {
        None => drop(writeln!(std::io::stderr(), "SKIPPED: no ping on this machine")),
        Some(passed) => {
            assert!(passed, "1422 bytes and headers are the MTU");
            assert_eq!(ping("1423"), Some(false));
        }
    }
}

#[test]
fn peers_come_go_and_survive_a_restart() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let (mut one, two) = (segment.host(1), segment.host(2));
    join(&one, &two);
    let (a, b) = (one.pod("a"), two.pod("b"));
    let _server = b.ns.serve("b", 8080);
    one.with(async |net| net.set_peers(vec![peer(2), peer(3)]).await).unwrap();
    assert!(one.ns.ip(&["route"]).contains("10.42.3.0/24"));
    one.start();
    assert_eq!(a.ns.ask(at(b.addr.ip, 8080)).unwrap().0, "b");
    one.with(async |net| net.set_peers(vec![peer(2)]).await).unwrap();
    let seen = || [vec!["route"], vec!["neigh"], vec!["-d", "link"]].map(|args| one.ns.ip(&args)).concat();
    assert!(!seen().contains("10.42.3.0"), "{}", seen());
    assert_eq!(a.ns.ask(at(b.addr.ip, 8080)).unwrap().0, "b");
    one.with(async |net| net.set_peers(Vec::new()).await).unwrap();
    assert!(!one.ns.ip(&["route"]).contains("10.42.2.0/24"));
}
