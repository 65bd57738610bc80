//! From a query and the zone to a reply, or to the decision that others must be asked. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record as Wire, RecordType};

use super::zone::{Found, Record, Zone, normal};

/// Seconds clients may keep an answer, or the lack of one: endpoints come and go.
const TTL: u32 = 5;

/// How far a chain of CNAMEs is followed.
const CHAIN: usize = 8;

/// The largest UDP answer, whatever the client offers: what passes any path unfragmented (DNS flag day 2020).
const UDP_LIMIT: u16 = 1232;
const UDP_MINIMUM: u16 = 512;

/// What to do with a query.
#[derive(Debug)]
pub(super) enum Step {
    Reply(Message),
    /// Not the cluster's: ask upstream.
    Forward,
    /// An alias of a name that is not the cluster's: ask upstream for it, and append what comes.
    Chase(Message, Name),
}

/// The frame of every reply: the query's id, question and, when it has it, EDNS.
pub(super) fn frame(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries.clone_from(&query.queries);
    if query.edns.is_some() {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(UDP_LIMIT);
        reply.edns = Some(edns);
    }
    reply
}

/// Decides. Without a zone nothing is known, not even whose a name is: the client should come again.
pub(super) fn answer(query: &Message, zone: Option<&Zone>) -> Step {
    if query.metadata.op_code != OpCode::Query {
        return Step::Reply(frame(query, ResponseCode::NotImp));
    }
    let [question] = query.queries.as_slice() else { return Step::Reply(frame(query, ResponseCode::FormErr)) };
    let Some(zone) = zone else { return Step::Reply(frame(query, ResponseCode::ServFail)) };
    if question.query_class() != DNSClass::IN {
        return Step::Reply(frame(query, ResponseCode::Refused));
    }
    let mut reply = frame(query, ResponseCode::NoError);
    let mut owner = question.name().clone();
    for hop in 0..CHAIN {
        let text = normal(&owner.to_ascii());
        let records = match zone.find(&text) {
            Found::Elsewhere if hop == 0 => return Step::Forward,
            Found::Elsewhere => return Step::Chase(reply, owner),
            Found::NoSuchName => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                &[]
            }
            Found::NoData => [].as_slice(),
            Found::Address(ip) => {
                reply.answers.extend(address(&owner, question.query_type(), ip));
                &[]
            }
            Found::Records(records) => records,
        };
        reply.metadata.authoritative = true;
        if let [Record::Cname(target)] = records
            && !matches!(question.query_type(), RecordType::CNAME | RecordType::ANY)
            && let Ok(target) = absolute(target)
        {
            reply.answers.push(Wire::from_rdata(owner, TTL, RData::CNAME(CNAME(target.clone()))));
            owner = target;
            continue;
        }
        fill(&mut reply, &owner, question.query_type(), records, zone, &text);
        return Step::Reply(reply);
    }
    Step::Reply(frame(query, ResponseCode::ServFail))
}

fn fill(reply: &mut Message, owner: &Name, kind: RecordType, records: &[Record], zone: &Zone, text: &str) {
    let matching = records.iter().filter_map(|record| wire(owner, record));
    reply.answers.extend(matching.filter(|wire| kind == RecordType::ANY || wire.record_type() == kind));
    if kind == RecordType::SRV {
        let targets = records.iter().filter_map(|record| match record {
            Record::Srv { target, .. } => Some(target),
            _ => None,
        });
        for target in targets {
            let (Ok(name), Found::Records(addresses)) = (absolute(target), zone.find(&normal(target))) else {
                continue;
            };
            let known = addresses.iter().filter(|record| matches!(record, Record::A(_) | Record::Aaaa(_)));
            for record in known.filter_map(|record| wire(&name, record)) {
                if !reply.additionals.contains(&record) {
                    reply.additionals.push(record);
                }
            }
        }
    }
    let authority = soa(zone);
    if kind == RecordType::SOA && text == zone.domain() {
        reply.answers.extend(authority);
    } else if reply.answers.is_empty() {
        reply.authorities.extend(authority);
    }
}

fn address(owner: &Name, kind: RecordType, ip: IpAddr) -> Option<Wire> {
    let data = match (kind, ip) {
        (RecordType::A | RecordType::ANY, IpAddr::V4(ip)) => RData::A(A(ip)),
        (RecordType::AAAA | RecordType::ANY, IpAddr::V6(ip)) => RData::AAAA(AAAA(ip)),
        _ => return None,
    };
    Some(Wire::from_rdata(owner.clone(), TTL, data))
}

/// The record on the wire; none when a name in it is no name.
fn wire(owner: &Name, record: &Record) -> Option<Wire> {
    let data = match record {
        Record::A(ip) => RData::A(A(*ip)),
        Record::Aaaa(ip) => RData::AAAA(AAAA(*ip)),
        Record::Srv { port, target } => RData::SRV(SRV::new(0, 100, *port, absolute(target).ok()?)),
        Record::Ptr(name) => RData::PTR(PTR(absolute(name).ok()?)),
        Record::Cname(name) => RData::CNAME(CNAME(absolute(name).ok()?)),
        Record::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
    };
    Some(Wire::from_rdata(owner.clone(), TTL, data))
}

/// Says for how long the lack of an answer may be remembered.
fn soa(zone: &Zone) -> Option<Wire> {
    let domain = absolute(zone.domain()).ok()?;
    let server = absolute(&format!("ns.dns.{}", zone.domain())).ok()?;
    let contact = absolute(&format!("hostmaster.{}", zone.domain())).ok()?;
    let data = SOA::new(server, contact, 1, 7200, 1800, 86400, TTL);
    Some(Wire::from_rdata(domain, TTL, RData::SOA(data)))
}

fn absolute(name: &str) -> Result<Name, hickory_proto::ProtoError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    Ok(name)
}

/// The reply's bytes for UDP: within what the client takes, and marked when that cost records. Some records are better
/// than none for clients that never ask again over TCP.
pub(super) fn encode_udp(mut reply: Message, query: &Message) -> Option<Vec<u8>> {
    let limit = usize::from(query.max_payload().clamp(UDP_MINIMUM, UDP_LIMIT));
    let bytes = reply.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    reply.additionals.clear();
    let bytes = reply.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    reply.metadata.truncation = true;
    reply.authorities.clear();
    let answers = std::mem::take(&mut reply.answers);
    let mut best = reply.to_vec().ok()?;
    // Between what fits and what does not, halving the distance.
    let (mut fits, mut too_many) = (0, answers.len() + 1);
    while too_many - fits > 1 {
        let count = fits.midpoint(too_many);
        reply.answers = answers[..count].to_vec();
        let bytes = reply.to_vec().ok()?;
        if bytes.len() <= limit {
            (fits, best) = (count, bytes);
        } else {
            too_many = count;
        }
    }
    Some(best)
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
