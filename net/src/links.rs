//! What rk makes out of interfaces, addresses and routes: the bridge, pods' veth pairs, the overlay.
//!
//! Every step looks first and changes only what differs, so that a restarted rk walks over a working network without
//! a lost packet. Pods have a /32 address and reach everything, each other included, through the bridge's address:
//! all their packets pass the node's own routing, where connection tracking sees both directions. Services among
//! pods of one node thus work whether or not bridged frames are shown to nftables (`bridge-nf-call-iptables`), which
//! is left as the host has it.

pub(crate) mod bridge;
pub(crate) mod overlay;
pub(crate) mod pod;
pub(crate) mod uplink;

use std::net::Ipv4Addr;

use nlink::Connection;
use nlink::netlink::Route;
use nlink::netlink::messages::LinkMessage;
use nlink::netlink::types::route::RouteProtocol;

use crate::error::NetError;

/// Marks the routes that are rk's, so that no other is ever removed.
pub(crate) const ROUTE_OWNER: RouteProtocol = RouteProtocol::Other(82);

/// VXLAN's outer headers: 14 Ethernet (inner), 20 IPv4, 8 UDP, 8 VXLAN.
pub(crate) const VXLAN_OVERHEAD: u32 = 50;

/// A locally administered MAC that follows from an address, so that no two of a cluster clash and none needs learning.
pub(crate) fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Names what was tried, for the error chain.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, NetError>;
}

impl<T> Doing<T> for nlink::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, NetError> {
        self.map_err(|source| NetError::Netlink { doing: what(), source })
    }
}

/// The interface of that name, which must be of the kind rk would make.
pub(crate) async fn own_link(
    route: &Connection<Route>,
    name: &str,
    kind: &'static str,
) -> Result<Option<LinkMessage>, NetError> {
    let link = route.get_link_by_name(name).await.doing(|| format!("look up interface {name}"))?;
    match link {
        Some(link) if link.kind() != Some(kind) => Err(NetError::ForeignLink { name: name.to_owned(), wanted: kind }),
        other => Ok(other),
    }
}

/// The interface of that name, right after it was made.
pub(crate) async fn index_of(route: &Connection<Route>, name: &str) -> Result<u32, NetError> {
    let link = route.get_link_by_name(name).await.doing(|| format!("look up interface {name}"))?;
    link.map(|link| link.ifindex()).ok_or_else(|| NetError::LinkGone { name: name.to_owned() })
}

/// Makes `ip/prefix` the interface's only IPv4 address.
pub(crate) async fn set_address(
    route: &Connection<Route>,
    index: u32,
    ip: Ipv4Addr,
    prefix: u8,
) -> Result<(), NetError> {
    use nlink::netlink::addr::Ipv4Address;
    let addresses = route.get_addresses_by_index(index).await.doing(|| "list addresses".into())?;
    let mut present = false;
    for address in addresses.iter().filter(|address| address.is_ipv4()) {
        let Some(std::net::IpAddr::V4(current)) = address.primary_address().copied() else { continue };
        if current == ip && address.prefix_len() == prefix {
            present = true;
        } else {
            let old = Ipv4Address::with_index(index, current, address.prefix_len());
            route.del_address_config(old).await.doing(|| format!("remove address {current}"))?;
        }
    }
    if present {
        return Ok(());
    }
    match route.add_address(Ipv4Address::with_index(index, ip, prefix)).await {
        Err(error) if error.is_already_exists() => Ok(()),
        other => other.doing(|| format!("add address {ip}/{prefix}")),
    }
}
