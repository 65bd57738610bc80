//! The pod as the runtime and the network see it. Pure.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use net::{HostPort, Protocol};
use runtime::{PodId, PodSpec};

use super::files::Hostname;
use super::resources::QosClass;

/// Labels rk puts on what it gives the runtime, so that a restarted rk knows what it finds.
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// The image as the pod spells it: a change of it restarts the container.
    pub const IMAGE: &str = "rk.io/image";
    /// Seconds the container gets to end when its pod is no longer known.
    pub const GRACE: &str = "rk.io/grace-seconds";
    pub const TERMINATION_LOG: &str = "rk.io/termination-log";
    pub const TERMINATION_POLICY: &str = "rk.io/termination-message-policy";
}

/// Where the pod's cgroup is: `<parent>/kubepods[/<class>]/pod<uid>`.
pub fn cgroup_path(pod: &Pod, parent: &str) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match QosClass::of(pod).cgroup() {
        Some(class) => format!("{parent}/kubepods/{class}/pod{uid}"),
        None => format!("{parent}/kubepods/pod{uid}"),
    }
}

/// What [`runtime::Runtime::run_pod`] is told.
pub fn runtime_spec(pod: &Pod, hostname: &Hostname, node_name: &str, cgroup_parent: &str) -> PodSpec {
    let empty = k8s_openapi::api::core::v1::PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (name, namespace, uid) = (text(&pod.metadata.name), text(&pod.metadata.namespace), text(&pod.metadata.uid));
    let sysctls = spec.security_context.as_ref().and_then(|c| c.sysctls.as_ref());
    let host_network = spec.host_network == Some(true);
    PodSpec {
        id: PodId::new(uid.clone()),
        hostname: if host_network { node_name.to_owned() } else { hostname.kernel.clone() },
        host_network,
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        sysctls: sysctls.into_iter().flatten().map(|s| (s.name.replace('/', "."), s.value.clone())).collect(),
        cgroup_path: cgroup_path(pod, cgroup_parent),
        labels: [
            (labels::POD_NAME.to_owned(), name.clone()),
            (labels::POD_NAMESPACE.to_owned(), namespace.clone()),
            (labels::POD_UID.to_owned(), uid),
        ]
        .into(),
        name,
        namespace,
        ..PodSpec::default()
    }
}

/// The host ports of the pod's containers. On the host's network they are simply bound.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = pod.spec.as_ref().filter(|s| s.host_network != Some(true)) else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|c| c.ports.iter().flatten()).filter_map(|port| {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return None,
        };
        let host_ip = port.host_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
        Some(HostPort {
            host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
            host_port: u16::try_from(port.host_port?).ok().filter(|p| *p > 0)?,
            pod_port: u16::try_from(port.container_port).ok()?,
            protocol,
        })
    });
    ports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn host_ports_skip_containers_on_the_host_network() {
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080, "hostIP": "0.0.0.0"}, {"containerPort": 53, "protocol": "UDP"},
            {"containerPort": 54, "hostPort": 54, "hostIP": "127.0.0.1", "protocol": "UDP"}]}]}}))
            .unwrap();
        let ports = host_ports(&pod);
        assert_eq!(ports.len(), 2);
        assert_eq!((ports[0].host_ip, ports[0].host_port, ports[0].pod_port), (None, 8080, 80));
        assert_eq!(ports[1].host_ip, Some(Ipv4Addr::LOCALHOST));
        pod.spec.as_mut().unwrap().host_network = Some(true);
        assert!(host_ports(&pod).is_empty());
    }

    #[test]
    fn the_cgroup_follows_the_class() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "u1"}, "spec": {"containers": [{"name": "c"}]}}))
                .unwrap();
        assert_eq!(cgroup_path(&pod, "/rk"), "/rk/kubepods/besteffort/podu1");
    }
}
