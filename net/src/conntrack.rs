//! Forgets UDP flows that lead to endpoints that are gone.
//!
//! UDP has no reset: as long as a client goes on sending, its flow keeps the translation it was given. What is stale
//! is worked out from the tables before and after ([`stale`], pure); [`forget`] deletes just those flows by tuple.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use nlink::Connection;
use nlink::netlink::Netfilter;
use nlink::netlink::netfilter::{ConntrackEntry, ConntrackFilter, IpProtocol};

use crate::config::Protocol;
use crate::nft::render::{Inputs, effective_ports};

/// Where a client sends: an address (any of the node's when `None`) and a port.
type Frontend = (Option<Ipv4Addr>, u16);
type Backends = BTreeSet<(Ipv4Addr, u16)>;

/// All UDP frontends with the endpoints behind them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Flows(BTreeMap<Frontend, Backends>);

impl Flows {
    pub(crate) fn of(inputs: &Inputs) -> Self {
        let mut flows: BTreeMap<Frontend, Backends> = BTreeMap::new();
        for port in effective_ports(inputs).into_iter().filter(|port| port.protocol == Protocol::Udp) {
            let addresses = port.cluster_ip.iter().chain(&port.external_ips).chain(&port.load_balancer_ips);
            let fronts = addresses.map(|ip| (Some(*ip), port.port)).chain(port.node_port.map(|number| (None, number)));
            for front in fronts {
                let backends = port.endpoints.iter().map(|endpoint| (endpoint.ip, endpoint.port));
                flows.entry(front).or_default().extend(backends);
            }
        }
        for (pod, port) in inputs.host_ports.iter().filter(|(_, port)| port.protocol == Protocol::Udp) {
            flows.entry((port.host_ip, port.host_port)).or_default().insert((*pod, port.pod_port));
        }
        Self(flows)
    }
}

/// Flows to delete: to these frontends, unless they lead to one of these endpoints.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stale(BTreeMap<Frontend, Backends>);

/// Frontends that lost an endpoint, and those that got their first (their flows went untranslated until now).
pub(crate) fn stale(before: &Flows, after: &Flows) -> Stale {
    let empty = Backends::new();
    let mut stale = BTreeMap::new();
    for front in before.0.keys().chain(after.0.keys()) {
        let old = before.0.get(front).unwrap_or(&empty);
        let new = after.0.get(front).unwrap_or(&empty);
        if !old.is_subset(new) || (old.is_empty() && !new.is_empty()) {
            stale.insert(*front, new.clone());
        }
    }
    Stale(stale)
}

impl Stale {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `translated` tells a node port's flow from one to the same port of another machine.
    fn covers(&self, to: (Ipv4Addr, u16), served_by: (Ipv4Addr, u16)) -> bool {
        let translated = to != served_by;
        let by_address = self.0.get(&(Some(to.0), to.1));
        let by_port = self.0.get(&(None, to.1)).filter(|_| translated);
        by_address.or(by_port).is_some_and(|alive| !alive.contains(&served_by))
    }
}

/// Deletes the stale flows; returns how many.
pub(crate) async fn forget(connection: &Connection<Netfilter>, stale: &Stale) -> nlink::Result<usize> {
    let udp = ConntrackFilter::new().family(nlink::netlink::types::AddressFamily::Inet).proto(IpProtocol::Udp);
    let mut deleted = 0;
    for entry in connection.get_conntrack_matching(&udp).await? {
        if !ends(&entry).is_some_and(|(to, served_by)| stale.covers(to, served_by)) {
            continue;
        }
        match connection.del_conntrack_entry(&entry).await {
            Ok(()) => deleted += 1,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// Where the client sent, and who answers.
fn ends(entry: &ConntrackEntry) -> Option<((Ipv4Addr, u16), (Ipv4Addr, u16))> {
    let v4 = |ip: Option<IpAddr>| match ip? {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    };
    let to = (v4(entry.orig.dst_ip)?, entry.orig.dst_port?);
    let served_by = (v4(entry.reply.src_ip)?, entry.reply.src_port?);
    Some((to, served_by))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);
    const A: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 42, 0, 2), 53);
    const B: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 42, 0, 3), 53);

    fn flows(front: Frontend, backends: &[(Ipv4Addr, u16)]) -> Flows {
        Flows([(front, backends.iter().copied().collect())].into())
    }

    #[test]
    fn flows_to_a_removed_endpoint_are_stale_and_others_stay() {
        let front = (Some(VIP), 53);
        let stale = stale(&flows(front, &[A, B]), &flows(front, &[B]));
        assert!(stale.covers((VIP, 53), A));
        assert!(!stale.covers((VIP, 53), B));
        assert!(!stale.covers((VIP, 54), A));
    }

    #[test]
    fn untranslated_flows_go_when_the_first_endpoint_comes() {
        let front = (Some(VIP), 53);
        let stale = stale(&flows(front, &[]), &flows(front, &[A]));
        assert!(stale.covers((VIP, 53), (VIP, 53)));
        assert!(!stale.covers((VIP, 53), A));
    }

    #[test]
    fn a_new_endpoint_beside_others_changes_no_flow() {
        let front = (Some(VIP), 53);
        assert!(stale(&flows(front, &[A]), &flows(front, &[A, B])).is_empty());
    }

    #[test]
    fn a_node_port_covers_only_translated_flows() {
        let stale = stale(&flows((None, 30053), &[A]), &Flows::default());
        let node = Ipv4Addr::new(192, 0, 2, 2);
        assert!(stale.covers((node, 30053), A));
        assert!(!stale.covers((node, 30053), (node, 30053)));
    }
}
