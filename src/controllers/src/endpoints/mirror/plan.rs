//! The slices that mirror one Endpoints object. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::backend::{Family, Port};
use super::super::slices::{MANAGED_BY, Plan, SERVICE_NAME, endpoint_port, slice_ports};
use crate::claim::controller_reference;

/// Endpoints in one slice, and addresses mirrored of one subset.
const CAPACITY: usize = 1000;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Slices are told apart by address family and ports.
type Group = (Family, Vec<Port>);

/// Without a source all slices go.
pub(super) fn plan(source: Option<&Endpoints>, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut old: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        let family = if slice.address_type == Family::V6.as_str() { Family::V6 } else { Family::V4 };
        old.entry((family, slice_ports(slice))).or_default().push(slice);
    }
    if let Some(source) = source {
        for (group, endpoints) in groups(source) {
            let mut reused = old.remove(&group).unwrap_or_default().into_iter();
            for chunk in endpoints.chunks(CAPACITY) {
                let kept = reused.next();
                let slice = shape(source, &group, chunk.to_vec(), kept.map(|slice| &**slice));
                match kept {
                    None => plan.create.push(slice),
                    Some(kept) if slice != **kept => plan.update.push(slice),
                    Some(_) => {}
                }
            }
            plan.delete.extend(reused.cloned());
        }
    }
    plan.delete.extend(old.into_values().flatten().cloned());
    plan
}

/// What the subsets list, by family and ports. An address that two subsets have with the same ports counts once; not
/// ready where one of them says so.
fn groups(source: &Endpoints) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for subset in source.subsets.iter().flatten() {
        let mut ports: Vec<Port> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.port,
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(unready).take(CAPACITY) {
            let family = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => Family::V4,
                Ok(IpAddr::V6(_)) => Family::V6,
                Err(_) => continue,
            };
            let group = groups.entry((family, ports.clone())).or_default();
            group.insert(address.ip.clone(), endpoint(address, ready));
        }
    }
    groups.into_iter().map(|(group, endpoints)| (group, endpoints.into_values().collect())).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// A slice with this content: `old` with what is ours brought up to date, or a new one.
fn shape(source: &Endpoints, group: &Group, endpoints: Vec<Endpoint>, old: Option<&EndpointSlice>) -> EndpointSlice {
    let (family, ports) = group;
    let name = source.metadata.name.clone().unwrap_or_default();
    let mut slice = old.cloned().unwrap_or_else(|| EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: source.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        address_type: family.as_str().to_owned(),
        ports: Some(ports.iter().map(endpoint_port).collect::<Vec<EndpointPort>>()),
        ..EndpointSlice::default()
    });
    let mut labels = source.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name);
    labels.insert(MANAGED_BY.to_owned(), super::MANAGER.to_owned());
    let mut annotations = source.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| name != LAST_APPLIED && name != LAST_CHANGE);
    slice.metadata.labels = Some(labels);
    slice.metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    slice.metadata.owner_references = Some(vec![controller_reference(source)]);
    slice.endpoints = Some(endpoints);
    slice
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source(subsets: serde_json::Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "e", "annotations": {LAST_APPLIED: "{}"}},
            "subsets": subsets,
        }))
        .unwrap()
    }

    #[test]
    fn families_and_ports_get_slices_of_their_own_and_then_nothing_is_to_do() {
        let source = source(json!([
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
             "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 81}]},
        ]));
        let made = plan(Some(&source), &[]).create;
        let shown: Vec<_> = made
            .iter()
            .map(|slice| {
                let endpoints = slice.endpoints.as_deref().unwrap_or_default();
                let ready = |e: &Endpoint| e.conditions.as_ref().and_then(|c| c.ready);
                (
                    slice.address_type.as_str(),
                    slice.ports.as_ref().unwrap()[0].port,
                    endpoints.iter().map(|e| (e.addresses[0].as_str(), ready(e))).collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("IPv4", Some(80), vec![("10.0.0.1", Some(true)), ("10.0.0.2", Some(false))]),
                ("IPv4", Some(81), vec![("10.0.0.1", Some(true))]),
                ("IPv6", Some(80), vec![("fd00::1", Some(true))]),
            ]
        );
        assert_eq!(made[0].metadata.annotations, None);
        let stored: Vec<_> = made.into_iter().map(Arc::new).collect();
        let again = plan(Some(&source), &stored);
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
    }

    #[test]
    fn a_changed_address_updates_the_slice_in_place_and_a_changed_port_replaces_it() {
        let of = |ip: &str, port: i32| source(json!([{"addresses": [{"ip": ip}], "ports": [{"port": port}]}]));
        let stored: Vec<_> = plan(Some(&of("10.0.0.1", 80)), &[]).create.into_iter().map(Arc::new).collect();
        let moved = plan(Some(&of("10.0.0.9", 80)), &stored);
        assert_eq!((moved.create.len(), moved.update.len(), moved.delete.len()), (0, 1, 0));
        let other = plan(Some(&of("10.0.0.1", 81)), &stored);
        assert_eq!((other.create.len(), other.update.len(), other.delete.len()), (1, 0, 1));
        assert_eq!(plan(None, &stored).delete.len(), 1);
    }
}
