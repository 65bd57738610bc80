//! Services, endpoints, ingresses and policies.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Endpoints, LoadBalancerStatus, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, IngressRule, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{Column, age, name, none_if_empty};
use crate::selector::{format_label_selector, format_labels};

pub const SERVICE: &[Column] = &[
    Column::NAME,
    Column::new("Type", "string"),
    Column::new("Cluster-IP", "string"),
    Column::new("External-IP", "string"),
    Column::new("Port(s)", "string"),
    Column::AGE,
    Column::wide("Selector", "string"),
];

pub const ENDPOINTS: &[Column] = &[Column::NAME, Column::new("Endpoints", "string"), Column::AGE];

pub const ENDPOINT_SLICE: &[Column] = &[
    Column::NAME,
    Column::new("AddressType", "string"),
    Column::new("Ports", "string"),
    Column::new("Endpoints", "string"),
    Column::AGE,
];

pub const INGRESS: &[Column] = &[
    Column::NAME,
    Column::new("Class", "string"),
    Column::new("Hosts", "string"),
    Column::new("Address", "string"),
    Column::new("Ports", "string"),
    Column::AGE,
];

pub const INGRESS_CLASS: &[Column] =
    &[Column::NAME, Column::new("Controller", "string"), Column::new("Parameters", "string"), Column::AGE];

pub const NETWORK_POLICY: &[Column] = &[Column::NAME, Column::new("Pod-Selector", "string"), Column::AGE];

pub const SERVICE_CIDR: &[Column] = &[Column::NAME, Column::new("CIDRs", "string"), Column::AGE];

pub const IP_ADDRESS: &[Column] = &[Column::NAME, Column::new("ParentRef", "string")];

/// How many items a cell shows before it only counts.
const SHOWN: usize = 3;

pub fn service(service: &Service, now: Timestamp) -> Vec<Value> {
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let cluster_ip = spec.cluster_ips.iter().flatten().next().map(String::as_str).unwrap_or_default();
    let ports: Vec<String> = spec.ports.iter().flatten().map(port).collect();
    vec![
        name(&service.metadata),
        spec.type_.clone().unwrap_or_default().into(),
        none_if_empty(cluster_ip),
        external_ip(service, spec).into(),
        none_if_empty(&ports.join(",")),
        age(&service.metadata, now),
        format_labels(spec.selector.as_ref()).into(),
    ]
}

fn port(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or_default();
    match port.node_port.filter(|number| *number > 0) {
        Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
        None => format!("{}/{protocol}", port.port),
    }
}

fn external_ip(service: &Service, spec: &ServiceSpec) -> String {
    let external = spec.external_ips.as_deref().unwrap_or_default();
    let joined = |empty: &str| if external.is_empty() { empty.to_owned() } else { external.join(",") };
    match spec.type_.as_deref().unwrap_or_default() {
        "ClusterIP" | "NodePort" => joined("<none>"),
        "LoadBalancer" => {
            let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            match balanced(balancer) {
                addresses if addresses.is_empty() => joined("<pending>"),
                addresses if external.is_empty() => addresses,
                addresses => format!("{addresses},{}", external.join(",")),
            }
        }
        "ExternalName" => spec.external_name.clone().unwrap_or_default(),
        _ => "<unknown>".to_owned(),
    }
}

fn balanced(status: Option<&LoadBalancerStatus>) -> String {
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let address = |(ip, host): (&Option<String>, &Option<String>)| ip.clone().or_else(|| host.clone());
    addresses(ingress.iter().filter_map(|ingress| address((&ingress.ip, &ingress.hostname))))
}

fn addresses(all: impl Iterator<Item = String>) -> String {
    let sorted: std::collections::BTreeSet<String> = all.filter(|address| !address.is_empty()).collect();
    sorted.into_iter().collect::<Vec<_>>().join(",")
}

/// The first few of a list, and how many more there are.
fn some(list: &[String], empty: &str) -> String {
    match list.len() {
        0 => empty.to_owned(),
        count if count > SHOWN => format!("{} + {} more...", list[..SHOWN].join(","), count - SHOWN),
        _ => list.join(","),
    }
}

pub fn endpoints(endpoints: &Endpoints, now: Timestamp) -> Vec<Value> {
    let mut list = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        match subset.ports.as_deref().unwrap_or_default() {
            [] => list.extend(addresses.iter().map(|address| address.ip.clone())),
            ports => {
                let pairs = ports.iter().flat_map(|port| addresses.iter().map(move |address| (port, address)));
                list.extend(pairs.map(|(port, address)| host_port(&address.ip, port.port)));
            }
        }
    }
    vec![name(&endpoints.metadata), some(&list, "<none>").into(), age(&endpoints.metadata, now)]
}

fn host_port(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub fn endpoint_slice(slice: &EndpointSlice, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| match (port.port, &port.name) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.clone(),
            (None, None) => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> =
        slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.clone()).collect();
    vec![
        name(&slice.metadata),
        slice.address_type.clone().into(),
        some(&ports, "<unset>").into(),
        some(&addresses, "<unset>").into(),
        age(&slice.metadata, now),
    ]
}

pub fn ingress(ingress: &Ingress, now: Timestamp) -> Vec<Value> {
    let spec = ingress.spec.clone().unwrap_or_default();
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let list = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let address = addresses(list.iter().filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())));
    let ports = if spec.tls.as_ref().is_some_and(|tls| !tls.is_empty()) { "80, 443" } else { "80" };
    vec![
        name(&ingress.metadata),
        none_if_empty(spec.ingress_class_name.as_deref().unwrap_or_default()),
        hosts(spec.rules.as_deref().unwrap_or_default()).into(),
        address.into(),
        ports.into(),
        age(&ingress.metadata, now),
    ]
}

fn hosts(rules: &[IngressRule]) -> String {
    let hosts: Vec<String> =
        rules.iter().filter_map(|rule| rule.host.clone()).filter(|host| !host.is_empty()).collect();
    some(&hosts, "*")
}

pub fn ingress_class(class: &IngressClass, now: Timestamp) -> Vec<Value> {
    let spec = class.spec.clone().unwrap_or_default();
    let parameters = spec.parameters.map_or_else(
        || "<none>".to_owned(),
        |parameters| {
            let group = parameters.api_group.map(|group| format!(".{group}")).unwrap_or_default();
            format!("{}{group}/{}", parameters.kind, parameters.name)
        },
    );
    vec![
        name(&class.metadata),
        spec.controller.unwrap_or_default().into(),
        parameters.into(),
        age(&class.metadata, now),
    ]
}

pub fn network_policy(policy: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
    let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
    vec![name(&policy.metadata), format_label_selector(selector).into(), age(&policy.metadata, now)]
}

pub fn service_cidr(meta: &ObjectMeta, cidrs: Option<&Vec<String>>, now: Timestamp) -> Vec<Value> {
    vec![name(meta), cidrs.map(|cidrs| cidrs.join(",")).unwrap_or_default().into(), age(meta, now)]
}

/// Parts of a parent reference: group, resource, namespace, name.
pub fn ip_address(meta: &ObjectMeta, parent: Option<[&str; 4]>) -> Vec<Value> {
    let text = parent.map_or_else(
        || "<none>".to_owned(),
        |[group, resource, namespace, name]| {
            let dot = if group.is_empty() { "" } else { "." };
            let slash = if namespace.is_empty() { "" } else { "/" };
            format!("{resource}{dot}{group}/{namespace}{slash}{name}")
        },
    );
    vec![name(meta), text.into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn cells(spec: Value, status: Value) -> Value {
        let object: Service = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "s"}, "spec": spec, "status": status}))
        .unwrap();
        service(&object, now())[1..5].to_vec().into()
    }

    #[test]
    fn services_show_addresses_and_ports() {
        assert_eq!(
            cells(
                json!({"type": "NodePort", "clusterIPs": ["10.43.0.1"], "ports": [
                {"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
                json!({})
            ),
            json!(["NodePort", "10.43.0.1", "<none>", "80:30080/TCP,53/UDP"])
        );
        assert_eq!(cells(json!({"type": "LoadBalancer"}), json!({}))[2], "<pending>");
        let status = json!({"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"ip": "1.1.1.1"}]}});
        assert_eq!(cells(json!({"type": "LoadBalancer"}), status)[2], "1.1.1.1,2.2.2.2");
        assert_eq!(cells(json!({"type": "ExternalName", "externalName": "a.b"}), json!({}))[2], "a.b");
    }

    #[test]
    fn long_lists_are_counted() {
        let object: Endpoints = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {},
            "subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}], "ports": [{"port": 80}, {"port": 81}]}]}))
        .unwrap();
        assert_eq!(endpoints(&object, now())[1], "1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more...");
        assert_eq!(some(&[], "<unset>"), "<unset>");
    }
}
