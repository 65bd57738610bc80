//! Services and EndpointSlices → the table of the node's network. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use net::{Endpoint, Protocol, ServicePort, ServiceTable, TrafficPolicy};

use super::endpoints::{self, Slices};

/// Some other proxy serves it.
const FOREIGN_PROXY: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// Where the node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub node: String,
    pub zone: Option<String>,
}

/// Services that are not for the table.
#[derive(Clone, Debug, Default)]
pub struct Skip {
    /// The cluster's DNS addresses, which the node answers itself.
    pub dns: Vec<Ipv4Addr>,
}

/// Builds the table. Rows are in the order of the services and their ports.
pub fn build(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], place: &Place, skip: &Skip) -> ServiceTable {
    let slices = Slices::new(slices);
    let ports = services.iter().flat_map(|service| rows(service, slices.of(service), place, skip));
    ServiceTable { ports: ports.collect() }
}

fn rows(service: &Service, slices: &[&EndpointSlice], place: &Place, skip: &Skip) -> Vec<ServicePort> {
    let Some(spec) = service.spec.as_ref() else { return Vec::new() };
    let Some(cluster_ip) = cluster_ip(service, spec).filter(|ip| !skip.dns.contains(ip)) else { return Vec::new() };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let service_name = service.metadata.name.as_deref().unwrap_or_default();
    let frame = frame(service, spec, cluster_ip);
    let mut rows = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = endpoints::protocol(port.protocol.as_deref()) else { continue };
        let Ok(number) = u16::try_from(port.port) else { continue };
        let name = match port.name.as_deref().filter(|n| !n.is_empty()) {
            Some(name) => format!("{namespace}/{service_name}:{name}"),
            None => format!("{namespace}/{service_name}"),
        };
        let node_port = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
        let row = ServicePort { name, protocol, port: number, node_port, ..frame.clone() };
        let sets = Sets::new(slices, port.name.as_deref(), protocol, place);
        rows.extend(with_endpoints(row, &sets));
    }
    rows
}

/// The address other pods use; `None` for what has none, or is not ours.
fn cluster_ip(service: &Service, spec: &ServiceSpec) -> Option<Ipv4Addr> {
    let labelled = |label| service.metadata.labels.as_ref().is_some_and(|l| l.contains_key(label));
    if spec.type_.as_deref() == Some("ExternalName") || labelled(FOREIGN_PROXY) || labelled(HEADLESS) {
        return None;
    }
    // "None" is no address either.
    spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()).find_map(|ip| ip.parse().ok())
}

/// What all ports of a service have in common.
fn frame(service: &Service, spec: &ServiceSpec, cluster_ip: Ipv4Addr) -> ServicePort {
    let addresses = |list: &Option<Vec<String>>| list.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    let external_ips: Vec<Ipv4Addr> = addresses(&spec.external_ips);
    let from_outside = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) || !external_ips.is_empty();
    let policy = |value: &Option<String>| match value.as_deref() {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    };
    ServicePort {
        name: String::new(),
        protocol: Protocol::Tcp,
        port: 0,
        cluster_ip: Some(cluster_ip),
        external_ips,
        load_balancer_ips: load_balancer_ips(service),
        source_ranges: source_ranges(spec),
        node_port: None,
        endpoints: Vec::new(),
        affinity: affinity(spec),
        internal_policy: policy(&spec.internal_traffic_policy),
        external_policy: if from_outside { policy(&spec.external_traffic_policy) } else { TrafficPolicy::Cluster },
    }
}

/// Addresses whose packets arrive here as they are; a load balancer that is a proxy sends to node ports instead.
fn load_balancer_ips(service: &Service) -> Vec<Ipv4Addr> {
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let direct = ingress.into_iter().flatten().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    direct.filter_map(|i| i.ip.as_deref()?.parse().ok()).collect()
}

fn source_ranges(spec: &ServiceSpec) -> Vec<ipnet::Ipv4Net> {
    spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| range.trim().parse().ok()).collect()
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// The endpoints of one port, as each policy sees them.
struct Sets {
    cluster: BTreeSet<Endpoint>,
    local: BTreeSet<Endpoint>,
}

struct Candidate<'a> {
    endpoint: Endpoint,
    slice: &'a SliceEndpoint,
}

impl Sets {
    fn new(slices: &[&EndpointSlice], port: Option<&str>, protocol: Protocol, place: &Place) -> Sets {
        let mut candidates = Vec::new();
        for slice in slices {
            let Some(port) = endpoints::target_port(slice, port, protocol) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(ip) = endpoints::address(endpoint) else { continue };
                let local = endpoint.node_name.as_deref() == Some(place.node.as_str());
                candidates.push(Candidate { endpoint: Endpoint { ip, port, local }, slice: endpoint });
            }
        }
        let local: Vec<&Candidate<'_>> = candidates.iter().filter(|c| c.endpoint.local).collect();
        let usable = usable(&candidates.iter().collect::<Vec<_>>());
        Sets { cluster: addresses(&near(usable, place)), local: addresses(&self::usable(&local)) }
    }
}

fn addresses(candidates: &[&Candidate<'_>]) -> BTreeSet<Endpoint> {
    candidates.iter().map(|c| c.endpoint).collect()
}

/// The ready ones; without any, those that are ending but still serve.
fn usable<'a>(candidates: &[&'a Candidate<'a>]) -> Vec<&'a Candidate<'a>> {
    let filter =
        |keep: fn(&SliceEndpoint) -> bool| -> Vec<_> { candidates.iter().copied().filter(|c| keep(c.slice)).collect() };
    let ready = filter(endpoints::is_ready);
    if ready.is_empty() { filter(endpoints::is_serving_and_terminating) } else { ready }
}

/// Those hinted for this node, else for its zone. Hints count only when every endpoint has them and one is for us.
fn near<'a>(candidates: Vec<&'a Candidate<'a>>, place: &Place) -> Vec<&'a Candidate<'a>> {
    let hints = |c: &Candidate<'a>| c.slice.hints.clone().unwrap_or_default();
    let by_node = |c: &Candidate<'a>| {
        let nodes = hints(c).for_nodes.filter(|n| !n.is_empty())?;
        Some(nodes.iter().any(|n| n.name == place.node))
    };
    let by_zone = |c: &Candidate<'a>| {
        let (zone, zones) = (place.zone.as_ref()?, hints(c).for_zones.filter(|z| !z.is_empty())?);
        Some(zones.iter().any(|z| z.name == *zone))
    };
    let select = |hint: &dyn Fn(&Candidate<'a>) -> Option<bool>| {
        let verdicts: Option<Vec<bool>> = candidates.iter().map(|c| hint(c)).collect();
        let chosen = verdicts?.into_iter().zip(&candidates).filter(|(ours, _)| *ours).map(|(_, c)| *c);
        Some(chosen.collect::<Vec<_>>()).filter(|c| !c.is_empty())
    };
    select(&by_node).or_else(|| select(&by_zone)).unwrap_or(candidates)
}

/// The row with its endpoints. Local policies pick the local ones of the list, so one list serves both, but for one
/// case: only ending endpoints are left on this node. Where just one of the two policies is Local, that takes a row of
/// its own, for such endpoints are nothing to the other.
fn with_endpoints(row: ServicePort, sets: &Sets) -> Vec<ServicePort> {
    use TrafficPolicy::{Cluster, Local};
    let both: BTreeSet<Endpoint> = sets.cluster.union(&sets.local).copied().collect();
    let list = |set: &BTreeSet<Endpoint>| set.iter().copied().collect::<Vec<_>>();
    let outside = row.node_port.is_some() || !row.external_ips.is_empty() || !row.load_balancer_ips.is_empty();
    match (row.internal_policy, row.external_policy) {
        (Local, Local) => vec![ServicePort { endpoints: list(&both), ..row }],
        (Local, Cluster) if !outside => vec![ServicePort { endpoints: list(&both), ..row }],
        (Cluster, Cluster) => vec![ServicePort { endpoints: list(&sets.cluster), ..row }],
        (Local, Cluster) | (Cluster, Local) if both == sets.cluster || !outside => {
            vec![ServicePort { endpoints: list(&sets.cluster), ..row }]
        }
        (internal, external) => {
            let of = |policy| if policy == Local { list(&both) } else { list(&sets.cluster) };
            let outer = ServicePort {
                name: format!("{}@external", row.name),
                cluster_ip: None,
                endpoints: of(external),
                ..row.clone()
            };
            let inner = ServicePort {
                external_ips: Vec::new(),
                load_balancer_ips: Vec::new(),
                node_port: None,
                endpoints: of(internal),
                ..row
            };
            vec![inner, outer]
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
