//! The endpoints of a service, out of its EndpointSlices. Pure.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use net::Protocol;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// IPv4 slices by the namespace and name of their service.
#[derive(Debug, Default)]
pub struct Slices<'a>(HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>);

impl<'a> Slices<'a> {
    pub fn new(slices: &'a [Arc<EndpointSlice>]) -> Slices<'a> {
        let mut by_service: HashMap<_, Vec<_>> = HashMap::new();
        for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            let labels = slice.metadata.labels.as_ref();
            if let Some(name) = labels.and_then(|l| l.get(SERVICE_NAME)) {
                by_service.entry((namespace, name.as_str())).or_default().push(&**slice);
            }
        }
        Slices(by_service)
    }

    pub fn of<'s>(&'s self, service: &'s Service) -> &'s [&'a EndpointSlice] {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        self.0.get(&(namespace, name)).map_or(&[], Vec::as_slice)
    }
}

/// Its first address: the others are not used by anyone.
pub fn address(endpoint: &Endpoint) -> Option<Ipv4Addr> {
    endpoint.addresses.first()?.parse().ok()
}

/// Not told is ready.
pub fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

/// Ending, and still able to answer: taken when nobody else is there.
pub fn is_serving_and_terminating(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    let serving = conditions.and_then(|c| c.serving.or(c.ready)).unwrap_or(true);
    serving && conditions.and_then(|c| c.terminating) == Some(true)
}

/// `TCP` is the default everywhere.
pub fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The number behind a service's port in this slice. No name is the empty name.
pub fn target_port(slice: &EndpointSlice, name: Option<&str>, wanted: Protocol) -> Option<u16> {
    let matches = |port: &&EndpointPort| {
        port.name.as_deref().unwrap_or_default() == name.unwrap_or_default()
            && protocol(port.protocol.as_deref()) == Some(wanted)
    };
    let port = slice.ports.iter().flatten().find(matches)?;
    u16::try_from(port.port?).ok()
}
