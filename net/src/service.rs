//! The service table a caller sets: plain data, one row per service port.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::config::Protocol;

/// All services of the cluster, as this node sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable {
    pub ports: Vec<ServicePort>,
}

/// Which endpoints may serve a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    /// Only endpoints on this node; the client's address is kept.
    Local,
}

/// One port of one service. Headless services have no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Unique in the table and stable over updates (`namespace/name:port`).
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub cluster_ip: Option<Ipv4Addr>,
    pub external_ips: Vec<Ipv4Addr>,
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Who may reach the load balancer addresses; empty means everyone.
    pub source_ranges: Vec<Ipv4Net>,
    pub node_port: Option<u16>,
    /// Ready endpoints (the caller falls back to serving-but-terminating ones).
    pub endpoints: Vec<Endpoint>,
    /// Client-address affinity for this long.
    pub affinity: Option<Duration>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
}

/// A backend: pod address and target port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    pub port: u16,
    /// On this node.
    pub local: bool,
}
