//! Cluster IPs and node ports. What is taken is recorded in the store itself (an IPAddress object per address, a key
//! per port), written and removed in the very transaction that writes the Service, so that two servers can never give
//! out the same one. [`repair`] brings records and Services together again at start and from time to time.

pub(crate) mod repair;
pub(crate) mod service;

use std::{collections::HashSet, net::IpAddr, ops::RangeInclusive};

use bytes::Bytes;
use ipnet::IpNet;
use objects::status::Status;
use serde_json::{Value, json};
use storage::{Compare, Op, RangeRequest};

use crate::{encoded, keys, registry::Resource, server::Inner};

/// Prefix under which addresses in use are kept: the IPAddress kind's.
const ADDRESSES: &str = "networking.k8s.io/ipaddresses";
/// Prefix under which node ports in use are kept; no kind of the API.
const PORTS: &str = "ranges/nodeports";

/// What a write of a Service adds to its transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    pub(crate) compares: Vec<Compare>,
    pub(crate) ops: Vec<Op>,
}

impl Extra {
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// What a Service holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) addresses: HashSet<IpAddr>,
    pub(crate) ports: HashSet<u16>,
}

impl Held {
    /// Of a stored Service.
    pub(crate) fn of(service: &Value) -> Held {
        let texts = |pointer: &str| {
            service.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        };
        let single = service.pointer("/spec/clusterIP").and_then(Value::as_str);
        let addresses = texts("/spec/clusterIPs").chain(single).filter_map(|text| text.parse().ok()).collect();
        let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
        let node_ports = ports.filter_map(|port| port.get("nodePort"));
        let health = service.pointer("/spec/healthCheckNodePort");
        let ports = node_ports.chain(health).filter_map(Value::as_u64);
        Held { addresses, ports: ports.filter_map(|p| u16::try_from(p).ok()).filter(|p| *p > 0).collect() }
    }
}

/// The ranges.
pub(crate) struct Allocators {
    pub(crate) cidrs: Vec<IpNet>,
    pub(crate) ports: RangeInclusive<u16>,
}

impl Allocators {
    pub(crate) fn new(cidrs: &[IpNet], ports: RangeInclusive<u16>) -> Allocators {
        Allocators { cidrs: cidrs.to_vec(), ports }
    }

    /// Gives a new or changed object what it needs and has not got. Nothing is taken before the write.
    pub(crate) fn assign(
        &self,
        inner: &Inner,
        resource: &Resource,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        if resource.is("", "services") { service::assign(self, inner, object, old) } else { Ok(()) }
    }

    /// The records that have to change along with an object. `new` is `None` for a removal.
    pub(crate) fn extra(&self, resource: &Resource, new: Option<&Value>, old: Option<&Value>) -> Result<Extra, Status> {
        if !resource.is("", "services") {
            return Ok(Extra::default());
        }
        let (after, before) = (new.map(Held::of).unwrap_or_default(), old.map(Held::of).unwrap_or_default());
        let mut extra = Extra::default();
        for address in after.addresses.difference(&before.addresses) {
            let owner = new.unwrap_or(&Value::Null);
            extra.take(address_key(*address), address_record(*address, owner)?);
        }
        for port in after.ports.difference(&before.ports) {
            extra.take(port_key(*port), Bytes::from(owner_key(new.unwrap_or(&Value::Null))));
        }
        for address in before.addresses.difference(&after.addresses) {
            extra.ops.push(Op::delete(address_key(*address)));
        }
        for port in before.ports.difference(&after.ports) {
            extra.ops.push(Op::delete(port_key(*port)));
        }
        Ok(extra)
    }
}

impl Extra {
    fn take(&mut self, key: Bytes, record: Bytes) {
        self.compares.push(Compare::absent(key.clone()));
        self.ops.push(Op::put(key, record));
    }
}

/// `namespace/name` of a Service.
fn owner_key(service: &Value) -> String {
    format!("{}/{}", encoded::meta_str(service, "namespace"), encoded::meta_str(service, "name"))
}

fn address_key(address: IpAddr) -> Bytes {
    keys::object(ADDRESSES, "", &address.to_string())
}

fn port_key(port: u16) -> Bytes {
    keys::object(PORTS, "", &port.to_string())
}

/// The IPAddress object of an address that a Service holds.
fn address_record(address: IpAddr, service: &Value) -> Result<Bytes, Status> {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let object = json!({
        "metadata": {
            "name": address.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": objects::strategy::deletion::rfc3339(jiff::Timestamp::now()),
            "generation": 1,
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {
            "group": "",
            "resource": "services",
            "namespace": encoded::meta_str(service, "namespace"),
            "name": encoded::meta_str(service, "name"),
        }},
    });
    encoded::encode(&object, "networking.k8s.io/v1", "IPAddress")
}

/// Whether nobody holds an address. As this member knows; the write's compares decide.
fn is_free(inner: &Inner, key: Bytes) -> Result<bool, Status> {
    let request = RangeRequest { key, keys_only: true, ..RangeRequest::default() };
    Ok(inner.config.store.range(&request).map_err(Status::internal)?.kvs.is_empty())
}

fn address_is_free(inner: &Inner, address: IpAddr) -> Result<bool, Status> {
    is_free(inner, address_key(address))
}

fn port_is_free(inner: &Inner, port: u16) -> Result<bool, Status> {
    is_free(inner, port_key(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource() -> std::sync::Arc<Resource> {
        crate::registry::Registry::built_in().load().find("v1", "services").cloned().unwrap()
    }

    #[test]
    fn a_write_takes_what_is_new_and_frees_what_is_gone() {
        let allocators = Allocators::new(&[], 30000..=30010);
        let old = json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {
            "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"], "ports": [{"nodePort": 30001}, {"nodePort": 30002}]}});
        let mut new = old.clone();
        new["spec"]["ports"] = json!([{"nodePort": 30002}, {"nodePort": 30003}]);
        let extra = allocators.extra(&resource(), Some(&new), Some(&old)).unwrap();
        assert_eq!(extra.compares, [Compare::absent(port_key(30003))]);
        assert!(extra.ops.contains(&Op::delete(port_key(30001))));
        assert_eq!(extra.ops.len(), 2);
        let removed = allocators.extra(&resource(), None, Some(&old)).unwrap();
        assert!(removed.compares.is_empty());
        assert_eq!(removed.ops.len(), 3);
    }
}
