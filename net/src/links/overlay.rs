//! Routes to the pods of other nodes: VXLAN, or straight through the uplink where it reaches the peer.
//!
//! Nothing is learned or flooded: a peer's tunnel address (the first of its range) and MAC follow from what the API
//! says of it, so each peer is one forwarding entry, one neighbour and one route.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use nlink::Connection;
use nlink::netlink::Route;
use nlink::netlink::devconf::{AddrGenMode, Ipv4Devconf};
use nlink::netlink::fdb::FdbEntryBuilder;
use nlink::netlink::link::VxlanLink;
use nlink::netlink::neigh::Neighbor;
use nlink::netlink::route::Ipv4Route;
use nlink::netlink::types::route::RouteScope;

use super::uplink::Uplink;
use super::{Doing as _, ROUTE_OWNER, index_of, mac_of, own_link, set_address};
use crate::config::{Backend, NetConfig, Peer};
use crate::error::NetError;

/// Makes the VXLAN device as wanted; its index. One with other settings is made anew.
pub(crate) async fn ensure(
    route: &Connection<Route>,
    config: &NetConfig,
    uplink: &Uplink,
    range: Ipv4Net,
    mtu: u32,
) -> Result<u32, NetError> {
    let name = config.overlay.as_str();
    let doing = || format!("set up overlay {name}");
    // The settings cannot be changed on a living device; the alias says what it was made with.
    let settings =
        format!("vni {} port {} local {} dev {}", config.vxlan_id, config.vxlan_port, config.node_ip, uplink.name);
    let current = own_link(route, name, "vxlan").await?;
    let index = match current {
        Some(link) if link.alias() == Some(&settings) => link.ifindex(),
        stale => {
            if stale.is_some() {
                route.del_link_if_exists(name).await.doing(doing)?;
            }
            let link = VxlanLink::new(name, config.vxlan_id)
                .local(config.node_ip)
                .dev_index(uplink.index)
                .port(config.vxlan_port)
                .learning(false)
                .address(mac_of(config.node_ip))
                .mtu(mtu);
            route.add_link(link).await.doing(doing)?;
            let index = index_of(route, name).await?;
            route.set_link_alias_by_index(index, &settings).await.doing(doing)?;
            if let Err(error) = route.set_addr_gen_mode_by_index(index, AddrGenMode::None).await {
                tracing::debug!(%error, "overlay keeps its IPv6 address mode");
            }
            index
        }
    };
    route.set_link_mtu_by_index(index, mtu).await.doing(doing)?;
    route.set_link_up_by_index(index).await.doing(doing)?;
    route.set_ipv4_devconf_by_index(index, &[(Ipv4Devconf::RouteLocalnet, 1)]).await.doing(doing)?;
    if config.backend == Backend::HostGw {
        // Node ports on loopback lead out of the uplink too; the table drops loopback addresses that come in there.
        let settings = [(Ipv4Devconf::RouteLocalnet, 1)];
        route.set_ipv4_devconf_by_index(uplink.index, &settings).await.doing(doing)?;
    }
    set_address(route, index, range.network(), 32).await?;
    Ok(index)
}

/// How a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    Direct(Ipv4Addr),
    Tunnel(Ipv4Addr),
}

fn hop(backend: Backend, uplink: &Uplink, peer: &Peer) -> Hop {
    match backend {
        Backend::HostGw if uplink.subnet.contains(&peer.node_ip) => Hop::Direct(peer.node_ip),
        _ => Hop::Tunnel(peer.node_ip),
    }
}

/// Makes the kernel know exactly these peers.
pub(crate) async fn set_peers(
    route: &Connection<Route>,
    backend: Backend,
    uplink: &Uplink,
    overlay: u32,
    peers: &[Peer],
) -> Result<(), NetError> {
    let hops: BTreeMap<Ipv4Net, Hop> =
        peers.iter().map(|peer| (peer.pod_cidr.trunc(), hop(backend, uplink, peer))).collect();
    let tunnels: BTreeMap<Ipv4Addr, Ipv4Addr> = hops
        .iter()
        .filter_map(|(range, hop)| match hop {
            Hop::Tunnel(node) => Some((range.network(), *node)),
            Hop::Direct(_) => None,
        })
        .collect();
    // Additions before removals, and what a route leans on before the route.
    set_forwarding(route, overlay, &tunnels).await?;
    set_neighbours(route, overlay, &tunnels).await?;
    set_routes(route, uplink, overlay, &hops).await
}

async fn set_forwarding(
    route: &Connection<Route>,
    overlay: u32,
    tunnels: &BTreeMap<Ipv4Addr, Ipv4Addr>,
) -> Result<(), NetError> {
    let entry = |mac, node: IpAddr| FdbEntryBuilder::new(mac).ifindex(overlay).dst(node).permanent().self_();
    let entries = route.get_fdb_by_index(overlay).await.doing(|| "list forwarding entries".into())?;
    let current: BTreeMap<[u8; 6], Option<IpAddr>> = entries.iter().map(|fdb| (fdb.mac(), fdb.dst())).collect();
    let wanted: BTreeMap<[u8; 6], IpAddr> = tunnels.values().map(|node| (mac_of(*node), IpAddr::V4(*node))).collect();
    for (mac, node) in &wanted {
        if current.get(mac) != Some(&Some(*node)) {
            route.replace_fdb(entry(*mac, *node)).await.doing(|| format!("add peer {node}"))?;
        }
    }
    for (mac, node) in current {
        if let (false, Some(node)) = (wanted.contains_key(&mac), node) {
            ignore_gone(route.del_fdb_entry(entry(mac, node)).await).doing(|| format!("remove peer {node}"))?;
        }
    }
    Ok(())
}

async fn set_neighbours(
    route: &Connection<Route>,
    overlay: u32,
    tunnels: &BTreeMap<Ipv4Addr, Ipv4Addr>,
) -> Result<(), NetError> {
    let current = route.get_neighbors_by_index(overlay).await.doing(|| "list neighbours".into())?;
    let known: BTreeMap<Ipv4Addr, Option<Vec<u8>>> = current
        .iter()
        .filter_map(|entry| match entry.destination()? {
            IpAddr::V4(ip) => Some((*ip, entry.lladdr().map(<[u8]>::to_vec))),
            IpAddr::V6(_) => None,
        })
        .collect();
    for (ip, node) in tunnels {
        if known.get(ip).and_then(Option::as_deref) != Some(&mac_of(*node)) {
            let entry = Neighbor::with_index_v4(overlay, *ip).lladdr(mac_of(*node)).permanent();
            route.replace_neighbor(entry).await.doing(|| format!("add neighbour {ip}"))?;
        }
    }
    for ip in known.into_keys().filter(|ip| !tunnels.contains_key(ip) && !ip.is_multicast()) {
        ignore_gone(route.del_neighbor_v4_by_index(overlay, ip).await).doing(|| format!("remove neighbour {ip}"))?;
    }
    Ok(())
}

async fn set_routes(
    route: &Connection<Route>,
    uplink: &Uplink,
    overlay: u32,
    hops: &BTreeMap<Ipv4Net, Hop>,
) -> Result<(), NetError> {
    let current = own_routes(route).await?;
    for (range, hop) in hops {
        let (via, dev) = match hop {
            Hop::Direct(node) => (*node, uplink.index),
            Hop::Tunnel(_) => (range.network(), overlay),
        };
        if current.get(range) == Some(&(Some(via), dev)) {
            continue;
        }
        let wanted = Ipv4Route::from_addr(range.network(), range.prefix_len())
            .gateway(via)
            .dev_index(dev)
            .onlink()
            .protocol(ROUTE_OWNER);
        route.replace_route(wanted).await.doing(|| format!("add the route to {range}"))?;
    }
    let stale = current.iter().filter(|(range, (via, _))| via.is_some() && !hops.contains_key(*range));
    for (range, (via, dev)) in stale {
        remove_route(route, *range, *via, *dev).await?;
    }
    Ok(())
}

/// Removes every peer's route; entries of the overlay go with the device.
pub(crate) async fn remove_routes(route: &Connection<Route>) -> Result<(), NetError> {
    for (range, (via, dev)) in own_routes(route).await? {
        remove_route(route, range, via, dev).await?;
    }
    Ok(())
}

async fn remove_route(
    route: &Connection<Route>,
    range: Ipv4Net,
    via: Option<Ipv4Addr>,
    dev: u32,
) -> Result<(), NetError> {
    let mut gone = Ipv4Route::from_addr(range.network(), range.prefix_len()).dev_index(dev).protocol(ROUTE_OWNER);
    // The kernel compares the scope as well, which follows from there being a gateway.
    gone = match via {
        Some(via) => gone.gateway(via).onlink(),
        None => gone.scope(RouteScope::Link),
    };
    route.del_route_if_exists(gone).await.map(drop).doing(|| format!("remove the route to {range}"))
}

/// The routes rk made: range → (gateway, interface).
async fn own_routes(route: &Connection<Route>) -> Result<BTreeMap<Ipv4Net, (Option<Ipv4Addr>, u32)>, NetError> {
    let routes = route.get_routes().await.doing(|| "list routes".into())?;
    let own = routes.iter().filter(|entry| entry.is_ipv4() && entry.protocol() == ROUTE_OWNER);
    Ok(own
        .filter_map(|entry| {
            let Some(IpAddr::V4(to)) = entry.destination().copied() else { return None };
            let via = match entry.gateway().copied() {
                Some(IpAddr::V4(via)) => Some(via),
                _ => None,
            };
            Some((Ipv4Net::new(to, entry.dst_len()).ok()?, (via, entry.oif()?)))
        })
        .collect())
}

fn ignore_gone(result: nlink::Result<()>) -> nlink::Result<()> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_gateway_is_used_only_on_the_uplinks_subnet() {
        let uplink = Uplink { index: 2, name: "eth0".into(), mtu: 1500, subnet: "192.0.2.0/24".parse().unwrap() };
        let peer = |ip: &str| Peer { node_ip: ip.parse().unwrap(), pod_cidr: "10.42.1.0/24".parse().unwrap() };
        let (near, far) = (peer("192.0.2.9"), peer("198.51.100.9"));
        assert_eq!(hop(Backend::HostGw, &uplink, &near), Hop::Direct(near.node_ip));
        assert_eq!(hop(Backend::HostGw, &uplink, &far), Hop::Tunnel(far.node_ip));
        assert_eq!(hop(Backend::Vxlan, &uplink, &near), Hop::Tunnel(near.node_ip));
    }
}
