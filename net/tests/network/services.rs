//! Services, on one host.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use net::{DnsRedirect, Endpoint, Protocol, ServicePort, ServiceTable, TrafficPolicy};

use crate::lab::{Host, Pod, Segment, able, datagram, eventually};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const NODE_PORT: u16 = 30080;

fn service(name: &str, protocol: Protocol, endpoints: &[&Pod]) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol,
        port: 80,
        cluster_ip: Some(VIP),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        node_port: Some(NODE_PORT),
        endpoints: endpoints.iter().map(|pod| Endpoint { ip: pod.addr.ip, port: 8080, local: true }).collect(),
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    }
}

fn set(host: &Host, ports: Vec<ServicePort>) {
    host.with(async move |net| net.set_services(ServiceTable { ports }).await).unwrap();
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    (ip, port).into()
}

/// The names that answer over many tries.
fn answers(tries: usize, ask: impl Fn() -> std::io::Result<(String, std::net::IpAddr)>) -> BTreeSet<String> {
    (0..tries).map(|_| ask().unwrap().0).collect()
}

#[test]
fn a_cluster_ip_is_balanced_for_pods_themselves_and_the_host() {
    if !able() {
        return;
    }
    for bridged_frames in ["0", "1"] {
        let segment = Segment::new();
        let host = segment.host(1);
        // With br_netfilter, bridged frames may be shown to nftables too; both must work.
        let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        host.ns.enter(move || std::fs::write(switch, bridged_frames).ok());
        let (a, b, client) = (host.pod("a"), host.pod("b"), host.pod("client"));
        let _servers = [a.ns.serve("a", 8080), b.ns.serve("b", 8080)];
        set(&host, vec![service("tcp", Protocol::Tcp, &[&a, &b]), service("udp", Protocol::Udp, &[&a, &b])]);
        let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(answers(40, || client.ns.ask(at(VIP, 80))), both);
        assert_eq!(answers(40, || client.ns.ask_udp(at(VIP, 80))), both);
        assert_eq!(answers(40, || host.ns.ask(at(VIP, 80))), both);
        assert_eq!(answers(40, || a.ns.ask(at(VIP, 80))), both, "hairpin, bridge-nf-call-iptables {bridged_frames}");
        assert_eq!(answers(40, || a.ns.ask_udp(at(VIP, 80))), both);
        let (_, seen) = client.ns.ask(at(VIP, 80)).unwrap();
        assert_eq!(seen, client.addr.ip, "the client's address is kept");
    }
}

#[test]
fn node_ports_answer_on_every_address_of_the_node() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let a = host.pod("a");
    let _server = a.ns.serve("a", 8080);
    let mut web = service("web", Protocol::Tcp, &[&a]);
    web.external_ips = vec![Ipv4Addr::new(203, 0, 113, 5)];
    set(&host, vec![web]);
    segment.ns.ip(&["route", "add", "203.0.113.5", "via", "192.0.2.1"]);
    assert_eq!(segment.ns.ask(at(host.ip, NODE_PORT)).unwrap().0, "a");
    assert_eq!(segment.ns.ask(at(Ipv4Addr::new(203, 0, 113, 5), 80)).unwrap().0, "a");
    assert_eq!(host.ns.ask(at(host.ip, NODE_PORT)).unwrap().0, "a");
    assert_eq!(host.ns.ask(at(Ipv4Addr::LOCALHOST, NODE_PORT)).unwrap().0, "a");
    assert_eq!(a.ns.ask(at(host.ip, NODE_PORT)).unwrap().0, "a", "hairpin");
}

#[test]
fn local_policy_keeps_the_clients_address_and_drops_without_a_local_endpoint() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let a = host.pod("a");
    let _server = a.ns.serve("a", 8080);
    let mut web = service("web", Protocol::Tcp, &[&a]);
    web.external_policy = TrafficPolicy::Local;
    set(&host, vec![web.clone()]);
    let (_, client) = segment.ns.ask(at(host.ip, NODE_PORT)).unwrap();
    assert_eq!(client, OUTSIDE);
    web.endpoints[0].local = false;
    web.internal_policy = TrafficPolicy::Local;
    set(&host, vec![web.clone()]);
    assert!(timed_out(&segment.ns.ask(at(host.ip, NODE_PORT))), "no local endpoint: dropped, not refused");
    assert_eq!(host.ns.ask(at(host.ip, NODE_PORT)).unwrap().0, "a", "the node itself may use every endpoint");
    assert!(timed_out(&a.ns.ask(at(VIP, 80))), "internal policy");
}

fn timed_out<T>(result: &std::io::Result<T>) -> bool {
    matches!(result, Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock))
}

#[test]
fn without_endpoints_clients_are_refused_at_once() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let client = host.pod("client");
    host.ns.ip(&["route", "add", "default", "via", "192.0.2.254"]);
    let mut web = service("web", Protocol::Tcp, &[]);
    web.external_ips = vec![Ipv4Addr::new(203, 0, 113, 5)];
    set(&host, vec![web]);
    segment.ns.ip(&["route", "add", "203.0.113.5", "via", "192.0.2.1"]);
    let refused = |result: std::io::Result<_>| result.map(drop).unwrap_err().kind() == ErrorKind::ConnectionRefused;
    let start = Instant::now();
    assert!(refused(client.ns.ask(at(VIP, 80))), "from a pod");
    assert!(refused(host.ns.ask(at(VIP, 80))), "from the node");
    assert!(refused(client.ns.ask(at(VIP, 81))), "a port no service has");
    assert!(refused(segment.ns.ask(at(host.ip, NODE_PORT))), "node port");
    assert!(refused(segment.ns.ask(at(Ipv4Addr::new(203, 0, 113, 5), 80))), "external address");
    assert!(start.elapsed() < Duration::from_secs(2), "nobody waited for a timeout");
}

#[test]
fn affinity_keeps_a_client_until_its_endpoint_goes() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let pods = [host.pod("a"), host.pod("b"), host.pod("c")];
    let client = host.pod("client");
    let _servers: Vec<_> = pods.iter().zip(["a", "b", "c"]).map(|(pod, name)| pod.ns.serve(name, 8080)).collect();
    let sticky = |pods: &[&Pod]| {
        let mut web = service("web", Protocol::Tcp, pods);
        web.affinity = Some(Duration::from_secs(60));
        web
    };
    set(&host, vec![sticky(&[&pods[0], &pods[1], &pods[2]])]);
    let first = answers(30, || client.ns.ask(at(VIP, 80)));
    assert_eq!(first.len(), 1, "{first:?}");
    let first = first.first().unwrap().clone();
    let left: Vec<&Pod> = pods.iter().zip(["a", "b", "c"]).filter(|(_, name)| *name != first).map(|(p, _)| p).collect();
    set(&host, vec![sticky(&left)]);
    let second = answers(30, || client.ns.ask(at(VIP, 80)));
    assert_eq!(second.len(), 1);
    assert!(!second.contains(&first));
    set(&host, vec![sticky(&[&pods[0], &pods[1], &pods[2]])]);
    assert_eq!(answers(30, || client.ns.ask(at(VIP, 80))), second, "more endpoints do not move the client");
    assert!(host.ns.nft(&["list", "table", "ip", "rk"]).contains("affinity"), "nft can show what is there");
}

#[test]
fn a_udp_client_that_never_stops_is_moved_when_its_endpoint_goes() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let (a, b, client) = (host.pod("a"), host.pod("b"), host.pod("client"));
    let _servers = [a.ns.serve("a", 8080), b.ns.serve("b", 8080)];
    set(&host, vec![service("udp", Protocol::Udp, &[&a])]);
    let socket = client.ns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    assert_eq!(datagram(&socket, at(VIP, 80)).unwrap().0, "a");
    set(&host, vec![service("udp", Protocol::Udp, &[&b])]);
    assert_eq!(datagram(&socket, at(VIP, 80)).unwrap().0, "b");
}

#[test]
fn a_connection_that_nobody_has_answered_is_moved_when_its_endpoint_goes() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let (gone, b, client) = (host.pod("gone"), host.pod("b"), host.pod("client"));
    let _server = b.ns.serve("b", 8080);
    // As on a machine that was cut off: what is sent there is lost.
    gone.ns.nft(&["add table ip lost; add chain ip lost input { type filter hook input priority 0; policy drop; }"]);
    gone.ns.nft(&["add rule ip lost input counter"]);
    set(&host, vec![service("web", Protocol::Tcp, &[&gone])]);
    let waiting = client.ns.spawn(move || TcpStream::connect_timeout(&at(VIP, 80), Duration::from_secs(10)).map(drop));
    eventually("the first try is lost", || {
        let lost = gone.ns.nft(&["list chain ip lost input"]);
        if lost.contains("packets 0") { Err(lost) } else { Ok(()) }
    });
    set(&host, vec![service("web", Protocol::Tcp, &[&b])]);
    waiting.join().unwrap().expect("a further try reaches an endpoint that lives");
}

#[test]
fn the_dns_address_leads_to_the_nodes_own_server() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let (other, client) = (host.pod("other"), host.pod("client"));
    let _servers = [host.ns.serve("own", 5353), other.ns.serve("other", 8080)];
    let vip = Ipv4Addr::new(10, 43, 0, 10);
    let mut kube_dns = service("kube-dns", Protocol::Udp, &[&other]);
    kube_dns.cluster_ip = Some(vip);
    kube_dns.port = 53;
    set(&host, vec![kube_dns]);
    let gateway = host.with(async |net| net.gateway()).unwrap();
    let redirect = DnsRedirect { vip, server: std::net::SocketAddrV4::new(gateway, 5353), elsewhere: None };
    host.with(async move |net| net.set_dns(Some(redirect)).await).unwrap();
    assert_eq!(client.ns.ask_udp(at(vip, 53)).unwrap().0, "own");
    assert_eq!(client.ns.ask(at(vip, 53)).unwrap().0, "own");
    assert_eq!(host.ns.ask_udp(at(vip, 53)).unwrap().0, "own");
    host.with(async |net| net.set_dns(None).await).unwrap();
    assert_eq!(client.ns.ask_udp(at(vip, 53)).unwrap().0, "other");
}

#[test]
fn a_thousand_services_are_set_and_changed_quickly_and_flows_stay() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let (a, client) = (host.pod("a"), host.pod("client"));
    let _server = a.ns.serve("a", 8080);
    let many = |count: u16| -> Vec<ServicePort> {
        let one = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let mut port = service(&format!("ns/web-{number}:http"), Protocol::Tcp, &[&a, &a]);
            port.endpoints[1].port = 9090;
            port.cluster_ip = Some(Ipv4Addr::new(10, 43, 100 + high, low));
            port.node_port = None;
            port
        };
        let mut ports: Vec<_> = (0..count).map(one).collect();
        ports.push(service("web", Protocol::Tcp, &[&a]));
        ports
    };
    let start = Instant::now();
    set(&host, many(1000));
    let full = start.elapsed();
    let start = Instant::now();
    set(&host, many(1001));
    let delta = start.elapsed();
    eprintln!("1,000 services: {full:?}; one more: {delta:?}");
    assert_eq!(client.ns.ask(at(VIP, 80)).unwrap().0, "a");
    assert!(delta < full);
    assert!(host.ns.nft(&["list", "table", "ip", "rk"]).contains("ns/web-1000:http"));
    set(&host, Vec::new());
    assert!(!host.ns.nft(&["list", "table", "ip", "rk"]).contains("ns/web"));
}

#[test]
fn services_work_through_a_restart_and_connections_outlive_every_change() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let mut host = segment.host(1);
    let (a, b, client) = (host.pod("a"), host.pod("b"), host.pod("client"));
    let _server = b.ns.serve("b", 8080);
    let listener = a.ns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap());
    set(&host, vec![service("web", Protocol::Tcp, &[&a])]);
    let mut near = client.ns.enter(|| TcpStream::connect((VIP, 80)).unwrap());
    let mut far = listener.accept().unwrap().0;
    near.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut still_connected = || {
        let mut byte = [0];
        near.write_all(b"1").unwrap();
        far.read_exact(&mut byte).unwrap();
        far.write_all(b"2").unwrap();
        near.read_exact(&mut byte).unwrap();
    };
    still_connected();
    set(&host, vec![service("web", Protocol::Tcp, &[&b])]);
    still_connected();
    host.start();
    assert_eq!(client.ns.ask(at(VIP, 80)).unwrap().0, "b", "before the services are known again");
    still_connected();
    set(&host, vec![service("web", Protocol::Tcp, &[&b])]);
    assert_eq!(client.ns.ask(at(VIP, 80)).unwrap().0, "b");
    set(&host, Vec::new());
    still_connected();
    assert!(client.ns.ask(at(VIP, 80)).is_err());
}
