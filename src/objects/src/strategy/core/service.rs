//! Services. Cluster IPs and node ports are allocated by the API server between [`Strategy::decode`] and
//! [`Strategy::create`]; here they are defaulted, kept in step and validated.
//!
//! [`Strategy::decode`]: crate::strategy::Strategy::decode
//! [`Strategy::create`]: crate::strategy::Strategy::create

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::{fill, fill_value};
use crate::field::Errors;
use crate::names::{self, NameRule};
use crate::strategy::typed::{Rules, StatusPolicy};
use crate::strategy::{Context, Part, SelectableField};
use crate::validation::{service, text};

const AFFINITY_SECONDS: i32 = 10_800;

const FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: "" },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: "" },
    SelectableField { label: "spec.clusterIP", path: &["spec", "clusterIP"], absent: "" },
    SelectableField { label: "spec.type", path: &["spec", "type"], absent: "" },
];

pub struct ServiceRules;

impl Rules for ServiceRules {
    type Object = Service;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const NAMES: NameRule = names::label_1035;
    const FIELDS: &'static [SelectableField] = FIELDS;
    const COLUMNS: &'static [Column] = columns::network::SERVICE;

    fn default(service: &mut Service) {
        let spec = service.spec.get_or_insert_default();
        affinity(spec);
        fill(&mut spec.type_, "ClusterIP");
        for port in spec.ports.iter_mut().flatten() {
            fill(&mut port.protocol, "TCP");
            let unset = match &port.target_port {
                None | Some(IntOrString::Int(0)) => true,
                Some(IntOrString::Int(_)) => false,
                Some(IntOrString::String(name)) => name.is_empty(),
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if service::externally_accessible(spec) {
            fill(&mut spec.external_traffic_policy, "Cluster");
        }
        if text(spec.type_.as_ref()) != "ExternalName" {
            fill(&mut spec.internal_traffic_policy, "Cluster");
        }
        if text(spec.type_.as_ref()) == "LoadBalancer" {
            fill_value(&mut spec.allocate_load_balancer_node_ports, true);
        }
        let status = service.status.get_or_insert_default();
        status.load_balancer.get_or_insert_default();
        for ingress in status.load_balancer.iter_mut().flat_map(|lb| lb.ingress.iter_mut().flatten()) {
            if ingress.ip.is_some() {
                fill(&mut ingress.ip_mode, "VIP");
            }
        }
    }

    fn prepare_create(service: &mut Service, _context: &Context<'_>) {
        if let Some(spec) = &mut service.spec {
            sync_cluster_ips(spec, None);
            drop_unused(spec, None);
        }
    }

    fn prepare_update(new: &mut Service, old: &Service) {
        if let (Some(new), Some(old)) = (&mut new.spec, &old.spec) {
            keep_allocated(new, old);
            sync_cluster_ips(new, Some(old));
            drop_unused(new, Some(old));
        }
    }

    fn validate(service: &Service, errors: &mut Errors) {
        service::service(errors, service);
    }

    fn validate_update(new: &Service, old: &Service, errors: &mut Errors) {
        service::update(errors, new, old);
    }

    fn validate_part(_part: Part, new: &Service, _old: &Service, errors: &mut Errors) {
        service::status(errors, new);
    }

    fn cells(service: &Service, now: Timestamp) -> Vec<Value> {
        columns::network::service(service, now)
    }
}

fn affinity(spec: &mut ServiceSpec) {
    fill(&mut spec.session_affinity, "None");
    match text(spec.session_affinity.as_ref()) {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            if config.and_then(|config| config.timeout_seconds).is_none() {
                spec.session_affinity_config = Some(SessionAffinityConfig {
                    client_ip: Some(ClientIPConfig { timeout_seconds: Some(AFFINITY_SECONDS) }),
                });
            }
        }
        _ => {}
    }
}

fn needs_cluster_ip(spec: &ServiceSpec) -> bool {
    matches!(text(spec.type_.as_ref()), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_ports(spec: &ServiceSpec) -> bool {
    match text(spec.type_.as_ref()) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

/// An update that leaves allocated values out keeps them, unless it changes what they are for.
fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if text(new.cluster_ip.as_ref()).is_empty() && new.cluster_ips.is_none() {
            new.cluster_ip.clone_from(&old.cluster_ip);
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
        if new.ip_families.is_none() {
            new.ip_families.clone_from(&old.ip_families);
        }
        if new.ip_family_policy.is_none() {
            new.ip_family_policy.clone_from(&old.ip_family_policy);
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        keep_node_ports(new, old);
    }
    if service::needs_health_check(old)
        && service::needs_health_check(new)
        && new.health_check_node_port.unwrap_or(0) == 0
    {
        new.health_check_node_port = old.health_check_node_port;
    }
}

fn keep_node_ports(new: &mut ServiceSpec, old: &ServiceSpec) {
    let old_ports = old.ports.as_deref().unwrap_or_default();
    let mut used: Vec<i32> = new.ports.iter().flatten().filter_map(|port| port.node_port).collect();
    for port in new.ports.iter_mut().flatten().filter(|port| port.node_port.unwrap_or(0) == 0) {
        let same = |other: &&k8s_openapi::api::core::v1::ServicePort| {
            other.port == port.port && other.protocol == port.protocol
        };
        let named = |other: &&k8s_openapi::api::core::v1::ServicePort| {
            other.name == port.name && other.protocol == port.protocol
        };
        let found = old_ports.iter().find(same).or_else(|| old_ports.iter().find(named));
        if let Some(number) = found.and_then(|found| found.node_port).filter(|number| !used.contains(number)) {
            used.push(number);
            port.node_port = Some(number);
        }
    }
}

/// `clusterIP` is the first of `clusterIPs`: whichever the client set or changed leads.
fn sync_cluster_ips(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let single = text(spec.cluster_ip.as_ref()).to_owned();
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).cloned().unwrap_or_default();
    if single == first {
        return;
    }
    let Some(old) = old else {
        if first.is_empty() {
            spec.cluster_ips = Some(vec![single]);
        }
        return;
    };
    let single_changed = spec.cluster_ip != old.cluster_ip;
    let list_changed = spec.cluster_ips != old.cluster_ips;
    match (single_changed, list_changed) {
        (true, false) if single.is_empty() => spec.cluster_ips = None,
        (true, false) => {
            let rest = spec.cluster_ips.take().unwrap_or_default().into_iter().skip(1);
            spec.cluster_ips = Some(std::iter::once(single).chain(rest).collect());
        }
        (false, true) if first.is_empty() => spec.cluster_ip = None,
        _ => {}
    }
}

/// Drops what the new type has no use for, where the client has not set it anew.
fn drop_unused(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let Some(old) = old else { return };
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) && spec.cluster_ip == old.cluster_ip {
        spec.cluster_ip = None;
        spec.cluster_ips = None;
        spec.ip_families = None;
        spec.ip_family_policy = None;
        spec.internal_traffic_policy = None;
    }
    if needs_node_ports(old) && !needs_node_ports(spec) {
        let before: Vec<Option<i32>> = old.ports.iter().flatten().map(|port| port.node_port).collect();
        for port in spec.ports.iter_mut().flatten().filter(|port| before.contains(&port.node_port)) {
            port.node_port = None;
        }
    }
    if !service::externally_accessible(spec) && spec.external_traffic_policy == old.external_traffic_policy {
        spec.external_traffic_policy = None;
    }
    if !service::needs_health_check(spec) && spec.health_check_node_port == old.health_check_node_port {
        spec.health_check_node_port = None;
    }
    if text(spec.type_.as_ref()) != "LoadBalancer" && text(old.type_.as_ref()) == "LoadBalancer" {
        if spec.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            spec.allocate_load_balancer_node_ports = None;
        }
        if spec.load_balancer_class == old.load_balancer_class {
            spec.load_balancer_class = None;
        }
    }
    if text(spec.type_.as_ref()) != "ExternalName" && text(old.type_.as_ref()) == "ExternalName" {
        spec.external_name = None;
    }
}

#[cfg(test)]
mod tests {
    use crate::strategy::{Context, Part, strategy_for};
    use serde_json::{Value, json};

    fn context() -> Context<'static> {
        Context::sample(Some("default"))
    }

    fn create(spec: Value) -> Result<Value, String> {
        let strategy = strategy_for("", "v1", "Service").unwrap();
        let object = json!({"metadata": {"name": "web"}, "spec": spec});
        strategy.create(object, &context()).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn services_get_their_defaults() {
        let service = create(json!({"ports": [{"port": 80}], "clusterIP": "10.43.0.9"})).unwrap();
        assert_eq!(
            service["spec"],
            json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"], "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "sessionAffinity": "None", "type": "ClusterIP"})
        );
        assert_eq!(service["status"], json!({"loadBalancer": {}}));
    }

    #[test]
    fn ports_are_required_and_named() {
        assert_eq!(create(json!({})).unwrap_err(), "Service \"web\" is invalid: spec.ports: Required value");
        assert_eq!(
            create(json!({"ports": [{"port": 80}, {"port": 81, "name": "a"}]})).unwrap_err(),
            "Service \"web\" is invalid: spec.ports[0].name: Required value"
        );
        assert_eq!(
            create(json!({"type": "Foo", "ports": [{"port": 80}]})).unwrap_err(),
            "Service \"web\" is invalid: spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""
        );
    }

    #[test]
    fn the_cluster_ip_stays_and_node_ports_come_and_go() {
        let strategy = strategy_for("", "v1", "Service").unwrap();
        let mut old =
            create(json!({"type": "NodePort", "clusterIP": "10.43.0.9", "ports": [{"port": 80, "nodePort": 30080}]}))
                .unwrap();
        old["metadata"]["resourceVersion"] = json!("1");
        let mut other = old.clone();
        other["spec"]["clusterIP"] = json!("10.43.0.10");
        assert_eq!(
            strategy.update(Part::Main, other, &old, &context()).unwrap_err().message(),
            "Service \"web\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.43.0.10\"]: may not change once set"
        );
        let bare = json!({"metadata": {"name": "web"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        let kept = strategy.update(Part::Main, bare, &old, &context()).unwrap();
        assert_eq!(kept["spec"]["clusterIP"], "10.43.0.9");
        assert_eq!(kept["spec"]["ports"][0]["nodePort"], 30080);
        let mut inner = old.clone();
        inner["spec"]["type"] = json!("ClusterIP");
        let inner = strategy.update(Part::Main, inner, &old, &context()).unwrap();
        assert!(inner["spec"]["ports"][0].get("nodePort").is_none());
        assert!(inner["spec"].get("externalTrafficPolicy").is_none());
    }
}
