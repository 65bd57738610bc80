//! Answers to queries, from the zone alone.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Query};

use super::*;

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local");
    zone.add("web.default.svc.cluster.local", Record::A(Ipv4Addr::new(10, 43, 0, 7)));
    zone.add(
        "_http._tcp.web.default.svc.cluster.local",
        Record::Srv { port: 80, target: "web.default.svc.cluster.local".into() },
    );
    zone.add("alias.default.svc.cluster.local", Record::Cname("web.default.svc.cluster.local".into()));
    zone.add("out.default.svc.cluster.local", Record::Cname("example.org".into()));
    zone.add("loop.default.svc.cluster.local", Record::Cname("loop.default.svc.cluster.local".into()));
    zone.add_reverse(Ipv4Addr::new(10, 43, 0, 7), "web.default.svc.cluster.local");
    for number in 0..200 {
        zone.add("many.default.svc.cluster.local", Record::A(Ipv4Addr::new(10, 42, 0, number)));
    }
    zone
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.queries.push(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    query
}

fn reply(name: &str, kind: RecordType) -> Message {
    match answer(&query(name, kind), Some(&zone())) {
        Step::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_found_in_any_case_and_answered_as_asked() {
    let reply = reply("WEB.default.svc.Cluster.local", RecordType::A);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert_eq!(reply.answers[0].name.to_ascii(), "WEB.default.svc.Cluster.local.");
    assert_eq!(reply.answers[0].data, RData::A(A::new(10, 43, 0, 7)));
}

#[test]
fn a_missing_type_has_no_data_and_a_missing_name_does_not_exist() {
    let no_data = reply("web.default.svc.cluster.local", RecordType::AAAA);
    assert_eq!(no_data.metadata.response_code, ResponseCode::NoError);
    assert!(no_data.answers.is_empty());
    assert_eq!(no_data.authorities[0].record_type(), RecordType::SOA);
    let missing = reply("example.org.default.svc.cluster.local", RecordType::A);
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities[0].record_type(), RecordType::SOA);
}

#[test]
fn services_bring_the_addresses_of_their_targets() {
    let reply = reply("_http._tcp.web.default.svc.cluster.local", RecordType::SRV);
    let RData::SRV(srv) = &reply.answers[0].data else { panic!("{reply:?}") };
    assert_eq!((srv.port, srv.target.to_ascii().as_str()), (80, "web.default.svc.cluster.local."));
    assert_eq!(reply.additionals[0].data, RData::A(A::new(10, 43, 0, 7)));
}

#[test]
fn aliases_are_followed_inside_and_chased_outside() {
    let inside = reply("alias.default.svc.cluster.local", RecordType::A);
    let kinds: Vec<_> = inside.answers.iter().map(Wire::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    match answer(&query("out.default.svc.cluster.local", RecordType::A), Some(&zone())) {
        Step::Chase(reply, target) => {
            assert_eq!(reply.answers.len(), 1);
            assert_eq!(target.to_ascii(), "example.org.");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(reply("loop.default.svc.cluster.local", RecordType::A).metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn reverse_and_pod_names_are_known() {
    let reverse = reply("7.0.43.10.in-addr.arpa", RecordType::PTR);
    assert_eq!(reverse.answers.len(), 1);
    let pod = reply("10-42-0-9.default.pod.cluster.local", RecordType::A);
    assert_eq!(pod.answers[0].data, RData::A(A::new(10, 42, 0, 9)));
    assert!(reply("10-42-0-9.default.pod.cluster.local", RecordType::AAAA).answers.is_empty());
    let version = reply("dns-version.cluster.local", RecordType::TXT);
    assert_eq!(version.answers.len(), 1);
}

#[test]
fn other_names_are_forwarded_and_other_operations_refused() {
    assert!(matches!(answer(&query("example.org", RecordType::A), Some(&zone())), Step::Forward));
    let mut odd = query("example.org", RecordType::A);
    odd.metadata.op_code = OpCode::Update;
    let Step::Reply(refused) = answer(&odd, Some(&zone())) else { panic!() };
    assert_eq!(refused.metadata.response_code, ResponseCode::NotImp);
    let Step::Reply(early) = answer(&query("example.org", RecordType::A), None) else { panic!() };
    assert_eq!(early.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn long_answers_are_cut_to_what_the_client_takes_and_marked() {
    let plain = query("many.default.svc.cluster.local", RecordType::A);
    let bytes = encode_udp(reply("many.default.svc.cluster.local", RecordType::A), &plain).unwrap();
    assert!(bytes.len() <= 512, "{}", bytes.len());
    let cut = Message::from_vec(&bytes).unwrap();
    assert!(cut.metadata.truncation && cut.answers.len() > 20, "{}", cut.answers.len());
    let mut roomy = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    roomy.edns = Some(edns);
    let Step::Reply(full) = answer(&roomy, Some(&zone())) else { panic!() };
    let more = encode_udp(full, &roomy).unwrap();
    assert!(more.len() > 512 && more.len() <= 1232, "{}", more.len());
    assert!(Message::from_vec(&more).unwrap().edns.is_some());
    let small = query("web.default.svc.cluster.local", RecordType::A);
    let whole = encode_udp(reply("web.default.svc.cluster.local", RecordType::A), &small).unwrap();
    assert!(!Message::from_vec(&whole).unwrap().metadata.truncation);
}
