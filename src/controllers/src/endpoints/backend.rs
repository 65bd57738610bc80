//! What one pod is to one service: address, ports and state. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

/// An address family, in the words of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn of(address: &str) -> Option<Self> {
        Some(if address.parse::<IpAddr>().ok()?.is_ipv4() { Self::V4 } else { Self::V6 })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) port: i32,
    pub(super) app_protocol: Option<String>,
}

/// One pod behind a service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Backend {
    pub(super) address: String,
    pub(super) ports: Vec<Port>,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    pub(super) ready: bool,
    pub(super) hostname: Option<String>,
    pub(super) node: Option<String>,
    pub(super) target: ObjectReference,
}

pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// The families a service has addresses of.
pub(super) fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let listed: Vec<Family> = spec
        .and_then(|s| s.ip_families.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|family| [Family::V4, Family::V6].into_iter().find(|f| f.as_str() == family))
        .collect();
    if !listed.is_empty() {
        return listed;
    }
    let by_address = spec.and_then(|s| s.cluster_ip.as_deref()).and_then(Family::of);
    vec![by_address.unwrap_or(Family::V4)]
}

pub(super) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

/// The backend that `pod` is in `family`; `None` if it has ended or has no address yet.
pub(super) fn backend(service: &Service, pod: &Pod, family: Family) -> Option<Backend> {
    if pods::is_terminal(pod) {
        return None;
    }
    let address = pods::addresses(pod).into_iter().find(|address| Family::of(address) == Some(family))?;
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    Some(Backend {
        address: address.to_owned(),
        ports: ports(service, pod),
        serving,
        terminating,
        ready: publishes_not_ready(service) || (serving && !terminating),
        hostname: hostname(service, pod),
        node: pods::node_name(pod).map(str::to_owned),
        target: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        },
    })
}

fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let ours = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|name| ours && !name.is_empty())
}

/// The service's ports on this pod. A named target that the pod lacks is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let listed = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let mut ports: Vec<Port> = listed
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port).to_owned(),
                port: target(port, pod)?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => named(pod, name, protocol(port)),
    }
}

/// The number of a container port by name; restartable init containers have ports too.
fn named(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let found =
        ports.find(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)?;
    Some(found.container_port)
}
