//! The DNS server, asked by pods through the cluster's DNS address.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record as Wire, RecordType};
use net::DnsRedirect;
use net::dns::{Dns, DnsConfig, Record, Zone};

use crate::lab::{Host, Pod, Segment, able};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local");
    zone.add("web.default.svc.cluster.local", Record::A(Ipv4Addr::new(10, 43, 0, 7)));
    zone.add("out.default.svc.cluster.local", Record::Cname("example.org".into()));
    for number in 1..=200 {
        zone.add("many.default.svc.cluster.local", Record::A(Ipv4Addr::new(10, 42, 0, number)));
    }
    zone
}

fn start(host: &Host) -> Dns {
    let resolv_conf = host.state().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 192.0.2.254\n").unwrap();
    host.with(async move |net| {
        let gateway = net.gateway().unwrap();
        let dns = Dns::start(DnsConfig { listen: (gateway, 0).into(), resolv_conf }).await.unwrap();
        let server = SocketAddrV4::new(gateway, dns.addr().port());
        net.set_dns(Some(DnsRedirect { vip: VIP, server, elsewhere: None })).await.unwrap();
        dns.set_zone(zone());
        dns
    })
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::new(4711, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    query.to_vec().unwrap()
}

/// Asks on a thread while the host's runtime, which has just this one to serve, is driven.
fn ask(host: &Host, pod: &Pod, tcp: bool, name: &str, kind: RecordType) -> Message {
    let bytes = query(name, kind);
    let asking = pod.ns.spawn(move || if tcp { over_tcp(&bytes) } else { over_udp(&bytes) });
    host.drive(asking)
}

fn over_udp(query: &[u8]) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let vip: SocketAddr = (VIP, 53).into();
    socket.send_to(query, vip).unwrap();
    let mut buffer = [0; 4096];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, vip);
    Message::from_vec(&buffer[..length]).unwrap()
}

fn over_tcp(query: &[u8]) -> Message {
    let mut stream = TcpStream::connect((VIP, 53)).unwrap();
    stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(query).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

/// A server for the world: knows example.org and counts questions.
fn outside(segment: &Segment) -> Arc<AtomicUsize> {
    let questions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&questions);
    let socket = segment.ns.enter(|| UdpSocket::bind((Ipv4Addr::new(192, 0, 2, 254), 53)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::Relaxed);
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = query.clone().into_response();
            let name = query.queries[0].name().clone();
            if name.to_ascii() == "example.org." {
                reply.answers.push(Wire::from_rdata(name, 60, RData::A(A(OUTSIDE))));
            } else {
                reply.metadata.response_code = ResponseCode::NXDomain;
            }
            socket.send_to(&reply.to_vec().unwrap(), from).unwrap();
        }
    });
    questions
}

#[test]
fn pods_resolve_cluster_and_outside_names_over_udp_and_tcp() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let pod = host.pod("a");
    let dns = start(&host);
    let questions = outside(&segment);
    for tcp in [false, true] {
        let web = ask(&host, &pod, tcp, "web.default.svc.cluster.local.", RecordType::A);
        assert_eq!(web.answers[0].data, RData::A(A::new(10, 43, 0, 7)), "tcp {tcp}");
        let missing = ask(&host, &pod, tcp, "nothing.default.svc.cluster.local.", RecordType::A);
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        let example = ask(&host, &pod, tcp, "example.org.", RecordType::A);
        assert_eq!(example.answers[0].data, RData::A(A(OUTSIDE)));
    }
    assert_eq!(questions.load(Ordering::Relaxed), 1, "the second answer comes from the cache");
    let alias = ask(&host, &pod, false, "out.default.svc.cluster.local.", RecordType::A);
    assert_eq!(alias.answers.len(), 2, "{alias:?}");
    assert_eq!(alias.answers[1].data, RData::A(A(OUTSIDE)));
    let unknown = ask(&host, &pod, false, "nowhere.example.", RecordType::A);
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    let cut = ask(&host, &pod, false, "many.default.svc.cluster.local.", RecordType::A);
    assert!(cut.metadata.truncation);
    let whole = ask(&host, &pod, true, "many.default.svc.cluster.local.", RecordType::A);
    assert_eq!(whole.answers.len(), 200);
    host.with(async move |_| dns.stop().await);
}

#[test]
fn a_zone_is_replaced_whole_and_a_dead_upstream_is_an_error_not_a_silence() {
    if !able() {
        return;
    }
    let segment = Segment::new();
    let host = segment.host(1);
    let pod = host.pod("a");
    let dns = start(&host);
    let failed = ask(&host, &pod, false, "example.org.", RecordType::A);
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail, "nobody listens at the upstream address");
    dns.set_zone(Zone::new("cluster.local"));
    let web = ask(&host, &pod, false, "web.default.svc.cluster.local.", RecordType::A);
    assert_eq!(web.metadata.response_code, ResponseCode::NXDomain);
}
