//! Spells changes of the model in nlink's terms. The only file that knows registers and netlink attributes.

use ipnet::Ipv4Net;
use nlink::netlink::nftables::{
    BaseChain, ChainName, ChainType, CtState, CtStatus, DynsetExpr, DynsetOp, Expr, Family, FibFlags, Hook as WireHook,
    LookupExpr, MetaKey, NatStatement, NumgenKind, PayloadBase, Priority, RawExpr, Register, Rule as WireRule, Set,
    SetDataType, SetElement, SetFlags, SetKeyType, Transaction, Verdict,
};
use nlink::netlink::types::route::RouteType;

use super::diff::Change;
use super::model::{Action, ChainKind, Data, Fields, Hook, MASQUERADE_BIT, Match, Rule, SetName, key};

pub(super) const FAMILY: Family = Family::Ip;

/// Elements per netlink message: an attribute's length is 16 bits, and this many of the longest stay well under it.
const CHUNK: usize = 400;

/// The affinity set does not grow beyond this; further clients are balanced without being remembered.
const AFFINITY_LIMIT: u32 = 262_144;

const ICMP_PORT_UNREACHABLE: u8 = 3;

/// Where keys are put together, and where a lookup's answer goes: address in the first word, port in the second.
const KEY: [Register; 3] = [Register::Reg32_00, Register::Reg32_01, Register::Reg32_02];
const ANSWER: [Register; 2] = [Register::Reg32_04, Register::Reg32_05];

type Result<T> = nlink::Result<T>;

/// Appends one change to the batch.
pub(super) fn append(tx: Transaction, table: &str, change: &Change<'_>) -> Result<Transaction> {
    Ok(match change {
        Change::AddSet(name) => tx.add_set(set(table, *name)),
        Change::AddChain(name, kind) => tx.add_chain(chain(table, name, *kind)?),
        Change::FlushChain(name) => tx.flush_chain(table, name, FAMILY),
        Change::RemoveChain(name) => tx.del_chain(table, name, FAMILY),
        Change::AddRule(chain, spec) => tx.add_rule(rule(table, chain, spec)?),
        Change::AddElements(name, elements) => {
            let set = set(table, *name);
            let elements = elements.iter().map(|(key, data)| element(key, data)).collect::<Result<Vec<_>>>()?;
            elements.chunks(CHUNK).fold(tx, |tx, chunk| tx.add_set_elements(&set, chunk))
        }
        Change::RemoveElements(name, elements) => {
            let set = set(table, *name);
            let elements: Vec<_> = elements.iter().map(|(key, _)| SetElement::new(key.to_vec())).collect();
            elements.chunks(CHUNK).fold(tx, |tx, chunk| tx.del_set_elements(&set, chunk))
        }
    })
}

fn set(table: &str, name: SetName) -> Set {
    use SetKeyType::{Concat, InetProto, InetService, Ipv4Addr, Mark};
    let address_port = || SetDataType::Value(Concat(vec![Ipv4Addr, InetService]));
    let by_address = || Concat(vec![Ipv4Addr, InetProto, InetService]);
    let by_port = || Concat(vec![InetProto, InetService]);
    let set = Set::new(table, name.as_str()).family(FAMILY);
    match name {
        SetName::ClusterIps => set.key_type(Ipv4Addr),
        SetName::Hairpin => set.key_type(Concat(vec![Ipv4Addr, Ipv4Addr])),
        SetName::Services | SetName::Unserved => set.key_type(by_address()).vmap(),
        SetName::NodePorts | SetName::UnservedNodePorts => set.key_type(by_port()).vmap(),
        SetName::HostPorts => set.key_type(by_port()).map(address_port()),
        SetName::HostAddressPorts => set.key_type(by_address()).map(address_port()),
        SetName::Endpoints => set.key_type(Concat(vec![Mark, Mark])).map(address_port()),
        SetName::EndpointChains => set.key_type(Concat(vec![Mark, Mark])).vmap(),
        SetName::Affinity => {
            set.key_type(Concat(vec![Mark, Ipv4Addr])).flags(SetFlags::TIMEOUT | SetFlags::EVAL).size(AFFINITY_LIMIT)
        }
    }
}

fn element(key: &[u8], data: &Data) -> Result<SetElement> {
    let element = SetElement::new(key.to_vec());
    Ok(match data {
        Data::None => element,
        Data::Drop => element.verdict(Verdict::Drop),
        Data::Goto(chain) => element.verdict(Verdict::GotoTo(ChainName::new(chain.as_str())?)),
        Data::Endpoint(ip, port) => element.value(SetElement::new(key::endpoint(*ip, *port))),
    })
}

fn chain(table: &str, name: &str, kind: ChainKind) -> Result<nlink::netlink::nftables::Chain> {
    let chain = nlink::netlink::nftables::Chain::new(table, name)?.family(FAMILY);
    let (chain_type, hook, priority) = match kind {
        ChainKind::Regular => return Ok(chain),
        ChainKind::Filter(hook, priority) => (ChainType::Filter, hook, priority),
        ChainKind::Nat(hook, priority) => (ChainType::Nat, hook, priority),
    };
    let hook = match hook {
        Hook::Prerouting => WireHook::Prerouting,
        Hook::Input => WireHook::Input,
        Hook::Forward => WireHook::Forward,
        Hook::Output => WireHook::Output,
        Hook::Postrouting => WireHook::Postrouting,
    };
    Ok(chain.base(BaseChain::try_new(chain_type, hook, Priority::Custom(priority), Vec::<String>::new())?))
}

fn rule(table: &str, chain: &str, spec: &Rule) -> Result<WireRule> {
    let mut rule = WireRule::new(table, chain).family(FAMILY);
    for condition in &spec.matches {
        rule = matching(rule, condition);
    }
    rule = acting(rule, &spec.action)?;
    Ok(match &spec.comment {
        Some(comment) => rule.comment(comment),
        None => rule,
    })
}

fn matching(rule: WireRule, condition: &Match) -> WireRule {
    let split = |net: &Ipv4Net| (net.network(), net.prefix_len());
    match condition {
        Match::Source(net) => rule.match_saddr_v4(split(net).0, split(net).1),
        Match::NotSource(net) => rule.match_saddr_v4_not(split(net).0, split(net).1),
        Match::Destination(net) => rule.match_daddr_v4(split(net).0, split(net).1),
        Match::NotDestination(net) => rule.match_daddr_v4_not(split(net).0, split(net).1),
        Match::InterfaceInNot(name) => rule.match_iif_not(name),
        Match::InterfaceOut(name) => rule.match_oif(name),
        Match::InterfaceOutNot(name) => rule.match_oif_not(name),
        Match::DestinationIsLocal => rule.match_fib_type(FibFlags::DADDR, RouteType::Local),
        Match::SourceIsLocal => rule.match_fib_type(FibFlags::SADDR, RouteType::Local),
        Match::NewConnection => rule.match_ct_state(CtState::NEW),
        Match::InvalidConnection => rule.match_ct_state(CtState::INVALID),
        Match::DestinationTranslated => rule.match_ct_status(CtStatus::DST_NAT),
        Match::Marked => rule.match_mark_masked(MASQUERADE_BIT, MASQUERADE_BIT),
        Match::InSet(fields, set) => load(rule, *fields).expr(LookupExpr::new(set.as_str(), Register::R0)),
        Match::Remembered(endpoint) => {
            client(rule, *endpoint).expr(LookupExpr::new(SetName::Affinity.as_str(), Register::R0))
        }
    }
}

fn acting(rule: WireRule, action: &Action) -> Result<WireRule> {
    Ok(match action {
        Action::Accept => rule.accept(),
        Action::Drop => rule.drop(),
        Action::Reject => rule.reject_icmp(ICMP_PORT_UNREACHABLE),
        Action::Jump(chain) => rule.try_jump(chain)?,
        Action::Goto(chain) => rule.try_goto(chain)?,
        Action::Mark => rule.set_mark_masked(MASQUERADE_BIT, MASQUERADE_BIT),
        // The mark goes first: an encapsulated packet keeps it and would come here again.
        Action::Masquerade => rule.set_mark_masked(0, MASQUERADE_BIT).nat(NatStatement::masquerade().fully_random()),
        Action::Dispatch(fields, map) => {
            load(rule, *fields).expr(LookupExpr::new(map.as_str(), Register::R0).dreg(Register::Verdict))
        }
        Action::Translate(fields, map) => translate(lookup(load(rule, *fields), *map)),
        Action::Balance { group, size } => translate(lookup(choice(rule, *group, *size), SetName::Endpoints)),
        Action::Choose { group, size } => {
            let map = LookupExpr::new(SetName::EndpointChains.as_str(), Register::R0).dreg(Register::Verdict);
            choice(rule, *group, *size).expr(map)
        }
        Action::Remember { endpoint, keep } => {
            let set = SetName::Affinity.as_str();
            client(rule, *endpoint).expr(DynsetExpr::new(DynsetOp::Update, set, Register::R0).timeout(*keep))
        }
        Action::TranslateTo(ip, port) => translate(
            rule.expr(Expr::Immediate { dreg: ANSWER[0], data: ip.octets().to_vec() })
                .expr(Expr::Immediate { dreg: ANSWER[1], data: port.to_be_bytes().to_vec() }),
        ),
    })
}

/// Puts the fields into the key registers, each in a word of its own.
fn load(rule: WireRule, fields: Fields) -> WireRule {
    let source = |dreg| Expr::Payload { dreg, base: PayloadBase::Network, offset: 12, len: 4 };
    let destination = |dreg| Expr::Payload { dreg, base: PayloadBase::Network, offset: 16, len: 4 };
    let protocol = |dreg| Expr::Meta { dreg, key: MetaKey::L4Proto };
    let port = |dreg| Expr::Payload { dreg, base: PayloadBase::Transport, offset: 2, len: 2 };
    let [first, second, third] = KEY;
    match fields {
        Fields::Destination => rule.expr(destination(first)),
        Fields::SourceDestination => rule.expr(source(first)).expr(destination(second)),
        Fields::ProtocolPort => rule.expr(protocol(first)).expr(port(second)),
        Fields::DestinationProtocolPort => rule.expr(destination(first)).expr(protocol(second)).expr(port(third)),
    }
}

/// The key of one of a group's members, at random.
fn choice(rule: WireRule, group: u32, size: u32) -> WireRule {
    let number = Expr::Numgen { dreg: KEY[1], kind: NumgenKind::Random, modulus: size, offset: 0 };
    rule.expr(number_in_key(group)).expr(number)
}

/// The key of the client at an endpoint.
fn client(rule: WireRule, endpoint: u32) -> WireRule {
    let source = Expr::Payload { dreg: KEY[1], base: PayloadBase::Network, offset: 12, len: 4 };
    rule.expr(number_in_key(endpoint)).expr(source)
}

fn number_in_key(number: u32) -> Expr {
    Expr::Immediate { dreg: KEY[0], data: number.to_ne_bytes().to_vec() }
}

fn lookup(rule: WireRule, map: SetName) -> WireRule {
    rule.expr(LookupExpr::new(map.as_str(), Register::R0).dreg(Register::R1))
}

fn translate(rule: WireRule) -> WireRule {
    rule.expr(RawExpr::new("nat", nat_attributes()))
}

/// `dnat` with address and port from [`ANSWER`]; nlink's own statement takes constants only.
fn nat_attributes() -> Vec<u8> {
    const DESTINATION: u32 = 1;
    const IPV4: u32 = 2;
    const MAP_ADDRESS_AND_PORT: u32 = 1 | 2;
    let [address, port] = ANSWER.map(Register::wire);
    // NFTA_NAT_TYPE, FAMILY, REG_ADDR_MIN and _MAX, REG_PROTO_MIN and _MAX, FLAGS.
    let values = [DESTINATION, IPV4, address, address, port, port, MAP_ADDRESS_AND_PORT];
    let attribute = |(kind, value): (u16, u32)| {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&8_u16.to_ne_bytes());
        bytes[2..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..].copy_from_slice(&value.to_be_bytes());
        bytes
    };
    (1..).zip(values).flat_map(attribute).collect()
}
