//! Endpoints and endpoint slices.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort as SlicePort, EndpointSlice};
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::{fill, fill_value};
use crate::field::{Errors, Path};
use crate::names;
use crate::strategy::typed::{Generation, Rules};
use crate::validation::service::non_special_ip;
use crate::validation::{check, immutable, required_one_of, text};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub struct EndpointsRules;

impl Rules for EndpointsRules {
    type Object = Endpoints;
    const CREATE_ON_UPDATE: bool = true;
    const COLUMNS: &'static [Column] = columns::network::ENDPOINTS;

    fn default(endpoints: &mut Endpoints) {
        for port in endpoints.subsets.iter_mut().flatten().flat_map(|subset| subset.ports.iter_mut().flatten()) {
            fill(&mut port.protocol, "TCP");
        }
    }

    fn validate(endpoints: &Endpoints, errors: &mut Errors) {
        let path = Path::root("subsets");
        for (n, subset) in endpoints.subsets.iter().flatten().enumerate() {
            let path = &path.index(n);
            let ready = subset.addresses.as_deref().unwrap_or_default();
            let waiting = subset.not_ready_addresses.as_deref().unwrap_or_default();
            if ready.is_empty() && waiting.is_empty() {
                errors.required(path, "must specify `addresses` or `notReadyAddresses`");
            }
            for (field, list) in [("addresses", ready), ("notReadyAddresses", waiting)] {
                let path = path.child(field);
                for (n, item) in list.iter().enumerate() {
                    address(errors, &path.index(n), item);
                }
            }
            let ports = subset.ports.as_deref().unwrap_or_default();
            let path = path.child("ports");
            for (n, item) in ports.iter().enumerate() {
                port(errors, &path.index(n), item, ports.len() > 1);
            }
        }
    }

    fn cells(endpoints: &Endpoints, now: Timestamp) -> Vec<Value> {
        columns::network::endpoints(endpoints, now)
    }
}

fn address(errors: &mut Errors, path: &Path<'_>, address: &EndpointAddress) {
    let host = text(address.hostname.as_ref());
    if !host.is_empty() {
        check(errors, &path.child("hostname"), host, names::dns1123_label(host));
    }
    if let Some(node) = &address.node_name {
        check(errors, &path.child("nodeName"), node, names::dns1123_subdomain(node));
    }
    non_special_ip(errors, &path.child("ip"), &address.ip);
}

fn port(errors: &mut Errors, path: &Path<'_>, port: &EndpointPort, named: bool) {
    match text(port.name.as_ref()) {
        "" if named => errors.required(&path.child("name"), ""),
        "" => {}
        name => check(errors, &path.child("name"), name, names::dns1123_label(name)),
    }
    for message in names::port_number(port.port) {
        errors.invalid(&path.child("port"), port.port, &message);
    }
    required_one_of(errors, &path.child("protocol"), port.protocol.as_deref(), PROTOCOLS);
    if let Some(protocol) = &port.app_protocol {
        check(errors, &path.child("appProtocol"), protocol, names::qualified_name(protocol));
    }
}

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

pub struct EndpointSliceRules;

impl Rules for EndpointSliceRules {
    type Object = EndpointSlice;
    const GENERATION: Generation = Generation::Spec;
    const CREATE_ON_UPDATE: bool = true;
    const COLUMNS: &'static [Column] = columns::network::ENDPOINT_SLICE;

    fn default(slice: &mut EndpointSlice) {
        for port in slice.ports.iter_mut().flatten() {
            fill_value(&mut port.name, String::new());
            fill(&mut port.protocol, "TCP");
        }
    }

    fn validate(slice: &EndpointSlice, errors: &mut Errors) {
        let kinds = ["FQDN", "IPv4", "IPv6"];
        required_one_of(errors, &Path::root("addressType"), Some(&slice.address_type), &kinds);
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        let path = Path::root("endpoints");
        if endpoints.len() > MAX_ENDPOINTS {
            errors.too_many(&path, endpoints.len(), MAX_ENDPOINTS);
        }
        for (n, item) in endpoints.iter().enumerate() {
            endpoint(errors, &path.index(n), item, &slice.address_type);
        }
        let ports = slice.ports.as_deref().unwrap_or_default();
        let path = Path::root("ports");
        if ports.len() > MAX_PORTS {
            errors.too_many(&path, ports.len(), MAX_PORTS);
        }
        for (n, item) in ports.iter().enumerate() {
            slice_port(errors, &path.index(n), item, &ports[..n]);
        }
    }

    fn validate_update(new: &EndpointSlice, old: &EndpointSlice, errors: &mut Errors) {
        Self::validate(new, errors);
        immutable(errors, &Path::root("addressType"), &new.address_type, &old.address_type);
    }

    fn cells(slice: &EndpointSlice, now: Timestamp) -> Vec<Value> {
        columns::network::endpoint_slice(slice, now)
    }
}

fn endpoint(errors: &mut Errors, path: &Path<'_>, endpoint: &Endpoint, kind: &str) {
    let addresses = &path.child("addresses");
    if endpoint.addresses.is_empty() {
        errors.required(addresses, "must contain at least 1 address");
    } else if endpoint.addresses.len() > MAX_ADDRESSES {
        errors.too_many(addresses, endpoint.addresses.len(), MAX_ADDRESSES);
    }
    for (n, address) in endpoint.addresses.iter().enumerate() {
        let path = &addresses.index(n);
        let v6 = address.parse::<std::net::IpAddr>().map(|ip| ip.is_ipv6());
        match (kind, v6) {
            ("IPv4", Ok(false)) | ("IPv6", Ok(true)) => non_special_ip(errors, path, address),
            ("IPv4", _) => errors.invalid(path, address, "must be a valid IPv4 address"),
            ("IPv6", _) => errors.invalid(path, address, "must be a valid IPv6 address"),
            ("FQDN", _) => check(errors, path, address, names::dns1123_subdomain(address)),
            _ => {}
        }
    }
    if let Some(host) = &endpoint.hostname {
        check(errors, &path.child("hostname"), host, names::dns1123_label(host));
    }
    if let Some(node) = &endpoint.node_name {
        check(errors, &path.child("nodeName"), node, names::dns1123_subdomain(node));
    }
}

fn slice_port(errors: &mut Errors, path: &Path<'_>, port: &SlicePort, earlier: &[SlicePort]) {
    let name = text(port.name.as_ref());
    if !name.is_empty() {
        check(errors, &path.child("name"), name, names::dns1123_label(name));
    }
    if earlier.iter().any(|other| text(other.name.as_ref()) == name) {
        errors.duplicate(&path.child("name"), name);
    }
    required_one_of(errors, &path.child("protocol"), port.protocol.as_deref(), PROTOCOLS);
    for message in port.port.map(names::port_number).unwrap_or_default() {
        errors.invalid(&path.child("port"), port.port.unwrap_or(0), &message);
    }
    if let Some(protocol) = &port.app_protocol {
        check(errors, &path.child("appProtocol"), protocol, names::qualified_name(protocol));
    }
}
