//! Which addresses and ports a Service gets: those it asks for, those it had, or free ones.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use objects::{
    field::{BadValue, Errors, Path},
    status::{Qualified, Status},
};
use serde_json::Value;

use super::{Allocators, address_is_free, port_is_free};
use crate::server::Inner;

const KIND: Qualified<'static> = Qualified { group: "", name: "Service" };

/// Fills in cluster IPs, IP families and node ports.
pub(super) fn assign(
    allocators: &Allocators,
    inner: &Inner,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let read = |value: &Value| objects::decode::decode::<Service>(value.clone()).map_err(Status::internal);
    let mut service = read(object)?;
    let old = old.map(read).transpose()?;
    let name = service.metadata.name.clone().unwrap_or_default();
    let Some(spec) = service.spec.as_mut() else { return Ok(()) };
    let before = old.as_ref().and_then(|old| old.spec.as_ref());
    let mut errors = Errors::default();
    carry_over(spec, before);
    assign_addresses(allocators, inner, spec, before, &mut errors)?;
    assign_ports(allocators, inner, spec, before, &mut errors)?;
    if !errors.is_empty() {
        return Err(Status::invalid(KIND, &name, errors.as_slice()));
    }
    object["spec"] = serde_json::to_value(spec).map_err(Status::internal)?;
    Ok(())
}

fn type_of(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or("ClusterIP")
}

fn has_address(spec: &ServiceSpec) -> bool {
    type_of(spec) != "ExternalName"
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None") || spec.cluster_ips.iter().flatten().any(|ip| ip == "None")
}

fn wants_ports(spec: &ServiceSpec) -> bool {
    match type_of(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

fn wants_health_port(spec: &ServiceSpec) -> bool {
    type_of(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// An update that leaves out what was allocated keeps it, as long as its type still has it.
fn carry_over(spec: &mut ServiceSpec, before: Option<&ServiceSpec>) {
    let Some(before) = before else { return };
    if has_address(spec) && has_address(before) && !is_headless(spec) {
        if spec.cluster_ip.as_deref().unwrap_or_default().is_empty() && spec.cluster_ips.is_none() {
            spec.cluster_ip.clone_from(&before.cluster_ip);
            spec.cluster_ips.clone_from(&before.cluster_ips);
        }
        if spec.ip_families.is_none() {
            spec.ip_families.clone_from(&before.ip_families);
        }
        if spec.ip_family_policy.is_none() {
            spec.ip_family_policy.clone_from(&before.ip_family_policy);
        }
    }
    if wants_ports(spec) && wants_ports(before) {
        let taken: HashSet<i32> = spec.ports.iter().flatten().filter_map(|port| port.node_port).collect();
        for port in spec.ports.iter_mut().flatten().filter(|port| port.node_port.unwrap_or(0) == 0) {
            let same = |old: &&ServicePort| old.port == port.port && old.protocol == port.protocol;
            let former = before.ports.iter().flatten().find(same).and_then(|old| old.node_port);
            port.node_port = former.filter(|former| !taken.contains(former));
        }
    }
    if wants_health_port(spec) && spec.health_check_node_port.unwrap_or(0) == 0 {
        spec.health_check_node_port = before.health_check_node_port;
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn family_of(cidr: &IpNet) -> &'static str {
    family(cidr.addr())
}

fn assign_addresses(
    allocators: &Allocators,
    inner: &Inner,
    spec: &mut ServiceSpec,
    before: Option<&ServiceSpec>,
    errors: &mut Errors,
) -> Result<(), Status> {
    if !has_address(spec) {
        spec.cluster_ip = None;
        spec.cluster_ips = None;
        spec.ip_families = None;
        spec.ip_family_policy = None;
        return Ok(());
    }
    let path = Path::root("spec");
    let families = wanted_families(allocators, spec, errors);
    if is_headless(spec) {
        spec.cluster_ip = Some("None".into());
        spec.cluster_ips = Some(vec!["None".into()]);
        spec.ip_families = Some(families);
        return Ok(());
    }
    let mut asked: Vec<String> = spec.cluster_ips.clone().unwrap_or_default();
    if let Some(first) = spec.cluster_ip.clone().filter(|ip| !ip.is_empty())
        && asked.is_empty()
    {
        asked.push(first);
    }
    let held: HashSet<&str> = before
        .map(|b| b.cluster_ips.iter().flatten().map(String::as_str).chain(b.cluster_ip.as_deref()).collect())
        .unwrap_or_default();
    let mut given = Vec::new();
    for (index, family) in families.iter().enumerate() {
        let address = match asked.get(index) {
            Some(text) if held.contains(text.as_str()) => Some(text.clone()),
            Some(text) => check_asked(allocators, inner, text, &asked, errors)?,
            None => match free_address(allocators, inner, family)? {
                Some(address) => Some(address.to_string()),
                None => {
                    errors.internal(&path.child("clusterIPs"), "failed to allocate a serviceIP: range is full");
                    None
                }
            },
        };
        given.extend(address);
    }
    spec.cluster_ip = given.first().cloned();
    spec.cluster_ips = Some(given);
    spec.ip_families = Some(families);
    Ok(())
}

/// The families of the Service's addresses, the primary first; also settles the policy.
fn wanted_families(allocators: &Allocators, spec: &mut ServiceSpec, errors: &mut Errors) -> Vec<String> {
    let served: Vec<&str> = allocators.cidrs.iter().map(family_of).collect();
    let policy = spec.ip_family_policy.get_or_insert_with(|| "SingleStack".into()).clone();
    let mut families = spec.ip_families.clone().unwrap_or_default();
    if families.is_empty() {
        families = spec
            .cluster_ips
            .iter()
            .flatten()
            .chain(spec.cluster_ip.as_ref())
            .filter_map(|text| text.parse().ok().map(|ip| family(ip).to_owned()))
            .collect();
        families.dedup();
    }
    if families.is_empty() {
        families.extend(served.first().map(|f| (*f).to_owned()));
    }
    let path = Path::root("spec");
    for unserved in families.iter().filter(|family| !served.contains(&family.as_str())) {
        errors.invalid(&path.child("ipFamilies").index(0), unserved, "not configured on this cluster");
    }
    if policy != "SingleStack" && families.len() < 2 {
        let second = served.iter().find(|family| !families.iter().any(|own| own == *family));
        match second {
            Some(second) => families.push((*second).to_owned()),
            None if policy == "RequireDualStack" => {
                let detail = "this cluster is not configured for dual-stack services";
                errors.invalid(&path.child("ipFamilyPolicy"), policy.as_str(), detail);
            }
            None => {}
        }
    }
    if policy == "SingleStack" {
        families.truncate(1);
    }
    families
}

fn check_asked(
    allocators: &Allocators,
    inner: &Inner,
    text: &str,
    asked: &[String],
    errors: &mut Errors,
) -> Result<Option<String>, Status> {
    let spec = Path::root("spec");
    let mut refuse = |detail: String| {
        errors.invalid(&spec.child("clusterIPs"), BadValue::json(&asked), &detail);
        Ok(None)
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        return refuse(format!("failed to allocate IP {text}: not a valid IP address"));
    };
    let Some(cidr) = allocators.cidrs.iter().find(|cidr| cidr.contains(&address)) else {
        let ranges: Vec<String> = allocators.cidrs.iter().map(ToString::to_string).collect();
        return refuse(format!(
            "failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. The range of valid IPs is {}",
            ranges.join(",")
        ));
    };
    if address == cidr.network() || (cidr.addr().is_ipv4() && address == cidr.broadcast()) {
        return refuse(format!("failed to allocate IP {text}: the address is the network's own"));
    }
    if !address_is_free(inner, address)? {
        return refuse(format!("failed to allocate IP {text}: provided IP is already allocated"));
    }
    Ok(Some(text.to_owned()))
}

/// A range of offsets from which dynamic ones are taken first; the part before is left for those that ask by name.
fn dynamic_start(size: u128, divisor: u128, most: u128) -> u128 {
    let band = (size / divisor).clamp(16, most);
    if size <= 16 || band >= size { 0 } else { band }
}

/// Offsets in the order they are tried: from a random one in the dynamic band, then the static band.
fn candidates(size: u128, dynamic: u128) -> impl Iterator<Item = u128> {
    let width = size - dynamic;
    let from = if width == 0 { 0 } else { rand::random_range(0..width) };
    (0..width).map(move |step| dynamic + (from + step) % width).chain(0..dynamic)
}

fn free_address(allocators: &Allocators, inner: &Inner, family: &str) -> Result<Option<IpAddr>, Status> {
    let Some(cidr) = allocators.cidrs.iter().find(|cidr| family_of(cidr) == family) else { return Ok(None) };
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(20);
    // Without the network's own address and, for IPv4, the broadcast address.
    let size = (1_u128 << bits).saturating_sub(if cidr.addr().is_ipv4() { 2 } else { 1 });
    for offset in candidates(size, dynamic_start(size, 16, 256)) {
        let address = nth(cidr, offset + 1);
        if address_is_free(inner, address)? {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// The address `offset` behind the network's own.
pub(crate) fn nth(cidr: &IpNet, offset: u128) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            Ipv4Addr::from(u32::from(base).saturating_add(offset)).into()
        }
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).saturating_add(offset)).into(),
    }
}

fn assign_ports(
    allocators: &Allocators,
    inner: &Inner,
    spec: &mut ServiceSpec,
    before: Option<&ServiceSpec>,
    errors: &mut Errors,
) -> Result<(), Status> {
    let wants = wants_ports(spec);
    let wants_health = wants_health_port(spec);
    let held: HashSet<i32> = before
        .map(|b| b.ports.iter().flatten().filter_map(|p| p.node_port).chain(b.health_check_node_port).collect())
        .unwrap_or_default();
    let mut taken: HashSet<i32> = spec.ports.iter().flatten().filter_map(|port| port.node_port).collect();
    let path = Path::root("spec");
    let ports = path.child("ports");
    // One port number may serve two protocols of the same Service.
    let mut by_number: Vec<(i32, i32)> = Vec::new();
    for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
        let asked = port.node_port.unwrap_or(0);
        if asked != 0 {
            if !held.contains(&asked) {
                check_port(allocators, inner, asked, &ports.index(index), errors)?;
            }
        } else if wants {
            let shared = by_number.iter().find(|(number, _)| *number == port.port).map(|(_, node)| *node);
            port.node_port = match shared {
                Some(node) => Some(node),
                None => free_port(allocators, inner, &taken)?,
            };
            match port.node_port {
                Some(node) => {
                    taken.insert(node);
                }
                None => errors
                    .internal(&ports.index(index).child("nodePort"), "failed to allocate a nodePort: range is full"),
            }
        }
        if let Some(node) = port.node_port.filter(|node| *node != 0) {
            by_number.push((port.port, node));
        }
    }
    if wants_health && spec.health_check_node_port.unwrap_or(0) == 0 {
        spec.health_check_node_port = free_port(allocators, inner, &taken)?;
    } else if !wants_health {
        spec.health_check_node_port = None;
    }
    Ok(())
}

fn check_port(
    allocators: &Allocators,
    inner: &Inner,
    port: i32,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Result<(), Status> {
    let range = &allocators.ports;
    match u16::try_from(port).ok().filter(|port| range.contains(port)) {
        None => {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            );
            errors.invalid(&path.child("nodePort"), port, &detail);
        }
        Some(number) if !port_is_free(inner, number)? => {
            errors.invalid(&path.child("nodePort"), port, "provided port is already allocated");
        }
        Some(_) => {}
    }
    Ok(())
}

fn free_port(allocators: &Allocators, inner: &Inner, taken: &HashSet<i32>) -> Result<Option<i32>, Status> {
    let start = *allocators.ports.start();
    let size = u128::from(allocators.ports.end().saturating_sub(start)) + 1;
    for offset in candidates(size, dynamic_start(size, 32, 128)) {
        let Ok(port) = u16::try_from(u128::from(start) + offset) else { continue };
        if !taken.contains(&i32::from(port)) && port_is_free(inner, port)? {
            return Ok(Some(i32::from(port)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_addresses_keep_clear_of_the_static_band() {
        assert_eq!(dynamic_start(65534, 16, 256), 256);
        assert_eq!(dynamic_start(254, 16, 256), 16);
        assert_eq!(dynamic_start(14, 16, 256), 0);
        let order: Vec<u128> = candidates(20, 16).collect();
        assert!(order[..4].iter().all(|offset| *offset >= 16));
        assert_eq!(order.len(), 20);
        assert_eq!(order[4..], (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn an_update_keeps_its_address_and_ports() {
        let before: ServiceSpec = serde_json::from_value(serde_json::json!({
            "type": "NodePort", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}))
        .unwrap();
        let mut spec: ServiceSpec =
            serde_json::from_value(serde_json::json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}))
                .unwrap();
        carry_over(&mut spec, Some(&before));
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.0.0.9"));
        assert_eq!(spec.ports.unwrap()[0].node_port, Some(30080));
    }

    #[test]
    fn nth_counts_from_the_network() {
        assert_eq!(nth(&"10.43.0.0/16".parse().unwrap(), 1).to_string(), "10.43.0.1");
    }
}
