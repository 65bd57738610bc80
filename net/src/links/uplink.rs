//! Finds the interface that carries the node's address.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use nlink::Connection;
use nlink::netlink::Route;

use super::Doing as _;
use crate::error::NetError;

#[derive(Clone, Debug)]
pub(crate) struct Uplink {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    /// The subnet the node's address is in.
    pub(crate) subnet: Ipv4Net,
}

const DEFAULT_MTU: u32 = 1500;

/// The interface with `node_ip`, or the one of that `name` (whose own subnet then counts).
pub(crate) async fn find(route: &Connection<Route>, node_ip: Ipv4Addr, name: Option<&str>) -> Result<Uplink, NetError> {
    let addresses = route.get_addresses().await.doing(|| "list addresses".into())?;
    let wanted = match name {
        Some(name) => Some(super::index_of(route, name).await?),
        None => None,
    };
    let found = addresses.iter().find_map(|address| {
        let IpAddr::V4(ip) = address.primary_address().copied()? else { return None };
        let right = wanted.map_or(ip == node_ip, |index| address.ifindex() == index);
        right.then(|| Ipv4Net::new(ip, address.prefix_len()).ok().map(|net| (address.ifindex(), net.trunc())))?
    });
    let Some((index, subnet)) = found else { return Err(NetError::NoUplink(node_ip)) };
    let link = route.get_link_by_index(index).await.doing(|| format!("look up interface {index}"))?;
    let Some(link) = link else { return Err(NetError::NoUplink(node_ip)) };
    Ok(Uplink { index, name: link.name_or("?").to_owned(), mtu: link.mtu().unwrap_or(DEFAULT_MTU), subnet })
}
