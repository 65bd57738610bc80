//! From services, host ports and addresses to the table's contents. Pure; the numbers it gives to services are kept
//! in [`Numbers`] so that the next rendering differs only where the inputs do.
//!
//! One verdict-map lookup finds a service's chain whatever the number of services; the chain is one rule that draws a
//! random number and looks the endpoint up in one map shared by all services.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::model::{Action, Chain, ChainKind, Data, Elements, Fields, Hook, Match, Rule, Ruleset, SetName, key};
use crate::config::{DnsRedirect, HostPort, Protocol};
use crate::service::{Endpoint, ServicePort, ServiceTable, TrafficPolicy};

const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
const DNS_PORT: u16 = 53;

/// Everything the table depends on.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) bridge: String,
    pub(crate) cluster_cidr: Ipv4Net,
    pub(crate) pod_cidr: Option<Ipv4Net>,
    pub(crate) services: ServiceTable,
    pub(crate) dns: Option<DnsRedirect>,
    /// The gateways of the other nodes' pods.
    pub(crate) neighbours: Vec<Ipv4Addr>,
    /// Pod address and its host ports.
    pub(crate) host_ports: Vec<(Ipv4Addr, HostPort)>,
}

/// Numbers of endpoint groups and of remembered endpoints, stable while they exist and never given twice. A group's even
/// number stands for all endpoints of a service port, the odd one after it for the local ones.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    groups: Names<String>,
    endpoints: Names<(u32, Endpoint)>,
}

#[derive(Debug)]
struct Names<K> {
    known: HashMap<K, u32>,
    next: u32,
}

impl<K> Default for Names<K> {
    fn default() -> Self {
        Self { known: HashMap::new(), next: 0 }
    }
}

impl<K: Hash + Eq> Names<K> {
    fn of(&mut self, name: K) -> u32 {
        let next = self.next;
        let number = *self.known.entry(name).or_insert(next);
        if number == next {
            self.next = next.wrapping_add(2);
        }
        number
    }
}

impl Numbers {
    /// Forgets what is gone.
    fn retain(&mut self, ports: &[ServicePort]) {
        let alive: HashSet<&str> = ports.iter().map(|port| port.name.as_str()).collect();
        self.groups.known.retain(|name, _| alive.contains(name.as_str()));
        let groups = &self.groups.known;
        let sticky: HashSet<(u32, Endpoint)> = ports
            .iter()
            .filter(|port| port.affinity.is_some())
            .filter_map(|port| groups.get(&port.name).map(|group| (*group, port)))
            .flat_map(|(group, port)| port.endpoints.iter().map(move |endpoint| (group, *endpoint)))
            .collect();
        self.endpoints.known.retain(|key, _| sticky.contains(key));
    }
}

/// The table for these inputs.
pub(crate) fn render(inputs: &Inputs, numbers: &mut Numbers) -> Ruleset {
    let mut out = Ruleset { chains: BTreeMap::new(), sets: SetName::ALL.map(|name| (name, Elements::new())).into() };
    base_chains(inputs, &mut out);
    let ports = effective_ports(inputs);
    numbers.retain(&ports);
    for port in &ports {
        let group = numbers.groups.of(port.name.clone());
        service_port(port, inputs.cluster_cidr, group, &mut numbers.endpoints, &mut out);
    }
    for (pod, port) in &inputs.host_ports {
        let (set, key) = match port.host_ip.filter(|ip| !ip.is_unspecified()) {
            Some(ip) => (SetName::HostAddressPorts, key::address_port(ip, port.protocol, port.host_port)),
            None => (SetName::HostPorts, key::port(port.protocol, port.host_port)),
        };
        insert(&mut out, set, key, Data::Endpoint(*pod, port.pod_port));
        insert(&mut out, SetName::Hairpin, key::pair(*pod, *pod), Data::None);
    }
    out
}

/// The services, with the node's own DNS server in the place of whatever serves the cluster's DNS address, and those of
/// the other nodes.
pub(crate) fn effective_ports(inputs: &Inputs) -> Vec<ServicePort> {
    let Some(dns) = inputs.dns else { return inputs.services.ports.clone() };
    let taken = |port: &&ServicePort| port.cluster_ip == Some(dns.vip) && port.port == DNS_PORT;
    let mut ports: Vec<ServicePort> = inputs.services.ports.iter().filter(|port| !taken(port)).cloned().collect();
    let own = Endpoint { ip: *dns.server.ip(), port: dns.server.port(), local: true };
    ports.extend(dns_ports("dns", dns.vip, &[own]));
    if let Some(vip) = dns.elsewhere {
        let others = inputs.neighbours.iter().map(|ip| Endpoint { ip: *ip, port: DNS_PORT, local: false });
        ports.extend(dns_ports("dns-elsewhere", vip, &others.collect::<Vec<_>>()));
    }
    ports
}

fn dns_ports(name: &str, vip: Ipv4Addr, servers: &[Endpoint]) -> [ServicePort; 2] {
    [("udp", Protocol::Udp), ("tcp", Protocol::Tcp)].map(|(suffix, protocol)| ServicePort {
        name: format!("{name}:{suffix}"),
        protocol,
        port: DNS_PORT,
        cluster_ip: Some(vip),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        node_port: None,
        endpoints: servers.to_vec(),
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    })
}

fn base_chains(inputs: &Inputs, out: &mut Ruleset) {
    use Action::{Dispatch, Goto, Jump, Mark, Masquerade, Reject, Translate};
    let lo = || "lo".to_owned();
    let local = Match::DestinationIsLocal;
    let mut base = |name: &str, kind: ChainKind, rules: Vec<Rule>| {
        out.chains.insert(name.to_owned(), Chain { kind, rules });
    };
    // route_localnet is on for the pods' devices, so that node ports answer on 127.0.0.1; nobody outside may use it.
    base(
        "raw-prerouting",
        ChainKind::Filter(Hook::Prerouting, -300),
        vec![Rule::new([Match::InterfaceInNot(lo()), Match::Destination(LOOPBACK)], Action::Drop)],
    );
    for (name, hook) in [("nat-prerouting", Hook::Prerouting), ("nat-output", Hook::Output)] {
        base(name, ChainKind::Nat(hook, -100), vec![Rule::new([], Jump("frontends".into()))]);
    }
    let from_outside = [Match::NotSource(inputs.cluster_cidr), Match::InSet(Fields::Destination, SetName::ClusterIps)];
    base(
        "frontends",
        ChainKind::Regular,
        vec![
            Rule::new(from_outside, Mark),
            Rule::new([], Dispatch(Fields::DestinationProtocolPort, SetName::Services)),
            Rule::new([local.clone()], Goto("node-frontends".into())),
        ],
    );
    base(
        "node-frontends",
        ChainKind::Regular,
        vec![
            Rule::new([], Translate(Fields::DestinationProtocolPort, SetName::HostAddressPorts)),
            Rule::new([], Translate(Fields::ProtocolPort, SetName::HostPorts)),
            Rule::new([], Dispatch(Fields::ProtocolPort, SetName::NodePorts)),
        ],
    );
    // What is still addressed to a cluster IP after translation has nobody to serve it.
    let unserved = Rule::new([Match::NewConnection], Dispatch(Fields::DestinationProtocolPort, SetName::Unserved));
    let to_cluster_ip = Rule::new([Match::InSet(Fields::Destination, SetName::ClusterIps)], Reject);
    let unserved_node =
        Rule::new([Match::NewConnection, local], Dispatch(Fields::ProtocolPort, SetName::UnservedNodePorts));
    base("refuse", ChainKind::Regular, vec![Rule::new([], Reject)]);
    base("filter-input", ChainKind::Filter(Hook::Input, -10), vec![unserved.clone(), unserved_node]);
    // An answer that connection tracking cannot place is not translated back: its receiver would reset a flow it does
    // not know.
    let misplaced =
        inputs.pod_cidr.map(|pods| Rule::new([Match::Source(pods), Match::InvalidConnection], Action::Drop));
    let forward = misplaced.into_iter().chain([unserved.clone(), to_cluster_ip.clone()]).collect();
    base("filter-forward", ChainKind::Filter(Hook::Forward, -10), forward);
    base("filter-output", ChainKind::Filter(Hook::Output, -10), vec![unserved, to_cluster_ip]);

    let mut postrouting = vec![
        Rule::new([Match::InterfaceOut(lo())], Action::Accept),
        Rule::new([Match::Marked], Masquerade),
        Rule::new([Match::Source(LOOPBACK)], Masquerade),
        Rule::new(
            [Match::DestinationTranslated, Match::InSet(Fields::SourceDestination, SetName::Hairpin)],
            Masquerade,
        ),
    ];
    if let Some(pods) = inputs.pod_cidr {
        let leaving = [
            Match::Source(pods),
            Match::NotDestination(inputs.cluster_cidr),
            Match::InterfaceOutNot(inputs.bridge.clone()),
        ];
        postrouting.push(Rule::new(leaving, Masquerade));
    }
    base("nat-postrouting", ChainKind::Nat(Hook::Postrouting, 100), postrouting);
}

fn service_port(
    port: &ServicePort,
    cluster_cidr: Ipv4Net,
    group: u32,
    endpoints: &mut Names<(u32, Endpoint)>,
    out: &mut Ruleset,
) {
    let local: Vec<Endpoint> = port.endpoints.iter().filter(|endpoint| endpoint.local).copied().collect();
    let external = external_addresses(port);
    if let Some(vip) = port.cluster_ip {
        insert(out, SetName::ClusterIps, key::address(vip), Data::None);
    }
    for endpoint in &local {
        insert(out, SetName::Hairpin, key::pair(endpoint.ip, endpoint.ip), Data::None);
    }
    if port.endpoints.is_empty() {
        for ip in &external {
            let key = key::address_port(*ip, port.protocol, port.port);
            insert(out, SetName::Unserved, key, Data::Goto("refuse".into()));
        }
        if let Some(node_port) = port.node_port {
            let key = key::port(port.protocol, node_port);
            insert(out, SetName::UnservedNodePorts, key, Data::Goto("refuse".into()));
        }
        return;
    }
    let mut balanced = Balanced { port, group, local: &local, endpoints, out };
    if let Some(vip) = port.cluster_ip {
        let target = match port.internal_policy {
            TrafficPolicy::Cluster => balanced.over_all(),
            TrafficPolicy::Local => balanced.over_local(),
        };
        insert(balanced.out, SetName::Services, key::address_port(vip, port.protocol, port.port), target);
    }
    if external.is_empty() && port.node_port.is_none() {
        return;
    }
    let entry = external_chain(&mut balanced, cluster_cidr);
    let guarded = guarded_chain(port, group, &entry, out);
    for ip in &port.external_ips {
        let key = key::address_port(*ip, port.protocol, port.port);
        insert(out, SetName::Services, key, Data::Goto(entry.clone()));
    }
    for ip in &port.load_balancer_ips {
        let key = key::address_port(*ip, port.protocol, port.port);
        insert(out, SetName::Services, key, Data::Goto(guarded.clone()));
    }
    if let Some(node_port) = port.node_port {
        insert(out, SetName::NodePorts, key::port(port.protocol, node_port), Data::Goto(entry));
    }
}

fn external_addresses(port: &ServicePort) -> BTreeSet<Ipv4Addr> {
    port.external_ips.iter().chain(&port.load_balancer_ips).copied().collect()
}

/// Makes a service port's balancing chains when something leads to them.
struct Balanced<'a> {
    port: &'a ServicePort,
    group: u32,
    local: &'a [Endpoint],
    endpoints: &'a mut Names<(u32, Endpoint)>,
    out: &'a mut Ruleset,
}

impl Balanced<'_> {
    fn over_all(&mut self) -> Data {
        self.chain(format!("all-{}", self.group), self.group, &self.port.endpoints)
    }

    fn over_local(&mut self) -> Data {
        if self.local.is_empty() {
            return Data::Drop;
        }
        self.chain(format!("local-{}", self.group), self.group + 1, self.local)
    }

    fn chain(&mut self, name: String, group: u32, endpoints: &[Endpoint]) -> Data {
        if self.out.chains.contains_key(&name) {
            return Data::Goto(name);
        }
        let endpoints: BTreeSet<Endpoint> = endpoints.iter().copied().collect();
        let rules = match self.port.affinity {
            None => vec![self.balanced(group, &endpoints)],
            Some(keep) => self.remembered(group, &endpoints, keep),
        };
        self.out.chains.insert(name.clone(), Chain { kind: ChainKind::Regular, rules });
        Data::Goto(name)
    }

    fn balanced(&mut self, group: u32, endpoints: &BTreeSet<Endpoint>) -> Rule {
        let mut size = 0;
        for endpoint in endpoints {
            let value = Data::Endpoint(endpoint.ip, endpoint.port);
            insert(self.out, SetName::Endpoints, key::member(group, size), value);
            size += 1;
        }
        Rule::new([], Action::Balance { group, size }).comment(&self.port.name)
    }

    /// A chain per endpoint, tried first for those the client is remembered at. What is remembered of an endpoint that
    /// went is never asked for again, as its number is not reused; it times out.
    fn remembered(&mut self, group: u32, endpoints: &BTreeSet<Endpoint>, keep: Duration) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut size = 0;
        for endpoint in endpoints {
            let number = self.endpoints.of((self.group, *endpoint));
            let name = format!("endpoint-{number}");
            let translate = Action::TranslateTo(endpoint.ip, endpoint.port);
            let chosen = vec![Rule::new([], Action::Remember { endpoint: number, keep }), Rule::new([], translate)];
            self.out.chains.insert(name.clone(), Chain { kind: ChainKind::Regular, rules: chosen });
            insert(self.out, SetName::EndpointChains, key::member(group, size), Data::Goto(name.clone()));
            rules.push(Rule::new([Match::Remembered(number)], Action::Goto(name)));
            size += 1;
        }
        rules.push(Rule::new([], Action::Choose { group, size }).comment(&self.port.name));
        rules
    }
}

/// The chain for traffic that came to a node port or an external address; its name.
fn external_chain(balanced: &mut Balanced<'_>, cluster_cidr: Ipv4Net) -> String {
    let all = verdict(balanced.over_all());
    let rules = match balanced.port.external_policy {
        TrafficPolicy::Cluster => vec![Rule::new([], Action::Mark), Rule::new([], all)],
        // Pods and the node itself are inside: they may use every endpoint.
        TrafficPolicy::Local => vec![
            Rule::new([Match::Source(cluster_cidr)], all.clone()),
            Rule::new([Match::SourceIsLocal], Action::Mark),
            Rule::new([Match::SourceIsLocal], all),
            Rule::new([], verdict(balanced.over_local())),
        ],
    };
    let name = format!("external-{}", balanced.group);
    balanced.out.chains.insert(name.clone(), Chain { kind: ChainKind::Regular, rules });
    name
}

/// The chain in front of load balancer addresses when the service limits its clients; `entry` itself otherwise.
fn guarded_chain(port: &ServicePort, group: u32, entry: &str, out: &mut Ruleset) -> String {
    if port.source_ranges.is_empty() || port.load_balancer_ips.is_empty() {
        return entry.to_owned();
    }
    let mut rules: Vec<Rule> = port
        .source_ranges
        .iter()
        .map(|range| Rule::new([Match::Source(*range)], Action::Goto(entry.to_owned())))
        .collect();
    rules.push(Rule::new([], Action::Drop));
    let name = format!("guard-{group}");
    out.chains.insert(name.clone(), Chain { kind: ChainKind::Regular, rules });
    name
}

fn verdict(target: Data) -> Action {
    match target {
        Data::Goto(chain) => Action::Goto(chain),
        Data::None | Data::Drop | Data::Endpoint(..) => Action::Drop,
    }
}

/// Two services that claim the same address and port: the first in the table keeps it.
fn insert(out: &mut Ruleset, set: SetName, key: Vec<u8>, data: Data) {
    out.sets.entry(set).or_default().entry(key).or_insert(data);
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
