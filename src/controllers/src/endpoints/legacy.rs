//! The Endpoints object of one service, for clients that do not know slices. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backend::{Backend, Port, is_headless, publishes_not_ready};
use super::slices::HEADLESS;

/// Addresses one object may list.
const CAPACITY: usize = 1_000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

/// The object as it is to be. `old` keeps what is not ours.
pub(super) fn endpoints(service: &Service, backends: &[Backend], old: Option<&Endpoints>) -> Endpoints {
    let mut groups: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let publish = publishes_not_ready(service);
    let eligible = backends.iter().filter(|b| publish || !b.terminating);
    let (mut taken, mut truncated) = (0, false);
    for backend in eligible {
        if backend.ports.is_empty() && !is_headless(service) {
            continue;
        }
        if taken == CAPACITY {
            truncated = true;
            break;
        }
        taken += 1;
        let group = groups.entry(backend.ports.clone()).or_default();
        let list = if backend.ready { &mut group.0 } else { &mut group.1 };
        list.push(address(backend));
    }
    let subsets: Vec<EndpointSubset> = groups.into_iter().map(|(ports, lists)| subset(&ports, lists)).collect();
    let mut object = old.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    object.metadata.labels = Some(labels(service));
    if truncated {
        object.metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = &mut object.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    object.subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    object
}

fn address(backend: &Backend) -> EndpointAddress {
    EndpointAddress {
        ip: backend.address.clone(),
        hostname: backend.hostname.clone(),
        node_name: backend.node.clone(),
        target_ref: Some(backend.target.clone()),
    }
}

fn subset(ports: &[Port], (mut ready, mut not_ready): (Vec<EndpointAddress>, Vec<EndpointAddress>)) -> EndpointSubset {
    for list in [&mut ready, &mut not_ready] {
        list.sort_by(|a, b| a.ip.cmp(&b.ip));
    }
    let some = |list: Vec<EndpointAddress>| Some(list).filter(|list| !list.is_empty());
    let ports: Vec<EndpointPort> = ports
        .iter()
        .map(|port| EndpointPort {
            name: Some(port.name.clone()).filter(|name| !name.is_empty()),
            port: port.port,
            protocol: Some(port.protocol.clone()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(not_ready),
        ports: Some(ports).filter(|ports| !ports.is_empty()),
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    labels
}

#[cfg(test)]
mod tests {
    use super::super::backend::{self, Family};
    use super::super::tests::{pod, service};
    use super::*;

    #[test]
    fn ready_and_unready_addresses_share_a_subset_and_going_ones_are_left_out() {
        let mut going = pod("c", "10.0.0.3", true);
        going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
        let pods = [pod("b", "10.0.0.2", true), pod("a", "10.0.0.1", false), going];
        let backends: Vec<_> = pods.iter().filter_map(|p| backend::backend(&service(), p, Family::V4)).collect();
        let object = endpoints(&service(), &backends, None);
        let subset = &object.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.0.0.2");
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 1);
        assert_eq!(endpoints(&service(), &backends, Some(&object)), object);
    }
}
