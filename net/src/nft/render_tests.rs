//! The rendered rules of small service tables.

use std::time::Duration;

use super::*;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const A: Endpoint = Endpoint { ip: Ipv4Addr::new(10, 42, 0, 2), port: 8080, local: true };
const B: Endpoint = Endpoint { ip: Ipv4Addr::new(10, 42, 1, 2), port: 8080, local: false };

fn inputs(ports: Vec<ServicePort>) -> Inputs {
    Inputs {
        bridge: "rk0".into(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        pod_cidr: Some("10.42.0.0/24".parse().unwrap()),
        services: ServiceTable { ports },
        dns: None,
        neighbours: Vec::new(),
        host_ports: Vec::new(),
    }
}

fn web(endpoints: &[Endpoint]) -> ServicePort {
    ServicePort {
        name: "default/web:http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ip: Some(VIP),
        external_ips: vec![EXTERNAL],
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        node_port: Some(30080),
        endpoints: endpoints.to_vec(),
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    }
}

fn rendered(port: ServicePort) -> Ruleset {
    render(&inputs(vec![port]), &mut Numbers::default())
}

fn vip_key() -> Vec<u8> {
    key::address_port(VIP, Protocol::Tcp, 80)
}

fn actions(ruleset: &Ruleset, chain: &str) -> Vec<Action> {
    ruleset.chains[chain].rules.iter().map(|rule| rule.action.clone()).collect()
}

#[test]
fn a_cluster_ip_leads_to_all_endpoints_at_their_target_ports() {
    let out = rendered(web(&[A, B]));
    assert_eq!(out.sets[&SetName::Services][&vip_key()], Data::Goto("all-0".into()));
    assert_eq!(actions(&out, "all-0"), [Action::Balance { group: 0, size: 2 }]);
    let endpoints: Vec<&Data> = out.sets[&SetName::Endpoints].values().collect();
    assert_eq!(endpoints, [&Data::Endpoint(A.ip, 8080), &Data::Endpoint(B.ip, 8080)]);
    assert_eq!(out.sets[&SetName::Hairpin].len(), 1, "only local endpoints can be their own clients");
}

#[test]
fn outside_traffic_is_masqueraded_under_the_cluster_policy() {
    let out = rendered(web(&[A, B]));
    let node_port = key::port(Protocol::Tcp, 30080);
    assert_eq!(out.sets[&SetName::NodePorts][&node_port], Data::Goto("external-0".into()));
    assert_eq!(actions(&out, "external-0"), [Action::Mark, Action::Goto("all-0".into())]);
}

#[test]
fn the_local_policy_keeps_clients_and_uses_local_endpoints() {
    let mut port = web(&[A, B]);
    port.external_policy = TrafficPolicy::Local;
    let out = rendered(port);
    assert_eq!(actions(&out, "external-0").last(), Some(&Action::Goto("local-0".into())));
    assert_eq!(actions(&out, "local-0"), [Action::Balance { group: 1, size: 1 }]);
    let mut port = web(&[B]);
    port.external_policy = TrafficPolicy::Local;
    port.internal_policy = TrafficPolicy::Local;
    let out = rendered(port);
    assert_eq!(actions(&out, "external-0").last(), Some(&Action::Drop));
    assert_eq!(out.sets[&SetName::Services][&vip_key()], Data::Drop);
}

#[test]
fn without_endpoints_every_way_in_is_refused() {
    let out = rendered(web(&[]));
    assert!(out.sets[&SetName::Services].is_empty() && out.sets[&SetName::NodePorts].is_empty());
    assert!(out.sets[&SetName::ClusterIps].contains_key(&key::address(VIP)));
    let external = key::address_port(EXTERNAL, Protocol::Tcp, 80);
    assert_eq!(out.sets[&SetName::Unserved][&external], Data::Goto("refuse".into()));
    assert_eq!(out.sets[&SetName::UnservedNodePorts].len(), 1);
}

#[test]
fn affinity_asks_where_the_client_was_before_it_chooses() {
    let mut port = web(&[A, B]);
    port.affinity = Some(Duration::from_secs(10800));
    let mut numbers = Numbers::default();
    let out = render(&inputs(vec![port.clone()]), &mut numbers);
    let chain = &out.chains["all-0"].rules;
    assert_eq!(chain[0], Rule::new([Match::Remembered(0)], Action::Goto("endpoint-0".into())));
    assert_eq!(chain[2].action, Action::Choose { group: 0, size: 2 });
    let keep = Duration::from_secs(10800);
    let first = [Action::Remember { endpoint: 0, keep }, Action::TranslateTo(A.ip, 8080)];
    assert_eq!(actions(&out, "endpoint-0"), first);
    // An endpoint that goes and comes back has another number: nobody is remembered at it.
    port.endpoints = vec![B];
    render(&inputs(vec![port.clone()]), &mut numbers);
    port.endpoints = vec![A, B];
    let again = render(&inputs(vec![port]), &mut numbers);
    let chains: Vec<&str> =
        again.chains.keys().map(String::as_str).filter(|name| name.starts_with("endpoint")).collect();
    assert_eq!(chains, ["endpoint-2", "endpoint-4"]);
}

#[test]
fn load_balancer_sources_are_guarded_and_node_ports_are_not() {
    let mut port = web(&[A]);
    port.load_balancer_ips = vec![Ipv4Addr::new(203, 0, 113, 9)];
    port.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let out = rendered(port);
    let balancer = key::address_port(Ipv4Addr::new(203, 0, 113, 9), Protocol::Tcp, 80);
    assert_eq!(out.sets[&SetName::Services][&balancer], Data::Goto("guard-0".into()));
    assert_eq!(actions(&out, "guard-0"), [Action::Goto("external-0".into()), Action::Drop]);
}

#[test]
fn numbers_are_stable_while_other_services_come_and_go() {
    let mut numbers = Numbers::default();
    let mut other = web(&[A]);
    other.name = "default/api:http".into();
    other.cluster_ip = Some(Ipv4Addr::new(10, 43, 0, 8));
    (other.external_ips, other.node_port) = (Vec::new(), None);
    render(&inputs(vec![other.clone(), web(&[A])]), &mut numbers);
    let alone = render(&inputs(vec![web(&[A])]), &mut numbers);
    assert_eq!(alone.sets[&SetName::Services][&vip_key()], Data::Goto("all-2".into()));
    let again = render(&inputs(vec![other, web(&[A])]), &mut numbers);
    assert!(again.chains.contains_key("all-4"), "a number is not given twice");
}

#[test]
fn the_nodes_dns_server_takes_the_place_of_the_dns_service() {
    let mut dns = web(&[B]);
    (dns.port, dns.protocol) = (53, Protocol::Udp);
    let mut inputs = inputs(vec![dns]);
    inputs.dns = Some(DnsRedirect { vip: VIP, server: "10.42.0.1:1053".parse().unwrap(), elsewhere: None });
    let out = render(&inputs, &mut Numbers::default());
    let values: BTreeSet<String> = out.sets[&SetName::Endpoints].values().map(|data| format!("{data:?}")).collect();
    assert_eq!(values, BTreeSet::from(["Endpoint(10.42.0.1, 1053)".to_owned()]));
    assert_eq!(out.sets[&SetName::Services].len(), 2, "udp and tcp");
}

#[test]
fn the_other_nodes_dns_servers_have_an_address_of_their_own() {
    let mut inputs = inputs(Vec::new());
    let elsewhere = Some(Ipv4Addr::new(169, 254, 20, 11));
    inputs.dns = Some(DnsRedirect { vip: VIP, server: "10.42.0.1:53".parse().unwrap(), elsewhere });
    let alone = render(&inputs, &mut Numbers::default());
    inputs.neighbours = vec![Ipv4Addr::new(10, 42, 1, 1), Ipv4Addr::new(10, 42, 2, 1)];
    let out = render(&inputs, &mut Numbers::default());
    let servers = |out: &Ruleset| -> BTreeSet<String> {
        out.sets[&SetName::Endpoints].values().map(|data| format!("{data:?}")).collect()
    };
    assert_eq!(servers(&alone), BTreeSet::from(["Endpoint(10.42.0.1, 53)".to_owned()]));
    assert_eq!(servers(&out).len(), 3);
    assert_eq!(out.sets[&SetName::Services].len(), 4, "udp and tcp, here and elsewhere");
    assert_eq!(alone.sets[&SetName::Services].len(), 2);
    // The chain of cluster IPs refuses what no service takes, so a resolver needs not wait for a time-out.
    assert_eq!(alone.sets[&SetName::ClusterIps], out.sets[&SetName::ClusterIps]);
}

#[test]
fn host_ports_lead_to_their_pod() {
    let mut inputs = inputs(Vec::new());
    let port = |host_ip| HostPort { host_ip, host_port: 80, pod_port: 8080, protocol: Protocol::Tcp };
    inputs.host_ports = vec![(A.ip, port(None)), (A.ip, port(Some(EXTERNAL)))];
    let out = render(&inputs, &mut Numbers::default());
    let everywhere = key::port(Protocol::Tcp, 80);
    assert_eq!(out.sets[&SetName::HostPorts][&everywhere], Data::Endpoint(A.ip, 8080));
    let one = key::address_port(EXTERNAL, Protocol::Tcp, 80);
    assert_eq!(out.sets[&SetName::HostAddressPorts][&one], Data::Endpoint(A.ip, 8080));
}

#[test]
fn rules_name_only_sets_and_chains_that_exist() {
    let mut port = web(&[A, B]);
    port.external_policy = TrafficPolicy::Local;
    let out = rendered(port);
    let named = out.chains.values().flat_map(|chain| &chain.rules).filter_map(|rule| match &rule.action {
        Action::Jump(chain) | Action::Goto(chain) => Some(chain.clone()),
        _ => None,
    });
    let mapped = out.sets.values().flat_map(|elements| elements.values()).filter_map(|data| match data {
        Data::Goto(chain) => Some(chain.clone()),
        _ => None,
    });
    for chain in named.chain(mapped) {
        assert!(out.chains.contains_key(&chain), "{chain}");
    }
}
