//! What callers hand to [`crate::Net`] and get back: configuration, pods, peers. Plain data.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// How packets reach the pods of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// VXLAN to every peer.
    #[default]
    Vxlan,
    /// A plain route to peers on the uplink's own subnet, VXLAN to the others.
    HostGw,
}

/// Static settings of the node's network. `Default` gives rk's own names and ranges; `node_ip` must be filled in.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Where leases are kept (`leases.json`, mode 0600).
    pub state_dir: PathBuf,
    /// The address other nodes reach this one at.
    pub node_ip: Ipv4Addr,
    /// The interface that holds `node_ip`; found by the address when `None`.
    pub uplink: Option<String>,
    /// This node's slice of the cluster's range; may come later through [`crate::Net::set_pod_cidr`].
    pub pod_cidr: Option<Ipv4Net>,
    pub cluster_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
    /// MTU of pod interfaces; the uplink's less the VXLAN header (50 bytes) when `None`.
    pub mtu: Option<u32>,
    pub backend: Backend,
    /// Names of what rk makes: bridge, overlay device, nftables table (family `ip`).
    pub bridge: String,
    pub overlay: String,
    pub table: String,
    /// VXLAN network identifier and UDP port (Linux' own default, which k3s' flannel uses too).
    pub vxlan_id: u32,
    pub vxlan_port: u16,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/rk/agent/net"),
            node_ip: Ipv4Addr::UNSPECIFIED,
            uplink: None,
            pod_cidr: None,
            cluster_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 16),
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16),
            mtu: None,
            backend: Backend::default(),
            bridge: "rk0".into(),
            overlay: "rk-vxlan".into(),
            table: "rk".into(),
            vxlan_id: 1,
            vxlan_port: 8472,
        }
    }
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// Only on this address of the node; on all of them when `None`.
    pub host_ip: Option<Ipv4Addr>,
    pub host_port: u16,
    pub pod_port: u16,
    pub protocol: Protocol,
}

/// A pod to connect.
#[derive(Clone, Debug)]
pub struct PodAttach {
    /// Any stable id, unique on the node (the pod's uid).
    pub pod_id: String,
    /// A file that holds the pod's network namespace (`/proc/PID/ns/net` or a bind mount).
    pub netns: PathBuf,
    pub host_ports: Vec<HostPort>,
}

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddr {
    pub ip: Ipv4Addr,
    pub gateway: Ipv4Addr,
    pub mac: [u8; 6],
    /// The end of the veth pair on the host.
    pub host_interface: String,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    pub node_ip: Ipv4Addr,
    pub pod_cidr: Ipv4Net,
}

/// Where packets for the cluster's DNS address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsRedirect {
    pub vip: Ipv4Addr,
    /// [`crate::dns::Dns::addr`] of this node's server.
    pub server: SocketAddrV4,
    /// An address for the servers of the other nodes, one of them at random: for when this node's does not answer.
    pub elsewhere: Option<Ipv4Addr>,
}
