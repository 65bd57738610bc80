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
mod conntrack;
pub mod dns;
mod error;
mod ipam;
mod links;
mod netns;
mod nft;
mod probe;
mod remove;
mod rules;
mod service;

pub use config::{Backend, DnsRedirect, HostPort, NetConfig, Peer, PodAddr, PodAttach, Protocol};
pub use error::NetError;
pub use probe::{Missing, probe};
pub use service::{Endpoint, ServicePort, ServiceTable, TrafficPolicy};

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::Ipv4Net;
use nlink::Connection;
use nlink::netlink::Route;
use tracing::{info, warn};

use crate::ipam::{Ipam, Lease};
use crate::links::{Doing as _, bridge, mac_of, overlay, pod, uplink};
use crate::netns::Netns;
use crate::nft::firewall::Firewall;
use crate::nft::render::Inputs;
use crate::rules::Rules;

/// The node's network. Cheap to clone; every clone is the same network.
#[derive(Clone)]
pub struct Net {
    inner: Arc<Inner>,
}

struct Inner {
    config: NetConfig,
    host: Netns,
    route: Connection<Route>,
    /// Short critical sections, never across an await.
    ipam: Mutex<Option<Ipam>>,
    fabric: tokio::sync::Mutex<Fabric>,
    rules: tokio::sync::Mutex<Rules>,
}

/// Links that exist, and the peers wanted on them. Until the first list of peers comes, those in the kernel stay.
#[derive(Default)]
struct Fabric {
    up: Option<Up>,
    peers: Option<Vec<Peer>>,
}

#[derive(Clone)]
struct Up {
    uplink: uplink::Uplink,
    bridge: u32,
    overlay: u32,
    mtu: u32,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Net {
    /// Opens the netlink sockets in the calling thread's network namespace and, when the pod CIDR is known, brings up
    /// bridge, overlay and table. Leases on disk and links in the kernel are adopted.
    pub async fn start(config: NetConfig) -> Result<Net, NetError> {
        let host = Netns::current()?;
        let opening = || "open a netlink socket".to_owned();
        let route = host.route().doing(opening)?;
        let firewall = Firewall::new(host.nftables().doing(opening)?, config.table.clone());
        let inputs = Inputs {
            bridge: config.bridge.clone(),
            cluster_cidr: config.cluster_cidr,
            pod_cidr: None,
            services: ServiceTable::default(),
            dns: None,
            neighbours: Vec::new(),
            host_ports: Vec::new(),
        };
        let rules = Rules::new(firewall, host.conntrack().doing(opening)?, inputs);
        let pod_cidr = config.pod_cidr;
        let net = Net {
            inner: Arc::new(Inner {
                config,
                host,
                route,
                ipam: Mutex::new(None),
                fabric: tokio::sync::Mutex::default(),
                rules: tokio::sync::Mutex::new(rules),
            }),
        };
        if let Some(cidr) = pod_cidr {
            net.set_pod_cidr(cidr).await?;
        }
        Ok(net)
    }

    /// The range pod addresses come from; `attach` fails with [`NetError::NotReady`] until it is known. Idempotent.
    /// When it is another one than before, leases of the old one are dropped.
    pub async fn set_pod_cidr(&self, cidr: Ipv4Net) -> Result<(), NetError> {
        let Inner { config, host, route, .. } = &*self.inner;
        let cidr = cidr.trunc();
        let mut fabric = self.inner.fabric.lock().await;
        if fabric.up.is_some() && self.with_ipam(|ipam| Ok(ipam.range())).ok() == Some(cidr) {
            return Ok(());
        }
        let mut ipam = Ipam::open(&config.state_dir, cidr)?;
        let present = pod::present(route).await?;
        for pod in &present {
            ipam.adopt(&pod.pod_id, pod.ip);
        }
        let gateway = ipam.gateway();
        host.write_sysctl("net/ipv4/ip_forward", "1").await?;
        // Pods reach each other through the node on purpose; a redirect would teach them a shortcut around connection
        // tracking, and uses up the pod's allowance of ICMP errors. Other interfaces keep their own setting.
        host.write_sysctl("net/ipv4/conf/all/send_redirects", "0").await?;
        let uplink = uplink::find(route, config.node_ip, config.uplink.as_deref()).await?;
        let mtu = config.mtu.unwrap_or_else(|| uplink.mtu.saturating_sub(links::VXLAN_OVERHEAD));
        let bridge = bridge::ensure(route, &config.bridge, gateway, cidr, mtu).await?;
        for pod in &present {
            pod::replug(route, pod, bridge).await?;
        }
        bridge::ensure_service_route(route, bridge, config.service_cidr, gateway).await?;
        let overlay = overlay::ensure(route, config, &uplink, cidr, mtu).await?;
        if let Some(peers) = &fabric.peers {
            overlay::set_peers(route, config.backend, &uplink, overlay, peers).await?;
        }
        warn_of_strict(&self.inner.rules.lock().await.strict_chains().await, config.cluster_cidr);
        let host_ports = host_ports(&ipam);
        report_up(config, cidr, gateway, mtu, &uplink.name);
        fabric.up = Some(Up { uplink, bridge, overlay, mtu });
        *self.lock_ipam() = Some(ipam);
        let change = |inputs: &mut Inputs| {
            inputs.pod_cidr = Some(cidr);
            inputs.host_ports = host_ports;
        };
        self.inner.rules.lock().await.update(change).await
    }

    /// The address of the bridge, which is every pod's gateway; known once the pod CIDR is.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.with_ipam(|ipam| Ok(ipam.gateway())).ok()
    }

    /// Gives the pod its interface, address and host ports. Idempotent: a second call answers the same lease.
    pub async fn attach(&self, pod: PodAttach) -> Result<PodAddr, NetError> {
        let PodAttach { pod_id, netns, host_ports } = pod;
        let up = self.inner.fabric.lock().await.up.clone().ok_or(NetError::NotReady)?;
        let netns = Netns::open(&netns)?;
        let (known, lease, gateway) = self.with_ipam(|ipam| {
            let known = ipam.get(&pod_id).map_or(Vec::new(), |lease| lease.host_ports.clone());
            Ok((known, ipam.acquire(&pod_id, &host_ports)?, ipam.gateway()))
        })?;
        let plug = pod::Plug { pod_id: &pod_id, netns: &netns, ip: lease.ip, gateway, bridge: up.bridge, mtu: up.mtu };
        pod::ensure(&self.inner.route, &plug).await?;
        if known != host_ports {
            self.apply_host_ports().await?;
        }
        Ok(address(&pod_id, &lease, gateway))
    }

    /// The lease of a pod, if it has one.
    pub fn address(&self, pod_id: &str) -> Option<PodAddr> {
        self.with_ipam(|ipam| Ok(ipam.get(pod_id).map(|lease| address(pod_id, lease, ipam.gateway())))).ok()?
    }

    /// Takes interface, address and host ports of the pod away; a pod that is not attached is no error.
    pub async fn detach(&self, pod_id: &str) -> Result<(), NetError> {
        pod::remove(&self.inner.route, pod_id).await?;
        let lease = match self.with_ipam(|ipam| Ok(ipam.release(pod_id))) {
            Err(NetError::NotReady) => None,
            other => other?,
        };
        if lease.is_some_and(|lease| !lease.host_ports.is_empty()) {
            self.apply_host_ports().await?;
        }
        Ok(())
    }

    /// Detaches every pod that is not in `alive`; returns the ids that went. For the sweep after a restart.
    pub async fn retain(&self, alive: &BTreeSet<String>) -> Result<Vec<String>, NetError> {
        let leased = self.with_ipam(|ipam| Ok(ipam.iter().map(|(pod_id, _)| pod_id.clone()).collect::<Vec<_>>()))?;
        let linked = pod::present(&self.inner.route).await?.into_iter().map(|pod| pod.pod_id);
        let known: BTreeSet<String> = leased.into_iter().chain(linked).collect();
        let gone: Vec<String> = known.difference(alive).cloned().collect();
        for pod_id in &gone {
            self.detach(pod_id).await?;
        }
        Ok(gone)
    }

    /// The other nodes. Replaces the former list; kept until the pod CIDR is known.
    pub async fn set_peers(&self, peers: Vec<Peer>) -> Result<(), NetError> {
        let mut fabric = self.inner.fabric.lock().await;
        if let Some(up) = &fabric.up {
            let Inner { config, route, .. } = &*self.inner;
            overlay::set_peers(route, config.backend, &up.uplink, up.overlay, &peers).await?;
        }
        let gateways = peers.iter().map(|peer| ipam::gateway(peer.pod_cidr)).collect();
        fabric.peers = Some(peers);
        drop(fabric);
        self.inner.rules.lock().await.update(|inputs| inputs.neighbours = gateways).await
    }

    /// The services. Replaces the former table in one atomic batch; established flows go on. Until the first call, the
    /// rules that an earlier process left stay in force.
    pub async fn set_services(&self, table: ServiceTable) -> Result<(), NetError> {
        self.inner.rules.lock().await.set_services(table).await
    }

    /// Sends the cluster's DNS address to the node's own server; it wins over a service with the same address.
    pub async fn set_dns(&self, redirect: Option<DnsRedirect>) -> Result<(), NetError> {
        self.inner.rules.lock().await.update(|inputs| inputs.dns = redirect).await
    }

    /// Puts back what another program removed (a flushed ruleset, a deleted link); cheap when nothing is missing.
    /// For the caller's slow periodic sync.
    pub async fn repair(&self) -> Result<(), NetError> {
        let Inner { config, route, .. } = &*self.inner;
        let intact = {
            let mut fabric = self.inner.fabric.lock().await;
            let intact = match &fabric.up {
                None => true,
                Some(up) => {
                    let bridge = links::own_link(route, &config.bridge, "bridge").await?;
                    let overlay = links::own_link(route, &config.overlay, "vxlan").await?;
                    let same = |link: Option<_>, index| {
                        link.is_some_and(|link: nlink::netlink::messages::LinkMessage| {
                            link.ifindex() == index && link.is_up()
                        })
                    };
                    same(bridge, up.bridge) && same(overlay, up.overlay)
                }
            };
            if !intact {
                fabric.up = None;
            }
            intact
        };
        if !intact {
            warn!(bridge = %config.bridge, overlay = %config.overlay, "interfaces went away; making them again");
            let cidr = self.with_ipam(|ipam| Ok(ipam.range()))?;
            self.set_pod_cidr(cidr).await?;
        }
        if self.inner.rules.lock().await.repair().await? {
            warn!(table = %config.table, "nftables table went away; written again");
        }
        Ok(())
    }

    /// Removes every link, route, lease and the table. The sysctls stay as they are.
    pub async fn teardown(&self) -> Result<(), NetError> {
        self.inner.fabric.lock().await.up = None;
        *self.lock_ipam() = None;
        self.inner.rules.lock().await.invalidate();
        remove::everything(&self.inner.config, &self.inner.host).await
    }

    /// As [`Net::teardown`], without a running network: for an uninstaller that only knows the names.
    pub async fn remove(config: &NetConfig) -> Result<(), NetError> {
        remove::everything(config, &Netns::current()?).await
    }

    async fn apply_host_ports(&self) -> Result<(), NetError> {
        let mut rules = self.inner.rules.lock().await;
        // Read under the lock, so that of two changes the later one is never overwritten by the earlier.
        let ports = self.with_ipam(|ipam| Ok(host_ports(ipam)))?;
        rules.update(|inputs| inputs.host_ports = ports).await
    }

    fn lock_ipam(&self) -> std::sync::MutexGuard<'_, Option<Ipam>> {
        self.inner.ipam.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_ipam<T>(&self, act: impl FnOnce(&mut Ipam) -> Result<T, NetError>) -> Result<T, NetError> {
        act(self.lock_ipam().as_mut().ok_or(NetError::NotReady)?)
    }
}

fn warn_of_strict(chains: &[String], range: Ipv4Net) {
    for chain in chains {
        warn!(%chain, %range, "another firewall drops by default: it must allow the cluster's range");
    }
}

fn report_up(config: &NetConfig, cidr: Ipv4Net, gateway: Ipv4Addr, mtu: u32, uplink: &str) {
    info!(%cidr, %gateway, mtu, %uplink, bridge = %config.bridge, "pod network is up");
}

fn host_ports(ipam: &Ipam) -> Vec<(Ipv4Addr, HostPort)> {
    ipam.iter().flat_map(|(_, lease)| lease.host_ports.iter().map(|port| (lease.ip, port.clone()))).collect()
}

fn address(pod_id: &str, lease: &Lease, gateway: Ipv4Addr) -> PodAddr {
    PodAddr { ip: lease.ip, gateway, mac: mac_of(lease.ip), host_interface: pod::interface_name(pod_id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_can_run_on_any_thread_of_a_runtime() {
        fn sendable<T: Send>(_: T) {}
        let _ = |net: &Net, attach: PodAttach, config: NetConfig, alive: &BTreeSet<String>| {
            sendable(Net::start(config));
            sendable(net.attach(attach));
            sendable(net.detach("a"));
            sendable(net.retain(alive));
            sendable(net.set_peers(Vec::new()));
            sendable(net.set_services(ServiceTable::default()));
            sendable(net.set_dns(None));
            sendable(net.repair());
            sendable(net.teardown());
        };
    }
}
