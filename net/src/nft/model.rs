//! What rk's table contains, as values that can be compared: chains with rules, sets with elements.
//!
//! Closed on purpose: the matches and actions are the few rk needs, so the renderer cannot ask for something that
//! `wire` does not know how to spell.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::config::Protocol;

/// The packet mark bit that asks for masquerading; the same bit kube-proxy uses, so that other tools leave it alone.
pub(crate) const MASQUERADE_BIT: u32 = 0x4000;

/// The whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) chains: BTreeMap<String, Chain>,
    pub(crate) sets: BTreeMap<SetName, Elements>,
}

pub(crate) type Elements = BTreeMap<Vec<u8>, Data>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) kind: ChainKind,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainKind {
    Regular,
    /// Hook and priority.
    Filter(Hook, i32),
    Nat(Hook, i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// All matches must hold for the action to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) action: Action,
    /// Shown by `nft list`; at most 128 bytes.
    pub(crate) comment: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Source(Ipv4Net),
    NotSource(Ipv4Net),
    NotDestination(Ipv4Net),
    Destination(Ipv4Net),
    InterfaceInNot(String),
    InterfaceOut(String),
    InterfaceOutNot(String),
    DestinationIsLocal,
    SourceIsLocal,
    NewConnection,
    InvalidConnection,
    DestinationTranslated,
    Marked,
    InSet(Fields, SetName),
    /// The client used this endpoint a short while ago.
    Remembered(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Accept,
    Drop,
    Reject,
    Jump(String),
    Goto(String),
    /// Ask for masquerading in postrouting.
    Mark,
    Masquerade,
    /// Look the packet up in a verdict map.
    Dispatch(Fields, SetName),
    /// Translate the destination to what a map has for the packet.
    Translate(Fields, SetName),
    /// Translate to one of the group's `size` endpoints at random.
    Balance {
        group: u32,
        size: u32,
    },
    /// Go to the chain of one of the group's `size` endpoints at random.
    Choose {
        group: u32,
        size: u32,
    },
    /// Remember for a while that this client uses the endpoint; goes on with the next rule in any case.
    Remember {
        endpoint: u32,
        keep: Duration,
    },
    TranslateTo(Ipv4Addr, u16),
}

/// Packet fields that make up a key, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fields {
    Destination,
    ProtocolPort,
    DestinationProtocolPort,
    SourceDestination,
}

/// The table's sets and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SetName {
    /// Every cluster IP, with endpoints or without.
    ClusterIps,
    /// Address, protocol, port → chain.
    Services,
    /// Protocol, port → chain.
    NodePorts,
    /// As `Services` and `NodePorts`, for those that must be refused.
    Unserved,
    UnservedNodePorts,
    /// Protocol, port → pod address, port.
    HostPorts,
    /// Address, protocol, port → pod address, port.
    HostAddressPorts,
    /// Pairs of a local endpoint's address with itself.
    Hairpin,
    /// Group, number → address, port.
    Endpoints,
    /// Group, number → chain, for services that remember their clients.
    EndpointChains,
    /// Endpoint, client. Filled by the kernel, with timeouts.
    Affinity,
}

impl SetName {
    pub(crate) const ALL: [SetName; 11] = [
        SetName::ClusterIps,
        SetName::Services,
        SetName::NodePorts,
        SetName::Unserved,
        SetName::UnservedNodePorts,
        SetName::HostPorts,
        SetName::HostAddressPorts,
        SetName::Hairpin,
        SetName::Endpoints,
        SetName::EndpointChains,
        SetName::Affinity,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            SetName::ClusterIps => "cluster-ips",
            SetName::Services => "services",
            SetName::NodePorts => "node-ports",
            SetName::Unserved => "unserved",
            SetName::UnservedNodePorts => "unserved-node-ports",
            SetName::HostPorts => "host-ports",
            SetName::HostAddressPorts => "host-address-ports",
            SetName::Hairpin => "hairpin",
            SetName::Endpoints => "endpoints",
            SetName::EndpointChains => "endpoint-chains",
            SetName::Affinity => "affinity",
        }
    }
}

/// What an element of a map leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// Plain set.
    None,
    Goto(String),
    Drop,
    Endpoint(Ipv4Addr, u16),
}

impl Rule {
    pub(crate) fn new(matches: impl Into<Vec<Match>>, action: Action) -> Self {
        Self { matches: matches.into(), action, comment: None }
    }

    pub(crate) fn comment(mut self, text: &str) -> Self {
        const LIMIT: usize = 120;
        let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LIMIT).last();
        self.comment = Some(text[..end.unwrap_or(0)].to_owned());
        self
    }
}

impl Protocol {
    /// The IP protocol number.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// Element keys, laid out as the kernel's registers are: fields padded to four bytes.
pub(crate) mod key {
    use super::{Ipv4Addr, Protocol};

    pub(crate) fn address(ip: Ipv4Addr) -> Vec<u8> {
        ip.octets().to_vec()
    }

    pub(crate) fn pair(a: Ipv4Addr, b: Ipv4Addr) -> Vec<u8> {
        [a.octets(), b.octets()].concat()
    }

    pub(crate) fn port(protocol: Protocol, port: u16) -> Vec<u8> {
        let [high, low] = port.to_be_bytes();
        vec![protocol.number(), 0, 0, 0, high, low, 0, 0]
    }

    pub(crate) fn address_port(ip: Ipv4Addr, protocol: Protocol, number: u16) -> Vec<u8> {
        [address(ip), port(protocol, number)].concat()
    }

    /// Host byte order, as the kernel's own numbers are.
    pub(crate) fn member(group: u32, index: u32) -> Vec<u8> {
        [group.to_ne_bytes(), index.to_ne_bytes()].concat()
    }

    /// The value side of endpoint maps.
    pub(crate) fn endpoint(ip: Ipv4Addr, port: u16) -> Vec<u8> {
        let [high, low] = port.to_be_bytes();
        [ip.octets(), [high, low, 0, 0]].concat()
    }
}
