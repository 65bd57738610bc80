//! Pod networking of one node: links, overlay, service tables and DNS. Knows nothing of Kubernetes.
//!
//! [`Net`] owns the bridge, the pods' veth pairs and leases, the VXLAN device with its routes, and one nftables table;
//! [`dns::Dns`] answers names. Both act on the network namespace of the thread that starts them, and everything goes
//! over netlink or `/proc/sys`: no other program is ever run.
//!
//! Invariants: no table, chain, link or route that rk did not make is ever changed; every operation is idempotent, so
//! a restarted process repeats its calls and nothing flaps. Called by `node` (attach, services, zone) and `rk` (start,
//! teardown).
#![forbid(unsafe_code)]

mod config;
pub mod dns;
mod error;
mod service;

pub use config::{Backend, DnsRedirect, HostPort, NetConfig, Peer, PodAddr, PodAttach, Protocol};
pub use error::NetError;
pub use service::{Endpoint, ServicePort, ServiceTable, TrafficPolicy};

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

/// The node's network. Cheap to clone; every clone is the same network.
#[derive(Clone, Debug)]
pub struct Net {}

#[expect(clippy::unused_async, reason = "the signatures come first; the bodies follow")]
impl Net {
    /// Opens the netlink sockets in the calling thread's network namespace and, when the pod CIDR is known, brings up
    /// bridge, overlay and table. Leases on disk and links in the kernel are adopted.
    pub async fn start(_config: NetConfig) -> Result<Net, NetError> {
        Ok(Net {})
    }

    /// The range pod addresses come from; `attach` fails with [`NetError::NotReady`] until it is known. Idempotent.
    pub async fn set_pod_cidr(&self, _cidr: Ipv4Net) -> Result<(), NetError> {
        Ok(())
    }

    /// The address of the bridge, which is every pod's gateway; known once the pod CIDR is.
    pub fn gateway(&self) -> Option<std::net::Ipv4Addr> {
        None
    }

    /// Gives the pod its interface, address and host ports. Idempotent: a second call answers the same lease.
    pub async fn attach(&self, _pod: PodAttach) -> Result<PodAddr, NetError> {
        Err(NetError::NotReady)
    }

    /// The lease of a pod, if it has one.
    pub fn address(&self, _pod_id: &str) -> Option<PodAddr> {
        None
    }

    /// Takes interface, address and host ports of the pod away; a pod that is not attached is no error.
    pub async fn detach(&self, _pod_id: &str) -> Result<(), NetError> {
        Ok(())
    }

    /// Detaches every pod that is not in `alive`; returns the ids that went. For the sweep after a restart.
    pub async fn retain(&self, _alive: &BTreeSet<String>) -> Result<Vec<String>, NetError> {
        Ok(Vec::new())
    }

    /// The other nodes. Replaces the former list.
    pub async fn set_peers(&self, _peers: Vec<Peer>) -> Result<(), NetError> {
        Ok(())
    }

    /// The services. Replaces the former table in one atomic batch; established flows go on.
    pub async fn set_services(&self, _table: ServiceTable) -> Result<(), NetError> {
        Ok(())
    }

    /// Sends the cluster's DNS address to the node's own server; it wins over a service with the same address.
    pub async fn set_dns(&self, _redirect: Option<DnsRedirect>) -> Result<(), NetError> {
        Ok(())
    }

    /// Removes every link, route, lease and the table. The sysctls stay as they are.
    pub async fn teardown(&self) -> Result<(), NetError> {
        Ok(())
    }
}
