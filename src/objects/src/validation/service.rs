//! Services: addresses, ports, traffic policies.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};

use super::pod::port;
use super::{check, labels, one_of, required_one_of, shown, text};
use crate::field::{BadValue, Errors, Path};
use crate::names;

pub(crate) fn externally_accessible(spec: &ServiceSpec) -> bool {
    match text(spec.type_.as_ref()) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

pub(crate) fn needs_health_check(spec: &ServiceSpec) -> bool {
    text(spec.type_.as_ref()) == "LoadBalancer" && text(spec.external_traffic_policy.as_ref()) == "Local"
}

fn cluster_ips(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

pub(crate) fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(cluster_ips(spec), [only] if only == "None")
}

/// `ValidateService`, metadata apart.
pub fn service(errors: &mut Errors, service: &Service) {
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let path = &Path::root("spec");
    let kind = text(spec.type_.as_ref());
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    of_type(errors, path, spec, kind);
    let ports_path = path.child("ports");
    for (n, port) in ports.iter().enumerate() {
        self::service_port(errors, &ports_path.index(n), port, ports.len() > 1, &ports[..n]);
    }
    labels::labels(errors, &path.child("selector"), spec.selector.as_ref());
    affinity(errors, path, spec);
    addresses(errors, path, spec);
    let external = path.child("externalIPs");
    for (n, ip) in spec.external_ips.iter().flatten().enumerate() {
        non_special_ip(errors, &external.index(n), ip);
    }
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    required_one_of(errors, &path.child("type"), Some(kind), &types);
    port_numbers(errors, &ports_path, ports, kind);
    load_balancer(errors, path, spec, kind);
    traffic(errors, path, spec, kind);
}

fn of_type(errors: &mut Errors, path: &Path<'_>, spec: &ServiceSpec, kind: &str) {
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&path.child("clusterIPs").index(0), "None", &detail);
        }
        "ExternalName" => {
            let set = [
                ("clusterIPs", !cluster_ips(spec).is_empty()),
                ("ipFamilies", spec.ip_families.is_some()),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ];
            for (field, _) in set.into_iter().filter(|(_, set)| *set) {
                errors.forbidden(&path.child(field), "may not be set for ExternalName services");
            }
            let name = text(spec.external_name.as_ref());
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.required(&path.child("externalName"), ""),
                name => check(errors, &path.child("externalName"), name, names::dns1123_subdomain(name)),
            }
        }
        _ => {}
    }
}

fn service_port(errors: &mut Errors, path: &Path<'_>, port_spec: &ServicePort, named: bool, earlier: &[ServicePort]) {
    let name = text(port_spec.name.as_ref());
    if named && name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if !name.is_empty() {
        check(errors, &path.child("name"), name, names::dns1123_label(name));
        if earlier.iter().any(|other| text(other.name.as_ref()) == name) {
            errors.duplicate(&path.child("name"), name);
        }
    }
    for message in names::port_number(port_spec.port) {
        errors.invalid(&path.child("port"), port_spec.port, &message);
    }
    required_one_of(errors, &path.child("protocol"), port_spec.protocol.as_deref(), &["SCTP", "TCP", "UDP"]);
    if let Some(target) = &port_spec.target_port {
        port(errors, &path.child("targetPort"), target);
    }
    if let Some(protocol) = &port_spec.app_protocol {
        check(errors, &path.child("appProtocol"), protocol, names::qualified_name(protocol));
    }
}

fn affinity(errors: &mut Errors, path: &Path<'_>, spec: &ServiceSpec) {
    let kind = spec.session_affinity.as_deref();
    required_one_of(errors, &path.child("sessionAffinity"), kind, &["ClientIP", "None"]);
    let path = path.child("sessionAffinityConfig");
    let config = spec.session_affinity_config.as_ref();
    match (kind, config) {
        (Some("ClientIP"), None) => errors.required(&path, "when session affinity type is ClientIP"),
        (Some("ClientIP"), Some(config)) => {
            let path = path.child("clientIP.timeoutSeconds");
            match config.client_ip.as_ref().and_then(|client| client.timeout_seconds) {
                None => errors.required(&path, "when session affinity type is ClientIP"),
                Some(seconds) if !(1..=86_400).contains(&seconds) => {
                    errors.invalid(&path, seconds, "must be greater than 0 and less than 86400");
                }
                Some(_) => {}
            }
        }
        (Some("None"), Some(_)) => errors.forbidden(&path, "must not be set when session affinity is None"),
        _ => {}
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` have to agree.
fn addresses(errors: &mut Errors, path: &Path<'_>, spec: &ServiceSpec) {
    if text(spec.type_.as_ref()) == "ExternalName" {
        return;
    }
    let (single, list) = (text(spec.cluster_ip.as_ref()), cluster_ips(spec));
    let list_path = &path.child("clusterIPs");
    match (single, list.first()) {
        ("", None) => {}
        ("", Some(_)) => errors.invalid(list_path, shown(&list), "must be empty when `clusterIP` is not specified"),
        (_, None) => errors.required(list_path, ""),
        (single, Some(first)) if first != single => {
            errors.invalid(list_path, shown(&list), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let families_path = path.child("ipFamilies");
    for (n, family) in families.iter().enumerate() {
        one_of(errors, &families_path.index(n), family, &["IPv4", "IPv6"]);
        if families[..n].contains(family) {
            errors.duplicate(&families_path.index(n), family);
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        one_of(errors, &path.child("ipFamilyPolicy"), policy, &policies);
    }
    let mut sound = true;
    for (n, ip) in list.iter().enumerate() {
        if n == 0 && ip == "None" {
            if list.len() > 1 {
                errors.invalid(list_path, shown(&list), "'None' must be the first and only value");
                sound = false;
            }
            continue;
        }
        let messages = names::ip(ip);
        sound &= messages.is_empty();
        check(errors, &list_path.index(n), ip, messages);
    }
    if list.len() > 2 {
        errors.invalid(list_path, shown(&list), "may only hold up to 2 values");
    }
    if sound && !is_headless(spec) {
        families_match(errors, list_path, list, families);
    }
}

fn families_match(errors: &mut Errors, path: &Path<'_>, ips: &[String], families: &[String]) {
    let v6 = |ip: &String| ip.contains(':');
    if ips.len() > 1 && ips.iter().filter(|ip| v6(ip)).count() != 1 {
        errors.invalid(path, shown(&ips), "may specify no more than one IP for each IP family");
    }
    for (n, (ip, family)) in ips.iter().zip(families).enumerate() {
        let expected = match (family.as_str(), v6(ip)) {
            ("IPv4", true) => "IPv4",
            ("IPv6", false) => "IPv6",
            _ => continue,
        };
        let detail = format!("expected an {expected} value as indicated by `ipFamilies[{n}]`");
        errors.invalid(&path.index(n), ip, &detail);
    }
}

/// An address that other machines can reach this one by.
pub(crate) fn non_special_ip(errors: &mut Errors, path: &Path<'_>, text: &str) {
    let Ok(ip) = text.parse::<IpAddr>() else {
        return check(errors, path, text, names::ip(text));
    };
    if ip.is_unspecified() {
        errors.invalid(path, text, &format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_multicast {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn port_numbers(errors: &mut Errors, path: &Path<'_>, ports: &[ServicePort], kind: &str) {
    for (n, port) in ports.iter().enumerate() {
        let path = path.index(n);
        let earlier = || ports[..n].iter().filter(|other| other.protocol == port.protocol);
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            if kind == "ClusterIP" {
                errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            if earlier().any(|other| other.node_port == Some(number)) {
                errors.duplicate(&path.child("nodePort"), number);
            }
        }
        if earlier().any(|other| other.port == port.port) {
            let shown = serde_json::json!({"port": port.port, "protocol": port.protocol});
            errors.duplicate(&path, BadValue::display(shown));
        }
    }
}

fn load_balancer(errors: &mut Errors, path: &Path<'_>, spec: &ServiceSpec, kind: &str) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = kind == "LoadBalancer";
    let ranges = path.child("LoadBalancerSourceRanges");
    let list = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !list.is_empty() && !balanced {
        errors.forbidden(&ranges, ONLY);
    }
    for (n, range) in list.iter().enumerate() {
        check(errors, &ranges.index(n), range.trim(), names::cidr(range.trim()));
    }
    if spec.allocate_load_balancer_node_ports.is_some() && !balanced {
        errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY);
    }
    if let Some(class) = &spec.load_balancer_class {
        let path = &path.child("loadBalancerClass");
        if balanced {
            check(errors, path, class, names::qualified_name(class));
        } else {
            errors.forbidden(path, ONLY);
        }
    }
}

fn traffic(errors: &mut Errors, path: &Path<'_>, spec: &ServiceSpec, kind: &str) {
    let external = text(spec.external_traffic_policy.as_ref());
    let external_path = &path.child("externalTrafficPolicy");
    if externally_accessible(spec) {
        required_one_of(errors, external_path, Some(external), &["Cluster", "Local"]);
    } else if !external.is_empty() {
        errors.invalid(external_path, external, "may only be set for externally-accessible services");
    }
    let number = spec.health_check_node_port.unwrap_or(0);
    if !needs_health_check(spec) && number != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(&path.child("healthCheckNodePort"), number, detail);
    }
    let internal = &path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        None if kind != "ExternalName" => errors.required(internal, ""),
        Some(policy) => one_of(errors, internal, policy, &["Cluster", "Local"]),
        None => {}
    }
    if let Some(distribution) = &spec.traffic_distribution {
        let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        one_of(errors, &path.child("trafficDistribution"), distribution, &supported);
    }
}

/// `ValidateServiceUpdate`, metadata apart.
pub fn update(errors: &mut Errors, new: &Service, old: &Service) {
    let default = ServiceSpec::default();
    let (spec, old) = (new.spec.as_ref().unwrap_or(&default), old.spec.as_ref().unwrap_or(&default));
    let path = &Path::root("spec");
    let is_name = |spec: &ServiceSpec| text(spec.type_.as_ref()) == "ExternalName";
    if !is_name(spec) && !is_name(old) {
        kept_addresses(errors, &path.child("clusterIPs"), spec, old);
        if is_headless(spec) == is_headless(old) && !is_headless(spec) {
            kept_families(errors, &path.child("ipFamilies"), spec, old);
        }
    }
    let balanced = |spec: &ServiceSpec| text(spec.type_.as_ref()) == "LoadBalancer";
    if balanced(spec) && balanced(old) && spec.load_balancer_class != old.load_balancer_class {
        let path = path.child("loadBalancerClass");
        errors.invalid(&path, shown(&spec.load_balancer_class), "may not change once set");
    }
    if needs_health_check(spec) && needs_health_check(old) && spec.health_check_node_port != old.health_check_node_port
    {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
    service(errors, new);
}

fn kept_addresses(errors: &mut Errors, path: &Path<'_>, spec: &ServiceSpec, old: &ServiceSpec) {
    if is_headless(spec) && is_headless(old) {
        return;
    }
    let (new, old) = (cluster_ips(spec), cluster_ips(old));
    if new.is_empty() && !old.is_empty() {
        return errors.invalid(&path.index(0), shown(&new), "primary clusterIP can not be unset");
    }
    let common = if new.len() == old.len() { new.len() } else { 1 };
    for (n, _) in old.iter().zip(new).enumerate().take(common).filter(|(_, (old, new))| old != new) {
        errors.invalid(&path.index(n), shown(&new), "may not change once set");
    }
}

fn kept_families(errors: &mut Errors, path: &Path<'_>, spec: &ServiceSpec, old: &ServiceSpec) {
    let new = spec.ip_families.as_deref().unwrap_or_default();
    let old = old.ip_families.as_deref().unwrap_or_default();
    let common = if new.len() == old.len() { new.len() } else { 1 };
    if old.iter().zip(new).take(common).any(|(old, new)| old != new) {
        errors.invalid(&path.index(0), shown(&new), "may not change once set");
    }
    if old.len() == 2 && new.len() == 1 && spec.ip_family_policy.as_deref() != Some("SingleStack") {
        let path = Path::root("spec");
        let detail = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(&path.child("ipFamilyPolicy"), shown(&spec.ip_family_policy), detail);
    }
}

/// `ValidateServiceStatusUpdate`, metadata apart.
pub fn status(errors: &mut Errors, service: &Service) {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let list = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let kind = service.spec.as_ref().map(|spec| text(spec.type_.as_ref())).unwrap_or_default();
    let path = Path::root("status");
    let path = path.child("loadBalancer.ingress");
    if !list.is_empty() && kind != "LoadBalancer" {
        return errors.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for (n, ingress) in list.iter().enumerate() {
        self::ingress(errors, &path.index(n), ingress);
    }
}

fn ingress(errors: &mut Errors, path: &Path<'_>, ingress: &LoadBalancerIngress) {
    let ip = text(ingress.ip.as_ref());
    if !ip.is_empty() {
        check(errors, &path.child("ip"), ip, names::ip(ip));
    }
    let mode_path = &path.child("ipMode");
    match &ingress.ip_mode {
        None if !ip.is_empty() => errors.required(mode_path, "must be specified when `ip` is set"),
        Some(_) if ip.is_empty() => errors.forbidden(mode_path, "may not be specified when `ip` is not set"),
        Some(mode) => one_of(errors, mode_path, mode, &["Proxy", "VIP"]),
        None => {}
    }
    let host = text(ingress.hostname.as_ref());
    if !host.is_empty() {
        check(errors, &path.child("hostname"), host, names::dns1123_subdomain(host));
        if host.parse::<IpAddr>().is_ok() {
            errors.invalid(&path.child("hostname"), host, "must be a DNS name, not an IP address");
        }
    }
}
