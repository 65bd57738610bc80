//! Forgets flows that lead to endpoints that are gone and will not answer.
//!
//! A flow keeps the translation that it was given with its first packet. UDP has no reset: as long as a client goes on
//! sending, its flow stays. A TCP connection that nobody has answered yet stays as well, for two minutes, and takes all of
//! the client's further tries to where the first one went; once forgotten, the next try finds an endpoint that lives.
//! Connections that were answered are not touched: they end with their endpoint, which may take its time.
//!
//! What is stale is worked out from the tables before and after ([`stale`], pure); [`forget`] deletes just those flows by tuple.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use nlink::Connection;
use nlink::netlink::Netfilter;
use nlink::netlink::netfilter::{ConntrackEntry, ConntrackFilter, ConntrackStatus, IpProtocol};

use crate::config::Protocol;
use crate::nft::render::{Inputs, effective_ports};

/// Where a client sends: an address (any of the node's when `None`) and a port.
type Frontend = (Protocol, Option<Ipv4Addr>, u16);
type Backends = BTreeSet<(Ipv4Addr, u16)>;

/// All frontends with the endpoints behind them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Flows(BTreeMap<Frontend, Backends>);

impl Flows {
    pub(crate) fn of(inputs: &Inputs) -> Self {
        let mut flows: BTreeMap<Frontend, Backends> = BTreeMap::new();
        for port in effective_ports(inputs) {
            let addresses = port.cluster_ip.iter().chain(&port.external_ips).chain(&port.load_balancer_ips);
            let fronts = addresses.map(|ip| (Some(*ip), port.port)).chain(port.node_port.map(|number| (None, number)));
            for (ip, number) in fronts {
                let backends = port.endpoints.iter().map(|endpoint| (endpoint.ip, endpoint.port));
                flows.entry((port.protocol, ip, number)).or_default().extend(backends);
            }
        }
        for (pod, port) in &inputs.host_ports {
            flows.entry((port.protocol, port.host_ip, port.host_port)).or_default().insert((*pod, port.pod_port));
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
    fn covers(&self, protocol: Protocol, to: (Ipv4Addr, u16), served_by: (Ipv4Addr, u16)) -> bool {
        let translated = to != served_by;
        let by_address = self.0.get(&(protocol, Some(to.0), to.1));
        let by_port = self.0.get(&(protocol, None, to.1)).filter(|_| translated);
        by_address.or(by_port).is_some_and(|alive| !alive.contains(&served_by))
    }
}

/// Deletes the stale flows; returns how many.
pub(crate) async fn forget(connection: &Connection<Netfilter>, stale: &Stale) -> nlink::Result<usize> {
    let all = ConntrackFilter::new().family(nlink::netlink::types::AddressFamily::Inet);
    let unanswered = |filter: ConntrackFilter| filter.status(ConntrackStatus::default(), ConntrackStatus::SEEN_REPLY);
    let mut deleted = 0;
    for (protocol, filter) in
        [(Protocol::Udp, all.clone().proto(IpProtocol::Udp)), (Protocol::Tcp, unanswered(all.proto(IpProtocol::Tcp)))]
    {
        if !stale.0.keys().any(|(of, ..)| *of == protocol) {
            continue;
        }
        for entry in connection.get_conntrack_matching(&filter).await? {
            if !ends(&entry).is_some_and(|(to, served_by)| stale.covers(protocol, to, served_by)) {
                continue;
            }
            match connection.del_conntrack_entry(&entry).await {
                Ok(()) => deleted += 1,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
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

    const UDP: Protocol = Protocol::Udp;

    fn flows(front: Frontend, backends: &[(Ipv4Addr, u16)]) -> Flows {
        Flows([(front, backends.iter().copied().collect())].into())
    }

    #[test]
    fn flows_to_a_removed_endpoint_are_stale_and_others_stay() {
        let front = (UDP, Some(VIP), 53);
        let stale = stale(&flows(front, &[A, B]), &flows(front, &[B]));
        assert!(stale.covers(UDP, (VIP, 53), A));
        assert!(!stale.covers(UDP, (VIP, 53), B));
        assert!(!stale.covers(UDP, (VIP, 54), A));
        assert!(!stale.covers(Protocol::Tcp, (VIP, 53), A));
    }

    #[test]
    fn untranslated_flows_go_when_the_first_endpoint_comes() {
        let front = (UDP, Some(VIP), 53);
        let stale = stale(&flows(front, &[]), &flows(front, &[A]));
        assert!(stale.covers(UDP, (VIP, 53), (VIP, 53)));
        assert!(!stale.covers(UDP, (VIP, 53), A));
    }

    #[test]
    fn a_new_endpoint_beside_others_changes_no_flow() {
        let front = (UDP, Some(VIP), 53);
        assert!(stale(&flows(front, &[A]), &flows(front, &[A, B])).is_empty());
    }

    #[test]
    fn a_node_port_covers_only_translated_flows() {
        let stale = stale(&flows((UDP, None, 30053), &[A]), &Flows::default());
        let node = Ipv4Addr::new(192, 0, 2, 2);
        assert!(stale.covers(UDP, (node, 30053), A));
        assert!(!stale.covers(UDP, (node, 30053), (node, 30053)));
    }
}
