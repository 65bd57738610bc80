//! The endpoint slices of one service: what to create, update and delete so that they list its backends, with as
//! few changes as possible. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backend::{Backend, Family, Port, is_headless};
use crate::claim::controller_reference;

/// Endpoints in one slice.
const CAPACITY: usize = 100;
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// `zones` are the zones of nodes by name.
pub(super) fn plan(
    service: &Service,
    backends: &[(Family, Backend)],
    families: &[Family],
    existing: &[Arc<EndpointSlice>],
    zones: &HashMap<String, String>,
) -> Plan {
    let mut plan = Plan::default();
    for family in [Family::V4, Family::V6] {
        let ours: Vec<_> = existing.iter().filter(|s| s.address_type == family.as_str()).cloned().collect();
        if families.contains(&family) {
            let backends = backends.iter().filter(|(f, _)| *f == family).map(|(_, backend)| backend);
            plan_family(&mut plan, service, family, backends, &ours, zones);
        } else {
            plan.delete.extend(ours);
        }
    }
    plan
}

fn plan_family<'a>(
    plan: &mut Plan,
    service: &Service,
    family: Family,
    backends: impl Iterator<Item = &'a Backend>,
    existing: &[Arc<EndpointSlice>],
    zones: &HashMap<String, String>,
) {
    let mut groups: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
    for backend in backends {
        groups.entry(backend.ports.clone()).or_default().push(endpoint(backend, zones));
    }
    let mut slices: BTreeMap<Vec<Port>, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        slices.entry(slice_ports(slice)).or_default().push(slice);
    }
    if groups.is_empty() {
        // A service without backends keeps one empty slice, so that watchers can tell it from an unknown one.
        let kept = existing.first();
        let ports = kept.map(|slice| slice_ports(slice)).unwrap_or_default();
        let slice = shape(service, family, &ports, Vec::new(), kept.map(|slice| &**slice));
        match kept {
            None => plan.create.push(slice),
            Some(kept) if slice != **kept => plan.update.push(slice),
            Some(_) => {}
        }
        plan.delete.extend(existing.iter().skip(1).cloned());
        return;
    }
    for (ports, endpoints) in groups {
        let old = slices.remove(&ports).unwrap_or_default();
        fill(plan, service, family, &ports, endpoints, &old);
    }
    plan.delete.extend(slices.into_values().flatten().cloned());
}

/// Spreads `endpoints` over the slices that have these ports: each stays where it is; new ones fill the gaps.
fn fill(
    plan: &mut Plan,
    service: &Service,
    family: Family,
    ports: &[Port],
    endpoints: Vec<Endpoint>,
    old: &[&Arc<EndpointSlice>],
) {
    let mut wanted: BTreeMap<EndpointKey, Endpoint> = endpoints.into_iter().map(|e| (endpoint_key(&e), e)).collect();
    let mut contents: Vec<Vec<Endpoint>> = old
        .iter()
        .map(|slice| slice.endpoints.iter().flatten().filter_map(|e| wanted.remove(&endpoint_key(e))).collect())
        .collect();
    let mut rest = wanted.into_values().peekable();
    // The fullest first, so that the emptiest may run empty.
    let mut order: Vec<usize> = (0..contents.len()).filter(|i| !contents[*i].is_empty()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(contents[*i].len()));
    if order.is_empty() && !contents.is_empty() {
        order.push(0);
    }
    for i in order {
        while contents[i].len() < CAPACITY
            && let Some(endpoint) = rest.next()
        {
            contents[i].push(endpoint);
        }
    }
    for (slice, endpoints) in old.iter().zip(contents) {
        if endpoints.is_empty() {
            plan.delete.push((*slice).clone());
            continue;
        }
        let shaped = shape(service, family, ports, endpoints, Some(slice));
        if shaped != ***slice {
            plan.update.push(shaped);
        }
    }
    while rest.peek().is_some() {
        let endpoints: Vec<Endpoint> = rest.by_ref().take(CAPACITY).collect();
        plan.create.push(shape(service, family, ports, endpoints, None));
    }
}

type EndpointKey = (Option<String>, Vec<String>);

/// An endpoint is the same while pod and address are.
fn endpoint_key(endpoint: &Endpoint) -> EndpointKey {
    (endpoint.target_ref.as_ref().and_then(|t| t.uid.clone()), endpoint.addresses.clone())
}

fn endpoint(backend: &Backend, zones: &HashMap<String, String>) -> Endpoint {
    Endpoint {
        addresses: vec![backend.address.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname.clone(),
        node_name: backend.node.clone(),
        target_ref: Some(backend.target.clone()),
        zone: backend.node.as_ref().and_then(|node| zones.get(node).cloned()),
        ..Endpoint::default()
    }
}

pub(super) fn slice_ports(slice: &EndpointSlice) -> Vec<Port> {
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    ports
}

/// A slice with this content: `old` with what is ours brought up to date, or a new one.
fn shape(
    service: &Service,
    family: Family,
    ports: &[Port],
    endpoints: Vec<Endpoint>,
    old: Option<&EndpointSlice>,
) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut slice = old.cloned().unwrap_or_else(|| EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.as_str().to_owned(),
        ..EndpointSlice::default()
    });
    slice.metadata.labels = Some(labels(service, name));
    slice.endpoints = Some(endpoints);
    if old.is_none_or(|old| slice_ports(old) != ports) {
        slice.ports = Some(ports.iter().map(endpoint_port).collect());
    }
    slice
}

pub(super) fn endpoint_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: Some(port.port),
        app_protocol: port.app_protocol.clone(),
    }
}

/// The service's own labels, and those by which slices are found.
fn labels(service: &Service, name: String) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), name);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

#[cfg(test)]
mod tests {
    use super::super::backend;
    use super::super::tests::{pod, service};
    use super::*;

    fn run(service: &Service, pods: &[k8s_openapi::api::core::v1::Pod], existing: &[Arc<EndpointSlice>]) -> Plan {
        let backends: Vec<_> =
            pods.iter().filter_map(|pod| Some((Family::V4, backend::backend(service, pod, Family::V4)?))).collect();
        let zones = HashMap::from([("n1".to_owned(), "z1".to_owned())]);
        plan(service, &backends, &[Family::V4], existing, &zones)
    }

    fn stored(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        slices.into_iter().map(Arc::new).collect()
    }

    #[test]
    fn backends_become_endpoints_with_their_state() {
        let plan = run(&service(), &[pod("a", "10.0.0.1", true)], &[]);
        let slice = &plan.create[0];
        let endpoint = &slice.endpoints.as_ref().unwrap()[0];
        assert_eq!(endpoint.addresses, ["10.0.0.1"]);
        assert_eq!(endpoint.zone.as_deref(), Some("z1"));
        assert_eq!(endpoint.conditions.as_ref().unwrap().ready, Some(true));
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(slice.metadata.labels.as_ref().unwrap()[SERVICE_NAME], "web");
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let pods = [pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false)];
        let existing = stored(run(&service(), &pods, &[]).create);
        let plan = run(&service(), &pods, &existing);
        assert!(plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty());
    }

    #[test]
    fn a_hundred_and_one_pods_need_two_slices_and_one_change_touches_one() {
        let mut pods: Vec<_> = (0..101).map(|i| pod(&format!("p{i:03}"), &format!("10.0.1.{i}"), true)).collect();
        let created = run(&service(), &pods, &[]).create;
        let sizes: Vec<_> = created.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [100, 1]);
        let mut existing = created;
        for (i, slice) in existing.iter_mut().enumerate() {
            slice.metadata.name = Some(format!("web-{i}"));
        }
        pods.remove(0);
        let plan = run(&service(), &pods, &stored(existing));
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    }

    #[test]
    fn a_service_without_backends_keeps_one_empty_slice() {
        let existing = stored(run(&service(), &[pod("a", "10.0.0.1", true)], &[]).create);
        let plan = run(&service(), &[], &existing);
        assert_eq!(plan.update[0].endpoints.as_deref(), Some(&[][..]));
        assert_eq!(run(&service(), &[], &[]).create.len(), 1);
    }

    #[test]
    fn a_terminating_pod_serves_but_is_not_ready() {
        let mut going = pod("a", "10.0.0.1", true);
        going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
        let slice = &run(&service(), &[going], &[]).create[0];
        let conditions = slice.endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(false), Some(true), Some(true))
        );
    }
}
